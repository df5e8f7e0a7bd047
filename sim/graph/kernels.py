"""How a software stack runs layers of experts: a record of the file format that graphs read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sim.record import Record
from sim.units import Count, Seconds

Dispatcher = Literal["all_to_all", "deduplicated"]
ExpertOverlap = Literal["none", "shared", "microbatch"]


class ExpertKernels(Record):
    """How a stack runs layers of experts."""

    dispatcher: Dispatcher = Field(
        default="all_to_all",
        description="how tokens reach their experts: one copy for each expert (NCCL all-to-all), or one for each node, "
        "which hands it on to each rank that has some of them (DeepEP, HybridEP)",
    )
    overlap: ExpertOverlap = Field(
        default="none",
        description="what the exchange of tokens runs beside: nothing, the shared experts of the layer, or the passes "
        "of another microbatch",
    )
    dispatch_8_bit: bool = Field(default=False, description="tokens go to their experts in 8 bit; they return in 16")
    fused_permutation: bool = Field(
        default=True, description="one kernel copies and sorts tokens each way; else kernels to index and to multiply"
    )
    fused_products: bool = Field(
        default=True, description="the products of all experts of a rank are one kernel; else one each, side by side"
    )
    router_kernels: Count = Field(
        default=20, ge=1, le=1000, description="small kernels of router, top-k and maps in a forward pass"
    )
    wait: Seconds = Field(
        default=0.0,
        ge=0,
        description="that a layer waits, each forward pass, for the host to learn how many tokens each expert got",
    )
