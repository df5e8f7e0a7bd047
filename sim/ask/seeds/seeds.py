"""One experiment under many seeds: lives in parallel processes, kept as they end, told as distributions.

Public: `run_seeds`, `Seeds`, `FILE`.

Life number i has the seed of the experiment plus i and is the same as a run of its own with that seed. What
is kept of it is in the folder under its content, so the same command goes on after an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

from sim.ask.run.accounts import Accounts, open_accounts
from sim.ask.run.lives import Lived, PreparedLife, prepare_life
from sim.ask.run.simulate import Predicted
from sim.ask.run.step import simulate_step
from sim.ask.sweep.judge import OK
from sim.ask.sweep.store import Outcome, PointEntry, Store, made
from sim.ask.workers.batch import content_key
from sim.ask.workers.dispatch import Job, dispatch
from sim.ask.workers.pool import InThisProcess, LocalProcesses, processors
from sim.errors import ConfigError, Problem, SimError
from sim.inputs.records import Experiment
from sim.layout.grid import SEEDED
from sim.metrics.energy_run import SpanEnergy
from sim.metrics.long_run import LifeSummary, Tally, half_width
from sim.metrics.result import Result

FILE = "lives.duckdb"
ROUND = 25  # lives after each of which it is asked whether the mean is known well enough
CHUNK = 64

Progress = Callable[[int, int], None]  # lives that are done, lives in all


@dataclass(frozen=True)
class Seeds:
    """How many lives, in how many processes (one per processor if None), and when fewer will do.

    precision: stop when half the 95 % confidence interval of the mean time-to-train and of the mean goodput is
    below this share of the mean; looked at every `ROUND` lives, in the order of their seeds.
    """

    number: int
    precision: float | None = None
    jobs: int | None = None


def run_seeds(
    predicted: Predicted,
    experiment: Experiment,
    seeds: Seeds,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """The result over many lives; `predicted` is that of the first. Raises ConfigError, SimError.

    What `folder` holds already is not lived again.
    """
    if predicted.lived is None:
        message = "nothing in this experiment depends on the seed of a life"
        raise ConfigError(Problem("--seeds", "", message, "give it failures, or leave --seeds out"))
    store = Store(made(folder), FILE)
    try:
        count = min(seeds.jobs or processors(), seeds.number)
        crew = LocalProcesses(count, life_fields) if count > 1 else InThisProcess(life_fields)
        try:
            many = _Many(experiment, seeds, store, progress or (lambda done, total: None))
            dispatch(many.jobs(), crew, many.record, lambda: seeds.number - many.done)
        finally:
            crew.close()
        return _result(predicted, predicted.lived, many.tally())
    finally:
        store.close()


# --- one life ---------------------------------------------------------------------------------

_last: list[tuple[Experiment, PreparedLife, Accounts]] = []  # what the life before was made from


def life_fields(experiment: Experiment) -> str:
    """What is kept of the life of an experiment, as JSON. The step is simulated once for all lives that share it."""
    shared = experiment if _seed_moves_steps(experiment) else experiment.model_copy(update={"seed": 0})
    if not _last or _last[0][0] != shared:
        run = simulate_step(experiment)
        _last[:] = [(shared, prepare_life(experiment, run), open_accounts(run))]
    _, prepared, book = _last[0]
    return json.dumps(asdict(prepared.lived(experiment.seed, book).summary), allow_nan=False)


def _seed_moves_steps(experiment: Experiment) -> bool:
    """Whether a step, not only a life, draws random numbers."""
    data = experiment.input
    return experiment.parallelism.placement in SEEDED or (data is not None and data.record_deviation > 0)


def _summary(fields: dict[str, object]) -> LifeSummary:
    """What `life_fields` wrote."""
    spent = SpanEnergy(**fields.pop("spent"))  # type: ignore[arg-type]
    return LifeSummary(**fields, spent=spent)  # type: ignore[arg-type]


# --- many lives -------------------------------------------------------------------------------


@dataclass
class _Many:
    """Lives under way."""

    experiment: Experiment
    seeds: Seeds
    store: Store
    progress: Progress
    number: dict[str, int] = field(default_factory=dict)  # of the lives that are under way, by key
    early: dict[int, LifeSummary] = field(default_factory=dict)  # that ended before one with a smaller number
    means: tuple[_Mean, ...] = field(default_factory=lambda: (_Mean(), _Mean()))  # time-to-train and goodput
    enough: int | None = None  # lives after which the precision is reached

    def __post_init__(self) -> None:
        self.content = content_key(self.experiment.model_copy(update={"seed": 0}))
        self.done = 0
        self.store.begin()

    def jobs(self) -> Iterator[Job]:
        """Lives that are not known yet, until there are enough."""
        self.progress(0, self.seeds.number)
        numbers = iter(range(self.seeds.number))
        while self.enough is None and (chunk := list(islice(numbers, CHUNK))):
            seeds = {self._key(number): number for number in chunk}
            self.store.list_entries([PointEntry(n, self._seed(n), key, "", "", "{}") for key, n in seeds.items()])
            missing = seeds.keys() - self.store.known(seeds)
            for row in self.store.rows(chunk[0]):
                if row.status == OK and row.fields is not None:
                    self._learn(row.point, _summary(row.fields))
            for key, number in seeds.items():
                if key in missing and self.enough is None:
                    self.number[key] = number
                    yield key, self.experiment.model_copy(update={"seed": self._seed(number)})

    def record(self, outcomes: dict[str, Outcome]) -> None:
        """Keep lives that have ended."""
        self.store.record(outcomes)
        for key, outcome in outcomes.items():
            number = self.number.pop(key)
            if outcome.status != OK:
                raise SimError(f"the life with seed {self._seed(number)} failed: {outcome.reason}")
            self._learn(number, _summary(json.loads(outcome.fields)))

    def tally(self) -> Tally:
        """All lives that count, in the order of their seeds."""
        tally, counted = Tally(), self.enough or self.seeds.number
        for row in islice(self.store.rows(), counted):
            assert row.fields is not None
            tally.add(_summary(row.fields))
        return tally

    def _learn(self, number: int, life: LifeSummary) -> None:
        self.done += 1
        self.progress(self.done, self.seeds.number)
        if self.seeds.precision is None:
            return
        self.early[number] = life
        while self.enough is None and (nearest := self.early.pop(self.means[0].n, None)):
            for mean, value in zip(self.means, (nearest.elapsed_s, nearest.goodput), strict=True):
                mean.add(value)
            if self.means[0].n % ROUND == 0 and all(mean.known_to(self.seeds.precision) for mean in self.means):
                self.enough = self.means[0].n

    def _key(self, number: int) -> str:
        return f"{self.content}/{self._seed(number)}"

    def _seed(self, number: int) -> int:
        return self.experiment.seed + number


@dataclass
class _Mean:
    """A mean that values are added to, with the sum of their squared differences from it (Welford 1962)."""

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """One more value."""
        self.n += 1
        before = value - self.mean
        self.mean += before / self.n
        self.squares += before * (value - self.mean)

    def known_to(self, precision: float) -> bool:
        """Whether half the confidence interval is below that share of the mean."""
        width = half_width(self.n, self.squares)
        return width is not None and width <= precision * abs(self.mean)


def _result(predicted: Predicted, first: Lived, tally: Tally) -> Result:
    """The result of the first life, with means over all in place of its own."""
    run = first.prepared.result(tally, first.life)
    before = predicted.result
    power = before.energy.power if before.energy else {}
    energy, cost = predicted.book.bill(tally.mean_spent(), run.steps, power, lived=True)
    own = set(first.notes(first.result()))
    notes = (*(note for note in before.notes if note not in own), *first.prepared.endings(run), *sorted(tally.notes))
    return replace(before, run=run, energy=energy, cost=cost, notes=notes)
