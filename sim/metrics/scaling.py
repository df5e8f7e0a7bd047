"""How a training scales, and how many tokens it needs.

The token target: about 20 tokens per parameter (Hoffmann 2022, arXiv 2203.15556, table 3), or the parametric
loss L(N, D) = E + A/N^a + B/D^b of its approach 3, with the constants of the corrected fit (Besiroglu 2024,
arXiv 2404.10102), which agrees with the other two approaches.

The batch: tokens(B) = tokens_min (1 + B/Bcrit), from (S/Smin - 1)(E/Emin - 1) = 1 with E = S B (McCandlish
2018, arXiv 1812.06162, equations 2.11 and 2.12). Bcrit(L) = 2e8 tokens / L^(1/0.21) (Kaplan 2020, arXiv
2001.08361, equation 1.4; L in nats per token, fitted to models of up to 1.5 B parameters on WebText2).
All constants are recalled from these papers.

Public: `ScalePoint`, `ScalingStudy`, `optimal_tokens`, `loss`, `critical_batch`, `tokens_at`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

TOKENS_PER_PARAMETER = 20.0  # Hoffmann 2022, table 3: 20.2 at 1.4e9, 21.2 at 70e9 parameters (approach 1)
IRREDUCIBLE, A, B, ALPHA, BETA = 1.8172, 482.01, 2085.43, 0.3478, 0.3658  # Besiroglu 2024
CRITICAL, CRITICAL_POWER = 2e8, 0.21  # Kaplan 2020, equation 1.4


@dataclass(frozen=True)
class ScalePoint:
    """One size of the cluster. None: not simulated, `problem` says why; energy and cost: not known."""

    mode: str  # strong: the batch stays; weak: it grows with the cluster
    nodes: int
    accelerators: int
    global_batch: int  # sequences
    plan: str  # for people
    tokens: float  # that the training needs with this batch
    step_s: float | None = None
    tokens_per_s: float | None = None
    efficiency: float | None = None  # tokens per second and accelerator, relative to the smallest size
    training_efficiency: float | None = None  # the same for trainings per time and accelerator
    mfu: float | None = None
    time_to_train_s: float | None = None
    energy_kwh: float | None = None
    cost_usd: float | None = None
    fits: bool | None = None
    problem: str = ""


@dataclass(frozen=True)
class ScalingStudy:
    """All sizes, smallest first, strong scaling before weak."""

    name: str
    description: str
    parameters: float
    tokens: float  # target at the experiment's own batch
    tokens_from: str
    batch_tokens: float  # the experiment's own batch
    critical_batch_tokens: float
    replanned: bool
    points: tuple[ScalePoint, ...]
    complete: bool = True

    def to_json(self) -> dict[str, Any]:
        """The study as plain data."""
        return asdict(self)


def optimal_tokens(parameters: float, form: str = "hoffmann") -> float:
    """Tokens that train a model of `parameters` at least compute for its loss.

    hoffmann: 20 tokens per parameter. parametric: where C = 6 N D, spent best, gives this N. The minimum of
    L(N, C/6N) has a A/N^a = b B/D^b (Hoffmann 2022, equation 4).
    """
    if form == "hoffmann":
        return TOKENS_PER_PARAMETER * parameters
    ratio: float = (BETA * B / (ALPHA * A) * parameters**ALPHA) ** (1 / BETA)
    return ratio


def loss(parameters: float, tokens: float) -> float:
    """Expected loss [nats per token] of a model after `tokens`: L(N, D)."""
    expected: float = IRREDUCIBLE + A / parameters**ALPHA + B / tokens**BETA
    return expected


def critical_batch(parameters: float, tokens: float) -> float:
    """Batch [tokens] at which a training needs twice the tokens and twice the steps of either limit."""
    size: float = CRITICAL / loss(parameters, tokens) ** (1 / CRITICAL_POWER)
    return size


def tokens_at(batch: float, tokens: float, own_batch: float, critical: float) -> float:
    """Tokens that `batch` needs for what `tokens` reach with `own_batch`; batches in tokens."""
    return tokens * (1 + batch / critical) / (1 + own_batch / critical)
