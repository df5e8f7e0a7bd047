"""Recomputation: what runs again before the backward pass of a piece, and what is kept instead.

A discipline is a list of forward operators. Kept is what they read, and what backward operators read and they do not
make (Korthikanti 2022, arXiv 2205.05198, section 4, whose terms follow from the graph of a GPT layer).
"""

from __future__ import annotations

from collections.abc import Callable

from sim.graph.adapters import Adapter
from sim.graph.attention import CORE, FlashAttention, LayoutCopy
from sim.graph.graph import Graph, Operator, Tensor
from sim.graph.latent import Join
from sim.graph.norms import Norm
from sim.graph.operation import Recompute, RecomputePart
from sim.graph.pointwise import Activation, Dropout, ResidualSum, Rotation
from sim.graph.products import Cast, Enter, Leave, Linear, Serving, WeightCast
from sim.graph.work import Writer

Numbers = dict[Linear, tuple[int, ...]]  # those matrices of each product that are multiplied again


def repeated(work: Writer) -> list[Operator]:
    """Forward operators that run again before the backward pass of the graph."""
    how = work.shard.recompute
    if not work.graph.repeated:
        return []
    return DISCIPLINES[how](work) if isinstance(how, str) else _of_parts(work, how)


def recompute_text(how: Recompute | tuple[RecomputePart, ...]) -> str:
    """A discipline, or parts, in a word."""
    return how if isinstance(how, str) else "+".join(how)


def kept(work: Writer) -> list[Tensor]:
    """Tensors from the forward pass to the backward pass, each once.

    What the graph hands on is kept by the next, if at all, and what it is handed for several by who made it. A region
    that is repeated as a whole hands its output on too, so others keep it.
    """
    tensors = {id(tensor): tensor for tensor in _kept(work)}
    for tensor in (work.graph.output, *work.graph.carried):
        tensors.pop(id(tensor), None)
    return list(tensors.values())


def _kept(work: Writer) -> list[Tensor]:
    graph, again = work.graph, repeated(work)
    needs = [(operator, tuple(operator.needs(work))) for operator in graph.operators]
    if not again:
        return [tensor for _, tensors in needs for tensor in tensors]
    whole = {id(operator) for operator in again}
    handed = {id(tensor) for operator in graph.operators for tensor in operator.writes} | {id(graph.source)}
    made = {id(tensor) for operator in again for tensor in operator.writes}
    made |= {id(t) for each, tensors in needs if id(each) in whole for t in tensors if id(t) not in handed}  # masks
    held = [tensor for operator in again for tensor in operator.reads if id(tensor) not in made]
    dropped = _dropped(work, made)
    for operator, tensors in needs:
        gone = made if id(operator) in whole else dropped
        held += [tensor for tensor in tensors if id(tensor) not in gone]
    if work.shard.recompute == "alternate":
        held += _kept_results(graph)
    return held


def _dropped(work: Writer, made: set[int]) -> set[int]:
    """Of what is `made` again, what operators that do not run again read without its being kept."""
    how = work.shard.recompute
    if isinstance(how, str):
        return set() if how == "selective" else made
    again = _of_parts(work, tuple(part for part in how if part in MADE_ANEW))
    return {id(tensor) for operator in again for tensor in operator.writes}


def _kept_results(graph: Graph) -> list[Tensor]:
    """Results of the products that alternate recomputation keeps, summed over ranks."""
    return [
        product.leave.result if product.leave else result
        for product, numbers in _odd_ones(graph).items()
        for number, result in enumerate(product.writes)
        if number not in numbers
    ]


def _odd_ones(graph: Graph) -> Numbers:
    """Every second matrix in issue order, without the first."""
    numbers: Numbers = {}
    before = 0
    for product in _products(graph):
        count = len(product.columns)
        numbers[product] = tuple(number for number in range(count) if (before + number) % 2)
        before += count
    return numbers


def _nothing(_: Writer) -> list[Operator]:
    return []


def _all(work: Writer) -> list[Operator]:
    """The forward pass with its collectives, dead products included, or until the last product."""
    return _stopped(work, work.graph.operators)


def _core(work: Writer) -> list[Operator]:
    """Selective recomputation (Korthikanti 2022, section 5); fused attention does this inside its backward kernel."""
    return _attention(work.graph)


def _after_first_product(work: Writer) -> list[Operator]:
    """All but the products of query, key and value (save_qkv_proj of MaxText)."""
    first, *others = _products(work.graph)
    numbers = {first: (), **{each: tuple(range(len(each.columns))) for each in others}}
    return _stopped(work, _without(work, numbers))


def _every_other_product(work: Writer) -> list[Operator]:
    """All but the attention core, sums over ranks and every other product.

    In issue order (query, key, value, output, gate, up, down) the first product and every second one
    after it are kept (TorchTitan, activation checkpointing, selective_ac_option "op"); what follows
    the last kept tensor is not needed.
    """
    numbers = _odd_ones(work.graph)
    numbers[list(numbers)[-1]] = ()
    core = {id(tensor) for each in work.graph.operators if each.region == CORE for tensor in each.writes}
    operators = [
        _unsummed(each)
        for each in _without(work, numbers)
        if not (each.region == CORE or isinstance(each, Leave) or _follows_sum(each))
        and not (isinstance(each, LayoutCopy) and id(each.reads[0]) in core)
    ]
    last = max(number for number, each in enumerate(operators) if isinstance(each, Activation | Cast))
    return operators[: last + 1]


