"""One run, simulated: from a resolved experiment to a result."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sim
from sim.ask.run.accounts import Accounts, open_accounts
from sim.ask.run.assumed import assumptions, swings
from sim.ask.run.step import Simulated, Watch, simulate_step
from sim.ask.validate.trust import trust_of
from sim.engine.category import COMMUNICATION
from sim.inputs.measured import measured_of
from sim.inputs.records import Experiment, Measured, Training
from sim.inputs.setup import Setup
from sim.layout.plan import Plan
from sim.life.storage_costs import CheckpointCosts
from sim.metrics.breakdown import COMPUTING, RankTime
from sim.metrics.kinds import kind_uses
from sim.metrics.result import Comparison, DataPrepared, Exactness, Result, RunResult, StepResult, UtilizationResult
from sim.models.family import Replay
from sim.schedule.own import short_name
from sim.transforms.recompute import recompute_text

if TYPE_CHECKING:
    from sim.ask.run.lives import Lived


@dataclass(frozen=True)
class Predicted:
    """What a run comes to, with the life that this tells of."""

    experiment: Experiment
    numbers: Result  # without its manifest, which rows of a sweep do not need
    book: Accounts
    lived: Lived | None  # None: nothing but steps happens

    @property
    def result(self) -> Result:
        """The result of the run."""
        return replace(self.numbers, manifest=self.experiment.model_dump(mode="json"))


def simulate(experiment: Experiment, watch: Watch | None = None) -> Result:
    """Predict one run: step time and where it goes, memory, utilization, time-to-train.

    `watch` is entered while the step runs, and again while the training is lived, and given a function that says
    how much of that is done.
    """
    return predict(experiment, watch).result


def predict(experiment: Experiment, watch: Watch | None = None) -> Predicted:
    """The same, with more than is reported."""
    began = time.perf_counter()
    run = simulate_step(experiment, watch)
    critical = run.readings.critical
    step = step_result(run, critical)
    book = open_accounts(run)
    lived = one_life(run, book, watch)
    whole = lived.result() if lived else untroubled(run.setup.target_steps, step)
    steps, spans = (whole.steps if whole else 1), (lived.life.spans if lived else ())
    spent = lived.summary.spent if lived else book.used.spend(book.whole(steps))
    power = book.levels(critical.rank, spans)
    energy, cost = book.bill(spent, steps, power, lived is not None)
    numbers = Result(
        name=experiment.name,
        description=experiment.description,
        accelerators=run.setup.ranks,
        accelerators_idle=run.cluster.n_accelerators - run.setup.ranks,
        setup=headline(run),
        step=step,
        memory=run.readings.memory,
        utilization=UtilizationResult(accelerator_shares(critical, run.trace.time), run.readings.links),
        input=run.feeding,
        preparation=_preparation(run),
        forward=run.forward,
        synchronization=run.synchrony,
        checkpoint=_checkpoint(run, lived),
        run=whole,
        energy=energy,
        cost=cost,
        trust=trust_of(experiment),
        comparison=compare(experiment, step),
        notes=(
            *notes(run),
            *swings(experiment.power.limit, power["accelerator"]),
            *(lived.notes(whole) if lived and whole else ()),
        ),
        folding=folding(run),
        kinds=kind_uses(run.trace, run.job, run.readings.memory_by_kind),
        replay=run.readings.replay,
        exactness=Exactness(rounds=run.proof.rounds, links_checked=run.proof.checked, links_joined=run.proof.joined),
        events=run.trace.events,
        wall_s=time.perf_counter() - began,
        seed=experiment.seed,
        version=sim.__version__,
        manifest={},
    )
    return Predicted(experiment, numbers, book, lived)


def step_result(run: Simulated, critical: RankTime) -> StepResult:
    """Rates of one step. MFU counts the FLOPs of the model, HFU those that run (Chowdhery 2022, app. B)."""
    setup, seconds = run.setup, run.trace.time
    training = setup.training
    samples = training.global_batch / seconds
    per_accelerator = samples / setup.ranks
    model, hardware = (flops * per_accelerator for flops in run.plan.architecture.undivided.flops)
    peaks = [getattr(kind.accelerator.matrix.peak, training.precision) for kind in setup.kinds]
    peak = sum(rank.count * peaks[rank.kind] for rank in run.job.ranks) / setup.ranks
    return StepResult(
        time_s=seconds,
        samples_per_s=samples,
        tokens_per_s=setup.step_tokens / seconds if setup.step_tokens else None,
        model_tflops_per_accelerator=model / 1e12,
        mfu=model / peak,
        hfu=hardware / peak,
        breakdown_s=critical.exposed,
        comm_total_s=critical.comm_total,
        comm_overlapped_s=max(0.0, critical.comm_total - critical.comm_exposed),
    )


def accelerator_shares(critical: RankTime, seconds: float) -> dict[str, float]:
    """Shares of the step in which the critical rank computes, only communicates, or does neither."""
    compute = sum(critical.exposed[name] for name in COMPUTING) / seconds
    comm = sum(critical.exposed[name] for name in COMMUNICATION) / seconds
    return {"compute_busy": compute, "comm_busy": comm, "idle": max(0.0, 1.0 - compute - comm)}


def one_life(run: Simulated, book: Accounts, watch: Watch | None = None) -> Lived | None:
    """The whole training under the experiment's own seed, if anything but steps happens in it."""
    from sim.ask.run.lives import has_life, prepare_life  # it asks for steps, here

    experiment = run.setup.experiment
    return prepare_life(experiment, run).lived(experiment.seed, book, watch) if has_life(experiment) else None


