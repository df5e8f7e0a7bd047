"""From a folded job to a program: the streams of every rank class and of every communicator."""

from __future__ import annotations

from functools import partial

from sim.engine.gradients import DataParallel, data_parallel
from sim.engine.parts import find_parts
from sim.engine.passes import PassWriter
from sim.engine.program import Action, Program, Stream, Token, token
from sim.engine.ranks import Job, RankClass
from sim.engine.recipes import exchange_action, optimizer_action
from sim.engine.roles import kinds_of
from sim.memo import Memo, Same
from sim.plan.pieces import Sequence, sequence_of
from sim.plan.schedule import period
from sim.workload.optimizer import optimizer_step

MIN_PERIODS = 3  # fewer periods than this are not worth looking for


KEPT_INSTRUCTIONS = 1_000_000  # of all programs that are kept at a time

_written: Memo[Program] = Memo(KEPT_INSTRUCTIONS)


def assemble(job: Job, input_stall: float = 0.0) -> Program:
    """The program of one training step; all wait `input_stall` seconds for the next batch at its end.

    `coalesce: off` cuts every chain at its collectives. A program of an earlier job that differs in numbers alone
    is used again.
    """
    if input_stall > 0 or job.plan.experiment.simulation.reuse == "off":
        return _write(job, input_stall)
    written = _written.get(program_key(job), lambda: _write(job), lambda made: sum(len(s.which) for s in made.streams))
    return written.priced_for(job) if written.fixed in (None, job.known) else _write(job)


def program_key(job: Job) -> tuple[object, ...]:
    """All that the structure of the program of a job follows from: equal keys, equal structures."""
    plan = job.plan
    parallelism, simulation = plan.experiment.parallelism, plan.experiment.simulation
    model, software = plan.model.model_dump_json(), plan.software.model_dump_json()
    split = parallelism, plan.shard, plan.microbatches, plan.apart
    return Same(job.table), Same(plan.chunks), model, software, split, simulation


def _write(job: Job, input_stall: float = 0.0) -> Program:
    program = Program()
    computes = tuple(program.new_stream(f"rank {rank.representative}", "compute", rank.number) for rank in job.ranks)
    exchange = data_parallel(job, program)
    exchange.open_step()
    writer = PassWriter(job, program, exchange)
    widths: tuple[int, ...] = ()
    for stage in range(len(job.plan.orders)):
        widths = writer.write_stage(stage)
        exchange.after_passes(stage)
    exchange.close_step()
    embedding = _embedding_gradients(job, program, exchange)
    updates = _updates(job, exchange)
    for rank in job.ranks:
        waits = (token(embedding[rank.number]),) if rank.number in embedding else ()
        _write_end(job, program, computes[rank.number], rank, exchange, waits, updates[rank.number])
        if input_stall > 0:
            _wait_for_input(program, computes[rank.number], rank, input_stall)
    if job.plan.experiment.simulation.skip == "auto" and (beats := _beats(job, exchange, widths)):
        program.parts = find_parts(program, beats, job.conflicts)
    return program


def _beats(job: Job, exchange: DataParallel, widths: tuple[int, ...]) -> dict[int, int]:
    """Compute streams of the last stage, with their instructions per period of the schedule.

    widths: instructions there of a pass of each kind.
    """
    parallelism = job.plan.experiment.parallelism
    passes, microbatches = period(parallelism.pipeline, parallelism.virtual_stages)
    if job.plan.microbatches < MIN_PERIODS * microbatches:
        return {}
    width = kinds_of(job.plan.orders[-1], exchange.rule).beat(widths, passes)
    return {rank.number: width for rank in job.stages[-1]}


def _embedding_gradients(job: Job, program: Program, exchange: DataParallel) -> dict[int, int]:
    """Sum tied embedding gradients of first and last stage; rank class -> token kind to wait for."""
    plan, model = job.plan, job.plan.model
    awaited: dict[int, int] = {}
    size = model.vocab / plan.shard.tensor * model.hidden * plan.software.gradient_comm_bytes
    for number, flow in enumerate(job.flows):
        if flow.kind != "embedding":
            continue
        recipe = partial(exchange_action, "embedding gradients", number, "all_reduce", size, ())
        done = program.new_kind("embedding gradients summed")
        waits = tuple(token(exchange.marks[rank]) for rank in flow.members)
        stream = program.new_stream(f"embedding group {number}", "embedding")
        stream.add(program.new_template(waits, program.new_recipe(recipe, job), token(done)))
        awaited |= dict.fromkeys(flow.members, done)
    return awaited


def _wait_for_input(program: Program, compute: Stream, rank: RankClass, seconds: float) -> None:
    wait = Action("wait for input", "input_stall", (rank.number,), seconds, parts=(("input_stall", seconds),))
    compute.add(program.new_template((), program.new_action(wait)))


def _updates(job: Job, exchange: DataParallel) -> list[Sequence]:
    """The optimizer step of each rank class; one for all that update as many parameters."""
    parameters = [exchange.updated_parameters(rank) for rank in job.ranks]
    software, precision = job.plan.software, job.plan.shard.precision
    known = {count: sequence_of(optimizer_step(count, software, precision)) for count in dict.fromkeys(parameters)}
    return [known[count] for count in parameters]


def _write_end(
    job: Job,
    program: Program,
    compute: Stream,
    rank: RankClass,
    exchange: DataParallel,
    embedding: tuple[Token, ...],
    update: Sequence,
) -> None:
    """After the last backward pass: gradients arrive, optimizer, weights go out, overheads."""
    marker = program.new_action(Action("end of backward", "other", (rank.number,)))
    compute.add(program.new_template((), marker, token(exchange.marks[rank.number])))
    waits = exchange.gradients_of(rank) + embedding
    step = program.new_recipe(partial(optimizer_action, rank, update), job)
    updated = exchange.update_tokens[rank.number]
    compute.add(program.new_template(waits, step, token(updated)))
    overhead = job.plan.software.step_overhead
    end = Action("step overhead", "other", (rank.number,), overhead, parts=(("other", overhead),))
    compute.add(program.new_template(exchange.weights_of(rank), program.new_action(end)))
