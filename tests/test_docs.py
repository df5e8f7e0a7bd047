"""The documentation tells the truth: its files are valid, its commands and snippets run, its output is today's.

In the README and the pages under docs/, in the order of a page, in one folder per page:

- a `yaml` or `txt` block that begins with a comment such as `# mine.yaml` is written to that file; one in YAML is
  checked, unless it lies in a folder (a table of measurements) or its first line speaks of mistakes,
- a line of a `bash` block that begins with `clustersim` is called; `# exit code 3` at its end says what to expect,
- a `text` block shows what the command before it prints: names and layout as they are, numbers within 15 %,
- a `python` block runs, as a doctest if it has prompts.

What takes long or needs other machines stands in `console` blocks, which do not run.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from sim.metrics.result import Result
from support import ROOT, Cli

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?: %)?")
BARS = re.compile("[▏▎▍▌▋▊▉█]+")
OMITTED = "..."  # a line that stands for any number of lines


@dataclass
class Page:
    """What has happened on a page so far."""

    cli: Cli
    printed: str = ""  # by the last command
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "__main__"})

    def yaml(self, text: str) -> None:
        file = self.txt(text)
        if file and "mistake" not in text.partition("\n")[0] and not file.parent.name:
            assert self.cli("check", file).err == ""

    def txt(self, text: str) -> Path | None:
        name = re.match(r"# (\S+\.\w+)(?: |$)", text, re.MULTILINE)
        if name is None:
            return None
        file = Path(name[1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def bash(self, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            if line.startswith("clustersim"):
                self.call(line)

    def call(self, line: str) -> None:
        expected = re.search(r"# exit code (\d+)", line)
        words, target = _redirected(shlex.split(line, comments=True)[1:])
        outcome = self.cli(*words)
        assert outcome.code == (int(expected[1]) if expected else 0), f"{line}: {outcome.err}"
        self.printed = outcome.out or outcome.err
        if target:
            Path(target).write_text(outcome.out, encoding="utf-8")

    def text(self, text: str) -> None:
        problems = list(differences(text, self.printed))
        assert not problems, "\n".join([*problems, "It prints:", self.printed])

    def python(self, text: str) -> None:
        if ">>>" in text:
            test = doctest.DocTestParser().get_doctest(text, self.names, "page", None, 0)
            told = io.StringIO()
            failed, _ = doctest.DocTestRunner().run(test, out=told.write, clear_globs=False)
            assert not failed, told.getvalue()
            self.names = test.globs
        else:
            with contextlib.redirect_stdout(io.StringIO()) as told:
                exec(compile(text, "page", "exec"), self.names)
            self.printed = told.getvalue()


def _redirected(words: list[str]) -> tuple[list[str], str]:
    """Arguments of a command, and the file that `>` sends its output to."""
    if ">" not in words:
        return words, ""
    arrow = words.index(">")
    return words[:arrow], words[arrow + 1]


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of every block."""
    return [(block[1], block[2]) for block in BLOCK.finditer(text)]


def differences(shown: str, printed: str) -> Iterator[str]:
    """The lines of `shown` that `printed` does not have in this order."""
    left = printed.splitlines()
    anywhere = True
    for line in shown.splitlines():
        if line.strip() == OMITTED:
            anywhere = True
            continue
        found = next((index for index, other in enumerate(left) if alike(line, other)), None)
        if found is None or (found > 0 and not anywhere):
            yield f"not printed (any more): {line}" if found is None else f"lines are missing before: {line}"
        else:
            left = left[found + 1 :]
        anywhere = False


def alike(shown: str, printed: str) -> bool:
    """Whether two lines have the same words and about the same numbers."""
    words = [" ".join(NUMBER.sub("#", BARS.sub("", line)).split()) for line in (shown, printed)]
    numbers = [NUMBER.findall(line) for line in (shown, printed)]
    return words[0] == words[1] and all(map(near, *numbers))


def near(shown: str, printed: str) -> bool:
    """Whether two numbers differ by less than 15 %. Shares and errors in percent may move by 5 points."""
    one, other = (float(number.replace(",", "").rstrip(" %")) for number in (shown, printed))
    return abs(one - other) <= max(0.15 * max(abs(one), abs(other)), 5 if shown.endswith("%") else 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    state = Page(cli)
    for language, text in blocks(page.read_text(encoding="utf-8")):
        run = getattr(state, language, None)
        if run:
            run(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if page != ROOT / "README.md" and page.name not in text] == []


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


def test_output_that_is_out_of_date_is_noticed() -> None:
    printed = "Result\n  step time  31.67 s\n  compute  25.4 s  ███\n  peak  28.81 GiB\n"
    assert list(differences("Result\n  step time  30.1 s\n...\n  peak  28 GiB\n", printed)) == []
    assert list(differences("  step time  12 s\n", printed)) == ["not printed (any more):   step time  12 s"]
    assert list(differences("Result\n  peak  28.81 GiB\n", printed)) == ["lines are missing before:   peak  28.81 GiB"]
    assert list(differences("  time of a step  31.67 s\n", printed)) != []
