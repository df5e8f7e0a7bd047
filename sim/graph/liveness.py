"""How much of memory is taken at the fullest moments of a piece: tensors live from who makes them to who reads last.

Eager operators one after the other: results are allocated, what has no reader left and is not kept is freed;
backward likewise, with gradients and what was kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
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


def moments_of(
    graph: Graph, work: Writer, kept: Collection[Tensor] | None = None, *, gradient: int | None = None
) -> Moments:
    """The moments of a transformed graph.

    kept: what is kept from pass to pass where some of it is computed again, in front of the first operator that reads
    it; all that backward operators read if None. gradient: bytes per element of a weight's gradient, 0 where it is
    added to a buffer by the product that makes it; as wide as the weight if None.
    """
    steps = [step for operator in graph.operators for step in operator.steps(work)]
    source, output = graph.bytes(steps[0].reads[0]), graph.bytes(steps[-1].writes[0])
    whole = _each(tensor for step in steps for tensor in step.kept)
    stays = whole if kept is None else _still_kept(graph, whole, kept)
    extra = 0 if kept is None else sum(map(graph.bytes, kept)) - sum(map(graph.bytes, stays))
    forward = _forward(graph, steps, whole)
    again = {id(tensor) for tensor in whole} - {id(tensor) for tensor in stays}
    backward, weights = _backward(graph, steps, whole, again, gradient)
    if any(id(tensor) in again for tensor in next((step.kept for step in reversed(steps) if step.kept), ())):
        backward = max(backward, forward + output)  # all of it runs again beside the gradient that arrived
    return Moments(forward, sum(map(graph.bytes, stays)) + extra, backward + extra, weights, output, source)


def _still_kept(graph: Graph, whole: list[Tensor], kept: Collection[Tensor]) -> list[Tensor]:
    """Those of `whole` that are kept; a mask and its like are made anew by who asks, and told by name."""
    handed = {id(tensor) for operator in graph.operators for tensor in operator.writes} | {id(graph.source)}
    known = {id(tensor) for tensor in kept}
    names = {tensor.name for tensor in kept if id(tensor) not in handed}
    return [each for each in whole if (id(each) in known if id(each) in handed else each.name in names)]


def _forward(graph: Graph, steps: list[Step], kept: list[Tensor]) -> int:
    readers = Counter(id(tensor) for step in steps for tensor in step.reads)
    stays = {id(tensor) for tensor in kept} | {id(steps[-1].writes[0])}
    live = peak = graph.bytes(steps[0].reads[0])
    for step in steps:
        live += sum(map(graph.bytes, step.writes))
        peak = max(peak, live)
        readers.subtract(id(tensor) for tensor in step.reads)
        done = (tensor for tensor in _each((*step.reads, *step.writes)) if not readers[id(tensor)])
        live -= sum(graph.bytes(tensor) for tensor in done if id(tensor) not in stays)
    return peak


def _backward(
    graph: Graph, steps: list[Step], kept: list[Tensor], again: set[int], width: int | None
) -> tuple[int, int]:
    """The fullest moment, and gradients of weights at the end; the gradient of the output is there at the start.

    What is computed `again` lies there from the first step on that reads some of it.
    """
    last = steps[-1].writes[0]
    readers = Counter(id(tensor) for step in steps for tensor in step.kept)
    gradients = {id(last): graph.bytes(last)}
    remade = sum(graph.bytes(tensor) for tensor in kept if id(tensor) in again)
    live = peak = sum(map(graph.bytes, kept)) - remade + graph.bytes(last)
    weights = 0
    for step in reversed([each for each in steps if not each.ends]):
        if remade and any(id(tensor) in again for tensor in step.kept):
            live, remade = live + remade, 0
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
        more = sum((each.width if width is None else width) * graph.elements(each) for each in step.weights)
        weights, live = weights + more, live + more
        peak = max(peak, live + sum(map(graph.bytes, step.brought)))
        for tensor in step.writes:
            given = gradients.pop(id(tensor), 0)
            live -= 0 if handed_on else given
        readers.subtract(id(tensor) for tensor in step.kept)
        live -= sum(graph.bytes(tensor) for tensor in step.kept if not readers[id(tensor)])
    return peak, weights


def _each(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