def _without(work: Writer, numbers: Numbers) -> list[Operator]:
    """Forward operators with those matrices alone; of the others, what makes the input of their weight gradients."""
    last = list(numbers)[-1]
    parts = {each: _part(each, of) for each, of in numbers.items() if of}
    operators: list[Operator] = []

    def gathers(product: Linear) -> bool:
        return product.enter is not None and work.shard.keeps_gathered

    for operator in work.graph.operators:
        product = operator.product if isinstance(operator, Serving) else operator
        if not isinstance(product, Linear):
            operators.append(operator)
        elif product in parts:
            part = parts[product]
            operators.append(operator if part is product else _serving(operator, part))
        elif isinstance(operator, Enter) and gathers(product):
            operators.append(operator.beside(None))
        elif isinstance(operator, Cast) and (product.keeps_cast(work) or product is last or gathers(product)):
            operators.append(operator)
    return operators


def _unsummed(operator: Operator) -> Operator:
    """A product alone, without the sum of its result over ranks."""
    if isinstance(operator, Linear) and operator.leave:
        return operator.narrowed(tuple(range(len(operator.columns))))
    return operator


def _part(product: Linear, numbers: tuple[int, ...]) -> Linear:
    return product if len(numbers) == len(product.columns) else product.narrowed(numbers)


def _serving(operator: Operator, part: Linear) -> Operator:
    """What serves a product, for a part of it."""
    if isinstance(operator, Enter):
        return operator.beside(part)
    if isinstance(operator, WeightCast):
        return WeightCast(part)
    return part if isinstance(operator, Linear) else operator


def _follows_sum(operator: Operator) -> bool:
    return isinstance(operator, Adapter) and operator.product is not None and operator.product.leave is not None


def _stopped(work: Writer, operators: list[Operator]) -> list[Operator]:
    """`operators` until the last product where the stack stops there, unless something behind it is needed again."""
    masks = any(isinstance(each, Dropout) or (isinstance(each, ResidualSum) and each.dropout) for each in operators)
    product = next((each for each in reversed(operators) if each.products(work)), None)
    if not work.shard.stops_recompute or masks or not isinstance(product, Linear) or product.adapter:
        return operators
    last = operators.index(product)
    return [each for each in operators[:last] if not (isinstance(each, WeightCast) and each.product is product)]


def _products(graph: Graph) -> list[Linear]:
    return [each for each in graph.operators if isinstance(each, Linear)]


# --- parts of a layer ---------------------------------------------------------------------------


def _of_parts(work: Writer, parts: tuple[RecomputePart, ...]) -> list[Operator]:
    """Forward operators of these parts, in the order of the graph, with the casts to 8 bit of what they make."""
    chosen = {id(operator) for part in parts for operator in PARTS[part](work.graph)}
    made: set[int] = set()
    operators: list[Operator] = []
    for operator in work.graph.operators:
        casts = isinstance(operator, Cast) and any(id(each) in made for each in operator.reads)
        if casts or id(operator) in chosen:
            operators.append(operator)
            made |= {id(each) for each in operator.writes}
    return operators


def _norms(graph: Graph) -> list[Operator]:
    return [each for each in graph.operators if isinstance(each, Norm)]


def _activations(graph: Graph) -> list[Operator]:
    return [each for each in graph.operators if isinstance(each, Activation)]


def _latent_up(graph: Graph) -> list[Operator]:
    """Products from latent to full queries, keys and values, and what follows until the core.

    Megatron Core, transformer/multi_latent_attention.py, recompute_up_proj.
    """
    joins = [place for place, each in enumerate(graph.operators) if isinstance(each, Join)]
    if not joins:
        return []
    norms = {id(each.result) for each in _norms(graph) if isinstance(_maker(graph, each.reads[0]), Linear)}
    ups = {id(each) for each in graph.operators[: joins[-1]] if isinstance(each, Linear) and id(each.reads[0]) in norms}
    follow = (Rotation, Join)
    return [each for each in graph.operators[: joins[-1] + 1] if id(each) in ups or isinstance(each, follow)]


def _maker(graph: Graph, tensor: Tensor) -> Operator | None:
    return next((each for each in graph.operators if any(made is tensor for made in each.writes)), None)


def _attention(graph: Graph) -> list[Operator]:
    core = [each for each in graph.operators if each.region == CORE]
    return [] if any(isinstance(each, FlashAttention) for each in core) else core


def _feed_forward(graph: Graph) -> list[Operator]:
    """What lies between the last norm of the layer and the last sum with the stream, traffic included."""
    norms = [place for place, each in enumerate(graph.operators) if isinstance(each, Norm)]
    sums = [place for place, each in enumerate(graph.operators) if isinstance(each, ResidualSum)]
    return graph.operators[norms[-1] + 1 : sums[-1]] if norms and sums else []


PARTS: dict[RecomputePart, Callable[[Graph], list[Operator]]] = {
    "norm": _norms,
    "activation": _activations,
    "up_projection": _latent_up,
    "attention": _attention,
    "feed_forward": _feed_forward,
}
# Their results are dropped when they have been used, and made again where the backward pass needs them (Megatron Core,
# CheckpointWithoutOutput); of other parts what they hand on is kept (tensor_parallel.checkpoint).
MADE_ANEW: tuple[RecomputePart, ...] = ("norm", "activation", "up_projection")


DISCIPLINES: dict[str, Callable[[Writer], list[Operator]]] = {
    "none": _nothing,
    "selective": _core,
    "alternate": _every_other_product,
    "keep_qkv": _after_first_product,
    "full": _all,
}