def _checkpoint(run: Simulated, lived: Lived | None) -> CheckpointCosts | None:
    """What a save costs, if the experiment saves: as known from its life, or asked now."""
    if run.setup.experiment.checkpoint is None:
        return None
    saving = lived.prepared.inputs.saving if lived else None
    return saving.costs if saving else run.save_costs()


def _preparation(run: Simulated) -> DataPrepared | None:
    """How training data is prepared, if the experiment says so."""
    job, storage = run.setup.experiment.preparation, run.cluster.storage
    if job is None or storage is None:
        return None
    from sim.ask.run.preparation import prepare_data  # few experiments ask for it

    return prepare_data(run.plan, job, storage, run.trace.time)


def untroubled(steps: int | None, step: StepResult) -> RunResult | None:
    """The whole training of `steps`, if that is known, without faults and saves: steps times step time."""
    if steps is None:
        return None
    seconds = steps * step.time_s
    return RunResult(dict.fromkeys(("mean", "p5", "p50", "p95"), seconds), steps, 1.0, elapsed_s=seconds)


def compare(experiment: Experiment, step: StepResult) -> Comparison | None:
    """Prediction beside the measurement, if there is one."""
    measured = measured_of(experiment.measured)
    if measured is None:
        return None
    accelerators, tokens = experiment.setup.ranks, step.tokens_per_s or 0.0
    ways = {
        "step_time": ("step_time_s", step.time_s),
        "samples_per_s": ("samples_per_s", step.samples_per_s),
        "tokens_per_s": ("tokens_per_s", tokens),
        "tokens_per_s_per_accelerator": ("tokens_per_s_per_accelerator", tokens / accelerators),
        "model_tflops_per_accelerator": ("model_tflops_per_accelerator", step.model_tflops_per_accelerator),
    }
    for field, (metric, predicted) in ways.items():
        value = getattr(measured, field)
        if value is not None:
            return _comparison(metric, predicted, value, measured)
    return None


def _comparison(metric: str, predicted: float, value: float, measured: Measured) -> Comparison:
    """The error is always that of the step time: rates are turned round."""
    error = predicted / value - 1 if metric == "step_time_s" else value / predicted - 1
    return Comparison(metric, predicted, value, error, measured.source, measured.tolerance)


