"""What the executor runs: streams of instructions that wait for tokens, act, and signal.

A stream is an in-order queue, like a CUDA stream: the compute stream of a rank, the queue of a
communicator, one direction of a stage boundary. An instruction is a template plus a loop index
(the microbatch, or 0): its tokens are the template's plus the index. Writing programs this way
makes "the same again, k microbatches later" a plain comparison of integers. Tokens of one kind are
signalled in the order of their index, so the highest one so far says which are there.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.engine.category import COMMUNICATION
from sim.memo import Memo

Ints = NDArray[np.int64]
NOT_YET = -(1 << 62)  # below every loop index: nothing of a kind of token was signalled
Token = tuple[int, int]  # kind, loop index (in a template: relative to that of the instruction)


def token(kind: int, index: int = 0) -> Token:
    """The token of `kind` for loop index `index`."""
    return kind, index


class Action(NamedTuple):
    """Work for `duration`, or wait `latency` and move `size` bytes as flow class `flow`.

    duration and latency in s, size in B. `category` is the breakdown field it counts under. ranks:
    rank classes whose processors do the work. steals: rank classes whose work slows down meanwhile.
    Work is computation, or a collective that shares its links with nobody. It may stand for a chain of
    operations: `parts` are its exposed seconds by category, `comm` the seconds of its collectives,
    hidden or not. `carried` are the bytes it moves by flow class. `joules` is the energy of the computation in it
    by phase on each rank, `busy` the seconds that this computation needs at full speed. `lead`: of the begin of work
    that several ranks go through together, the seconds of it that each does before it needs the others. together: rank
    classes that go through it in lock-step as long as nothing slows them, or all alike. collective: its kind, with the
    first of its legs, and the bytes of its `message`: for reports, the network moves `size`.
    """

    label: str
    category: str
    ranks: tuple[int, ...] = ()
    duration: float = 0.0
    flow: int = -1
    size: float = 0.0
    latency: float = 0.0
    steals: tuple[int, ...] = ()
    parts: tuple[tuple[str, float], ...] = ()
    comm: float = 0.0
    carried: tuple[tuple[int, float], ...] = ()
    operations: int = 1
    joules: tuple[tuple[str, float], ...] = ()
    busy: float = 0.0
    lead: float = 0.0
    together: tuple[int, ...] = ()
    collective: str = ""
    message: float = 0.0

    @property
    def is_computation(self) -> bool:
        """Whether it runs on the compute stream's own account, not as communication."""
        return self.category not in COMMUNICATION


class Template(NamedTuple):
    """One kind of instruction: tokens it waits for, what it does, the token it signals."""

    waits: tuple[Token, ...]
    action: int
    signal: Token | None = None


@dataclass(frozen=True, eq=False)
class Line:
    """A stretch of a stream, whatever its templates are: the number of each instruction's template among
    them, its loop index, both arrays of 64-bit integers, and how often each number occurs.
    """

    which: array[int]
    index: array[int]
    counts: tuple[int, ...]


@dataclass(slots=True)
class Stream:
    """An ordered queue of instructions: instruction i is template number which[i] of the stream at loop index index[i].

    table: the templates of the stream with their numbers in it. counts: how often each of them occurs.
    """

    name: str
    kind: str  # "compute", "send", "data", "tensor", "context"
    rank: int = -1  # rank class the stream belongs to, -1 for the stream of a group
    table: dict[int, int] = field(default_factory=dict)
    which: array[int] = field(default_factory=lambda: array("q"))
    index: array[int] = field(default_factory=lambda: array("q"))
    counts: list[int] = field(default_factory=list)

    def add(self, template: int, index: int = 0) -> None:
        """Append one instruction."""
        number = self.table.setdefault(template, len(self.table))
        if number == len(self.counts):
            self.counts.append(0)
        self.which.append(number)
        self.index.append(index)
        self.counts[number] += 1

    def add_line(self, templates: list[int], line: Line) -> None:
        """Append a line of `templates`, of which the stream has had none so far."""
        first = len(self.table)
        for template in templates:
            self.table[template] = len(self.table)
        self.which.extend(array("q", [first + number for number in line.which]) if first else line.which)
        self.index.extend(line.index)
        self.counts += line.counts

    def templates(self) -> list[int]:
        """The template of each instruction in order."""
        table = list(self.table)
        return [table[number] for number in self.which]


class Part(NamedTuple):
    """Streams that loop together, the stream whose progress sets the beat, and its instructions per period.

    neighbours: streams of the part, and others that may use links of its loops, slow its work, or wait for it.
    signals: kinds of token that come from the part.
    """

    streams: list[int]
    beat: int
    length: int
    neighbours: list[int]
    signals: frozenset[int]


