"""What data-parallel ranks exchange in a step, as data: which collectives, of what, and when.

Replicas (ZeRO 0 to 2) sum gradients after the last microbatch, segment by segment beside the backward pass if the
stack overlaps them, else at once when it is over; ZeRO-2 does so after every microbatch if there is one stage. Sharded
optimizers send the new weights back, beside the first forward pass or at the end. ZeRO-3 (FSDP) gathers each segment
before each pass and scatters its gradients after; it may gather a second copy, which fewer ranks share, for the
backward pass (ZeRO++, hpZ; Wang 2023, arXiv 2306.10209, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, IntFlag
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.phase import Phase
from sim.schedule.table import Ints


class Traffic(IntFlag):
    """What a task has to do with the exchange."""

    WEIGHTS = 1  # waits for the weights of each segment
    GRADIENTS = 2  # leaves gradients of each segment, which are summed


class Which(Enum):
    """Microbatches with whose tasks a collective comes."""

    FIRST, LAST, EVERY = range(3)

    def among(self, microbatch: Ints) -> NDArray[np.bool_]:
        """Which of these it is, (n,)."""
        chosen = {Which.FIRST: 0, Which.LAST: microbatch.max(initial=0)}.get(self, microbatch)
        return np.asarray(microbatch == chosen)


class Collective(NamedTuple):
    """A collective of each segment of the model, or of all of a stage at once (`whole`).

    Weights are there before a task of `phase`, gradients are summed after it; a whole stage is exchanged when the last
    of them is over.
    """

    kind: Literal["all_gather", "reduce_scatter", "all_reduce"]
    traffic: Traffic
    phase: Phase
    which: Which = Which.EVERY
    whole: bool = False
    parameters: Literal["trained", "parameters", "gathered_again"] = "trained"  # of a segment
    second_copy: bool = False  # among the ranks that share a second copy of the weights


@dataclass(frozen=True)
class GradientExchange:
    """All collectives of a step in the gradient group of a rank; replicas of sharded groups sum after each sum.

    ahead: how many gathers may be ahead of the tasks that they are for, if they come with every task. hops: what runs
    in place of a sum of compressed gradients, one after the other; none: they are sent as they are.
    """

    collectives: tuple[Collective, ...] = ()
    ahead: int = 1
    hops: tuple[str, ...] = ()

    @property
    def by_segment(self) -> tuple[Collective, ...]:
        """Those of each segment, beside the passes."""
        return tuple(each for each in self.collectives if not each.whole)

    def of(self, phase: Phase, traffic: Traffic, *, whole: bool = False) -> Collective | None:
        """The collective with a phase, if there is one."""
        key = (phase, traffic, whole)
        return next((each for each in self.collectives if (each.phase, each.traffic, each.whole) == key), None)

    @property
    def sums(self) -> Collective | None:
        """The one that sums gradients."""
        return next((each for each in self.collectives if each.traffic is Traffic.GRADIENTS), None)

    def with_second_copy(self) -> GradientExchange:
        """The same where the backward pass gathers a second copy of the weights (ZeRO++, hpZ)."""
        again = (each._replace(second_copy=each.parameters == "gathered_again") for each in self.collectives)
        return replace(self, collectives=tuple(again))

    @property
    def gathers_always(self) -> bool:
        """Whether weights are gathered for every task, not kept."""
        return any(each.traffic is Traffic.WEIGHTS and each.which is Which.EVERY for each in self.by_segment)

    def traffic(self, table: Ints) -> Ints:
        """What each task of a stage has to do with it, (n,): a sum of `Traffic`; `table` as of a schedule."""
        found = np.zeros(len(table), dtype=np.int64)
        for each in self.by_segment:
            found[(table[:, 0] == each.phase) & each.which.among(table[:, 2])] |= int(each.traffic)
        return found


def exchange_of(
    zero_stage: int, beside: bool, prefetch: bool, stages: int, phases: tuple[Phase, ...]
) -> GradientExchange:
    """The exchange of a plan.

    beside: whether gradients are summed beside the passes. prefetch: whether weights are gathered ahead. phases: those
    that are tasks, of which the last leaves gradients.
    """
    last = phases[-1]
    if zero_stage == 3:
        ahead = Collective("all_gather", Traffic.WEIGHTS, Phase.FORWARD, parameters="parameters")
        back = Collective("all_gather", Traffic.WEIGHTS, Phase.INPUT_GRADIENT, parameters="gathered_again")
        scatter = Collective("reduce_scatter", Traffic.GRADIENTS, last)
        return GradientExchange((ahead, back, scatter), ahead=2 if prefetch else 1)
    which = Which.EVERY if zero_stage == 2 and stages == 1 and beside else Which.LAST
    sums = Collective("reduce_scatter" if zero_stage else "all_reduce", Traffic.GRADIENTS, last, which, not beside)
    if not zero_stage:
        return GradientExchange((sums,))
    if prefetch:
        return GradientExchange((Collective("all_gather", Traffic.WEIGHTS, Phase.FORWARD, Which.FIRST), sums))
    return GradientExchange((sums, Collective("all_gather", Traffic.WEIGHTS, Phase.OPTIMIZER, Which.LAST, whole=True)))
