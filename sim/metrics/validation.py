"""Predictions beside measurements of many runs: rows, scores, and where a miss may come from.

Errors are those of the step time: predicted over measured, minus 1. Positive is too slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sim.metrics.curves import CurveValidation

HIDDEN = "hidden"  # share of the step in which communication hides behind computation
HOST = "host"  # share of the step that the host costs by issuing work


@dataclass(frozen=True)
class RunTraits:
    """What tells one measured run from another, for tables of errors."""

    accelerator: str
    accelerators: int
    per_node: int
    model: str
    hidden: int
    layers: int
    head_dim: int
    precision: str
    recompute: str
    software: str
    tensor: int
    pipeline: int
    context: int
    data: int
    zero_stage: int
    microbatch: int
    microbatches: int
    sequence_length: int
    family: str = ""
    trained: str = "all"  # or lora
    attention: str = "cudnn"  # its kernel; or unfused
    vendor: str = ""  # of the accelerator
    local: str = "switch"  # what joins the accelerators of a node
    network: int = 0  # MB/s of an accelerator's share of the adapters; 0: one node
    assumed: int = 0  # numbers of the accelerator that are medians of other chips


@dataclass(frozen=True)
class SideCheck:
    """What is compared beside the step time: communication `exposed` (share of the step) or `overlapped` (of its own
    time), or `power` of an accelerator [W]."""

    name: str
    predicted: float
    measured: float


@dataclass(frozen=True)
class Row:
    """One measured run: predicted, or the reason why not (`problem`)."""

    source: str  # the table it is from, or the folder
    name: str
    path: str
    problem: str = ""
    metric: str = ""  # step_time_s, tokens_per_s, ...
    predicted: float = 0.0
    measured: float = 0.0
    error: float = 0.0  # of the step time
    tolerance: float | None = None
    step_s: float = 0.0  # predicted step time
    fits: bool = True  # in memory
    shares: dict[str, float] = field(default_factory=dict)  # of the step: its breakdown, and HIDDEN
    plan: RunTraits | None = None
    wall_s: float = 0.0
    where: str = ""  # where the measurement was read
    beside: tuple[SideCheck, ...] = ()  # what else was measured

    @property
    def missed(self) -> bool:
        """Whether it could not be predicted, or not as closely as it demands."""
        return bool(self.problem) or (self.tolerance is not None and abs(self.error) > self.tolerance)


@dataclass(frozen=True)
class Score:
    """Errors of several rows: sizes without their sign, the worst and the mean (bias) with it."""

    n: int
    failed: int  # could not be predicted; not in the other numbers
    mape: float | None
    median: float | None
    p95: float | None
    worst: float | None
    bias: float | None


@dataclass(frozen=True)
class Miss:
    """One of the worst rows with what may explain it."""

    row: Row
    causes: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """All rows in the order of their files, and their scores."""

    rows: tuple[Row, ...]
    scores: dict[str, Score]  # by source
    total: Score
    worst: tuple[Miss, ...]
    complete: bool = True  # False if it was interrupted
    coverage: dict[str, float] = field(default_factory=dict)  # by source: share inside bands that the others give
    curves: CurveValidation | None = None  # measured collectives

    @property
    def passed(self) -> bool:
        """Whether every run was predicted as closely as it demands."""
        return not any(row.missed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """The validation as plain data."""
        rows = [asdict(row) | {"missed": row.missed} for row in self.rows]
        worst = [{"name": miss.row.name, "error": miss.row.error, "causes": list(miss.causes)} for miss in self.worst]
        return {
            "total": asdict(self.total),
            "sources": {source: asdict(score) for source, score in self.scores.items()},
            "coverage": self.coverage,
            "worst": worst,
            "rows": rows,
            "complete": self.complete,
            "collectives": self.curves.to_json() if self.curves else None,
        }


def score(rows: Sequence[Row]) -> Score:
    """The score of `rows`; numbers are None where nothing was predicted."""
    done = [row.error for row in rows if not row.problem]
    failed = len(rows) - len(done)
    if not done:
        return Score(len(rows), failed, None, None, None, None, None)
    sizes = np.abs(done)
    return Score(
        n=len(rows),
        failed=failed,
        mape=float(sizes.mean()),
        median=float(np.median(sizes)),
        p95=float(np.quantile(sizes, 0.95)),
        worst=max(done, key=abs),
        bias=float(np.mean(done)),
    )


def scores(rows: Sequence[Row]) -> dict[str, Score]:
    """The score of each source, in the order of appearance."""
    sources = dict.fromkeys(row.source for row in rows)
    return {source: score([row for row in rows if row.source == source]) for source in sources}


def worst_rows(rows: Sequence[Row], number: int) -> list[Row]:
    """The `number` rows with the largest errors, the largest first; equal ones in file order."""
    return sorted((row for row in rows if not row.problem), key=lambda row: -abs(row.error))[:number]


# --- causes ---------------------------------------------------------------------------------

_PARTS = {
    "tensor_comm": "tensor traffic",
    "context_comm": "context traffic",
    "expert_comm": "expert traffic",
    "pipeline_comm": "stage-to-stage traffic",
    "data_comm": "gradient and weight traffic",
    "bubble": "waiting for other stages",
    "optimizer": "the optimizer",
    "input_stall": "waiting for input",
    HOST: "issue by the host",
}
_LARGE = 0.04  # share of the step below which a part is not named
_LARGE_ATTENTION = 0.15  # the same for the attention core, as a share of the arithmetic


def likely_causes(row: Row) -> tuple[str, ...]:
    """What may be behind the error of `row`, the likeliest first: taken from its shares and its plan."""
    found = [*(_too_much(row) if row.error > 0 else _too_little(row)), *_plan_causes(row)]
    return tuple(found) or ("nothing stands out: matrix products and memory traffic themselves",)


def _too_much(row: Row) -> Iterator[str]:
    """Parts that should perhaps be hidden or shorter. `excess`: what the prediction has too much of."""
    excess = row.error / (1 + row.error)
    shares = sorted(((row.shares.get(part, 0.0), words) for part, words in _PARTS.items()), reverse=True)
    for share, words in shares[:2]:
        if share >= max(_LARGE, excess / 4):
            verdict = "explains it alone if hidden" if share >= excess else "can explain a part of it"
            yield f"exposed {words}, {share:.0%} of the step, {verdict}"
    if row.shares.get("compute", 0.0) > 1 - excess:
        yield "products and memory traffic alone take longer than the whole measured step"


def _too_little(row: Row) -> Iterator[str]:
    """Time that is perhaps missing. `missing`: as a share of the predicted step."""
    missing = 1 / (1 + row.error) - 1
    hidden = row.shares.get(HIDDEN, 0.0)
    if hidden >= _LARGE:
        verdict = "explains it alone if exposed" if hidden >= missing else "can explain a part of it"
        yield f"traffic taken as hidden, {hidden:.0%} of the step, {verdict}"
    data = row.shares.get("data_comm", 0.0)
    if data >= _LARGE:
        yield f"gradient and weight traffic, {data:.0%} of the step, meets a slower network than modelled"
    if row.shares.get(HOST, 0.0) >= _LARGE:
        yield f"issue by the host, {row.shares[HOST]:.0%} of the step, may cost more"


def attention_share(plan: RunTraits) -> float:
    """Share of a layer's FLOPs in the causal attention core: 2sh beside the 24h^2 of its matrices, per token."""
    return plan.sequence_length / max(1, plan.sequence_length + 12 * plan.hidden)


def _plan_causes(row: Row) -> Iterator[str]:
    plan = row.plan
    if plan is None:
        return
    if plan.tensor > plan.per_node:
        yield f"tensor {plan.tensor} spans nodes of {plan.per_node}"
    if not row.fits:
        yield "the plan does not fit into memory here, so it ran differently"
    if plan.head_dim % 8:
        yield f"heads {plan.head_dim} wide, no multiple of 8: unfused attention runs on the vector units"
    if attention_share(plan) >= _LARGE_ATTENTION:
        share = attention_share(plan)
        yield f"attention is {share:.0%} of the arithmetic: sequences of {plan.sequence_length} tokens"
    if plan.context > 2:
        yield f"sequences split over {plan.context} ranks, taken as balanced and exchanged beside the attention"
    if plan.hidden and plan.hidden // plan.tensor <= 1024:
        yield f"small matrices: hidden {plan.hidden} over tensor {plan.tensor}"
    if 0 < plan.microbatch * plan.sequence_length // plan.context <= 2048:
        yield f"few rows in each product: microbatch {plan.microbatch} of {plan.sequence_length} tokens"
