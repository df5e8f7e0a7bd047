"""A job that takes one step after the other beside others on a network: a process of SimPy."""

from __future__ import annotations

from collections.abc import Generator
from math import inf

from simpy.events import Event

from sim.engine.executor import Executor
from sim.engine.program import Program
from sim.engine.trace import Trace
from sim.programs.rounds import Rounds


class Trainer:
    """`steps` steps of a program, the first `after` seconds from now; it goes on for ever without a number of steps.

    slowdown, skip: as of an `Executor`; skip parts that meet nobody else, no others. begins, ends: of its steps [s];
    the last may not have ended. trace: what happened in the last one.
    """

    def __init__(
        self,
        rounds: Rounds,
        program: Program,
        steps: float = inf,
        *,
        after: float = 0.0,
        flow_ranks: tuple[tuple[int, ...], ...] = (),
        slowdown: float = 0.0,
        skip: bool = False,
    ) -> None:
        self.rounds, self.program, self.left, self.after = rounds, program, steps, after
        self.flow_ranks, self.slowdown, self.skip = flow_ranks, slowdown, skip
        self.begins: list[float] = []
        self.ends: list[float] = []
        self.step: Executor | None = None
        self.trace: Trace | None = None
        self.simulated = 0  # steps
        rounds.jobs.append(self)
        self.process = rounds.network.env.process(self._train())

    @property
    def is_over(self) -> bool:
        """Whether it has taken all its steps."""
        return not self.left and self.step is None

    @property
    def step_s(self) -> list[float]:
        """Seconds of each step that has ended."""
        return [end - begin for begin, end in zip(self.begins, self.ends, strict=False)]

    def _train(self) -> Generator[Event, None, None]:
        network = self.rounds.network
        yield network.env.timeout(self.after)
        while self.left:
            self.left -= 1
            self.begins.append(self.rounds.now)
            self.step = Executor(
                self.program, network, flow_ranks=self.flow_ranks, slowdown=self.slowdown, skip=self.skip
            )
            finished = self.step.begin()
            self.rounds.step_begins(self)
            yield finished
            self.ends.append(self.rounds.now)
            self.simulated += 1
            if not self.left:
                self.trace = self.step.trace()
        self.step = None

    def repeat(self, steps: int, times: int, period: float) -> None:
        """The last `steps` begins and ends of steps happened `times` more, each time `period` s later."""
        for column in (self.begins, self.ends):
            last = column[len(column) - steps :]
            for turn in range(1, times + 1):
                column += [time + turn * period for time in last]
        self.left -= times * steps
