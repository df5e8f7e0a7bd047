"""The result of a run: plain frozen records, written as JSON with the same names.

Units stand in the names; names and units are stable. The breakdown sums to the step time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sim.engine.category import Category
from sim.life.storage_costs import CheckpointCosts, Feeding

BREAKDOWN = tuple(each.value for each in Category)


@dataclass(frozen=True)
class StepResult:
    """One training step. Times in seconds on the critical rank; the breakdown is exposed time."""

    time_s: float
    samples_per_s: float
    tokens_per_s: float | None  # None: samples have no tokens
    model_tflops_per_accelerator: float
    mfu: float  # model FLOP rate over peak
    hfu: float  # the same with recomputation counted
    breakdown_s: dict[str, float]  # keys BREAKDOWN, sums to time_s
    comm_total_s: float  # time the critical rank has a collective or send in flight, streams added
    comm_overlapped_s: float  # part of it that hides behind computation


@dataclass(frozen=True)
class MemoryResult:
    """Memory of the fullest accelerator [B]."""

    peak_bytes_per_accelerator: float
    capacity_bytes: float
    fits: bool
    parts: dict[str, float]  # weights, gradients, optimizer, activations, temporary, allocator, reserved
    by_stage: tuple[dict[str, float], ...] = ()  # the same for each pipeline stage, at its own fullest moment
    moments: dict[str, dict[str, float]] = field(default_factory=dict)  # parts at each moment of the fullest stage
    host_bytes: float = 0.0  # of one node, for what lies there instead
    error: float = 0.1  # relative error of such predictions
    verdict: str = "fits"  # or tight: as near to the capacity as the error, on either side; does not fit; unknown


@dataclass(frozen=True)
class KindUse:
    """One of several kinds of node in a step; times are those of its accelerators that compute longest [s]."""

    node: str
    accelerator: str
    nodes: int
    accelerators: int  # that have a rank of the job
    compute_s: float
    communication_s: float  # exposed
    waiting_s: float  # for the work of other accelerators
    waits_for_s: dict[str, float]  # of which, by the name of the kind of node that works meanwhile
    memory_bytes: float  # of the fullest of its accelerators
    capacity_bytes: float


@dataclass(frozen=True)
class LinkUse:
    """Use of a class of equal links: `name` is one of them, `count` how many there are."""

    name: str
    kind: str  # "accelerator-switch", "nic-leaf", ... : vertex kinds at both ends
    count: int
    mean: float  # share of capacity over the step
    peak: float  # largest share at any moment
    bytes: float  # through one link of the class in a step


@dataclass(frozen=True)
class UtilizationResult:
    """Shares of the step time on the critical rank, and link use, busiest first."""

    accelerator: dict[str, float]  # compute_busy, comm_busy, idle
    links: tuple[LinkUse, ...]


@dataclass(frozen=True)
class ForwardPasses:
    """Passes that go forward alone beside steps [s]."""

    teacher_s: float  # of each step, the comparison of its outputs included
    evaluation_s: float  # one of them
    evaluation_every: int  # steps; 0: none. A step of the result has its share of one

    @property
    def share_s(self) -> float:
        """What evaluations add to the mean step."""
        return self.evaluation_s / self.evaluation_every if self.evaluation_every else 0.0


@dataclass(frozen=True)
class PreparedPhase:
    """Stages of a preparation between two shuffles."""

    name: str
    tasks: int
    time_s: float
    median_task_s: float
    slowest_task_s: float
    copies: int  # of slow tasks, begun again
    core_share: float  # of the time that cores compute
    limit: str  # what it would take by itself is most of: cores, storage, network, slowest task


@dataclass(frozen=True)
class DataPrepared:
    """How training data is prepared. beside_slowdown: its time beside training over its time alone; 1 before it.

    training_slowdown: step time while it goes on, over step time without it.
    """

    when: str
    time_s: float
    nodes: int
    cores: int  # of each of them
    read_bytes: float
    shuffled_bytes: float
    written_bytes: float
    phases: tuple[PreparedPhase, ...]
    beside_slowdown: float = 1.0
    training_slowdown: float = 1.0
    training_lost_s: float = 0.0  # all the time that it goes on


@dataclass(frozen=True)
class Synchrony:
    """How workers came on that do not sum gradients in lock-step, and what they exchange beside the step.

    Convergence is not simulated: staleness says how old weights are, not what that costs.
    """

    kind: str  # parameter_server, local_steps
    mode: str  # synchronous, asynchronous, stale_synchronous; blocking, overlapped
    workers: int
    updates_per_s: float  # of the weights, by whoever
    compute_s: float  # of a mean step: without any exchange, on the fastest worker
    exchange_s: float  # of a mean step: waiting for the network and servers
    waiting_s: float  # of a mean step: waiting for other workers, or being slower than the fastest
    sent_bytes: float  # of a worker in a step
    received_bytes: float
    staleness: dict[str, float]  # mean, p50, p95, max: updates by others that a gradient has not seen
    links: tuple[LinkUse, ...]  # that the exchange uses, means over a step, busiest first
    servers: int = 0
    server_busy: float = 0.0  # share of the time
    server_bytes: float = 0.0  # host memory of one of them
    steps_between: int = 1  # steps of a worker between two exchanges of the same weights
    exchange_alone_s: float = 0.0  # local steps: one exchange with nothing else on its links


@dataclass(frozen=True)
class IncidentResult:
    """Something that stopped the job."""

    time_s: float  # since the start
    cause: str
    component: str
    nodes: tuple[int, ...]  # those struck; numbers beyond the job's own are spares
    action: str
    downtime_s: float  # until the job trained again, or was struck anew
    lost_steps: float
    names: tuple[str, ...] = ()  # of `nodes`: their own, or those of a log; "node 3" if they have none


@dataclass(frozen=True)
class Spread:
    """How a quantity varies from life to life."""

    mean: float
    p5: float
    p50: float
    p95: float
    half_width: float | None  # of the 95 % confidence interval of the mean; None: a single life
    low: float
    high: float
    counts: tuple[int, ...]  # lives in equal bins from low to high


@dataclass(frozen=True)
class BestInterval:
    """The time between persistent saves with the best mean goodput in simulation, beside the one used."""

    interval_s: float
    goodput: float
    goodput_used: float  # of the interval used, in the same lives


@dataclass(frozen=True)
class RunResult:
    """The whole training: one life, or means over many. Without faults every quantile is the same."""

    time_to_train_s: dict[str, float]  # mean, p5, p50, p95
    steps: int
    goodput: float
    badput_s: dict[str, float] = field(default_factory=dict)  # with the productive time it adds up to the mean time
    failures: int = 0  # that stopped the job
    checkpoints: int = 0
    outcome: str = "finished"  # or time_limit, no_spares, too_many_faults; then the time is the time until that
    elapsed_s: float = 0.0  # mean
    steps_lost: float = 0.0
    failures_by_cause: dict[str, float] = field(default_factory=dict)  # planned stops and slow parts included
    checkpoint_interval_s: float | None = None  # training time between persistent saves, without faults
    incidents: tuple[IncidentResult, ...] = ()  # of the first seed
    seeds: int = 1  # lives
    outcomes: dict[str, int] = field(default_factory=dict)  # lives by outcome
    # of several lives: time_to_train_s, goodput, lost_work_s, failures, energy_kwh, usd
    spreads: dict[str, Spread] = field(default_factory=dict)
    expected_by_cause: dict[str, float] = field(default_factory=dict)  # what the rates promise for the mean time
    best_interval: BestInterval | None = None  # None: not asked for, or nothing is saved or fails
    finished: bool = True  # False: some life never came to its end; a time limit that was asked for is an end
    why_unfinished: tuple[str, ...] = ()  # for people: how such lives ended
    what_helps: tuple[str, ...] = ()  # for people: what would let them finish


@dataclass(frozen=True)
class PowerLevel:
    """Power at one level, over a step or a run [W]: means over equal samples, their mean, most and least."""

    mean_w: float
    peak_w: float
    low_w: float
    sample_s: float
    samples_w: tuple[float, ...]


@dataclass(frozen=True)
class EnergyResult:
    """Energy of the whole run, or of one step where no run is asked for."""

    total_kwh: float  # at the meter of the site, cooling included
    parts_kwh: dict[str, float]  # sums to total_kwh
    tdp_kwh: float  # what model cards print: board limit x accelerator hours
    mean_power_w: float
    tokens_per_joule: float  # 0: samples have no tokens, or none was trained
    carbon_kg: float | None = None  # None: no grid is known
    embodied_kg: float | None = None  # share of the carbon of making the hardware; None: not known
    phases_kwh: dict[str, float] = field(default_factory=dict)  # of the accelerators; sums to their part
    step_kwh: float = 0.0  # one step
    kwh_per_billion_tokens: float | None = None  # None: nothing was trained
    accelerator_hours: float = 0.0  # of the job
    accelerator_power_w: float = 0.0  # mean over a step and the job's accelerators
    node_power_w: float = 0.0  # mean over a step and the job's nodes, at the plug
    states_w: dict[str, float] = field(default_factory=dict)  # of the site, in each phase of the run
    power: dict[str, PowerLevel] = field(default_factory=dict)  # accelerator, node, job, site; run: the site in a life


@dataclass(frozen=True)
class CostResult:
    """Money, for the span of the energy."""

    usd: dict[str, float]  # by part, and their sum under "total"
    usd_per_step: float | None = None  # None: no step was done
    usd_per_million_tokens: float | None = None
    usd_per_accelerator_hour: float = 0.0  # of the cluster, idle ones too
    purchase_usd: float | None = None  # of the whole cluster and its network; None: rented
    basis: str = ""  # for people: which prices, of when


@dataclass(frozen=True)
class Trust:
    """How runs like this one were predicted: the band of error, and on what it rests."""

    band: float | None  # relative error of the step time that `coverage` of such runs stay within; None: not validated
    coverage: float
    runs: int  # validated runs about as near as the nearest
    basis: str  # for people: the nearest validated run, and in what it is another
    extrapolates: tuple[str, ...] = ()  # in which respects this run lies outside of what was validated
    distance: float = 0.0  # to the nearest validated run, in differences


@dataclass(frozen=True)
class StackRange:
    """The step time under each of the software stacks that could run the plan, where none is named."""

    assumed: str  # the one that the rest of the result is of
    stacks: int  # how many, that one included
    fastest: str
    fastest_s: float
    slowest: str
    slowest_s: float


@dataclass(frozen=True)
class Comparison:
    """Prediction against measurement, in the metric of the measurement."""

    metric: str  # step_time_s, tokens_per_s, ...
    predicted: float
    measured: float
    error: float  # predicted step time over measured step time, minus 1
    source: str
    tolerance: float | None = None


@dataclass(frozen=True)
class ReplayedKind:
    """What nodes of one kind took, as recorded and in the replay; of collectives with the wait for other ranks."""

    nodes: int
    recorded_s: float
    replayed_s: float
    apart_s: float  # mean of how much later (below 0: earlier) they begin


@dataclass(frozen=True)
class ReplayResult:
    """A replay beside what was recorded: means over the recorded ranks of the job."""

    recorded_s: float  # the step
    replayed_s: float
    start_error: dict[str, float]  # p50, p95, max of how far begins are apart, over the recorded step
    kinds: dict[str, ReplayedKind]  # products, attention, memory, copies, collectives by what they do, ...
    unmatched: int  # collectives that not all of their ranks know of
    sizeless: int  # collectives that keep their recorded time for want of a size
    changed: bool  # whether something shall be other than it was; else the replay should be the recording


@dataclass(frozen=True)
class Exactness:
    """How the step time was found.

    answer: exact, or bounds if only these were asked for. rounds: how often the step was simulated until it was
    proved; links_checked: links left out of rate sharing, on which it was checked; links_joined: of which flows that
    would have overloaded them took part at last. Without links left out nothing had to be proved.
    """

    answer: str = "exact"
    lower_s: float | None = None  # proved bounds of the step time; None where it is exact
    upper_s: float | None = None
    rounds: int = 1
    links_checked: int = 0
    links_joined: int = 0


@dataclass(frozen=True)
class BoundedResult:
    """What is reported where only bounds of the step time were asked for; the same names as in `Result`."""

    name: str
    accelerators: int
    exactness: Exactness
    folding: dict[str, int]  # ranks, rank_classes
    wall_s: float
    seed: int
    version: str

    def to_json(self) -> dict[str, Any]:
        """Plain data, ready for `json.dumps(..., sort_keys=True)`."""
        return asdict(self)


@dataclass(frozen=True)
class Result:
    """Everything a run reports."""

    name: str
    description: str
    accelerators: int
    setup: dict[str, str | int]  # headline of the plan: cluster, workload, its parameters, parallelism, ...
    step: StepResult
    memory: MemoryResult
    utilization: UtilizationResult
    run: RunResult | None
    energy: EnergyResult | None
    cost: CostResult | None
    trust: Trust | None
    comparison: Comparison | None
    notes: tuple[str, ...]  # what a reader should know: assumptions, things not modelled here
    folding: dict[str, int]  # ranks, rank_classes, links, link_classes, flow_classes, skipped_periods
    events: int
    wall_s: float
    seed: int
    version: str
    manifest: dict[str, Any]  # resolved input
    input: Feeding | None = None  # how training data arrives; None: always in time
    preparation: DataPrepared | None = None  # None: training data is there
    forward: ForwardPasses | None = None  # None: there are none beside steps
    synchronization: Synchrony | None = None  # None: replicas sum gradients in lock-step
    checkpoint: CheckpointCosts | None = None  # of one save and one restart; None: nothing is saved
    kinds: tuple[KindUse, ...] = ()  # kinds of node, where the cluster has several
    stacks: StackRange | None = None  # None: a stack is named, or other stacks were not asked for
    exactness: Exactness = field(default_factory=Exactness)
    accelerators_idle: int = 0  # of the cluster, powered and paid for, beside the job's own
    replay: ReplayResult | None = None  # None: nothing was recorded

    def to_json(self) -> dict[str, Any]:
        """The result as plain data, ready for `json.dumps(..., sort_keys=True)`."""
        return asdict(self)
