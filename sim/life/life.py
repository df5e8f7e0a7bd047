"""The life of a job on the run clock: it trains in bulk until something happens, recovers, goes on.

Public: `live`, `life_ahead`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from math import ceil, inf, nextafter
from typing import Any

from simpy import Environment, Event

from sim.inputs.reliability import Delay
from sim.life.delay import draw
from sim.life.ledger import Ledger
from sim.life.life_inputs import Fault, Incident, Life, LifeInputs, Outcome, Slow, State
from sim.life.pace import Pace
from sim.life.pool import Pool
from sim.life.troubles import Troubles
from sim.rng import stream

Waiting = Generator[Event, Any, Any]
HOPELESS = 100  # times the healthy training time, after which a life without a limit ends


def live(inputs: LifeInputs, seed: int) -> Life:
    """One life of a job; the same inputs and seed give the same life."""
    return JobState(inputs, seed).live()


def life_ahead(inputs: LifeInputs, seed: int) -> tuple[Callable[[], Life], Callable[[], float]]:
    """A function that lives it, and one that says how much of it has been lived, 0 to 1."""
    job = JobState(inputs, seed)
    return job.live, job.progress


class JobState:
    """A job, what it stands on, and where it is in its life."""

    def __init__(self, inputs: LifeInputs, seed: int) -> None:
        self.inputs, self.seed = inputs, seed
        self.env = Environment()
        self.random = stream(seed, "recovery")
        self.ledger = Ledger()
        self.replicas, self.slow = inputs.replicas, list[Slow]()
        self.state = State(self.replicas, ())
        self.pace = Pace(inputs.target_steps, inputs.step_time(self.state), inputs.saving, inputs.bulk)
        self.pool = Pool(self.env, inputs.nodes, inputs.recovery, self.settle, self._node_returned)
        self._phase, self.settled = "initialisation", 0.0  # "training" or a key of BADPUT; up to when it is accounted
        self.ahead: deque[tuple[float, str]] = deque()  # phases that are to come, and when, unless something happens
        self.bell = Event(self.env)
        self.over = Event(self.env)
        self.outcome: Outcome = "time_limit"
        self.strikes = 0
        self.struck = False
        self.standstill, self.planned = 0.0, -1.0  # seconds of a pause, or of a planned stop, that is to come
        self.tainted = inf  # since when the state holds corrupt results
        self.lost_slots: set[int] = set()  # since the job last trained
        self.faults: list[Fault] = []
        self.incidents: list[Incident] = []
        self.open: Incident | None = None
        self.starts = 0
        self.troubles = Troubles(self)

    # --- the life -----------------------------------------------------------------------------

    def live(self) -> Life:
        """From the start to the end."""
        inputs = self.inputs
        limit = inputs.time_limit_s or HOPELESS * inputs.target_steps * self.pace.healthy
        self.troubles.begin()
        self.env.process(self._run())
        alarm = self.env.timeout(limit)
        alarm.callbacks.append(lambda _: self._end("time_limit"))
        self.env.run(until=self.over)
        self.settle()
        pace, elapsed = self.pace, self.env.now
        if self.open is not None:
            self.open.downtime_s = elapsed - self.open.time
        productive, badput = self.ledger.close(pace.done, pace.trained, pace.healthy, inputs.input_stall_s)
        return Life(
            outcome=self.outcome,
            elapsed_s=elapsed,
            steps=int(pace.done + 1e-9),
            productive_s=productive,
            badput_s=badput,
            steps_lost=pace.trained - pace.done,
            checkpoints=pace.checkpoints,
            faults=tuple(self.faults),
            incidents=tuple(self.incidents),
            spans=tuple(self.ledger.spans),
            repairs=tuple(self.pool.repairs),
            node_seconds=self.pool.n_total * elapsed,
            names=self.troubles.names,
        )

    def progress(self) -> float:
        """How much of the way to its end is behind it."""
        inputs = self.inputs
        in_time = self.env.now / inputs.time_limit_s if inputs.time_limit_s else 0.0
        return max(in_time, self.pace.done / inputs.target_steps)

    def _run(self) -> Waiting:
        yield from self._stages(self._start_stages())
        while not self.over.triggered:
            if not self.struck:
                yield from self._train()
            if self.pace.finished:
                self._end("finished")
            elif self.struck:
                yield from self._recover()
            else:
                yield from self._stop_as_planned()

    def _end(self, outcome: Outcome) -> None:
        if not self.over.triggered:
            self.settle()
            self.outcome = outcome
            self.over.succeed()

    def _train(self) -> Waiting:
        """Until the target is reached, a failure, or a planned stop."""
        self.enter("training")
        self.starts += 1
        self.lost_slots.clear()
        if self.open is not None:
            self.open.downtime_s, self.open = self.env.now - self.open.time, None
        self.pace.begin(self.env.now)
        self.troubles.started()
        while not (self.struck or self.pace.finished or self.planned >= 0):
            if self.standstill:
                yield from self._stand_still()
            else:
                yield from self._sleep(max(self.pace.earliest_end(), nextafter(self.env.now, inf)))
                self.settle()

    def _stand_still(self) -> Waiting:
        self.enter("slow_parts")
        until, self.standstill = self.env.now + self.standstill, 0.0
        while self.env.now < until and not self.struck:
            yield from self._sleep(until)
        if not self.struck:
            self.enter("training")
            self.pace.resume(self.env.now)

    def _stop_as_planned(self) -> Waiting:
        """Save, stop for as long as announced, start again from that save."""
        seconds, self.planned = self.planned, -1.0
        saving = self.inputs.saving
        stages: list[tuple[str, float]] = []
        if saving:
            stages.append(("checkpoint_blocking", saving.costs.blocking_s + saving.costs.drain_s))
        if not (yield from self._stages(stages)):
            return
        if saving:
            self.pace.save(self.env.now)
        self._fall_back()
        stages = [("waiting", seconds), *self._start_stages(), ("restore", self._restore_s())]
        yield from self._stages(stages)

    # --- recovery -----------------------------------------------------------------------------

    def _recover(self) -> Waiting:
        """Bring the job back, from the first stage again whenever another failure strikes meanwhile."""
        recovery = self.inputs.recovery
        while self.struck and not self.over.triggered:
            self.struck = False
            noticed = [("detection", self._draw(recovery.detect)), ("detection", self._draw(recovery.diagnose))]
            if not (yield from self._stages(noticed)) or not (yield from self._replace()):
                continue
            yield from self._stages([*self._start_stages(), ("restore", self._restore_s())])

    def _replace(self) -> Waiting:
        """Fill the slots of the job, or do without; False if struck meanwhile, or at the end of the job."""
        recovery, pool = self.inputs.recovery, self.pool
        warm = cold = waits = 0
        while True:
            more_warm, more_cold = pool.fill()
            warm, cold = warm + more_warm, cold + more_cold
            if not pool.vacant or self._shrinks():
                break
            if recovery.when_short == "stop" or not pool.coming:
                self._end("no_spares")
                return False
            waits = 1
            self.enter("waiting")
            yield from self._sleep(inf)
            if self.struck:
                return False
        self._resize()
        self._note_action(warm, cold, waits)
        times = [self._draw(recovery.swap)] if warm else []
        times += [self._draw(recovery.boot)] if cold else []
        return (yield from self._stages([("waiting", max(times, default=0.0))]))

    def _fitting_replicas(self) -> int:
        """Whole replicas that the nodes at hand can hold."""
        inputs = self.inputs
        return len(self.pool.slot_of) * inputs.replicas // inputs.nodes

    def _shrinks(self) -> bool:
        recovery = self.inputs.recovery
        return recovery.when_short == "shrink" and self._fitting_replicas() >= recovery.min_replicas

    def _resize(self) -> None:
        """As many replicas as the nodes hold; those that are left over become spares."""
        inputs = self.inputs
        self.replicas = self._fitting_replicas()
        surplus = len(self.pool.slot_of) - ceil(self.replicas * inputs.nodes / inputs.replicas)
        if surplus:
            self.pool.release(surplus)
        self.change_state()

    def _note_action(self, warm: int, cold: int, waits: int) -> None:
        said = [f"{n} {kind} spare{'s' * (n > 1)}" for n, kind in ((warm, "warm"), (cold, "cold")) if n]
        said += ["waited for repair"] * waits
        if self.replicas < self.inputs.replicas:
            said.append(f"went on with {self.replicas} of {self.inputs.replicas} replicas")
        if said and self.open is not None:
            self.open.action = "; ".join(filter(None, (self.open.action, ", ".join(said))))

    def _start_stages(self) -> list[tuple[str, float]]:
        recovery = self.inputs.recovery
        communicators = recovery.initialise + recovery.initialise_per_rank * self.inputs.ranks
        return [("initialisation", self._draw(recovery.reschedule) + communicators)]

    def _restore_s(self) -> float:
        saving = self.inputs.saving
        if saving is None or self.pace.done == 0:
            return 0.0
        return saving.costs.peer_restore_s if self.pace.from_peers else saving.costs.restore_s

    def _stages(self, stages: Iterable[tuple[str, float]]) -> Waiting:
        """Phases one after the other; False as soon as the job is struck."""
        if self.struck or self.over.triggered:
            return False
        until = self.env.now
        self.settle()
        self.ahead.clear()
        for phase, seconds in stages:
            self.ahead.append((until, phase))
            until += seconds
        while self.env.now < until and not self.struck:
            yield from self._sleep(until)
        return not self.struck

    # --- what happens to it -------------------------------------------------------------------

    def note(self, cause: str, component: str, nodes: tuple[int, ...], effect: str) -> None:
        """Count something that struck the job."""
        self.faults.append(Fault(self.env.now, cause, component, nodes, effect))

    def count_strike(self) -> None:
        """Something may be about to strike the job: it gives up where there is no end of that."""
        self.strikes += 1
        if self.strikes >= self.inputs.most_strikes:
            self._end("too_many_faults")

    def interrupt(
        self, cause: str, component: str, nodes: tuple[int, ...], slots: Iterable[int] = (), cutoff: float = inf
    ) -> None:
        """The job dies; `slots` lost what was in their memory, and only states taken by `cutoff` are good."""
        self.settle()
        self.note(cause, component, nodes, "stop")
        lost = set(slots)
        self.lost_slots |= lost
        self.slow = [part for part in self.slow if part.component == "switch" or part.slot not in lost]
        if self.open is not None:
            self.open.downtime_s = self.env.now - self.open.time
        self.open = Incident(self.env.now, cause, component, nodes)
        self.incidents.append(self.open)
        self.open.lost_steps = self._fall_back(cutoff)
        if self.pace.done == 0 < self.open.lost_steps:
            self.open.action = "no good checkpoint was kept: back to the start"
        self.struck, self.standstill, self.planned = True, 0.0, -1.0
        self._ring()

    def _fall_back(self, cutoff: float = inf) -> float:
        lost = self.pace.fall_back(self.env.now, cutoff, in_memory=cutoff == inf and self._peers_hold())
        if self.pace.taken <= self.tainted:
            self.tainted = inf
        return lost

    def _peers_hold(self) -> bool:
        """Whether there are peers, and each lost node's peer, its neighbour, is still there."""
        n, lost, saving = self.inputs.nodes, self.lost_slots, self.inputs.saving
        if saving is None or not saving.peer_steps:
            return False
        return n > 1 and not any((slot ^ 1 if slot ^ 1 < n else slot - 1) in lost for slot in lost)

    def pause(self, seconds: float) -> None:
        """The job stands still for a while, then goes on."""
        self.settle()
        self.standstill += seconds
        self._ring()

    def plan_stop(self, seconds: float) -> None:
        """The job is to save and stop."""
        self.planned = max(self.planned, seconds)
        self._ring()

    def change_state(self) -> None:
        """Ask for the step time of the present state."""
        self.settle()
        self.state = State(self.replicas, tuple(sorted(self.slow)))
        self.pace.step = self.inputs.step_time(self.state) * self.inputs.replicas / self.replicas
        self._ring()

    def _node_returned(self) -> None:
        if self.phase == "waiting":
            self._ring()

    # --- time ---------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """What the job does now."""
        self._turn()
        return self._phase

    def _turn(self) -> None:
        """Go on to the phase that was announced for now."""
        while self.ahead and self.ahead[0][0] <= self.env.now:
            self._account(self.ahead[0][0])
            self._phase = self.ahead.popleft()[1]

    def settle(self) -> None:
        """Account for the time since this was last done, before anything changes."""
        self._turn()
        self._account(self.env.now)

    def _account(self, end: float) -> None:
        start = self.settled
        if end > start:
            self.settled = end
            if self._phase == "training":
                self.ledger.train(self.pace.advance(end), start, end, self.pool.counts, self.state)
            else:
                self.ledger.stand(self._phase, start, end, self.pool.counts, self.state)

    def enter(self, phase: str) -> None:
        """What the job does from now on."""
        self.settle()
        self.ahead.clear()
        self._phase = phase

    def _sleep(self, until: float) -> Waiting:
        """Wait for `until`, or for news."""
        bell = self.bell = Event(self.env)
        if until < inf:
            alarm = self.env.timeout(until - self.env.now)
            alarm.callbacks.append(lambda _: _sound(bell))
        yield bell

    def _ring(self) -> None:
        _sound(self.bell)

    def _draw(self, delay: Delay) -> float:
        return draw(delay, self.random)


def _sound(bell: Event) -> None:
    if not bell.triggered:
        bell.succeed()
