"""Memory of a step as a maximum over moments, for one rank without pipeline stages, beside the sum of `memory.py`.

Memory is linear in the number of a layer between the ends, so a step is a handful of sums: the head forward and
backward, the first and the last layers backward, the embedding backward, and the optimizer. Terms of FSDP: a unit lies
twice while it is gathered (buffer and weights), the next unit is gathered and the 32-bit reduction of the one before is
in flight, and the first layer is not yet gathered when the loss is at its fullest.
"""

from __future__ import annotations

from typing import NamedTuple

from sim.graph.graph import Graph
from sim.graph.liveness import Moments, moments_of
from sim.graph.work import Writer, element_bytes
from sim.models.family import Architecture

REDUCED = 4  # bytes of a gradient on its way (FSDP)


class TrainedState(NamedTuple):
    """How a rank holds what it trains: bytes per parameter of weights, optimizer state, and working copies of its step.

    ranks: that share it (FSDP, units by layer), 1 if nobody does.
    """

    weights: int
    optimizer: int
    copies: int = 0
    ranks: int = 1


class Peaks(NamedTuple):
    """The fullest moment of each part of a step [B]."""

    forward: float
    backward: float
    optimizer: float


def step_peaks(architecture: Architecture, state: TrainedState) -> Peaks:
    """Live bytes at the fullest moments of a step with one microbatch, of what PyTorch allocates.

    The model has a first piece, equal layers and a last piece.
    """
    return _Step(architecture, state).peaks()


class _Step:
    """Moments of each piece, and bytes that the state of its parameters takes."""

    def __init__(self, architecture: Architecture, state: TrainedState) -> None:
        if not (architecture.first and architecture.last):
            raise ValueError("a step has two ends")
        self.architecture, self.state = architecture, state
        self.element = element_bytes(architecture.shard.precision)
        self.first, self.last, self.layer = architecture.first, architecture.last, architecture.layers[0]
        self.number = len(architecture.layers)

    def peaks(self) -> Peaks:
        """The maximum over the moments of each part."""
        layer, last = self._moments(self.layer), self._moments(self.last)
        held = self._held(self.architecture.whole.parameters, self.state.weights + self.state.optimizer)
        stay = held + self.number * layer.kept
        unit, end = self._gathered(self.layer), self._gathered(self.last)
        forward = max(stay + last.forward + 2 * end, stay - layer.kept + layer.forward + 2 * unit)
        gradients = self._gradient(self.last) + (self.number - 1) * self._gradient(self.layer)
        embedding = held + gradients + self._gradient(self.layer) + layer.input + self._table()
        embedding += self._gathered(self.first) + self._reduced(1)
        layers = (self._back(held, layer, at) for at in {0, min(1, self.number - 1), self.number - 1})
        backward = max(stay + last.backward + end, *layers, embedding)
        whole = self.architecture.whole.parameters
        optimizer = held + self._held(whole, self._gradient_bytes + self.state.copies)
        return Peaks(forward, backward, optimizer)

    def _back(self, held: float, layer: Moments, at: int) -> float:
        """The backward pass of layer `at`; those behind it are done, those before it wait."""
        done = self.number - 1 - at
        gradients = done * self._gradient(self.layer) + self._gradient(self.last)
        ahead = self._gathered(self.layer if at else self.first)
        units = self._gathered(self.layer) + ahead + self._reduced(done)
        return held + at * layer.kept + gradients + layer.backward + units

    def _moments(self, graph: Graph) -> Moments:
        shard = self.architecture.shard
        return moments_of(graph, Writer(graph, shard), repeats=graph.repeated and shard.recompute == "full")

    @property
    def _gradient_bytes(self) -> int:
        """Bytes per parameter of a gradient that waits for the optimizer."""
        return self.element if self.state.ranks == 1 else self.state.weights

    def _held(self, parameters: int, each: int) -> float:
        return parameters * each / self.state.ranks

    def _gradient(self, graph: Graph) -> float:
        return self._held(graph.parameters(), self._gradient_bytes)

    def _gathered(self, graph: Graph) -> float:
        """A whole unit in 16 bit."""
        return 0.0 if self.state.ranks == 1 else float(self.element * graph.parameters())

    def _reduced(self, units: int) -> float:
        return REDUCED * self.layer.parameters() if self.state.ranks > 1 and units else 0.0

    def _table(self) -> float:
        """The whole gradient of the embedding, as it is made."""
        return float(self.element * self.first.parameters())