Recipe = Callable[[Any], Action]  # makes an action for a job, of its costs


KEPT_VARIANTS = 16  # of a script, by who shares links


@dataclass(eq=False)
class Script:
    """Streams with the tables they refer to: a program without its numbers.

    recipes: what makes each action. beats: streams that set a beat, with their instructions per period. parts: what
    may repeat; the executor looks there whether the state does. loose: smaller parts that may share links, none where
    parts share none: what of them is skipped has to be checked (`engine/overload.py`). variants: scripts that differ in
    their parts. cut: passes whose form is written in, with that (`Costs.form`). kinds: name and key of each token kind,
    for messages.
    """

    recipes: list[Recipe] = field(default_factory=list)
    templates: list[Template] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    beats: dict[int, int] = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    loose: list[Part] = field(default_factory=list)
    variants: Memo[Script] = field(default_factory=lambda: Memo(KEPT_VARIANTS))
    cut: dict[Any, Any] = field(default_factory=dict)
    kinds: list[tuple[object, ...]] = field(default_factory=list)
    known_kinds: dict[tuple[object, ...], int] = field(default_factory=dict)  # what `kind` has made

    def new_kind(self, *name: object) -> int:
        """A fresh token kind."""
        self.kinds.append(name)
        return len(self.kinds) - 1

    def kind(self, *name: object) -> int:
        """The token kind of that name and key, made on first use."""
        known = self.known_kinds.get(name)
        if known is None:
            known = self.known_kinds[name] = self.new_kind(*name)
        return known

    def new_template(self, waits: tuple[Token, ...], recipe: Recipe, signal: Token | None = None) -> int:
        """Register a template whose action comes from a recipe."""
        self.recipes.append(recipe)
        self.templates.append(Template(waits, len(self.recipes) - 1, signal))
        return len(self.templates) - 1

    def new_stream(self, name: str, kind: str, rank: int = -1) -> Stream:
        """Open a stream."""
        self.streams.append(Stream(name, kind, rank))
        return self.streams[-1]

    def priced(self, costs: Any) -> Program:
        """The program with the numbers that recipes find in `costs`."""
        return Program(self, [recipe(costs) for recipe in self.recipes])

    @cached_property  # scripts are shared by points of a sweep, which price them anew
    def in_a_row(self) -> tuple[Ints, Ints, Ints]:
        """All instructions, stream after stream: where each stream begins, template and loop index of each, (n,)."""
        none = np.zeros(0, dtype=np.int64)
        begins = np.cumsum([0, *(len(each.which) for each in self.streams)])
        templates = [np.fromiter(each.table, np.int64)[np.asarray(each.which)] for each in self.streams]
        indices = [np.asarray(each.index) for each in self.streams]
        return begins, np.concatenate([none, *templates]), np.concatenate([none, *indices])


@dataclass(frozen=True, eq=False)
class Program:
    """A script with its actions."""

    script: Script
    actions: list[Action]

    @property
    def templates(self) -> list[Template]:
        """Kinds of instructions."""
        return self.script.templates

    @property
    def streams(self) -> list[Stream]:
        """Queues of instructions."""
        return self.script.streams

    @property
    def parts(self) -> list[Part]:
        """What may repeat."""
        return self.script.parts

    @property
    def loose(self) -> list[Part]:
        """Smaller parts that may share links."""
        return self.script.loose

    def loose_part_of_flow(self, n_flows: int) -> Ints:
        """Number of the loose part that moves bytes of each flow class, (n_flows,); -1 where none does."""
        part = np.full(n_flows, -1)
        for number, each in enumerate(self.loose):
            actions = (self.actions[self.templates[t].action] for s in each.streams for t in self.streams[s].table)
            moved = {flow for action in actions for flow in (action.flow, *(kind for kind, _ in action.carried))}
            part[sorted(moved - {-1})] = number
        return part

    @property
    def kinds(self) -> list[tuple[object, ...]]:
        """Name and key of each token kind."""
        return self.script.kinds

    def name_of(self, kind: int) -> str:
        """Name and key of a token kind, for people."""
        return " ".join(map(str, self.kinds[kind]))

    def instructions(self, stream: Ints, position: Ints) -> tuple[Ints, Ints]:
        """Template and loop index of instructions, given by their streams and positions there, (n,) each."""
        begins, template, index = self.script.in_a_row
        place = begins[stream] + position
        return template[place], index[place]
