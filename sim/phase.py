"""What a piece of work is for. Operations of a model and tasks of a schedule name it alike."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """A backward pass is gradients of inputs, which others wait for, and of weights."""

    FORWARD = 0
    INPUT_GRADIENT = 1
    WEIGHT_GRADIENT = 2
    RECOMPUTE = 3
    OPTIMIZER = 4

    @property
    def differentiates(self) -> bool:
        """Whether gradients are computed: the kernels are those of a backward pass."""
        return self in (Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT)
