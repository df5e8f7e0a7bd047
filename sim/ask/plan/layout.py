"""How a model is cut over stages, as numbers: blocks in each chunk, parameters in each segment.

Public: `ChunkLayout`, `layout_of`, `stack`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.inputs.records import Software
from sim.layout.pieces import Passes
from sim.layout.plan import CutModel

Sizes = tuple[tuple[int, int, int], ...]  # by segment: parameters, those with gradients, those of experts


@dataclass(frozen=True, eq=False)
class ChunkLayout:
    """The model in chunks, in its order; kinds of blocks; counts: (chunks, kinds); sizes of each chunk.

    Equal only to itself.
    """

    cut: CutModel
    kinds: tuple[Passes, ...]
    counts: NDArray[np.float64]
    sizes: tuple[Sizes, ...]


def layout_of(cut: CutModel) -> ChunkLayout:
    """The layout of a model that is cut into chunks."""
    chunks = cut.chunks
    pieces = [[piece for segment in chunk.segments for piece in segment.pieces] for chunk in chunks]
    kinds = tuple(dict.fromkeys(piece.passes for inside in pieces for piece in inside))
    counts = np.zeros((len(chunks), len(kinds)))
    for row, inside in enumerate(pieces):
        for piece in inside:
            counts[row, kinds.index(piece.passes)] += piece.count
    sizes = tuple(tuple((each.parameters, each.trained, each.experts) for each in chunk.segments) for chunk in chunks)
    return ChunkLayout(cut, kinds, counts, sizes)


def stack(software: Software) -> tuple[object, ...]:
    """What a software stack does, as a key."""
    return tuple(value for name, value in software if name != "sources")
