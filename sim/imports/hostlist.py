"""Slurm's way to write many names at once: `node[001-016,020]`, `rack[1-2]n[1-4]`, and lists of these.

Public: `expand_hostlist`, `HostlistError`.
"""

from __future__ import annotations

import re
from itertools import product

MOST_NAMES = 200_000
_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\],\s]+)|(.)")


class HostlistError(ValueError):
    """A list of hosts cannot be read."""


def expand_hostlist(text: str) -> list[str]:
    """All names in their order; numbers keep leading zeros. Raises HostlistError."""
    names: list[str] = []
    for expression in _split(text):
        names += _expanded(expression, MOST_NAMES - len(names))
    return names


def _split(text: str) -> list[str]:
    """Expressions between the commas that are in no brackets."""
    expressions, depth, begun = [], 0, 0
    for i, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth not in (0, 1):
            raise HostlistError("brackets do not match")
        if character == "," and depth == 0:
            expressions.append(text[begun:i])
            begun = i + 1
    if depth:
        raise HostlistError("brackets do not match")
    return [*expressions, text[begun:]]


def _expanded(expression: str, most: int) -> list[str]:
    if not expression:
        raise HostlistError("a name is missing beside a comma")
    parts = [_numbers(found[1], most) if found[1] is not None else [found[0]] for found in _PART.finditer(expression)]
    count = 1
    for part in parts:
        count *= len(part)
    if count > most:
        raise HostlistError(f"more than {MOST_NAMES:,} names")
    return ["".join(words) for words in product(*parts)]


def _numbers(inside: str, most: int) -> list[str]:
    numbers: list[str] = []
    for word in inside.split(","):
        match = _RANGE.fullmatch(word.strip())
        if match is None:
            raise HostlistError(f"{word.strip() or 'nothing'!r} is no number and no range of numbers")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise HostlistError(f"{word} counts backwards")
        if last - first >= most - len(numbers):
            raise HostlistError(f"more than {MOST_NAMES:,} names")
        numbers += [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
    return numbers
