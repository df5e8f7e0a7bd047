"""The software stack where none is named: what others could run the plan, how long they take, which one to name.

Public: `with_stacks`, `stacks_for`, `could_run`, `proposal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.ask.run.step import simulate_step
from sim.errors import SimError
from sim.inputs.load import list_catalogue, load_definition
from sim.inputs.records import Experiment, Software
from sim.inputs.setup import Setup
from sim.metrics.result import Result, StackRange, Trust

MOST_EVENTS = 50_000  # of all steps together, some tenths of a second; a count, so that results do not hang on clocks
UNNAMED = "no software is named, so the band is as wide as the range of the stacks that could run the plan"
TOO_DEAR = (
    "the step was not simulated under the {stacks} other software stacks that could run this plan, since that takes "
    "long here; name yours with `software:`, or compare them with a sweep"
)


def with_stacks(result: Result, experiment: Experiment) -> Result:
    """`result` with the range of step times over the stacks that could run the plan, if none is named.

    The trust band then covers that range.
    """
    setup = experiment.setup
    if not setup.software.assumed or setup.workload.replay:  # a recorded step runs as it was written
        return result
    others = [stack for stack in _stacks() if stack.name != setup.software.name and could_run(stack, setup)]
    if result.events * len(others) > MOST_EVENTS:
        return replace(result, notes=(*result.notes, TOO_DEAR.format(stacks=len(others))))
    seconds = {setup.software.name: result.step.time_s, **dict(_step_times(experiment, others))}
    fastest, slowest = min(seconds, key=seconds.__getitem__), max(seconds, key=seconds.__getitem__)
    stacks = StackRange(setup.software.name, len(seconds), fastest, seconds[fastest], slowest, seconds[slowest])
    return replace(result, stacks=stacks, trust=result.trust and _covering(result.trust, stacks, result.step.time_s))


def _step_times(experiment: Experiment, stacks: list[Software]) -> Iterator[tuple[str, float]]:
    for stack in stacks:
        try:
            yield stack.name, simulate_step(experiment.model_copy(update={"software": stack})).trace.time
        except SimError:  # what this stack cannot do after all says nothing of the run that was asked for
            continue


def _covering(trust: Trust, stacks: StackRange, seconds: float) -> Trust:
    """The band, wide enough for a run of any of the stacks to lie inside."""
    if trust.band is None:
        return trust
    band = max(trust.band, stacks.slowest_s / seconds - 1, seconds / stacks.fastest_s - 1)
    said = (UNNAMED,) if band > trust.band else ()
    return replace(trust, band=band, extrapolates=(*said, *trust.extrapolates))


def _stacks() -> Iterator[Software]:
    for name in list_catalogue("software"):
        stack = load_definition("software", name)
        assert isinstance(stack, Software)
        yield stack


def stacks_for(kind: str) -> list[str]:
    """Names of the stacks that say they train models of that kind and few others."""
    return [stack.name for stack in _stacks() if kind in stack.choices.kind]


def could_run(stack: Software, setup: Setup) -> bool:
    """Whether the stack runs on the accelerators, trains such models, and lets its user choose this plan."""
    for chip in (kind.accelerator for kind in setup.kinds):
        if chip.kind not in stack.kinds or (stack.vendors and chip.vendor not in stack.vendors):
            return False
    plan = {**dict(setup.parallelism), **dict(setup.training), "kind": setup.workload.kind}
    return all(plan[name] in offered for name, offered in stack.choices if offered and name in plan)


def proposal(setup: Setup) -> str:
    """What to name where no stack is named: those whose users divide the work like this."""
    own = stacks_for(setup.workload.kind)
    if own:
        return f"{setup.workload.name} runs on stacks for its kind of model: name {' or '.join(own)}"
    parallelism = setup.parallelism
    if parallelism.zero_stage == 3:
        return "ZeRO-3 is what PyTorch FSDP does: name fsdp, or fsdp-compile"
    if parallelism.zero_stage == 2:
        return "ZeRO-2 is what DeepSpeed and PyTorch FSDP do: name deepspeed or fsdp"
    if parallelism.pipeline > 1 and parallelism.zero_stage == 1:
        return "pipelines with ZeRO-1 are what Megatron and DeepSpeed do: name megatron-core, nemo or deepspeed"
    if parallelism.pipeline > 1 or parallelism.tensor > 1:
        return "divided matrices and layers are what Megatron does: name megatron-core or nemo"
    return "replicas alone are what PyTorch and Megatron do: name fsdp or megatron-core"
