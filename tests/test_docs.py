"""The documentation tells the truth: its files are valid, its commands and snippets run, its output is today's.

How pages are run: pages.py, which `make docs` calls to put today's output into them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pages import BLOCK, PAGES, TABLE, WIDTH, differences, refreshed, renewed_table, run_page

from sim.inputs.records import Simulation
from sim.metrics.result import Result
from support import ROOT, Cli


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", WIDTH)
    run_page(page, cli)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page != ROOT / "README.md" and page.name not in text] == []


def test_every_file_that_the_architecture_names_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [file.relative_to(ROOT).as_posix() for folder in ("sim", "tests") for file in (ROOT / folder).rglob("*.py")]
    named = set(re.findall(r"[\w/]+\.py\b", page))
    assert [name for name in sorted(named) if not any(f"/{file}".endswith(f"/{name}") for file in files)] == []


def test_every_switch_of_the_simulation_is_explained() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = page[page.index("## Exact shortcuts") :].split("\n## ")[0]
    rows = set(re.findall(r"^\| `(\w+)`", told, re.MULTILINE))
    text = set(re.findall(r"`(\w+)`", told.split("| switch")[0]))
    assert rows.isdisjoint(text)
    assert rows | text - {"simulation"} == set(Simulation.model_fields)


def test_every_field_of_a_result_is_defined() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    words = {word for quoted in re.findall(r"`([^`]+)`", page) for word in re.findall(r"\w+", quoted)}
    named = {field.name for record in _records(Result) for field in fields(record)}
    assert sorted(named - words) == []


def _records(record: type) -> Iterator[type]:
    """A record of a result, and those in it."""
    yield record
    for kind in get_type_hints(record).values():
        for inner in (kind, *get_args(kind)):
            if is_dataclass(inner) and isinstance(inner, type):
                yield from _records(inner)


PRINTED = "Result\n  step time  31.67 s\n  compute  25.4 s  ███\n  peak  28.81 GiB\n\nTook\n  0.3 s\n"


def test_output_is_shown_to_the_letter() -> None:
    assert list(differences("Result\n  step time  31.67 s\n...\n  peak  28.81 GiB\n", PRINTED)) == []
    assert list(differences("  step time  31.66 s\n", PRINTED)) == ["not printed (any more):   step time  31.66 s"]
    assert list(differences("  compute  25.4 s  ██\n", PRINTED)) != []
    assert list(differences("Result\n  peak  28.81 GiB\n", PRINTED)) == ["lines are missing before:   peak  28.81 GiB"]


def test_output_that_is_out_of_date_is_put_right() -> None:
    old = "Result\n  step time  32.00 s\n  forgotten  1 s\n  compute  2 s  █\n\n...\nTook\n...\n"
    new = "Result\n  step time  31.67 s\n  compute  25.4 s  ███\n\n...\nTook\n...\n"
    assert refreshed(old, PRINTED) == refreshed(new, PRINTED) == new
    with pytest.raises(AssertionError, match="change the page by hand: Weather"):
        refreshed("Weather\n", PRINTED)


def test_the_table_of_published_runs_is_that_of_today() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert TABLE in page
    assert renewed_table(page) == page, "write it anew: make docs"
    assert renewed_table(page.replace("| 140 | 4.3 %", "| 140 | 4.2 %")) == page
