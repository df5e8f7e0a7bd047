"""Kinds of optimizers, and the optimizer step of one rank: a few passes over its parameters, bound by memory."""

from __future__ import annotations

from typing import NamedTuple

from sim.graph.operation import Operation, Phase
from sim.inputs.records import Software
from sim.record import NARROW, narrow_bytes

CAST_COPIES = 2  # of weights in a narrow format: plain and transposed, from 2 B
OPTIMIZER_KERNELS = 4  # unscale and check, norm, update, copy; each over all tensors at once
HOST_TRAFFIC = 28  # bytes of host memory per parameter: read gradient, weight, two moments, write three back
HOST_BANDWIDTH = 25e9  # bytes/s of one process: 1 to 1.25 s for 1e9 parameters (DeepSpeed, issue 6695)


class OptimizerKind(NamedTuple):
    """An optimizer, per trained parameter.

    moments: numbers as wide as the stack's moments; small: bytes of state beside them; copies: numbers that its step
    holds for all parameters at once; largest: those it holds for the largest matrix alone; traffic: bytes that the
    update of 32-bit weights moves; paged: its state lies in host memory when the board is full.
    """

    moments: int = 2
    small: float = 0.0
    copies: int = 0
    largest: int = 0
    traffic: float = 28.0
    paged: bool = False


# Traffic: what the update reads and writes, 4 B each unless said.
OPTIMIZERS = {
    # PyTorch, optim/adam.py, _multi_tensor_adam: eight kernels over all tensors; the square roots of all second
    # moments are a copy of them
    "adamw_foreach": OptimizerKind(copies=1, traffic=80.0),
    # PyTorch 1.13 to 2.0, optim/adamw.py: square roots and denominators, which 2.1 computes in place
    "adamw_foreach_2023": OptimizerKind(copies=2, traffic=80.0),
    "adamw": OptimizerKind(),
    # PyTorch, optim/adam.py, _fused_adam; Apex and DeepSpeed FusedAdam: one kernel
    "adamw_fused": OptimizerKind(),
    # PyTorch, optim/adam.py, _single_tensor_adam: the same kernels parameter by parameter
    "adamw_loop": OptimizerKind(largest=2, traffic=80.0),
    # bitsandbytes, functional.py: moments of 1 B, and a 32-bit scale for each block of 256
    "adam8bit": OptimizerKind(moments=0, small=2 + 2 * 4 / 256, traffic=12.0 + 2 * 2),
    "paged_adamw": OptimizerKind(moments=0, small=8.0, paged=True),
    "paged_adamw8bit": OptimizerKind(moments=0, small=2 + 2 * 4 / 256, traffic=12.0 + 2 * 2, paged=True),
    # PyTorch, optim/sgd.py
    "sgd": OptimizerKind(moments=0, traffic=12.0),
    "sgd_momentum": OptimizerKind(moments=1, traffic=20.0),
    # Chen 2023 (arXiv 2302.06675), algorithm 2: one momentum; its sign is the update, tensor by tensor
    "lion": OptimizerKind(moments=1, largest=1, traffic=20.0),
    # Shazeer 2018 (arXiv 1804.04235): sums of rows and columns; squares, update and its norm are passes of their own
    "adafactor": OptimizerKind(moments=0, small=0.0, largest=2, traffic=36.0),
    # Jordan 2024, muon.py: one momentum; Newton-Schulz on a 16-bit copy of one matrix at a time
    "muon": OptimizerKind(moments=1, largest=2, traffic=28.0),
    # You 2019 (arXiv 1904.00962), Apex multi_tensor_lamb: the update is written, its norm taken, then applied
    "lamb": OptimizerKind(copies=1, traffic=28.0 + 12.0),
}


def optimizer_of(software: Software, chosen: str | None) -> OptimizerKind:
    """The kind that a training uses: the one chosen, else that of the stack; of plain Adam with its kernels."""
    if chosen == "adamw" and software.optimizer.startswith("adamw"):
        return OPTIMIZERS[software.optimizer]
    return OPTIMIZERS[chosen or software.optimizer]


def update_bytes(software: Software, chosen: str | None) -> float:
    """Device memory traffic of the step per local parameter: of the stack, with the update of the kind chosen."""
    own, kind = OPTIMIZERS[software.optimizer], optimizer_of(software, chosen)
    return max(kind.traffic, software.optimizer_bytes - own.traffic + kind.traffic)


def optimizer_step(
    local_parameters: float, software: Software, precision: str = "bf16", chosen: str | None = None
) -> tuple[Operation, ...]:
    """Unscale, clip, update and copy back `local_parameters` (those this rank updates).

    Mixed-precision Adam moves about 42 B per parameter (`software.optimizer_bytes`); a narrow format
    adds the cast of the new weights, done once per step.
    """
    per_parameter = update_bytes(software, chosen) + (
        2 + CAST_COPIES * narrow_bytes(precision) if precision in NARROW else 0
    )
    return (
        Operation(
            name="optimizer",
            kind="elementwise",
            bytes_moved=per_parameter * local_parameters,
            precision="fp32",
            kernels=OPTIMIZER_KERNELS,
            phase=Phase.OPTIMIZER,
        ),
    )


def host_seconds(local_parameters: float) -> float:
    """Time of an Adam step on the host, one process for each accelerator, bound by the memory that it reaches [s]."""
    return local_parameters * HOST_TRAFFIC / HOST_BANDWIDTH
