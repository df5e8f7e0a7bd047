"""Whether the division of the work suits model, batch and cluster: one small check per rule.

Public: `PLAN_CHECKS`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from sim.errors import Problem, finding, indivisible, listed
from sim.inputs.findings import Check, of_each_kind
from sim.inputs.records import Offload
from sim.inputs.setup import Setup
from sim.record import NARROW
from sim.schedule.catalogue import SCHEDULES, course_of
from sim.schedule.course import Course
from sim.schedule.own import short_name

MOST_PASSES = 500_000  # of all stages of a replica, forward and backward
MOST_NAMED = 5  # nodes in a message
SECONDS_A_PASS, BYTES_A_PASS = 1.5e-5, 350.0  # measured with one stage and a million microbatches


def check_ranks_fit_cluster(setup: Setup) -> Iterator[Problem]:
    """The ranks fill the cluster; with `data` given they may leave accelerators idle."""
    parallel, ranks, size = setup.parallelism, setup.ranks, setup.accelerators
    shape = f"tensor {parallel.tensor} * context {parallel.context} * pipeline {parallel.pipeline}"
    if ranks > size:
        nodes = math.ceil(ranks * sum(group.nodes for group in setup.groups) / size)
        yield finding(
            "parallelism",
            f"{shape} * data {setup.data} = {ranks} ranks, the cluster has {size} accelerators",
            f"reduce one of them, or set nodes to {nodes} or more",
        )
    elif parallel.data is None and ranks != size:
        yield finding(
            "parallelism",
            f"{shape} = {setup.ranks_per_replica} ranks a replica do not divide {size} accelerators",
            f"set data to {setup.data} to leave {size - ranks} accelerators idle, or change the shape",
        )


def check_model(setup: Setup) -> Iterator[Problem]:
    """The plan suits the model, as its family sees it."""
    for rule in setup.workload.rules:
        yield from rule(setup.workload, setup.parallelism, setup.training)


def check_samples(setup: Setup) -> Iterator[Problem]:
    """Samples have a length if they are sequences of tokens, and the training has one end at most."""
    model, training = setup.workload, setup.training
    if model.tokens and training.sequence_length is None:
        message = f"this key is required: tokens per sequence, of which samples of {model.kind} {model.name} are"
        yield finding("training.sequence_length", message, "")
    for name in ("sequence_length", "document_length", "tokens"):
        if not model.tokens and getattr(training, name) is not None:
            message = f"samples of {model.kind} {model.name} have no tokens"
            yield finding(f"training.{name}", message, "use samples" if name == "tokens" else "leave it out")
    if training.tokens is not None and training.samples is not None:
        yield finding("training.samples", "tokens and samples both say when the training ends", "give one of them")


def check_layers_fill_pipeline(setup: Setup) -> Iterator[Problem]:
    """Every chunk of the pipeline has a layer, but ends for which none are asked."""
    parallel, layers = setup.parallelism, setup.workload.layers
    chunks = least = parallel.pipeline * parallel.virtual_stages
    if least <= layers + 2:  # more are not laid out, since there may be any number of them
        course = course_of(parallel.schedule, parallel.pipeline, parallel.virtual_stages)
        chunks = len(course.stage_of)
        if parallel.layers_per_stage is not None:
            yield from _layers_asked_for(parallel.layers_per_stage, layers, course)
            return
    if layers < chunks:
        shape = f"pipeline {parallel.pipeline} * virtual_stages {parallel.virtual_stages} = {chunks} chunks"
        if chunks != least:
            shape = f"{short_name(parallel.schedule)} on pipeline {parallel.pipeline} has {chunks} chunks"
        yield finding("parallelism.pipeline", f"{shape} for {layers} layers", f"use at most {layers} chunks")


def _layers_asked_for(asked: tuple[int, ...], layers: int, course: Course) -> Iterator[Problem]:
    """They are all layers, and no chunk inside is without one."""
    key, chunks = "parallelism.layers_per_stage", len(course.stage_of)
    if len(asked) not in (course.stages, chunks):
        other = f", or {chunks} for its chunks" if chunks != course.stages else ""
        yield finding(key, f"{len(asked)} entries for pipeline {course.stages}", f"give {course.stages}{other}")
        return
    if sum(asked) != layers:
        yield finding(key, f"{sum(asked)} layers in all, the model has {layers}", f"let them sum to {layers}")
    each = chunks // course.stages
    if len(asked) < chunks and (uneven := [size for size in asked if size % each]):
        message = f"a stage of {uneven[0]} layers has {each} chunks"
        yield finding(key, message, f"give {chunks} entries, one for each chunk in model order")
    elif not all(course.layers(layers, asked)[1:-1]):
        yield finding(key, "a chunk inside has no layer", "only the first and the last may have none")


def check_batch_divides(setup: Setup) -> Iterator[Problem]:
    """Replicas share the global batch in whole microbatches, evenly unless the plan says otherwise."""
    batch, micro = setup.training.global_batch, setup.training.microbatch
    if setup.parallelism.microbatches != "equal":
        yield from _uneven(setup)
        return
    step = setup.data * micro
    if setup.data_is_known and batch % step:
        below, above = batch // step * step, (batch // step + 1) * step
        choice = f"{below} or {above}" if below else str(above)
        message = f"global_batch {batch} is no multiple of data {setup.data} * microbatch {micro} = {step}"
        yield finding("training.global_batch", message, f"use {choice}")


def _uneven(setup: Setup) -> Iterator[Problem]:
    """Different numbers of microbatches: as many as there are, and nothing that all replicas do in each of them."""
    batch, micro, plan, key = setup.training.global_batch, setup.training.microbatch, setup.parallelism, "parallelism"
    listed = plan.microbatches
    if isinstance(listed, tuple):
        if len(listed) != setup.data:
            yield finding(f"{key}.microbatches", f"{len(listed)} entries for data {setup.data}", "one for each replica")
        elif sum(listed) * micro != batch:
            message = f"{sum(listed)} microbatches of {micro} are not global_batch {batch}"
            yield finding(f"{key}.microbatches", message, f"make the sum {batch // micro}, or change global_batch")
    elif batch % micro:
        yield finding("training.global_batch", f"{batch} is no multiple of microbatch {micro}", "change one of them")
    elif batch // micro < setup.data:
        message = f"{batch // micro} microbatches for data {setup.data}"
        yield finding("training.global_batch", message, f"use {setup.data * micro} or more")
    beside = setup.software.gradient_overlap and plan.pipeline == 1
    if plan.zero_stage == 3 or (plan.zero_stage == 2 and beside):
        message = f"replicas of zero_stage {plan.zero_stage} exchange something in every microbatch"
        yield finding(f"{key}.microbatches", message, "give them as many (equal), or use zero_stage 1")
    if setup.expert * plan.expert_tensor > plan.tensor * plan.context:
        message = "tokens of all replicas go to common experts, or tables, in every microbatch"
        yield finding(f"{key}.microbatches", message, "give them as many (equal)")
    others = {
        "training.offload": setup.training.offload != Offload(),
        "synchronization": setup.experiment.synchronization is not None,
    }
    for other in (name for name, is_used in others.items() if is_used):
        message = f"{other} takes replicas to have as many microbatches"
        yield finding(f"{key}.microbatches", message, f"give them as many (equal), or leave out {other}")


def check_sequence_divides(setup: Setup) -> Iterator[Problem]:
    """Ranks share each sequence evenly; ring attention cuts it into two pieces a rank."""
    parallel, length = setup.parallelism, setup.training.sequence_length
    if parallel.context % parallel.ulysses:
        yield indivisible("parallelism.ulysses", "context", parallel.context, "ulysses", parallel.ulysses)
        return
    if length is None:
        return
    rings = parallel.context > parallel.ulysses
    pieces = 2 * parallel.context if rings else parallel.context
    if length % pieces:
        message = f"sequence_length {length} is no multiple of {'2 * ' * rings}context {parallel.context}"
        way_out = "ring attention gives each rank two equal pieces" if rings else "ranks share it evenly"
        yield finding("training.sequence_length", f"{message}{f' = {pieces}' * rings}", way_out)
    elif parallel.sequence_parallel and length // parallel.context % parallel.tensor:
        share = length // parallel.context
        yield indivisible("training.sequence_length", "tokens per context rank", share, "tensor", parallel.tensor)


def check_documents(setup: Setup) -> Iterator[Problem]:
    """Documents are no longer than a sequence, and lie on one rank."""
    training = setup.training
    length, where = training.document_length, "training.document_length"
    if length is None:
        return
    if training.sequence_length is not None and length > training.sequence_length:
        yield finding(
            where, f"{length} tokens are more than sequence_length {training.sequence_length}", "give at most that"
        )
    if setup.parallelism.context > setup.parallelism.ulysses:
        message = "packed documents over the ranks of a ring are not modelled"
        yield finding(where, message, "use context 1 or ulysses alone, or leave it out")


def check_schedule(setup: Setup) -> Iterator[Problem]:
    """The schedule can order the stages, their chunks and the microbatches."""
    parallel = setup.parallelism
    objections = SCHEDULES[parallel.schedule].objections
    for count in sorted(set(setup.microbatches_by_replica)):
        for problem, way_out in objections(parallel.pipeline, parallel.virtual_stages, count):
            yield finding("parallelism.virtual_stages", problem, way_out)


@of_each_kind
def check_precision_supported(setup: Setup) -> Iterator[Problem]:
    """The accelerator has a matrix rate for the precision."""
    peak, precision = setup.accelerator.matrix.peak, setup.training.precision
    if getattr(peak, precision) is None:
        known = [name for name in type(peak).model_fields if getattr(peak, name) is not None]
        message = f"{setup.accelerator.name} has no matrix rate for {precision}"
        yield finding("training.precision", message, f"it has {', '.join(known) or 'none at all'}")


@of_each_kind
def check_rate_over_size(setup: Setup) -> Iterator[Problem]:
    """A measured rate over size goes from small products to large ones."""
    edges = [edge for edge, _ in setup.accelerator.matrix.curve]
    if sorted(set(edges)) != edges:
        message = f"the edges {', '.join(map(str, edges))} do not rise"
        yield finding("cluster.node.accelerator.matrix.curve", message, "give each size once, the smallest first")


@of_each_kind
def check_configured_array(setup: Setup) -> Iterator[Problem]:
    """An FPGA says how it is configured, and reaches no more than its multipliers allow."""
    chip, key = setup.accelerator, "cluster.node.accelerator"
    if chip.kind != "fpga":
        return
    if chip.array is None:
        yield finding(f"{key}.array", f"{chip.name} does not say how it is configured", "give rows, columns and clock")
        return
    most = 2 * chip.array.rows * chip.array.columns * chip.array.packed * chip.array.clock
    for name, rate in chip.matrix.peak:
        if rate and rate > most * (1 + 1e-9):
            message = f"{rate / 1e12:g} TFLOP/s in {name}, more than the {most / 1e12:g} of all multipliers"
            yield finding(f"{key}.matrix.peak.{name}", message, "lower it, or enlarge the array")


def check_order_is_complete(setup: Setup) -> Iterator[Problem]:
    """The rank order names each of the four dimensions once; experts are a view of three of them."""
    order, known = setup.parallelism.order, ("tensor", "context", "data", "pipeline")
    if sorted(order) != sorted(known) and sorted(order) != sorted((*known, "expert")):
        message = f"{', '.join(order) or 'an empty list'} does not name each dimension once"
        yield finding("parallelism.order", message, f"use {', '.join(known)} in any order")


def check_placement(setup: Setup) -> Iterator[Problem]:
    """An explicit placement gives every rank an accelerator of its own."""
    placement, size = setup.parallelism.placement, setup.accelerators
    if isinstance(placement, str):
        return
    key = "parallelism.placement"
    if len(placement) != setup.ranks:
        yield finding(key, f"{len(placement)} entries for {setup.ranks} ranks", "list one accelerator for each rank")
    if len(set(placement)) != len(placement):
        twice = sorted({item for item in placement if placement.count(item) > 1}) if len(placement) < 5000 else []
        yield finding(key, f"some accelerators appear twice{listed(twice)}", "each can hold one rank")
    outside = [item for item in placement if not 0 <= item < size]
    if outside:
        yield finding(key, f"there is no accelerator{listed(outside)}", f"they are numbered 0 to {size - 1}")


def check_on_nodes(setup: Setup) -> Iterator[Problem]:
    """The nodes that are asked for exist, once each, and hold all ranks."""
    names, key = setup.parallelism.on_nodes, "parallelism.on_nodes"
    if names is None:
        return
    sizes = setup.node_sizes
    nodes = len(sizes)
    if not isinstance(setup.parallelism.placement, str):
        yield finding(key, "the placement names each accelerator", "give one of the two")
    if outside := [name for name in names if not 0 <= node_number(name) < nodes]:
        yield finding(key, f"there is no {', '.join(outside[:MOST_NAMED])}", f"they are node0 to node{nodes - 1}")
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        yield finding(key, f"{', '.join(twice[:MOST_NAMED])} appear twice", "name each once")
    elif (room := sum(sizes[node_number(name)] for name in names if 0 <= node_number(name) < nodes)) < setup.ranks:
        yield finding(key, f"{len(names)} nodes hold {room} of {setup.ranks} ranks", "name more, or use fewer ranks")


def node_number(name: str) -> int:
    """Number of the node of that name; -1 if no node is called so."""
    digits = name.removeprefix("node")
    return int(digits) if digits != name and digits.isdecimal() and digits == str(int(digits)) else -1


def check_shard_group(setup: Setup) -> Iterator[Problem]:
    """Shard groups divide the ranks that hold the same weights, and need something to shard."""
    group, ranks = setup.parallelism.shard_group, setup.data * setup.parallelism.context
    if group is None:
        return
    if ranks % group:
        name = "data ranks" if setup.parallelism.context == 1 else "data * context ranks"
        yield indivisible("parallelism.shard_group", name, ranks, "shard_group", group)
    if setup.parallelism.zero_stage == 0:
        yield finding("parallelism.shard_group", "zero_stage 0 shards nothing", "set zero_stage, or remove it")


def check_second_copy(setup: Setup) -> Iterator[Problem]:
    """A part of the ranks that share the first copy has another one, of plain weights that all ranks divide alike."""
    key, plan, ranks = "parallelism.second_copy", setup.parallelism, setup.data * setup.parallelism.context
    sharers = plan.second_copy
    if sharers is None:
        return
    if plan.zero_stage != 3:
        message = f"zero_stage {plan.zero_stage} gathers no weights in its passes"
        yield finding(key, message, "set zero_stage to 3, or leave it out")
    if ranks // setup.workers % sharers:
        yield indivisible(key, "data * context ranks of a worker", ranks // setup.workers, "second_copy", sharers)
    elif ranks // setup.workers == sharers:
        yield finding(key, f"all {sharers} ranks share the first copy already", "name fewer ranks, or leave it out")
    beside = {
        "shard_group": plan.shard_group is not None,
        "training.lora": setup.training.lora is not None,
        "training.offload.parameters": setup.training.offload.parameters,
        "experts that ranks divide": setup.workload.experts > 0 and setup.shard.divides_experts,
    }
    for what in (name for name, there in beside.items() if there):
        yield finding(key, f"a second copy beside {what} is not modelled", "leave one of them out")


def check_quantized_gathers(setup: Setup) -> Iterator[Problem]:
    """Only ZeRO-3 gathers weights, and those that are narrow as they are stand to gain nothing."""
    key, training = "parallelism.quantized_gathers", setup.training
    if not setup.parallelism.quantized_gathers:
        return
    if setup.parallelism.zero_stage != 3:
        message = f"zero_stage {setup.parallelism.zero_stage} gathers no weights in its passes"
        yield finding(key, message, "set zero_stage to 3, or leave it out")
    if training.precision not in ("bf16", "fp16") or training.lora is not None:
        what = "beside adapters" if training.lora is not None else f"of {training.precision} training"
        yield finding(key, f"weights {what} in 8 bit are not modelled", "use bf16 and train every weight")


def check_expert(setup: Setup) -> Iterator[Problem]:
    """What has no experts has none to divide; they divide the ranks of a stage."""
    plan, ranks = setup.parallelism, setup.parallelism.tensor * setup.parallelism.context * setup.data
    for key, value in (("expert", plan.expert), ("expert_tensor", plan.expert_tensor)):
        if value != 1 and not setup.workload.experts:
            message = f"{setup.workload.name} has no experts, {key} is {value}"
            yield finding(f"parallelism.{key}", message, f"set {key} to 1")
    if ranks % (plan.expert * plan.expert_tensor):
        name, parts = "tensor * context * data", plan.expert * plan.expert_tensor
        yield indivisible("parallelism.expert", name, ranks, "expert * expert_tensor", parts)


def check_adapters(setup: Setup) -> Iterator[Problem]:
    """Each matrix has one adapter."""
    lora = setup.training.lora
    if lora is None:
        return
    twice = sorted({target for target in lora.targets if lora.targets.count(target) > 1})
    if twice:
        yield finding("training.lora.targets", "these appear twice: " + ", ".join(twice), "name each once")
    if lora.base and setup.training.precision in NARROW:
        message = f"a base in {lora.base} is made 16 bit for products, which {setup.training.precision} are not"
        yield finding("training.lora.base", message, "set training.precision to bf16, or leave it out")
    if lora.base and setup.workload.experts:
        yield finding("training.lora.base", "experts in few bits are not modelled", "leave it out")


def check_offload(setup: Setup) -> Iterator[Problem]:
    """What is moved off the board has a place to lie, and something to be moved."""
    offload, storage = setup.training.offload, setup.storage
    if offload.drives and not offload.optimizer:
        message = "drives hold the state of an optimizer that the host runs"
        yield finding("training.offload.drives", message, "set offload.optimizer too, or leave it out")
    if offload.drives and (storage is None or storage.kind != "local_nvme"):
        message = "nodes have no drives of their own"
        yield finding("training.offload.drives", message, "give cluster.storage of kind local_nvme, or leave it out")
    if offload.parameters and setup.parallelism.zero_stage != 3:
        message = f"weights that zero_stage {setup.parallelism.zero_stage} keeps whole stay on the board"
        yield finding("training.offload.parameters", message, "set zero_stage to 3, or leave it out")
    if offload.activations and SCHEDULES[setup.parallelism.schedule].splits:
        message = f"{setup.parallelism.schedule} puts weight gradients off, which need activations on the board"
        yield finding("training.offload.activations", message, "use another schedule, or leave it out")


def check_recompute(setup: Setup) -> Iterator[Problem]:
    """A list of parts to compute again has some, once each."""
    parts = setup.training.recompute
    if isinstance(parts, str):
        return
    if not parts:
        yield finding("training.recompute", "an empty list names no part", "set it to none")
    if twice := sorted({part for part in parts if parts.count(part) > 1}):
        yield finding("training.recompute", f"these appear twice: {', '.join(twice)}", "name each once")


def check_pruning(setup: Setup) -> Iterator[Problem]:
    """There is something to be pruned, and a device that skips it."""
    training, key = setup.training, "training.pruning.kind"
    kind = training.pruning.kind
    if kind == "columns" and not hasattr(setup.workload, "ffn"):
        yield finding(key, f"{setup.workload.name} has no feed-forward blocks with inner columns", "use none")
    if kind != "2:4":
        return
    if training.precision not in ("fp16", "bf16"):
        message = f"2:4 products are modelled in 16 bit, precision is {training.precision}"
        yield finding(key, message, "set training.precision to bf16, or use none")
    for chip in (each.accelerator for each in setup.kinds):
        if chip.kind != "gpu":
            yield finding(key, f"{chip.name} ({chip.kind}) skips no zeros", "use columns, or none")
    if training.lora is not None:
        yield finding(key, "frozen weights are not pruned anew", "leave lora out, or use columns")


WITH_RESIDUE = ("one_bit", "top_k", "power_sgd")  # ranks keep what they did not send of the whole gradient


def check_compression(setup: Setup) -> Iterator[Problem]:
    """Gradients can be compressed as they are shared out."""
    kind, plan, key = setup.training.compression.kind, setup.parallelism, "training.compression.kind"
    if kind == "none":
        return
    if setup.has_servers:
        way_out = "set synchronization.push_bytes, or use none"
        yield finding(key, "parameter servers are pushed what synchronization.push_bytes says", way_out)
    if plan.shard_group is not None:
        message = f"{kind} over replicas of shards (parallelism.shard_group) is not modelled"
        yield finding(key, message, "leave shard_group out, or use none")
    if kind in WITH_RESIDUE and plan.zero_stage > 0:
        message = f"{kind} needs whole gradients on each rank, zero_stage {plan.zero_stage} shares their sum out"
        yield finding(key, message, "use fp16, fp8 or int8, or zero_stage 0")
    if kind == "power_sgd" and setup.training.lora is not None:
        yield finding(key, "the matrices of adapters are thin already", "use another kind, or none")
    if kind == "power_sgd" and setup.workload.experts and setup.shard.divides_experts:
        yield finding(key, "power_sgd of experts that ranks divide is not modelled", "use another kind, or none")


def check_passes(setup: Setup) -> Iterator[Problem]:
    """A step has no more passes than can be written down and simulated in minutes."""
    stages = setup.parallelism.pipeline * setup.parallelism.virtual_stages
    passes = 2 * setup.microbatches * stages
    if passes > MOST_PASSES and setup.experiment.simulation.limits == "auto":
        minutes, gigabytes = passes * SECONDS_A_PASS / 60, passes * BYTES_A_PASS / 1e9
        message = f"{setup.microbatches:,} microbatches a replica are {passes:,} passes a step"
        cost = f"which would take about {minutes:,.0f} min and {gigabytes:,.0f} GB of memory to simulate"
        way_out = "reduce it, use a larger microbatch, or set simulation.limits to off"
        yield finding("training.global_batch", f"{message}, {cost}", way_out)


PLAN_CHECKS: tuple[Check, ...] = (
    check_passes,
    check_ranks_fit_cluster,
    check_samples,
    check_model,
    check_layers_fill_pipeline,
    check_batch_divides,
    check_sequence_divides,
    check_documents,
    check_schedule,
    check_precision_supported,
    check_rate_over_size,
    check_configured_array,
    check_order_is_complete,
    check_placement,
    check_on_nodes,
    check_shard_group,
    check_second_copy,
    check_quantized_gathers,
    check_expert,
    check_adapters,
    check_compression,
    check_offload,
    check_recompute,
    check_pruning,
)
