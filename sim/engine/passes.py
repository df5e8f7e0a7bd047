"""Writes forward and backward passes as instructions: computation, collectives inside, sends after."""

from __future__ import annotations

from functools import partial

from sim.engine.chains import Timed, cut
from sim.engine.gradients import DataParallel
from sim.engine.program import Action, Program, Token, token
from sim.engine.ranks import Job, RankClass
from sim.engine.recipes import chain_action, send_action
from sim.engine.roles import Role, kinds_of
from sim.plan.pieces import Work, sequence_of, work_of
from sim.plan.schedule import Pass
from sim.workload.activations import stage_message_bytes
from sim.workload.operation import Operation

Placed = list[tuple[int, int]]  # instructions of a pass: position of a stream in the program, template


class PassWriter:
    """Appends passes to the streams of rank classes; templates are made once per kind of pass.

    The compute stream of rank class r is stream r of the program.
    """

    def __init__(self, job: Job, program: Program, exchange: DataParallel) -> None:
        self.job, self.program, self.exchange = job, program, exchange
        plan = job.plan
        self.stages = plan.experiment.parallelism.pipeline
        self.n_chunks = self.stages * plan.experiment.parallelism.virtual_stages
        self.coalesce = plan.experiment.simulation.coalesce == "auto"
        self.message = stage_message_bytes(plan.model, plan.shard)
        shard = plan.shard
        self.scatters = plan.software.scatter_gather and shard.tensor > 1 and not shard.sequence_parallel
        self.sends: dict[tuple[int, str], int] = {}
        self.groups: dict[int, int] = {}
        self.works: dict[tuple[int, bool, bool, bool], list[Work]] = {}
        gather = Operation(
            "gather of stage input", "collective", collective="all_gather", group="tensor", message=self.message
        )
        self.gather = sequence_of((gather,))

    def write_stage(self, stage: int) -> tuple[int, ...]:
        """Append all passes of a stage to the streams of its rank classes.

        Returns how many instructions of a pass of each kind go to the compute stream of its first rank class.
        """
        kinds = kinds_of(self.job.plan.orders[stage], self.exchange.rule)
        first: tuple[int, ...] = ()
        for rank in self.job.stages[stage]:
            placed = [self._templates(rank, each, role) for each, role in kinds.firsts]
            for stream in dict.fromkeys(stream for instructions in placed for stream, _ in instructions):
                mine = [[t for where, t in instructions if where == stream] for instructions in placed]
                widths = tuple(map(len, mine))
                self.program.streams[stream].add_line([t for block in mine for t in block], kinds.line(widths))
                first = first or widths
        return first

    def _templates(self, rank: RankClass, each: Pass, role: Role) -> Placed:
        """Instructions of a pass, each with the stream it goes to; the compute stream comes first."""
        arrival = self._arrival(rank, each)
        works = self._works(rank, each, whole=role.part == "plain", gathers=self.scatters and arrival is not None)
        name = "backward" if each.backward else "forward"
        waits: tuple[Token, ...] = () if arrival is None else (arrival,)
        done = token(self.program.kind("pass done", rank.number, each.backward, each.chunk))
        out: Placed = []
        for position, work in enumerate(works):
            waits += self.exchange.before_run(rank, each, role, position)
            signal = self.exchange.after_run(rank, each, role, position)
            if position == len(works) - 1:
                signal = done = signal or done
            key = (name, rank.number, each.backward, each.chunk, role, position)
            out += self._run(rank, key, work, waits, signal, role.calm)
            waits = ()
        return out + self._send(rank, each, done)

    def _works(self, rank: RankClass, each: Pass, whole: bool, gathers: bool) -> list[Work]:
        """What a pass runs, as a whole or segment by segment."""
        segments = self.job.plan.chunks[rank.stage][each.chunk].segments
        key = (id(segments), each.backward, whole, gathers)
        if key not in self.works:
            ordered = list(segments[::-1] if each.backward else segments)
            works = [work_of(run, each.backward) for run in ([ordered] if whole else [[each] for each in ordered])]
            if gathers:
                works[0] = [(self.gather, 1), *works[0]]
            self.works[key] = works
        return self.works[key]

    # --- computation ------------------------------------------------------------------------------

    def _run(
        self,
        rank: RankClass,
        key: tuple[object, ...],
        work: Work,
        waits: tuple[Token, ...],
        signal: Token | None,
        calm: bool,
    ) -> Placed:
        """One instruction if nothing in it meets other traffic, else cut at its collectives."""
        if self.coalesce:
            groups = self.job.alone(rank, work).sizes
            if all(self._meets_nobody(rank, rank.flows[group], calm) for group in groups):
                action = self.program.new_recipe(partial(chain_action, str(key[0]), rank, work), self.job)
                return [(rank.number, self.program.new_template(waits, action, signal))]
        return self._cut(rank, key, work, waits, signal)

    def _meets_nobody(self, rank: RankClass, flow: int, calm: bool) -> bool:
        """Whether a communicator of equal ranks has its links to itself while the pass runs.

        In a calm pass the rank's own gradient traffic is either over or has still to wait for it; in others
        it slows a collective that has its links to itself, but not one that shares them with its like.
        """
        if self.job.flows[flow].members != (rank.number,):
            return False
        others = self.job.conflicts[flow] - {flow}
        if calm:
            return all(self._is_gradient(other, rank) for other in others)
        return not others and (self.job.is_apart(flow) or not self.exchange.slows)

    def _is_gradient(self, flow: int, rank: RankClass) -> bool:
        each = self.job.flows[flow]
        return each.kind in ("gradient", "replica", "embedding") and rank.number in each.members

    def _cut(
        self, rank: RankClass, key: tuple[object, ...], work: Work, waits: tuple[Token, ...], signal: Token | None
    ) -> Placed:
        self.program.fixed = self.job.known
        steps = cut(self.job.all_timed(rank, work))
        out: Placed = []
        issued: list[int] = []
        where = key[2:]
        for number, step in enumerate(steps):
            is_last = number == len(steps) - 1
            needs = waits + tuple(token(issued[i]) for i in step.waits)
            seconds = sum(step.parts.values())
            action = Action(
                str(key[0]),
                "compute",
                (rank.number,),
                seconds,
                parts=tuple(step.parts.items()),
                operations=len(step.parts),
                joules=tuple(step.spent.joules.items()),
                busy=step.spent.busy,
            )
            reached = signal if is_last else None
            if step.issue is not None:
                flow = rank.flows[step.issue.group]
                issued.append(self.program.kind("collective done", flow, where, len(issued)))
                reached = token(self.program.kind("ready", rank.number, where, len(issued)))
            template = self.program.new_template(needs, self.program.new_action(action), reached)
            out.append((rank.number, template))
            waits = ()
            if step.issue is not None and self.job.flows[flow].members[0] == rank.number:
                out.append(self._issue(flow, step.issue, where, len(issued), issued[-1]))
        return out

    def _issue(self, flow: int, operation: Timed, where: tuple[object, ...], number: int, done: int) -> tuple[int, int]:
        """The instruction of a communicator: when all members are ready, move the bytes."""
        members = self.job.flows[flow].members
        waits = tuple(token(self.program.kind("ready", member, where, number)) for member in members)
        action = Action(operation.name, operation.category, steals=members if operation.hidden_by else (), operations=1)
        if self.job.is_apart(flow):
            action = action._replace(ranks=members, duration=operation.seconds, carried=((flow, operation.size),))
        else:
            action = action._replace(flow=flow, size=operation.size, latency=operation.latency)
        if flow not in self.groups:
            self.groups[flow] = len(self.program.streams)
            self.program.new_stream(f"{operation.group} group {flow}", operation.group)
        return self.groups[flow], self.program.new_template(waits, self.program.new_action(action), token(done))

    # --- stage boundaries ---------------------------------------------------------------------------

    def _arrival(self, rank: RankClass, each: Pass) -> Token | None:
        """Token of the input from the neighbouring chunk; None where the model begins."""
        chunk = self.job.plan.chunks[rank.stage][each.chunk].number
        begins = chunk == (self.n_chunks - 1 if each.backward else 0)
        return None if begins else token(self.program.kind("arrival", rank.number, each.backward, each.chunk))

    def _send(self, rank: RankClass, each: Pass, done: Token) -> Placed:
        """Hand the result on: in the compute stream, or beside it if the stack overlaps sends."""
        chunk = self.job.plan.chunks[rank.stage][each.chunk].number
        if chunk == (0 if each.backward else self.n_chunks - 1):
            return []
        direction = "backward" if each.backward else "forward"
        next_chunk = (chunk + (-1 if each.backward else 1)) // self.stages
        flow = rank.flows[f"{direction} out"]
        receiver = self.job.flows[flow].receiver
        message = self.message / self.job.plan.shard.tensor if self.scatters else self.message
        action = self.program.new_recipe(partial(send_action, f"send {direction}", flow, message), self.job)
        arrival = token(self.program.kind("arrival", receiver, each.backward, next_chunk))
        waits: tuple[Token, ...] = ()
        stream = rank.number
        if self.job.plan.software.pipeline_overlap:
            stream, waits = self._send_stream(rank, direction), (done,)
        return [(stream, self.program.new_template(waits, action, arrival))]

    def _send_stream(self, rank: RankClass, direction: str) -> int:
        key = (rank.number, direction)
        if key not in self.sends:
            self.sends[key] = len(self.program.streams)
            self.program.new_stream(f"rank {rank.representative} {direction} sends", "send", rank.number)
        return self.sends[key]
