"""A headless Chromium for tests of pages; skips with a reason where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: sudo apt install chromium")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(QUIET))
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page that was opened, with what it complained of and asked for."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_function("document.body.dataset.ready === 'yes'")

    def _hear(self, message: Any) -> None:
        """Keep errors and warnings, but not what the software graphics driver says of its speed."""
        if message.type in ("error", "warning") and "GL Driver Message" not in message.text:
            self.complaints.append(message.text)

    @property
    def strangers(self) -> list[str]:
        """Addresses outside of the file itself."""
        return [url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))]

    def draw_all(self) -> None:
        """Scroll over every figure until it is drawn."""
        for plot in self.page.query_selector_all(".plot"):
            plot.scroll_into_view_if_needed()
            self.page.wait_for_function("place => place.dataset.drawn === 'yes'", arg=plot)

    def column(self, table: str, number: int) -> list[str]:
        """The text of a column of a table."""
        cells = self.page.query_selector_all(f"#{table} tbody tr:not([hidden]) td:nth-child({number})")
        return [cell.inner_text() for cell in cells]
