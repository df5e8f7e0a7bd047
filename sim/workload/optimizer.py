"""The optimizer step of one rank: a few passes over its parameters, bound by memory."""

from __future__ import annotations

from sim.graph.operation import Operation, Phase
from sim.inputs.records import Software

FP8_CAST_BYTES = 4  # per weight: read 2 B, write it plain and transposed, 1 B each
OPTIMIZER_KERNELS = 4  # unscale and check, norm, update, copy; each over all tensors at once


def optimizer_step(local_parameters: float, software: Software, precision: str = "bf16") -> tuple[Operation, ...]:
    """Unscale, clip, update and copy back `local_parameters` (those this rank updates).

    Mixed-precision Adam moves about 42 B per parameter (`software.optimizer_bytes`); fp8 adds the
    cast of the new weights, done once per step.
    """
    per_parameter = software.optimizer_bytes + (FP8_CAST_BYTES if precision == "fp8" else 0)
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