def replay_headline(run: Simulated, replay: Replay) -> dict[str, str | int]:
    """What is run again, and what of it is other than it was."""
    setup, parts = run.setup, run.setup.parallelism.tensor
    changes = {
        "collectives": "in this cluster's model" if replay.collectives == "modelled" else "as recorded",
        "kernels": f"rescaled from {replay.recorded_on}" if replay.kernels == "rescaled" else "as recorded",
        "host": "as recorded" if replay.host == 1 else f"{replay.host:g} x its time",
    }
    told = [f"{name} {change}" for name, change in changes.items()]
    told += ["stragglers removed"] if replay.stragglers == "removed" else []
    return {
        "cluster": f"{setup.cluster.name}, {run.cluster.n_nodes} x {setup.node.name} ({setup.accelerator.name})",
        "workload": f"{run.plan.model.name}, {run.plan.model.line}",
        "ranks": f"{setup.ranks}" + (f", {setup.data} replicas of {parts}" if parts > 1 else ""),
        "replay": ", ".join(told),
    }


def headline(run: Simulated) -> dict[str, str | int]:
    """The plan for people."""
    setup, plan = run.setup, run.plan
    if (replay := plan.model.replay) is not None:
        return replay_headline(run, replay)
    parallelism, training = setup.parallelism, setup.training
    sizes = {"tensor": parallelism.tensor, "context": parallelism.context, "pipeline": parallelism.pipeline}
    split = [f"{name} {size}" for name, size in sizes.items() if size > 1] + [f"data {setup.data}"]
    extras = [
        f"expert {parallelism.expert}" if parallelism.expert > 1 else "",
        f"expert tensor {parallelism.expert_tensor}" if parallelism.expert_tensor > 1 else "",
        f"{parallelism.virtual_stages} virtual stages" if parallelism.virtual_stages > 1 else "",
        "sequence parallel" if parallelism.sequence_parallel else "",
        f"ZeRO {parallelism.zero_stage}" if parallelism.zero_stage else "",
        f"second copy among {parallelism.second_copy}" if parallelism.second_copy else "",
    ]
    return {
        "cluster": f"{setup.cluster.name}, {nodes_in_words(setup)}",
        "workload": plan.model.name,
        "parameters": plan.architecture.undivided.whole.parameters,
        "active_parameters": plan.architecture.undivided.active_parameters,
        "parallelism": ", ".join(split + [extra for extra in extras if extra]),
        "schedule": f"{short_name(parallelism.schedule)}, {_microbatches(plan)} microbatches of {training.microbatch}",
        "batch": _batch(training),
        "precision": f"{training.precision}, recompute {recompute_text(training.recompute)}",
        "software": f"{plan.software.name}{', ASSUMED: none is named' if plan.software.assumed else ''}",
    }


def nodes_in_words(setup: Setup) -> str:
    """The nodes of a cluster, kind by kind."""
    kinds = ((kind.cluster.nodes, kind.node.name, kind.accelerator.name) for kind in setup.kinds)
    return " and ".join(f"{n} x {node} ({accelerator})" for n, node, accelerator in kinds)


def _microbatches(plan: Plan) -> str:
    """How many a replica runs."""
    least, most = min(plan.microbatches), max(plan.microbatches)
    return str(least) if least == most else f"{least} to {most}"


def _batch(training: Training) -> str:
    if training.sequence_length is None:
        return f"{training.global_batch} samples"
    return f"{training.global_batch} x {training.sequence_length} tokens"


def notes(run: Simulated) -> list[str]:
    """What a reader should know about this prediction."""
    return list(assumptions(run))


def folding(run: Simulated) -> dict[str, int]:
    """How much smaller the simulated job is than the real one."""
    return {
        "ranks": run.plan.grid.n_ranks,
        "rank_classes": len(run.job.ranks),
        "links": len(run.plan.links),
        "link_classes": len(run.job.table.capacity),
        "flow_classes": run.job.table.n_flows,
        "skipped_periods": sum(repeat.times for repeat in run.trace.repeats),
    }
