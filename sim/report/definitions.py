"""What the numbers of a result mean, as docs/metrics.md defines them.

Public: `Definition`, `definitions`, `definitions_of`, `explanation`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from textwrap import fill

from sim.errors import ConfigError
from sim.inputs.catalogue import catalogue_root
from sim.inputs.document import explain
from sim.report.labels import NAMES

PAGE = "docs/metrics.md"
ROW = re.compile(r"^\| ((?:`[^`]+`(?:, )?)+) \| (.+) \|$")
SYMBOL = re.compile(r"^\| (\$.+?) \| (.+?) \| [^|]* ?\|$", re.MULTILINE)
GROUPS = {"badput": "run.badput_s", "part": "step.breakdown_s"}  # tables of parts, by the title of their first column


@dataclass(frozen=True)
class Definition:
    """A number by its key in `result.json`, and what it means."""

    key: str
    text: str


def definitions() -> list[Definition]:
    """Every number that the page defines, in its order."""
    page = (catalogue_root() / PAGE).read_text(encoding="utf-8")
    symbols = {_plain(name): meaning for row in SYMBOL.findall(page) for name, meaning in _symbols(*row)}
    return [replace(one, text=_with_symbols(one.text, symbols)) for one in _read(page)]


def definitions_of(asked: str) -> list[Definition]:
    """Those that a key, its end, or a name for people such as MFU or `time to train` means; none if there is none."""
    wanted = {key for key, name in NAMES.items() if name.casefold() == asked.casefold()} or {asked.strip(".")}
    every = definitions()
    for ends in (False, True):
        found = [one for one in every for name in wanted if one.key == name or (ends and _ends(one.key, name))]
        if found:
            return found
    # a part of something is defined with the whole
    return [one for one in every for name in wanted if name.startswith(f"{one.key}.")]


def explanation(asked: str) -> str:
    """Of a key of the input, of a number of a result, or of both where both are called so.

    Raises ConfigError with what is written like it.
    """
    found = definitions_of(asked) if asked else ()
    numbers = [f"{one.key} (a number of a result)\n{fill(one.text, 88)}" for one in found]
    try:
        return "\n\n".join([*numbers, explain(asked)])
    except ConfigError as error:
        if numbers:
            return "\n\n".join(numbers)
        close = nearest(asked)
        if not close:
            raise
        way_out = " or ".join(close)
        told = [replace(each, suggestion=f"{each.suggestion} or {way_out}") for each in error.problems]
        raise ConfigError(told) from None


def nearest(asked: str) -> list[str]:
    """Names of numbers that are written like this one."""
    names = {one.key.rpartition(".")[2] for one in definitions()}
    return get_close_matches(asked, names, n=3, cutoff=0.6)


def _ends(key: str, name: str) -> bool:
    return key.endswith(f".{name}")


def _read(page: str) -> Iterator[Definition]:
    section, group = "", ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.strip("# `")
            group = section if line.startswith("## `") else ""
        elif line.startswith("| ") and not line.startswith("| `"):
            title = line.split("|")[1].strip()
            group = GROUPS.get(title, "" if title == "verb" else section if section.islower() else "")
        elif (row := ROW.match(line)) and group != "verbs":
            for name in re.findall(r"`([^`]+)`", row[1]):
                yield Definition(f"{group}.{name}" if group else name, _plain(row[2]))


def _plain(text: str) -> str:
    """The definition without the marks of its page."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    for mark, plain in ((r"\\text\{([^}]*)\}", r"\1"), (r"\\(?:times|cdot)", "x"), (r"\\bar ", "mean "), (r"\\,", " ")):
        text = re.sub(mark, plain, text)
    return text.replace("$", "").replace("`", "")


def _symbols(names: str, meanings: str) -> Iterator[tuple[str, str]]:
    """Symbols of a row with their meanings, which are told one after the other where there are several."""
    found = re.findall(r"\$([^$]+)\$", names)
    told = re.split(r"[,;] ", _plain(re.sub(r", \$\\lceil.*", "", meanings)), maxsplit=len(found) - 1)
    return zip(found, told, strict=False)


def _with_symbols(text: str, symbols: dict[str, str]) -> str:
    used = [
        f"{name}: {meaning}" for name, meaning in symbols.items() if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
    ]
    return f"{text}. {'; '.join(used)}" if used else text
