"""Residual convolution networks (He 2015, arXiv 1512.03385), with the stride in the middle of a block (v1.5).

A short way to write a convolution network of bottleneck blocks; its graphs are written in `convnet.py`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from sim.graph.operation import Shard
from sim.models.convnet import IMAGE_RULES, Bottleneck, ConvNet, Convolutions, Convolved, ImageRule
from sim.models.family import Pieces, Workload
from sim.record import Name
from sim.units import Count

EXPANSION = 4  # channels that leave a block over the plain width inside


class ResNet(Workload):
    """A residual convolution network: stem, stages of bottleneck blocks, classifier. Samples are images."""

    kind: Literal["resnet"]
    name: Name = Field(default="inline", description="the name it is found by")
    image: Count = Field(default=224, ge=32, description="height and width of an image [pixels]")
    width: Count = Field(
        default=64, ge=1, le=100_000, description="channels of the stem, and inside the blocks of the first stage"
    )
    groups: Count = Field(default=1, ge=1, le=100_000, description="groups of the spatial convolutions (ResNeXt)")
    group_width: Count | None = Field(
        default=None, ge=1, le=100_000, description="channels of a group in the first stage; width/groups if absent"
    )
    blocks: tuple[Count, ...] = Field(min_length=1, description="bottleneck blocks of each stage")
    classes: Count = Field(default=1000, ge=1, le=1_000_000_000, description="classes that are told apart")
    sources: dict[str, str] = Field(default_factory=dict, description="key path (or its prefix) to its source")

    tokens: ClassVar[bool] = False

    @property
    @override
    def layers(self) -> int:
        return sum(self.blocks)

    @property
    @override
    def line(self) -> str:
        return f"{self.layers} bottleneck blocks, images of {self.image} pixels, {self.classes} classes"

    @property
    def written_out(self) -> ConvNet:
        """The same network, block by block."""
        stem = Convolutions(
            block="chain",
            units=(Convolved(channels=self.width, kernel=7, stride=2), Convolved(kernel=3, stride=2)),
        )
        return ConvNet(
            kind="convnet",
            name=self.name,
            image=self.image,
            stages=(stem, *map(self._stage, range(len(self.blocks)))),
            classes=self.classes,
        )

    def _stage(self, number: int) -> Bottleneck:
        inner = self.width if self.group_width is None else self.groups * self.group_width
        return Bottleneck(
            block="bottleneck",
            channels=EXPANSION * self.width << number,
            inner=inner << number,
            groups=self.groups,
            stride=2 if number else 1,
            repeat=self.blocks[number],
        )

    @override
    def pieces(self, shard: Shard) -> Pieces:
        """Stem, blocks one by one, classifier."""
        return self.written_out.pieces(shard)

    @property
    @override
    def rules(self) -> tuple[ImageRule, ...]:
        return IMAGE_RULES
