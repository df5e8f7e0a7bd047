"""The course of a microbatch: which pipeline stage has each chunk of the model, and so who sends to whom."""

from __future__ import annotations

from dataclasses import dataclass

from sim.phase import Phase

Sends = dict[int, tuple[int, ...]]  # stages that send, by how many stages further on the receiver is
ONWARD = {Phase.FORWARD: 1, Phase.INPUT_GRADIENT: -1}  # where the result of a task goes: to the next chunk, or back


@dataclass(frozen=True)
class Course:
    """stage_of: the stage of each model chunk, in model order; `stages` of them."""

    stages: int
    stage_of: tuple[int, ...]

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Model chunks of each stage, in model order."""
        return tuple(tuple(c for c, s in enumerate(self.stage_of) if s == stage) for stage in range(self.stages))

    @property
    def ends(self) -> tuple[int, int]:
        """The stages with the first and the last chunk."""
        return self.stage_of[0], self.stage_of[-1]

    def layers(self, total: int, asked: tuple[int, ...] | None = None) -> list[int]:
        """Layers of each of the model chunks, in model order.

        asked: those of each chunk, or of each stage, which its chunks share; evenly if absent. What does not divide
        then goes to the middle: the ends also hold embedding and head (Llama Team 2024, sec. 3.3.2).
        """
        chunks = len(self.stage_of)
        if asked is None:
            base, extra = divmod(total, chunks)
            first = (chunks - extra) // 2
            return [base + (first <= chunk < first + extra) for chunk in range(chunks)]
        if len(asked) == chunks:
            return list(asked)
        return [asked[stage] * self.stages // chunks for stage in self.stage_of]

    def source(self, phase: Phase, chunk: int) -> int | None:
        """The chunk whose result in that phase a chunk waits for; None where the model begins, or ends."""
        return self._neighbour(chunk, -ONWARD.get(phase, 0))

    def target(self, phase: Phase, chunk: int) -> int | None:
        """The chunk that waits for the result of a chunk in that phase; None where the model ends, or begins."""
        return self._neighbour(chunk, ONWARD.get(phase, 0))

    def _neighbour(self, chunk: int, step: int) -> int | None:
        return chunk + step if step and 0 <= chunk + step < len(self.stage_of) else None

    def hop(self, chunk: int, other: int) -> int:
        """How many stages further on a neighbouring chunk is, the short way round; 0 on the same stage.

        Of two stages each is after the other on the way through the model, and before it on the way back.
        """
        if other < chunk:
            return -self.hop(other, chunk)
        further = (self.stage_of[other] - self.stage_of[chunk]) % self.stages
        return further - self.stages if 2 * further > self.stages else further

    @property
    def sends(self) -> Sends:
        """What crosses from stage to stage."""
        found: dict[int, set[int]] = {}
        for chunk in range(len(self.stage_of) - 1):
            for one, other in ((chunk, chunk + 1), (chunk + 1, chunk)):
                found.setdefault(self.hop(one, other), set()).add(self.stage_of[one])
        return {hop: tuple(sorted(found[hop])) for hop in sorted(found, reverse=True) if hop}
