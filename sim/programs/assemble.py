"""From a folded job to a program: the streams of every rank class and of every communicator."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from sim.engine.category import Category
from sim.engine.parts import find_parts, loose_parts
from sim.engine.program import KEPT_VARIANTS, Action, Program, Script, Stream, Token, token
from sim.memo import Memo
from sim.programs.copies import CopyWriter
from sim.programs.costs import Costs, embedding_action, given_action, optimizer_action, overhead_action
from sim.programs.gradients import ExchangeWriter, exchange_writer
from sim.programs.kinds import kinds_of
from sim.programs.passes import PassWriter
from sim.programs.ranks import Job
from sim.programs.replay import replay_program
from sim.programs.shape import RankShape, Shape, shape_of

MIN_PERIODS = 3  # fewer periods than this are not worth looking for


KEPT_INSTRUCTIONS = 1_000_000  # of all scripts that are kept at a time

# points of a sweep with equal shape share the writing
_written: Memo[Script] = Memo(KEPT_INSTRUCTIONS)


class Waits(NamedTuple):
    """What all ranks wait for at the end of a step [s]: the next batch, an exchange outside of it, other workers; and
    what is done there: passes of a teacher, evaluations."""

    input_stall: float = 0.0
    data_comm: float = 0.0
    bubble: float = 0.0
    compute: float = 0.0
    other: float = 0.0

    @property
    def named(self) -> list[tuple[str, Category, float]]:
        """Label, category and seconds of each that there is."""
        labels = ("wait for input", "exchange with other workers", "wait for other workers", "teacher", "evaluation")
        seconds = zip(labels, self._fields, self, strict=True)
        return [(label, Category(name), each) for label, name, each in seconds if each > 0]


NO_WAITS = Waits()


def assemble(job: Job, waits: Waits = NO_WAITS) -> Program:
    """The program of one training step, with what all wait for at its end.

    `coalesce: off` cuts every chain at its collectives. The script of an earlier job of equal shape is used again.
    """
    if job.plan.model.replay:
        return replay_program(job, waits.named)
    costs = Costs(job)
    if waits.named or job.plan.experiment.simulation.reuse == "off":
        script = _write(shape_of(costs), costs, waits)
    else:
        script = _script(costs)
    program = script.priced(costs)
    return replace(program, script=_with_parts(program, job))


def _script(costs: Costs) -> Script:
    """The script of a job, written unless it is known: it follows from the shape, and the forms of passes cut."""
    shape = shape_of(costs)
    script = _written.get(shape, lambda: _write(shape, costs), _length)
    forms = {place: costs.form(place) for place in script.cut}
    if forms == script.cut:
        return script
    return _written.get((shape, tuple(forms.values())), lambda: _write(shape, costs), _length)


def _with_parts(program: Program, job: Job) -> Script:
    """The script of a program with what may repeat in it, which depends on who shares links, too."""
    script = program.script

    def find() -> Script:
        parts = find_parts(program, script.beats, job.table.sharing)
        loose = loose_parts(program, script.beats, len(parts))
        known = (each for each, _ in script.variants.known.values() if each.parts == parts)
        return next(known, None) or replace(script, parts=parts, loose=loose, variants=Memo(KEPT_VARIANTS))

    return script.variants.get((job.table.sharing, job.plan.apart), find, lambda _: 1.0) if script.beats else script


def _length(script: Script) -> float:
    return sum(len(stream.which) for stream in script.streams)


def _write(shape: Shape, costs: Costs, waits: Waits = NO_WAITS) -> Script:
    """The script of a job of that shape; costs are asked for the form of passes that are cut, no more."""
    script = Script()
    computes = tuple(script.new_stream(f"rank class {rank.number}", "compute", rank.number) for rank in shape.ranks)
    copies = CopyWriter(shape, script)
    exchange = exchange_writer(shape, script, copies)
    exchange.open_step()
    writer = PassWriter(shape, script, exchange, copies, costs.form)
    widths: dict[int, tuple[int, ...]] = {}
    for stage in range(shape.course.stages):
        widths = writer.write_stage(stage)
        exchange.after_passes(stage)
        copies.after_passes(stage)
    exchange.close_step()
    embedding = _embedding_gradients(shape, script, exchange)
    for rank in shape.ranks:
        summed = (token(embedding[rank.number]),) if rank.number in embedding else ()
        _write_end(script, computes[rank.number], rank, exchange, copies, summed)
        _write_waits(script, computes[rank.number], rank, waits)
    script.beats = _beats(shape, widths)
    return script


def _beats(shape: Shape, widths: dict[int, tuple[int, ...]]) -> dict[int, int]:
    """Compute streams of the last stage, with their instructions per period of the schedule; none if it is short.

    widths: of each, instructions there of a task of each kind.
    """
    stage, beats = shape.course.stages - 1, {}
    for rank in shape.stages[stage]:
        schedule = shape.schedule_of(rank)
        period = schedule.period(stage) if shape.switches.skip else 0
        if period and schedule.microbatches >= MIN_PERIODS * period:
            beats[rank.number] = kinds_of(schedule, stage, shape.exchange).beat(widths[rank.number], period)
    return beats


def _embedding_gradients(shape: Shape, script: Script, exchange: ExchangeWriter) -> dict[int, int]:
    """Sum tied embedding gradients of first and last stage; rank class -> token kind to wait for."""
    awaited: dict[int, int] = {}
    for number, flow in enumerate(shape.flows):
        if flow.kind != "embedding":
            continue
        done = script.new_kind("embedding gradients summed")
        waits = tuple(token(exchange.marks[rank]) for rank in flow.members)
        stream = script.new_stream(f"embedding group {number}", "embedding")
        stream.add(script.new_template(waits, partial(embedding_action, number), token(done)))
        awaited |= dict.fromkeys(flow.members, done)
    return awaited


def _write_end(
    script: Script,
    compute: Stream,
    rank: RankShape,
    exchange: ExchangeWriter,
    copies: CopyWriter,
    embedding: tuple[Token, ...],
) -> None:
    """After the last backward pass: gradients arrive, optimizer, weights go out, overheads."""
    packing, unpacking = exchange.end_packing(rank), exchange.unpacking(rank)
    if packing:
        compute.add(script.new_template((), packing))
    marker = Action("end of backward", Category.OTHER, (rank.number,))
    compute.add(script.new_template((), partial(given_action, marker), token(exchange.marks[rank.number])))
    waits = exchange.gradients_of(rank) + embedding
    if unpacking:
        compute.add(script.new_template(waits, unpacking))
        waits = ()
    updated = token(exchange.update_tokens[rank.number])
    if copies.offload.optimizer:
        copies.write_update(compute, rank, waits, updated)
    else:
        compute.add(script.new_template(waits, partial(optimizer_action, rank.number), updated))
    compute.add(script.new_template(exchange.weights_of(rank), partial(overhead_action, rank.number)))


def _write_waits(script: Script, compute: Stream, rank: RankShape, waits: Waits) -> None:
    for label, category, seconds in waits.named:
        wait = Action(label, category, (rank.number,), seconds, parts=((category, seconds),))
        compute.add(script.new_template((), partial(given_action, wait)))
