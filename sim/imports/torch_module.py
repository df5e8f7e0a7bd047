"""Any PyTorch module as a workload: one forward and backward pass on the meta device, operator by operator.

Two traces with different numbers of samples say what grows with them. Operators lie below autograd, so the backward
pass is recorded, not derived. PyTorch is optional and imported when a module is traced.

Public: `trace_module`, `TracedModule`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from math import prod
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem

SAMPLES = (2, 4)  # of the two traces; one is too few for the norm of a batch
VIEWS_AND_SUCH = re.compile(r"aten\.(empty|detach|alias|lift|_local_scalar|scalar_tensor|sym_|is_)")
LOOKUPS = ("embedding", "index", "gather", "index_select", "_embedding_bag")
Numbers = tuple[int, ...]


@dataclass(frozen=True)
class TracedKernel:
    """One operator of one trace: sizes are batch, m, n, k, bytes."""

    kind: str
    name: str
    numbers: Numbers
    module: str
    forward: bool
    causal: bool = False


@dataclass
class TracedModule:
    """The workload as a file says it, and what a reader should know."""

    fields: dict[str, Any]
    remarks: list[str] = field(default_factory=list)

    @property
    def summary(self) -> str:
        """What was read, in one line."""
        fields = self.fields
        pieces = [piece for piece in (fields.get("first"), *fields["body"], fields.get("last")) if piece]
        parameters = sum(piece["repeat"] * (piece["parameters"] + piece["frozen"]) for piece in pieces)
        layers = sum(piece["repeat"] for piece in fields["body"])
        kinds = sum(len(piece["forward"]) + len(piece["backward"]) for piece in pieces)
        return f"{fields['source']}: {parameters:,} parameters, {layers} layers, {kinds} different operators"


def trace_module(target: str, name: str = "") -> TracedModule:
    """Trace what FUNCTION of MODULE:FUNCTION returns: a module and its inputs, for so many samples as it is given.

    A function without parameters is called once for each trace, and its inputs are repeated along the first axis.
    Raises ConfigError with what went wrong.
    """
    torch = _torch()
    build = _function(target)
    traces = [_Trace(torch, build, samples, target) for samples in SAMPLES]
    return _written(traces[0], traces[1], target, name or _plain(target), str(torch.__version__))


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError:
        hint = "pip install 'clustersim[torch]'; it is needed to import a module, not to simulate it"
        raise ConfigError(Problem("", "", "import torch needs PyTorch, which is not installed", hint)) from None


def _function(target: str) -> Callable[..., Any]:
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ConfigError(Problem("", target[:120], "must be MODULE:FUNCTION", "such as my_model.py:build"))
    try:
        module = _loaded(place)
    except Exception as error:  # whatever the user's file raises
        raise ConfigError(Problem(place, "", f"cannot be imported: {_first_line(error)}")) from None
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigError(Problem(place, name, "is no function of this module", "give MODULE:FUNCTION"))
    return found  # type: ignore[no-any-return]


def _loaded(place: str) -> Any:
    if not place.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        return import_module(place)
    spec = spec_from_file_location(Path(place).stem, place)
    if spec is None or spec.loader is None or not Path(place).is_file():
        raise FileNotFoundError("no such file")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:300]


def _plain(target: str) -> str:
    place, _, name = target.rpartition(":")
    stem = Path(place).stem if place.endswith(".py") else place
    return re.sub(r"[^A-Za-z0-9._+-]", "-", f"{stem}-{name}").strip("-.+_")[:119] or "imported"


# --- one trace ----------------------------------------------------------------------------------


class _Trace:
    """What one forward and backward pass of so many samples did, in order."""

    def __init__(self, torch: Any, build: Callable[..., Any], samples: int, target: str) -> None:
        self.torch, self.samples = torch, samples
        self.records: list[TracedKernel] = []
        self.stack: list[str] = [""]
        self.nodes: dict[int, str] = {}  # autograd node to the module that made it
        self.module_now: str | None = None  # of the backward pass of attention, which says it itself
        self.order: dict[str, None] = {}  # modules as they first ran
        self.arrived: dict[str, int] = {}  # bytes of what modules are given, and of what they make
        self.outputs: dict[str, int] = {}
        self.saved: dict[int, tuple[str, Any]] = {}
        self.quiet = 0
        self.masked = False  # attention has more to do than its kernel shows
        try:
            self.module, inputs = self._built(build)
            self._run(inputs)
        except ConfigError:
            raise
        except Exception as error:  # whatever the user's module raises
            hint = "values are not computed on the meta device; a branch or size that depends on them cannot be traced"
            raise ConfigError(Problem("", target, f"cannot be traced: {_first_line(error)}", hint)) from None

    def _built(self, build: Callable[..., Any]) -> tuple[Any, Any]:
        torch = self.torch
        takes = bool(inspect.signature(build).parameters)
        with torch.device("meta"):
            made = build(self.samples) if takes else build()
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
            raise ConfigError(Problem("", "", "the function must return a module and its inputs", "return net, (x,)"))
        module, inputs = made
        inputs = inputs if isinstance(inputs, tuple | list | dict) else (inputs,)
        tree = torch.utils._pytree
        inputs = tree.tree_map_only(torch.Tensor, lambda each: each.to("meta"), inputs)
        if not takes:
            inputs = self._repeated(inputs)
        self.input_bytes = self._bytes(inputs)
        return module.to("meta"), inputs

    def _repeated(self, inputs: Any) -> Any:
        """Inputs of a function that takes no number: with the first axis as long as there are samples."""
        torch, tree = self.torch, self.torch.utils._pytree
        first = next(each for each in tree.tree_leaves(inputs) if isinstance(each, torch.Tensor))
        size = first.shape[0]

        def sized(each: Any) -> Any:
            same = each.dim() and each.shape[0] == size
            return each.new_empty((self.samples, *each.shape[1:])) if same else each

        return tree.tree_map_only(torch.Tensor, sized, inputs)

    def _run(self, inputs: Any) -> None:
        torch, module = self.torch, self.module
        module.train()
        names = {id(child): path for path, child in module.named_modules()}
        for child in module.modules():
            child.register_forward_pre_hook(lambda child, given: self._enter(names[id(child)], given))
            child.register_forward_hook(lambda child, _, result: self._leave(names[id(child)], result))
        weights = {each.untyped_storage()._cdata for each in (*module.parameters(), *module.buffers())}

        def pack(tensor: Any) -> Any:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                self.saved.setdefault(storage._cdata, (self.stack[-1], storage))
            return tensor

        with ExitStack() as stack:
            stack.enter_context(torch.device("meta"))
            stack.enter_context(_attention_mode(torch, self))
            stack.enter_context(_operator_mode(torch, self))
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                result = module(**inputs) if isinstance(inputs, dict) else module(*inputs)
            self._differentiate(result)

    def _differentiate(self, result: Any) -> None:
        torch = self.torch
        leaves = torch.utils._pytree.tree_leaves(result)
        roots = [each for each in leaves if isinstance(each, torch.Tensor) and each.requires_grad]
        scalars = [each for each in roots if each.dim() == 0]
        self.has_loss = bool(scalars)
        roots = scalars[:1] or roots
        if not roots:
            message = "nothing that the module returns has a gradient"
            raise ConfigError(Problem("", "", message, "return the loss, or outputs that depend on weights"))
        self.quiet += 1
        gradients = [torch.empty_like(each) for each in roots]
        self.quiet -= 1
        torch.autograd.backward(roots, gradients)

    def _enter(self, path: str, given: Any) -> None:
        self.stack.append(path)
        self.order.setdefault(path)
        self.arrived.setdefault(path, self._bytes(given))

    def _leave(self, path: str, result: Any) -> None:
        self.stack.pop()
        self.outputs[path] = self._bytes(result)

    def _bytes(self, values: Any) -> int:
        torch = self.torch
        leaves = [each for each in torch.utils._pytree.tree_leaves(values) if isinstance(each, torch.Tensor)]
        return sum(each.numel() * each.element_size() for each in leaves)

    def where(self) -> tuple[str, bool]:
        """The module that what runs now belongs to, and whether this is the forward pass."""
        torch = self.torch
        node = torch._C._current_autograd_node()
        if node is None:
            number = torch.autograd._get_sequence_nr() - 1
            self.nodes.setdefault(number, self.stack[-1])  # what has no gradient makes no node
            return self.stack[-1], True
        return self.module_now if self.module_now is not None else self.nodes.get(node._sequence_nr(), ""), False

    def add(self, kind: str, name: str, numbers: Numbers, *, causal: bool = False) -> None:
        """Note an operator."""
        module, forward = self.where()
        self.records.append(TracedKernel(kind, name, numbers, module, forward, causal))

    def operator(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note what ran, unless no memory was touched."""
        torch, tree = self.torch, self.torch.utils._pytree
        if self.quiet:
            return
        self.where()
        name = func._schema.name.replace("::", ".")
        if VIEWS_AND_SUCH.match(name) or _is_view(func):
            return
        short = name.split(".")[-1]
        read = [each for each in tree.tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        wrote = [each for each in tree.tree_leaves(result) if isinstance(each, torch.Tensor)]
        moved = sum(map(_touched, (*read, *wrote)))
        if short in PRODUCTS:
            for shape in PRODUCTS[short](args, result):
                self.add("matmul", short, (*shape, moved))
        elif short in CONVOLUTIONS:
            for part, shape, tensors in CONVOLUTIONS[short](args, result):
                self.add("convolution", f"{short}{part}", (*shape, sum(map(_touched, tensors))))
        elif short in LOOKUPS:
            self.add("lookup", short, (0, 0, 0, 0, 2 * sum(map(_touched, wrote))))
        elif moved:
            self.add("memory", short, (0, 0, 0, 0, moved))


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(each.alias_info is not None and not each.alias_info.is_write for each in returns)


def _touched(tensor: Any) -> int:
    """Bytes of a tensor that memory holds: an axis that is spread out is read once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or size == 1]
    return int(prod(sizes) * tensor.element_size())


def _mm(a: Any, b: Any) -> Numbers:
    return 1, int(a.shape[0]), int(b.shape[1]), int(a.shape[1])


def _bmm(a: Any, b: Any) -> Numbers:
    return int(a.shape[0]), int(a.shape[1]), int(b.shape[2]), int(a.shape[2])


def _grouped(a: Any, b: Any, result: Any) -> Numbers:
    """Groups of rows against a matrix each, or groups of what is summed over; rows divided evenly."""
    offsets = max(a.shape[0] if a.dim() == 3 else 1, b.shape[0] if b.dim() == 3 else 1, result.shape[0])
    groups = int(a.shape[0] if a.dim() == 3 else b.shape[0] if b.dim() == 3 else offsets)
    m, k, n = int(a.shape[-2]), int(a.shape[-1]), int(b.shape[-1])
    if a.dim() == 2 and b.dim() == 3:
        m = -(-m // groups)
    elif a.dim() == 3 and b.dim() == 2:
        n = -(-n // groups)
    elif a.dim() == 2:
        k = -(-k // groups)
    return groups, m, n, k


PRODUCTS: dict[str, Callable[[Any, Any], Iterator[Numbers]]] = {
    "mm": lambda args, _: iter([_mm(args[0], args[1])]),
    "addmm": lambda args, _: iter([_mm(args[1], args[2])]),
    "bmm": lambda args, _: iter([_bmm(args[0], args[1])]),
    "baddbmm": lambda args, _: iter([_bmm(args[1], args[2])]),
    "_grouped_mm": lambda args, result: iter([_grouped(args[0], args[1], result)]),
}
Part = tuple[str, Numbers, tuple[Any, ...]]


def _convolution(args: Any, result: Any) -> Iterator[Part]:
    yield "", _implicit(args[0], args[1], result, bool(args[6]), args[8]), (args[0], args[1], result)


def _convolution_backward(args: Any, result: Any) -> Iterator[Part]:
    """Gradient of the input where it is asked for, and of the weights: as many FLOPs as forward, by group."""
    gradient, x, weight = args[:3]
    groups, m, n, k = _implicit(x, weight, gradient, bool(args[7]), args[9])
    if args[10][0]:
        yield " input gradient", (groups, m, k, n), (gradient, weight, result[0])
    if args[10][1]:
        yield " weight gradient", (groups, n, k, m), (gradient, x, result[1])


def _implicit(x: Any, weight: Any, y: Any, transposed: bool, groups: int) -> Numbers:
    """The product of a convolution, for each group: places x channels x window. Transposed ones go from x to y."""
    places = x if transposed else y
    rows = int(places.shape[0] * prod(places.shape[2:]))
    return int(groups), rows, int(weight.shape[0] // groups), int(prod(weight.shape[1:]))


CONVOLUTIONS: dict[str, Callable[[Any, Any], Iterator[Part]]] = {
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
}


def _operator_mode(torch: Any, trace: _Trace) -> Any:
    base: Any = import_module("torch.utils._python_dispatch").TorchDispatchMode

    class _Operators(base):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            trace.operator(func, args, kwargs or {}, result)
            return result

    return _Operators()


def _attention_mode(torch: Any, trace: _Trace) -> Any:
    """Attention as one kernel: off the accelerator PyTorch would write it out, with scores in memory."""
    base: Any = import_module("torch.overrides").TorchFunctionMode

    class _Fused(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, causal: bool) -> Any:
            result = query.new_empty((*query.shape[:-1], value.shape[-1]))
            lse = query.new_empty(query.shape[:-1], dtype=torch.float32)
            ctx.save_for_backward(query, key, value, result, lse)
            ctx.module, ctx.causal = trace.stack[-1], causal
            trace.add("attention", "attention", _attention(query, key, value, 2), causal=causal)
            return result

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:
            query, key, value, _, _ = ctx.saved_tensors
            trace.module_now = ctx.module
            trace.add("attention", "attention backward", _attention(query, key, value, 4), causal=ctx.causal)
            trace.module_now = None
            return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape), None

    class _Attention(base):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is not torch.nn.functional.scaled_dot_product_attention:
                return func(*args, **kwargs)
            if kwargs.get("attn_mask") is not None or kwargs.get("dropout_p") or len(args) > 3:
                trace.masked = True
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
            causal = bool(kwargs.get("is_causal", args[5] if len(args) > 5 else False))
            return _Fused.apply(query, key, value, causal)

    return _Attention()


def _attention(query: Any, key: Any, value: Any, passes: int) -> Numbers:
    batch = int(prod(query.shape[:-2]))
    width = int(query.shape[-1] + value.shape[-1]) // 2
    moved = passes * (2 * _touched(query) + _touched(key) + _touched(value)) // 2
    return batch, int(query.shape[-2]), int(key.shape[-2]), width, moved


# --- from two traces to a file ------------------------------------------------------------------


def _written(small: _Trace, large: _Trace, target: str, name: str, version: str) -> TracedModule:
    if [(each.kind, each.name, each.module) for each in small.records] != [
        (each.kind, each.name, each.module) for each in large.records
    ]:
        message = f"runs other operators with {small.samples} samples than with {large.samples}"
        raise ConfigError(Problem("", target, message, "make what runs independent of the number of samples"))
    layers = _layers(small)
    place = _places(small, layers)
    weights = _weights(small, place, layers)
    pieces = [_piece(small, large, number, layers, place, weights) for number in range(len(layers) + 2)]
    first, *body, last = pieces
    whole = not body
    if whole:
        body = [_joined(first, last)]
    element = Counter(each.element_size() for each in small.module.parameters()).most_common(1)
    fields: dict[str, Any] = {"kind": "graph", "name": name, "source": f"{target}, PyTorch {version}"}
    remarks = _remarks(small, bool(body) and not whole)
    fields["notes"] = remarks
    fields["element"] = element[0][0] if element and element[0][0] in (2, 4) else 4
    fields["input"] = _pair(small, large, small.input_bytes, large.input_bytes)
    if not whole and _does_something(first):
        fields["first"] = first
    fields["body"] = _together(body)
    if not whole and _does_something(last):
        fields["last"] = last
    return TracedModule(fields, remarks)


def _pair(small: _Trace, large: _Trace, before: int, after: int) -> list[int]:
    """A number that is `before` with few samples and `after` with more: what is fixed, and for each sample."""
    each, left = divmod(after - before, large.samples - small.samples)
    fixed = before - each * small.samples
    if left or fixed < 0 or each < 0:
        return [0, -(-after // large.samples)]
    return [fixed, each]


def _layers(trace: _Trace) -> list[str]:
    """Paths of the layers in order: numbered children of the outermost lists, those that ran."""
    outermost: list[str] = []
    for path in trace.order:
        parts = path.split(".")
        number = next((at for at, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            layer = ".".join(parts[: number + 1])
            if layer not in outermost:
                outermost.append(layer)
    return outermost


def _layer_of(module: str, layers: list[str]) -> int | None:
    known = {layer: number for number, layer in enumerate(layers)}
    parts = module.split(".")
    paths = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return next((known[path] + 1 for path in paths if path in known), None)


def _places(trace: _Trace, layers: list[str]) -> list[int]:
    """The piece of each operator: 0 before all layers, then theirs, then one for what comes after all.

    What runs between layers belongs to the one before. What a module does backward belongs to where it ran.
    """
    own = [_layer_of(each.module, layers) for each in trace.records]
    forward = [number for number, each in enumerate(trace.records) if each.forward and own[number]]
    final = forward[-1] if forward else -1
    now = 0
    loose: dict[str, int] = {}
    places: list[int] = []
    for number, each in enumerate(trace.records):
        mine = own[number]
        if mine is not None:
            now = mine
        elif not each.forward:
            mine = loose.get(each.module, len(layers) + 1 if layers else 0)
        else:
            mine = len(layers) + 1 if forward and number > final else now
            loose.setdefault(each.module, mine)
        places.append(mine)
    return places


def _weights(trace: _Trace, place: list[int], layers: list[str]) -> dict[int, list[int]]:
    """Trained and frozen weights of each piece; those of a module lie where it first ran."""
    ran: dict[str, int] = {}
    for each, number in zip(trace.records, place, strict=True):
        if each.forward:
            ran.setdefault(each.module, number)
    found: dict[int, list[int]] = {}
    for path, parameter in trace.module.named_parameters():
        module = path.rpartition(".")[0]
        layer = _layer_of(module, layers)
        held = found.setdefault(ran.get(module, 0) if layer is None else layer, [0, 0])
        held[0 if parameter.requires_grad else 1] += int(parameter.numel())
    return found


def _piece(
    small: _Trace,
    large: _Trace,
    number: int,
    layers: list[str],
    place: list[int],
    weights: dict[int, list[int]],
) -> dict[str, Any]:
    path = layers[number - 1] if 0 < number <= len(layers) else ""
    operators: dict[bool, dict[tuple[Any, ...], dict[str, Any]]] = {True: {}, False: {}}
    for one, two, at in zip(small.records, large.records, place, strict=True):
        if at == number:
            made = _operator(small, large, one, two, path)
            key = tuple(str(value) for name, value in made.items() if name != "name")
            known = operators[one.forward].setdefault((one.name, *key), {**made, "count": 0})
            known["count"] += 1
    trained, frozen = weights.get(number, [0, 0])
    kept = [_kept(trace, number, layers, place) for trace in (small, large)]
    output = [_output(trace, number, layers) for trace in (small, large)]
    return {
        "module": path,
        "repeat": 1,
        "parameters": trained,
        "frozen": frozen,
        "output": _pair(small, large, *output),
        "kept": _pair(small, large, *kept),
        "forward": list(operators[True].values()),
        "backward": list(operators[False].values()),
    }


def _operator(small: _Trace, large: _Trace, one: TracedKernel, two: TracedKernel, path: str) -> dict[str, Any]:
    inside = one.module[len(path) :].lstrip(".")
    pairs = [_pair(small, large, *each) for each in zip(one.numbers, two.numbers, strict=True)]
    made: dict[str, Any] = {"kind": one.kind, "name": f"{inside} {one.name}".strip()[:200], "bytes": pairs[4]}
    if any(one.numbers[:4]):
        made |= dict(zip(("batch", "m", "n", "k"), pairs, strict=False))
    return made | ({"causal": True} if one.causal else {})


def _kept(trace: _Trace, number: int, layers: list[str], place: list[int]) -> int:
    """Storages that autograd keeps, each with the piece that first kept it; data themselves are no activations."""
    ran = {each.module: piece for each, piece in zip(trace.records, place, strict=True) if each.forward}
    total = 0
    for module, storage in trace.saved.values():
        layer = _layer_of(module, layers)
        total += storage.nbytes() if (ran.get(module, 0) if layer is None else layer) == number else 0
    return total


def _output(trace: _Trace, number: int, layers: list[str]) -> int:
    """Bytes that a piece hands on: what the first layer is given, what a layer makes; a loss is nothing."""
    if number == 0 and layers:
        return trace.arrived.get(layers[0], 0)
    return trace.outputs.get(layers[number - 1], 0) if 0 < number <= len(layers) else 0


def _joined(first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    """A module without a list of layers as one piece."""
    added = {key: first[key] + last[key] for key in ("parameters", "frozen", "forward", "backward")}
    return {**first, **added, "kept": [a + b for a, b in zip(first["kept"], last["kept"], strict=True)]}


def _does_something(piece: dict[str, Any]) -> bool:
    return bool(piece["forward"] or piece["backward"] or piece["parameters"] or piece["frozen"])


def _together(body: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal layers that follow each other as one."""
    merged: list[dict[str, Any]] = []
    for piece in body:
        if merged and {**merged[-1], "module": "", "repeat": 1} == {**piece, "module": ""}:
            merged[-1]["repeat"] += 1
        else:
            merged.append(piece)
    return merged


def _remarks(trace: _Trace, layered: bool) -> list[str]:
    """What is not in the file."""
    found = ["each operator is a kernel of its own, as eager PyTorch runs it; what a compiler fuses is not known"]
    if trace.masked:
        found.append("masks and dropout of attention are left out: scores are computed in full")
    if not trace.has_loss:
        found.append("the module returns no loss: that of its outputs is left out")
    if not layered:
        found.append("no list of layers was found: it is one piece, which is not recomputed in parts")
    return found
