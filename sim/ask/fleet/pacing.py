"""How fast jobs get on where they are: experiments by the step engine, others by a table or the speed of their nodes.

An experiment is simulated once for each shape of places: boards of each node, and which nodes share units of the
network. Which boards of a node, and which of equal units, is taken to make no difference. Experiments on several nodes
that meet in a node or a unit are simulated together, and get on at their pace of the long run (`programs/lasting.py`)
until somebody comes or goes. Where their states recur it depends on the lag, which is that of the fleet's clock.

Public: `StepPacing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sim.ask.fleet.load import LoadedFleet, LoadedPart
from sim.ask.fleet.speeds import SpeedTable
from sim.ask.fleet.training import LoadedTraining, shape_of
from sim.ask.run.step import simulate_step
from sim.ask.run.together import simulate_lasting
from sim.errors import SimError
from sim.fleet.jobs import FleetJob, JobRequest, Places
from sim.programs.lasting import Lasting

SLOWEST = 1e-9
GRID = 1000  # lags are told apart by this part of the shortest step
NO_STEP = 1e-6  # of a step: whoever has so little of it left is at its end


@dataclass
class StepPacing:
    """See `Pacing` of the fleet. doubts: where an answer could not be had from the simulator."""

    fleet: LoadedFleet
    table: SpeedTable | None
    steps: dict[tuple[object, ...], float] = field(default_factory=dict)  # simulated once for each shape of places
    joint: dict[tuple[object, ...], Lasting | None] = field(default_factory=dict)  # and for each set of them, and lags
    standing: dict[tuple[object, ...], tuple[float, ...]] = field(default_factory=dict)  # rates of who meets now
    doubts: set[str] = field(default_factory=set)
    simulated: int = 0

    def alone(self, job: JobRequest, places: Places) -> float:
        """Work in a second while nobody else is on the links of the job."""
        part = self._part(places[0][0])
        training = self.fleet.trainings.get(job.name)
        if training is not None:
            return training.step_s / self._step(training, part, places)
        gpus = sum(boards for _, boards in places if boards > 0) or 1
        if self.table is not None and (speed := self.table.speed(job, part.kind, gpus, len(places))) is not None:
            return speed
        growth = gpus / job.gpus if job.most or job.least else 1.0
        return min(self._part(node).speed for node, _ in places) * growth

    def together(self, jobs: Sequence[FleetJob], now: float) -> Sequence[float] | None:
        """The same for all that run, with the links that they share; who meets the same as before goes on as before."""
        if self.fleet.spec.contention == "none" or not self.fleet.trainings:
            return None
        rates = {job.number: self.alone(job.request, job.places) for job in jobs}
        spread = [job for job in jobs if len(job.places) > 1 and job.request.name in self.fleet.trainings]
        before, self.standing = self.standing, {}
        for group in self._meeting(spread):
            key = tuple((job, job.places) for job in group)
            self.standing[key] = before[key] if key in before else self._together(group, now)
            for job, rate in zip(group, self.standing[key], strict=True):
                rates[job.number] = rate
        return [rates[job.number] for job in jobs]

    def remarks(self) -> Iterator[str]:
        """What was approximated where experiments share links, and how far off it is."""
        found = [each for each in self.joint.values() if each is not None]
        recurs = sum(each.way == "recurs" for each in found)
        if recurs:
            yield (
                f"experiments that share links: {recurs} meetings in which states recur, simulated exactly for lags to"
                f" {1 / GRID:.1%} of a step; jobs that still load count as being there"
            )
        for way, told in (("even", "proved"), ("batches", "two standard errors")):
            errors = [pace.error / pace.step for each in found if each.way == way for pace in each.paces]
            if errors:
                yield (
                    f"experiments that share links: {sum(each.way == way for each in found)} meetings in which phases"
                    f" drift, by the mean of some steps: off by at most {max(errors):.2%} of a step ({told})"
                )
        wide = max(((pace.high - pace.low) / pace.step for each in found for pace in each.paces), default=1.0)
        if wide < 1:
            yield f"experiments that share links: whatever the phases, steps are proved within {wide:.1%}"

    def _part(self, node: int) -> LoadedPart:
        return next(part for part in self.fleet.parts if part.first <= node < part.first + part.nodes)

    def _step(self, training: LoadedTraining, part: LoadedPart, places: Places) -> float:
        key = (id(training), part.kind, shape_of(places, part))
        if key not in self.steps:
            try:
                self.simulated += 1
                self.steps[key] = simulate_step(training.at(part.kind, _accelerators(places, part, {}))).trace.time
            except SimError as error:
                self.doubts.add(
                    f"{training.name}: some places could not be simulated ({error}); taken as never done there"
                )
                self.steps[key] = training.step_s / SLOWEST
        return self.steps[key]

    def _meeting(self, jobs: Sequence[FleetJob]) -> Iterator[list[FleetJob]]:
        """Groups of jobs that may use a link in common: they meet in a node, or in a unit that both leave."""
        groups: list[tuple[set[tuple[int, int]], list[FleetJob]]] = []
        for job in jobs:
            ground, members = self._ground(job.places), [job]
            apart = []
            for other in groups:
                if other[0] & ground:
                    ground |= other[0]
                    members = other[1] + members
                else:
                    apart.append(other)
            groups = [*apart, (ground, members)]
        return (sorted(members, key=lambda job: job.number) for _, members in groups if len(members) > 1)

    def _ground(self, places: Places) -> set[tuple[int, int]]:
        """Nodes and units whose links to the outside a job uses, and the whole network where it has no units."""
        part = self._part(places[0][0])
        ground = {(-1, node) for node, _ in places}
        if not part.levels and _is_shared(part):
            return {(-2, part.first)}
        for level, size in enumerate(part.levels):
            units = {(node - part.first) // size for node, _ in places}
            if len(units) > 1:
                ground |= {(level, part.first + unit) for unit in units}
        return ground

    def _together(self, group: Sequence[FleetJob], now: float) -> tuple[float, ...]:
        """Rates of jobs that meet, in the long run."""
        trainings = [self.fleet.trainings[job.request.name] for job in group]
        found = self._joint(group, trainings, now)
        if found is None:
            return tuple(self.alone(job.request, job.places) for job in group)
        return tuple(
            max(SLOWEST, training.step_s / pace.step) for training, pace in zip(trainings, found.paces, strict=True)
        )

    def _joint(self, group: Sequence[FleetJob], trainings: Sequence[LoadedTraining], now: float) -> Lasting | None:
        """The long run, simulated once for each lag where states recur, else once."""
        part = self._part(group[0].places[0][0])
        everywhere = tuple(place for job in group for place in job.places)
        nodes = {node: number for number, node in enumerate(dict.fromkeys(node for node, _ in everywhere))}
        where = tuple(tuple((nodes[node], boards) for node, boards in job.places) for job in group)
        key = (tuple(map(id, trainings)), part.kind, shape_of(everywhere, part), where)
        lags = _lags(group, trainings, now)
        if key in self.joint:
            return self.joint[key]
        if (key, lags) not in self.joint:
            found = self._simulated_together(group, trainings, part, lags)
            self.joint[(key, lags) if found is not None and found.way == "recurs" else key] = found
            return found
        return self.joint[key, lags]

    def _simulated_together(
        self,
        group: Sequence[FleetJob],
        trainings: Sequence[LoadedTraining],
        part: LoadedPart,
        lags: tuple[int, ...],
    ) -> Lasting | None:
        taken: dict[int, int] = {}
        grid = min(training.step_s for training in trainings) / GRID
        try:
            pairs = zip(group, trainings, strict=True)
            experiments = [
                training.at(part.kind, _accelerators(job.places, part, taken)).model_copy(
                    update={"name": job.request.name}
                )
                for job, training in pairs
            ]
            self.simulated += 1
            return simulate_lasting(experiments, self.fleet.spec.contention_steps, after=[lag * grid for lag in lags])
        except SimError as error:
            self.doubts.add(f"jobs that share links could not be simulated together ({error}); taken as alone")
            return None


def _lags(group: Sequence[FleetJob], trainings: Sequence[LoadedTraining], now: float) -> tuple[int, ...]:
    """When each begins its next step after the first of them does, in parts of the shortest step."""
    waits = []
    for job, training in zip(group, trainings, strict=True):
        steps = (job.request.work - job.work_left(now)) / training.step_s
        rest = -steps % 1.0
        waits.append(0.0 if rest < NO_STEP or rest > 1 - NO_STEP else rest * training.step_s / job.rate)
    grid = min(training.step_s for training in trainings) / GRID
    return tuple(round((wait - min(waits)) / grid) for wait in waits)


def _is_shared(part: LoadedPart) -> bool:
    """Whether jobs on other nodes may use the same links though nothing is known of units: not below one switch."""
    fabric = getattr(part.cluster, "fabric", None)
    return fabric is not None and fabric.kind not in ("switch", "fat_tree")


def _accelerators(places: Places, part: LoadedPart, taken: dict[int, int]) -> tuple[int, ...]:
    """Numbers of accelerators, those of a node after the ones that `taken` says are in use, which it is told."""
    found: list[int] = []
    for node, boards in places:
        start = taken.get(node, 0)
        taken[node] = start + boards
        found += range((node - part.first) * part.boards + start, (node - part.first) * part.boards + start + boards)
    return tuple(found)
