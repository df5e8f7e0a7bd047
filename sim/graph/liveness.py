"""How much of memory is taken at the fullest moments of a piece: tensors live from who makes them to who reads last.

Eager operators one after the other: results are allocated, what has no reader left and is not kept is freed;
backward likewise, with gradients and what was kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from sim.graph.graph import Graph, Step, Tensor
from sim.graph.work import Writer


class Moments(NamedTuple):
    """Bytes of a piece beside everything else; its input is live at the start.

    forward: the fullest moment of the forward pass; kept: after it; backward: the fullest moment of the backward pass,
    gradients of weights included, which take `weights` in the end; output and input: what it hands on either way.
    """

    forward: int
    kept: int
    backward: int
    weights: int
    output: int
    input: int


def moments_of(graph: Graph, work: Writer, *, repeats: bool) -> Moments:
    """The moments of a transformed graph; a graph that `repeats` keeps its input and runs again before going back."""
    steps = [step for operator in graph.operators for step in operator.steps(work)]
    source, output = graph.bytes(steps[0].reads[0]), graph.bytes(steps[-1].writes[0])
    forward = _forward(graph, steps)
    whole = sum(map(graph.bytes, _each(tensor for step in steps for tensor in step.kept)))
    backward, weights = _backward(graph, steps, whole)
    if repeats:
        backward = max(backward, forward + output)
    return Moments(forward, source if repeats else whole, backward, weights, output, source)


def _forward(graph: Graph, steps: list[Step]) -> int:
    readers = Counter(id(tensor) for step in steps for tensor in step.reads)
    stays = {id(tensor) for step in steps for tensor in step.kept} | {id(steps[-1].writes[0])}
    live = peak = graph.bytes(steps[0].reads[0])
    for step in steps:
        live += sum(map(graph.bytes, step.writes))
        peak = max(peak, live)
        readers.subtract(id(tensor) for tensor in step.reads)
        done = (tensor for tensor in _each((*step.reads, *step.writes)) if not readers[id(tensor)])
        live -= sum(graph.bytes(tensor) for tensor in done if id(tensor) not in stays)
    return peak


def _backward(graph: Graph, steps: list[Step], kept: int) -> tuple[int, int]:
    """The fullest moment, and gradients of weights at the end; the gradient of the output is there at the start."""
    last = steps[-1].writes[0]
    readers = Counter(id(tensor) for step in steps for tensor in step.kept)
    gradients = {id(last): graph.bytes(last)}
    live = peak = kept + graph.bytes(last)
    weights = 0
    for step in reversed(steps):
        arrived = sum(gradients.get(id(tensor), 0) for tensor in step.writes)
        handed_on = False
        for tensor in step.reads:
            size = graph.bytes(tensor)
            if id(tensor) in gradients:  # added where it lies, from a temporary
                peak = max(peak, live + (0 if step.alias else size))
            elif step.alias:
                gradients[id(tensor)] = 0 if handed_on else arrived  # one storage, which the first holds
                handed_on = True
            else:
                gradients[id(tensor)] = size
                live += size
        more = sum(map(graph.bytes, step.weights))
        weights, live = weights + more, live + more
        peak = max(peak, live)
        for tensor in step.writes:
            given = gradients.pop(id(tensor), 0)
            live -= 0 if handed_on else given
        readers.subtract(id(tensor) for tensor in step.kept)
        live -= sum(graph.bytes(tensor) for tensor in step.kept if not readers[id(tensor)])
    return peak, weights


def _each(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
