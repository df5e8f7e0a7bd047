"""All instructions of a program in one table, with what each has to wait for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.engine.program import Script
from sim.ragged import ranges

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Instructions:
    """Instructions of all streams, one stream after the other; n of them.

    stream, template, index: (n,). kind, at: (n,) kind (-1: none) and index of the token that it signals. first:
    (n_streams + 1,) where each stream begins. until: (n_pairs,) instruction that instruction `row` waits for, `begin`
    (n + 1,) where the pairs of each begin. The first is the one before it in its stream, where there is one.
    """

    stream: Ints
    template: Ints
    index: Ints
    kind: Ints
    at: Ints
    first: Ints
    row: Ints
    until: Ints
    begin: Ints

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.stream)

    def narrow(self) -> Instructions:
        """The same in half the memory, to be kept: 32-bit integers, and no `row`."""
        columns = {each.name: getattr(self, each.name).astype(np.int32) for each in fields(self)}
        return Instructions(**columns | {"row": np.zeros(0, dtype=np.int32)})

    @cached_property
    def position(self) -> Ints:
        """Place of each in its stream, (n,)."""
        return np.arange(self.n) - self.first[self.stream]


def instructions_of(script: Script) -> Instructions | None:
    """The table; None if what somebody waits for is never signalled, or not in the order of one stream."""
    first, template, index = script.in_a_row
    stream = np.repeat(np.arange(len(first) - 1), np.diff(first))
    every = np.arange(first[-1])
    waits = [template.waits for template in script.templates]
    width = np.array([len(each) for each in waits], dtype=np.int64)
    kinds, ats = np.array([pair for each in waits for pair in each], dtype=np.int64).reshape(-1, 2).T
    follows = (every > first[stream]).astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(follows + width[template])])
    until = np.empty(begin[-1], dtype=np.int64)
    until[begin[:-1][follows > 0]] = every[follows > 0] - 1
    waiting = np.repeat(every, width[template])
    which = ranges((np.cumsum(width) - width)[template], width[template])
    signals = np.array([template.signal or (-1, 0) for template in script.templates], dtype=np.int64).reshape(-1, 2)
    kind, at = signals[template, 0], signals[template, 1] + index
    sources = _sources(stream, kind, at, kinds[which], ats[which] + index[waiting])
    if sources is None:
        return None
    until[ranges(begin[:-1] + follows, width[template])] = sources
    row = np.repeat(every, np.diff(begin))
    return Instructions(stream, template, index, kind, at, first, row, until, begin)


def _sources(stream: Ints, which: Ints, when: Ints, kind: Ints, at: Ints) -> Ints | None:
    """The instructions that signal tokens of these kinds and indices: the first of at least the index.

    which, when: (n,) kind (-1: none) and index of the token that each instruction of each `stream` signals.
    """
    rows = np.flatnonzero(which >= 0)
    rows = rows[np.argsort(which[rows], kind="stable")]
    which, when = which[rows], when[rows]
    same = which[1:] == which[:-1]
    if np.any(same & ((when[1:] <= when[:-1]) | (stream[rows[1:]] != stream[rows[:-1]]))):
        return None
    least = int(min(when.min(initial=0), at.min(initial=0)))
    span = int(max(when.max(initial=0), at.max(initial=0))) - least + 1
    found = np.searchsorted(which * span + when - least, kind * span + at - least)
    if np.any(found == len(rows)) or np.any(which[found] != kind):
        return None
    return rows[found]
