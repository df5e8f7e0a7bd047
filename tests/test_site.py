"""The documentation as a site: it builds without a warning and asks nothing of the network; the picture of a step."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from sim.ask.run.timeline import simulated_for_timeline, window
from sim.inputs.load import load_experiment
from sim.metrics.timeline import Timeline
from sim.report.timeline_picture import timeline_picture
from support import ROOT, Cli

DOCS = ROOT / "docs"
PICTURE = DOCS / "pictures" / "step"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from the files of the repository."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make site")
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    names = [page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")]
    pages = [name.with_name("index.html") if name.stem == "README" else name for name in names]
    assert [page for page in pages if not (site / page).is_file()] == []


def test_nothing_is_fetched(site: Path) -> None:
    """Links may lead elsewhere; scripts, styles, fonts and pictures may not."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
        loaded += re.findall(
            r"<link[^>]*rel=[\"']?(?:stylesheet|preload|icon|preconnect)[^>]*href=[\"']?([^\"'\s>]+)", text
        )
        assert [place for place in loaded if "//" in place.removeprefix("data:")] == [], page


def test_the_reference_of_commands_is_todays() -> None:
    line = [
        sys.executable,
        "-m",
        "typer",
        "sim.cli.verbs",
        "utils",
        "docs",
        "--name",
        "clustersim",
        "--title",
        "Commands",
    ]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (DOCS / "commands.md").read_text(encoding="utf-8"), "write it anew: make docs"


# --- the picture of a step --------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown() -> Timeline:
    run = simulated_for_timeline(load_experiment(str(PICTURE.with_suffix(".yaml"))).experiment)
    return window(run, [0, 2, 4, 6])


def test_the_picture_is_that_of_today(shown: Timeline) -> None:
    assert timeline_picture(shown) == PICTURE.with_suffix(".svg").read_text(encoding="utf-8"), "draw it anew: make docs"


def test_the_picture_shows_every_span_at_its_time(shown: Timeline) -> None:
    """One box for each span that takes time; the widest are as wide as they are long."""
    text = timeline_picture(shown)
    boxes = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*><title>', text)
    spans = [span for span in shown.spans if span.end > span.start and span.track != "receives"]
    assert len(boxes) == len(spans)
    scale = (1000 - 190 - 12) / max(span.end for span in spans)
    drawn = sorted((float(x), float(width)) for x, width in boxes)
    right = sorted((190 + span.start * scale, (span.end - span.start) * scale - 0.3) for span in spans)
    assert [x for x, _ in drawn] == pytest.approx([x for x, _ in right], abs=0.01)
    assert sum(width for _, width in drawn) == pytest.approx(sum(max(width, 0.05) for _, width in right), rel=1e-3)


def test_a_picture_can_be_asked_for(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "step.svg"
    assert cli("timeline", "quickstart", "--format", "svg", "--ranks", "0,1", "-o", file).code == 0
    assert file.read_text(encoding="utf-8").startswith("<svg ")
    assert "rank 1, " in file.read_text(encoding="utf-8")
    small = cli("timeline", "quickstart", "--format", "svg", "--max-size", "1 kB", "-o", tmp_path / "none.svg")
    assert small.code == 3
    assert "is larger than" in small.err
    assert not (tmp_path / "none.svg").exists()


# --- what is published beside it --------------------------------------------------------------


def test_the_citation_is_of_this_version() -> None:
    import sim

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == sim.__version__
    assert {"cff-version", "title", "message", "authors", "license"} <= cited.keys()


def test_the_changelog_begins_with_this_version_and_goes_back() -> None:
    import sim

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", text, re.MULTILINE)
    assert versions[0] == sim.__version__
    assert versions == sorted(versions, key=Version, reverse=True)
