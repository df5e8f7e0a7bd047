"""What the time of a step counts under."""

from __future__ import annotations

from enum import StrEnum


class Category(StrEnum):
    """Fields of the breakdown, in its order."""

    COMPUTE = "compute"
    TENSOR_COMM = "tensor_comm"
    CONTEXT_COMM = "context_comm"
    EXPERT_COMM = "expert_comm"
    PIPELINE_COMM = "pipeline_comm"
    DATA_COMM = "data_comm"
    HOST_COMM = "host_comm"
    BUBBLE = "bubble"
    OPTIMIZER = "optimizer"
    INPUT_STALL = "input_stall"
    OTHER = "other"


COMMUNICATION = (
    Category.TENSOR_COMM,
    Category.CONTEXT_COMM,
    Category.EXPERT_COMM,
    Category.PIPELINE_COMM,
    Category.DATA_COMM,
    Category.HOST_COMM,
)
