"""The plan search is exact: rules and memory are those of a run, bounds are below it, the best is the best."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import BESIDE, CASES, CUBE_MESH, LEAF_SPINE, PYTORCH, small_experiment
from rich.console import Console

from sim.ask.plan.axes import AXES, SWITCHES, axes_of, with_values
from sim.ask.plan.best import ParetoFront, TopPlans
from sim.ask.plan.bound import Bounds
from sim.ask.plan.files import open_question, winning_file
from sim.ask.plan.objectives import KWH, objectives_of
from sim.ask.plan.rules import forbidden, no_repeats, rules_of
from sim.ask.plan.search import NEAR, search_plans, winner_of
from sim.ask.plan.space import open_space
from sim.ask.plan.table import PlanTable
from sim.ask.run.simulate import simulate
from sim.ask.run.step import simulate_step
from sim.ask.sweep.fields import flatten
from sim.cluster.build import build_cluster
from sim.errors import ConfigError, PlanError
from sim.inputs.checks import CHECKS, check_experiment
from sim.inputs.records import Experiment
from sim.metrics.memory import lacking_bytes
from sim.metrics.planning import PlanSearch
from sim.report.planning import print_reasons, print_search
from sim.report.text import LABELS
from support import Cli

EXACT = 1e-9
SWAPPED = ("tensor", "context", "expert", "pipeline", "data")
MODEL = {"layers": 8, "hidden": 512, "heads": 8, "ffn": 2048}
CHIPS = {"accelerators": 4, "nics": {"count": 4, "bandwidth": 25e9, "latency": 1e-6}}
BASES: dict[str, dict[str, Any]] = {
    "one server": {"nodes": 1, "training": {"global_batch": 16}},
    "two servers, everything beside": {
        "nodes": 2, "software": {**BESIDE, "pipeline_overlap": True, "tensor_overlap": "backward"},
    },
    "shares sent and gathered": {"nodes": 2, "software": {"scatter_gather": True, "gradient_bucket": 2e7}},
    "stages with lighter ends, split gradients": {"nodes": 1, "training": {"global_batch": 16}},
    "no prefetch, slow host": {
        "nodes": 2, "software": {"gradient_overlap": True, "overlap_slowdown": 0.2, "host_issue": 2e-5},
    },
    "slow host, weights ahead": {"nodes": 2, "software": {**BESIDE, "host_issue": 5e-5, "step_overhead": 0.01}},
    "four to one, hashed": {
        "nodes": 4, "fabric": LEAF_SPINE | {"leaf_oversubscription": 4.0}, "software": BESIDE,
        "routing": {"kind": "ecmp", "queue_pairs": 2}, "training": {"global_batch": 32},
    },
    "sprayed, one slow": {
        "nodes": 4, "fabric": LEAF_SPINE, "routing": {"kind": "spray"}, "software": {"pipeline_overlap": True},
        "degradations": [
            {"accelerator": "node0/gpu1", "factor": 0.7}, {"link": "node1/nic0->unit0/leaf0", "factor": 0.5},
        ],
    },
    "cube mesh": {"nodes": 2, "node": CUBE_MESH, "software": BESIDE},
    "state on the host": {
        "nodes": 2, "software": BESIDE, "node": {**CHIPS, "host": {"pcie_bandwidth": 20e9}, "pcie": {"switches": 2}},
        "training": {"offload": {"optimizer": True}},
    },
    "small boards with a host": {
        "nodes": 2, "software": BESIDE, "node": {**CHIPS, "host": {"pcie_bandwidth": 20e9}},
        "accelerator": {"memory": {"capacity": 3.5e8, "bandwidth": 2e12}},
    },
    "integers exchanged": {
        "nodes": 2, "software": BESIDE, "training": {"compression": {"kind": "int8"}},
        "node": {"collectives": {"patterns": ["ring", "hierarchical", "exchange"]}, **CHIPS},
    },
    "two servers, as PyTorch does": {"nodes": 2, "software": PYTORCH},
    "a second copy of weights": {
        "nodes": 2, "software": {"gradient_overlap": True}, "parallelism": {"zero_stage": 3, "second_copy": 2},
    },
    "experts": {
        "nodes": 2, "software": {"experts": {"dispatcher": "deduplicated", "wait": 1e-4}, "host_issue": 1e-5},
        "model": {**MODEL, "moe": {"experts": 8, "top_k": 2, "ffn": 512, "first_dense": 1}},
    },
}  # fmt: skip


def base(name: str) -> Experiment:
    given = BASES[name]
    node = {**CHIPS, **given.get("node", {})} if "node" not in given else given["node"]
    training = {"global_batch": 32, "sequence_length": 512, **given.get("training", {})}
    return small_experiment(**{"model": MODEL, **given, "node": node, "training": training})


def bounds_of(experiment: Experiment, table: PlanTable, energy: bool = False) -> Bounds:
    cluster = build_cluster(experiment.setup.cluster, experiment.degradations)
    return Bounds(experiment, cluster, with_values(experiment, table.choice(0)), energy)


def sample(table: PlanTable, count: int, seed: int = 0) -> PlanTable:
    rows = sorted(random.Random(seed).sample(range(table.n), min(count, table.n)))
    return table.take(np.array(rows))


def some(table: PlanTable) -> list[dict[str, Any]]:
    return [table.choice(row) for row in range(table.n)]


@pytest.mark.parametrize("name", BASES)
def test_bound_is_never_above_the_simulated_step(name: str) -> None:
    experiment = base(name)
    space = open_space(experiment, axes_of({}, experiment.setup))
    part = sample(space.table, 7, seed=len(name))
    bounds = bounds_of(experiment, space.table).of(part).seconds
    shares = []
    for choice, bound in zip(some(part), bounds, strict=True):
        time = simulate_step(with_values(experiment, choice)).trace.time
        assert bound <= time * (1 + EXACT), choice
        shares.append(bound / time)
    assert np.median(shares) > 0.6  # and it says something


@settings(max_examples=10)
@given(st.data())
def test_bound_holds_for_any_job(data: st.DataObject) -> None:
    experiment = small_experiment(**CASES[data.draw(st.sampled_from(sorted(CASES)))])
    space = open_space(experiment, axes_of({"data": (1, 2, 4, 8)}, experiment.setup))
    part = space.table.take(np.array([data.draw(st.integers(0, space.table.n - 1))]))
    least = bounds_of(experiment, space.table, energy=True).of(part)
    result = simulate(with_values(experiment, part.choice(0)))
    assert least.seconds[0] <= result.step.time_s * (1 + EXACT)
    assert result.energy is not None
    assert least.joules[0] <= result.energy.total_kwh * KWH * (1 + EXACT)


OWNED: dict[str, Any] = {
    "site": {"name": "here", "pue": 1.4, "fixed_overhead": 0.3, "electricity": 0.1},
    "power": {"limit": 300.0},
    "prices": {"name": "bought", "pay": "purchase", "as_of": "2026", "purchase": {"node": 3e5, "life": 1.3e8}},
}
SUPPLY = {"rated": 5e3, "at_10": 0.8, "at_20": 0.9, "at_50": 0.95, "at_100": 0.92}


def test_bound_on_energy_and_cost_holds_on_an_own_site() -> None:
    node = {**CHIPS, "power": {"host": {"idle": 200.0, "busy": 400.0}, "supply": SUPPLY}}
    experiment = small_experiment(nodes=2, node=node, training={"global_batch": 16, "sequence_length": 512}, **OWNED)
    setup = experiment.setup
    space = open_space(experiment, axes_of({"data": (1, 2, 4), "microbatch": (1, 2)}, setup))
    part = sample(space.table, 8)
    least = bounds_of(experiment, space.table, energy=True).of(part)
    floors = np.array([each.floor(setup, least) for each in objectives_of(("energy", "cost"), setup)]).T
    for choice, floor in zip(some(part), floors, strict=True):
        result = simulate(with_values(experiment, choice))
        assert result.energy is not None
        assert result.cost is not None
        worth = np.array([result.energy.total_kwh, result.cost.usd["total"]])
        assert np.all(floor <= worth * (1 + EXACT)), choice
        assert np.all(floor > 0.5 * worth), choice


def test_bound_of_a_plan_does_not_depend_on_its_company() -> None:
    experiment = base("two servers, everything beside")
    part = sample(open_space(experiment, axes_of({}, experiment.setup)).table, 30)
    together = bounds_of(experiment, part).of(part).seconds
    alone = [bounds_of(experiment, part).of(part.take(np.array([row]))).seconds[0] for row in range(part.n)]
    assert together == pytest.approx(alone, rel=1e-12)


# --- rules ------------------------------------------------------------------------------------


def whole(experiment: Experiment, limits: Mapping[str, Sequence[Any]]) -> PlanTable:
    """All plans, also those that a rule forbids."""
    table = PlanTable({}, {})
    for axis in axes_of(limits, experiment.setup):
        table = table.with_axis(axis, experiment.setup)
    return table


def test_rules_forbid_what_checks_object_to() -> None:
    experiment = small_experiment(nodes=2, node=CHIPS, model=MODEL | {"layers": 6}, training={"global_batch": 24})
    table = whole(experiment, {"data": (1, 2, 3), "context": (1, 2, 3), "shard_group": (None, 2)})
    part = sample(table, 400)
    keys = frozenset(axis.key for axis in AXES)
    for rule in CHECKS:
        bad, complete = forbidden(rule, part, experiment, keys)
        assert complete
        said = [bool(list(rule(with_values(experiment, choice).setup))) for choice in some(part)]
        assert bad.tolist() == said, rule.__name__


def test_space_holds_what_no_rule_forbids_and_counts_the_rest() -> None:
    experiment = small_experiment(nodes=1, node=CHIPS, model=MODEL | {"layers": 6}, training={"global_batch": 12})
    limits = {"recompute": ("none",), "schedule": ("1f1b",)}
    space, table = open_space(experiment, axes_of(limits, experiment.setup)), whole(experiment, limits)
    assert space.enumerated == table.n == space.table.n + sum(space.forbidden.values())
    rules = rules_of(axes_of(limits, experiment.setup), experiment.setup)
    valid = [choice for choice in some(table) if not check_experiment(with_values(experiment, choice), rules)]
    assert sorted(map(str, some(space.table))) == sorted(map(str, valid))


OFFERS: dict[str, Any] = {
    "tensor_overlap": "backward",
    "choices": {"context": [1], "zero_stage": [1], "sequence_parallel": [True], "tensor_overlap": ["full"]},
}


def tried(limits: Mapping[str, Sequence[Any]], wide: bool = False) -> dict[str, set[Any]]:
    """The values that remain for each key when the software offers only some."""
    experiment = small_experiment(nodes=1, node=CHIPS, software=OFFERS, training={"global_batch": 4})
    plans = some(open_space(experiment, axes_of(limits, experiment.setup, wide)).table)
    return {key: {plan[key] for plan in plans if plan["parallelism.tensor"] == 2} for key in plans[0]}


def test_what_the_software_does_not_offer_is_left_out() -> None:
    values = tried({})
    assert values["parallelism.context"] == {1}
    assert values["parallelism.sequence_parallel"] == {True}
    assert values["parallelism.zero_stage"] == {0, 1}  # 0 with one replica: there is nothing to shard
    assert values["software.tensor_overlap"] == {"backward", "full"}
    assert values["training.recompute"] == {"none", "selective", "alternate", "full"}
    assert "software.gradient_overlap" not in values


def test_a_wide_space_and_given_values_go_beyond_what_the_software_offers() -> None:
    assert tried({"zero_stage": (3,), "data": (2,)})["parallelism.zero_stage"] == {3}
    values = tried({}, wide=True)
    assert values["parallelism.context"] == {1, 2}
    assert values["parallelism.zero_stage"] == {0, 1, 2, 3}
    assert set(SWITCHES) <= set(values)
    assert values["software.tensor_overlap"] == {"none", "backward", "full"}


@pytest.mark.parametrize(
    "values",
    [
        {"parallelism.sequence_parallel": True},
        {"parallelism.zero_stage": 3},
        {"software.tensor_overlap": "full"},
        {"software.scatter_gather": True},
        {"software.gradient_overlap": False},
        {"software.parameter_prefetch": False},
        {"parallelism.order": SWAPPED},
    ],
)
def test_a_plan_that_repeats_another_is_equal_to_it(values: dict[str, Any]) -> None:
    deep = small_experiment(nodes=1, parallelism={"pipeline": 8}, model={"layers": 8}, software=BESIDE)
    assert_repeats(deep, values)


@pytest.mark.parametrize(
    ("parallelism", "values"),
    [
        ({"tensor": 8}, {"software.pipeline_overlap": True}),
        ({"tensor": 4}, {"parallelism.order": SWAPPED}),
        ({"tensor": 2, "zero_stage": 3}, {"software.gradient_overlap": False}),
        ({"tensor": 2}, {"software.parameter_prefetch": False}),
        ({"tensor": 2, "pipeline": 2, "sequence_parallel": True}, {"software.scatter_gather": True}),
        ({"pipeline": 4}, {"parallelism.schedule": "gpipe", "training.global_batch": 2}),
    ],
)
def test_a_switch_without_effect_is_not_tried(parallelism: dict[str, Any], values: dict[str, Any]) -> None:
    batch = {"global_batch": values.get("training.global_batch", 16)}
    experiment = small_experiment(nodes=1, parallelism=parallelism, software=BESIDE, training=batch)
    assert_repeats(experiment, values)


def assert_repeats(experiment: Experiment, values: Mapping[str, Any]) -> None:
    """`values` make no difference to `experiment`, and the rule says so."""
    repeated = with_values(experiment, values)
    own = {key: attrgetter(key)(experiment) for key in values}
    limits = {key: (own[key], value) for key, value in values.items() if own[key] != value}
    axes = axes_of(limits, experiment.setup)
    assert list(no_repeats(axes, experiment.setup)(repeated.setup))
    one, other = simulate(experiment), simulate(repeated)
    assert (one.step, one.memory, one.energy) == (other.step, other.memory, other.energy)


def test_schedules_are_tried_where_there_is_a_pipeline() -> None:
    experiment = base("one server")

    def schedules(limits: Mapping[str, Sequence[Any]], stages: int) -> set[str]:
        plans = some(open_space(experiment, axes_of(limits, experiment.setup)).table)
        return {plan["parallelism.schedule"] for plan in plans if plan["parallelism.pipeline"] == stages}

    assert schedules({}, stages=2) == {"1f1b", "gpipe"}
    assert schedules({}, stages=1) == {"1f1b"}
    assert schedules({"schedule": ("gpipe",)}, stages=1) == {"gpipe"}


def test_the_only_value_of_a_key_is_tried_even_where_it_has_no_effect() -> None:
    limits = {"zero_stage": (3,), "tensor": (1,), "pipeline": (4,), "sequence_parallel": (True,)}
    experiment = base("one server")
    assert open_space(experiment, axes_of(limits, experiment.setup)).table.n > 0


# --- the best plan ----------------------------------------------------------------------------


NEARER: Sequence[Any] = (("tensor", "context", "expert", "data", "pipeline"),)
ONE_WAY: dict[str, Sequence[Any]] = {
    "context": (1,), "recompute": ("none",), "schedule": ("1f1b",), "order": NEARER,
}  # fmt: skip
SPACES: dict[str, dict[str, Sequence[Any]]] = {
    "small boards with a host": ONE_WAY | {  # zero bubbles, uneven stages and offload
        "tensor": (1, 2), "pipeline": (1, 4), "microbatch": (1, 4), "zero_stage": (0, 1), "schedule": ("1f1b", "zb-h1"),
        "layers_per_stage": ("even", "lighter_ends"), "training.offload.optimizer": (False, True),
        "training.offload.activations": (False, True),
    },
    "one server": ONE_WAY | {"microbatch": (1, 4)},
    "two servers, everything beside": {
        "tensor": (2,), "microbatch": (4,), "recompute": ("none",), "context": (1,),
        "zero_stage": (0, 1, 3), "virtual_stages": (1, 2), "order": NEARER,
    },
    "shares sent and gathered": {
        "microbatch": (4,), "recompute": ("selective",), "zero_stage": (0, 1), "context": (1,), "order": NEARER,
    },
    "stages with lighter ends, split gradients": {
        "tensor": (1,), "context": (1,), "pipeline": (2, 4), "virtual_stages": (1, 2), "microbatch": (2,),
        "zero_stage": (0,), "recompute": ("none",), "order": NEARER, "schedule": ("1f1b", "zb-h1"),
        "layers_per_stage": ("even", "lighter_ends"),
    },
    "no prefetch, slow host": ONE_WAY | {"tensor": (1, 2), "microbatch": (4,)},
    "four to one, hashed": ONE_WAY | {
        "tensor": (4,), "pipeline": (2, 4), "microbatch": (4,), "schedule": ("1f1b",), "zero_stage": (0, 1),
    },
}  # fmt: skip


def exhaustive(experiment: Experiment, limits: Mapping[str, Sequence[Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Every valid plan that fits and repeats no other, with its time, best first."""
    plans = [(choice, with_values(experiment, choice)) for choice in some(whole(experiment, limits))]
    rules = rules_of(axes_of(limits, experiment.setup), experiment.setup)
    valid = [
        (choice, plan) for choice, plan in plans if not check_experiment(plan, rules) and not lacking_bytes(plan.setup)
    ]
    timed = [(simulate_step(plan).trace.time, choice) for choice, plan in valid]
    return sorted(timed, key=lambda each: each[0])


@pytest.mark.parametrize("name", SPACES)
def test_search_finds_what_trying_everything_finds(name: str) -> None:
    experiment, limits = base(name), SPACES[name]
    everything = exhaustive(experiment, limits)
    found = search_plans(experiment, limits, top=1, jobs=1)
    assert found.complete
    assert found.plans[0].step_s == pytest.approx(everything[0][0], rel=EXACT)
    assert found.simulated < len(everything)
    assert _total(found) == found.enumerated


def test_all_of_the_best_are_found() -> None:
    experiment, limits = base("one server"), SPACES["one server"]
    unique = open_space(experiment, axes_of(limits, experiment.setup)).table
    times = sorted(simulate_step(with_values(experiment, choice)).trace.time for choice in some(unique))
    found = search_plans(experiment, limits, top=7, jobs=1)
    apart = [seconds for n, seconds in enumerate(times) if not n or seconds > times[n - 1] * (1 + EXACT)]
    assert [plan.step_s for plan in found.plans] == pytest.approx(apart[:7], rel=EXACT)
    alike = sum(seconds <= apart[6] * (1 + EXACT) for seconds in times)
    assert sum(1 + len(plan.twins) for plan in found.plans) == alike


def test_pareto_set_is_that_of_trying_everything() -> None:
    experiment = base("one server")
    limits = SPACES["one server"] | {"microbatch": (4,), "data": (1, 2, 4)}
    found = search_plans(experiment, limits, ("time", "energy"), jobs=1)
    worth = set()
    for choice in some(open_space(experiment, axes_of(limits, experiment.setup)).table):
        result = simulate(with_values(experiment, choice))
        assert result.energy is not None
        worth.add((result.step.time_s, result.energy.total_kwh))
    best = {w for w in worth if not any(o[0] <= w[0] and o[1] <= w[1] and o != w for o in worth)}
    assert {(plan.worth["time"], plan.worth["energy"]) for plan in found.plans} == best


OWN_A100: dict[str, Any] = {
    "workload": "megatron-22b", "cluster": "dgx-a100-superpod", "nodes": 1, "software": "megatron-lm-2022",
    "prices": "own-a100", "site": "industry-average",
    "training": {"global_batch": 4, "sequence_length": 2048, "precision": "fp16"},
}  # fmt: skip


def test_22b_on_eight_accelerators_is_solved_by_every_objective() -> None:
    question = open_question(OWN_A100, [], ["microbatch=2", "tensor_overlap=backward", "scatter_gather=true"])
    experiment, limits = question.loaded.experiment, question.limits
    plans = some(open_space(experiment, axes_of(limits, experiment.setup)).table)
    results = [flatten(simulate(with_values(experiment, plan))) for plan in plans]
    fitting = [result for result in results if result["memory.fits"]]
    assert 0 < len(fitting) < len(results)
    for objective in objectives_of(("time", "energy", "cost"), experiment.setup):
        everything = sorted(result[objective.field] for result in fitting)
        found = search_plans(experiment, limits, (objective.name,), top=5, jobs=1)
        assert [plan.worth[objective.name] for plan in found.plans] == pytest.approx(everything[:5], rel=1e-12)


def test_plans_that_do_not_fit_are_left_out() -> None:
    experiment = small_experiment(
        nodes=1, node=CHIPS, model=MODEL, training={"global_batch": 16, "sequence_length": 512},
        accelerator={"memory": {"capacity": 1e9, "bandwidth": 2e12}},
    )  # fmt: skip
    found = search_plans(experiment, {"context": (1,), "microbatch": (1, 4)}, top=1, jobs=1)
    assert found.no_fit > 0
    assert simulate(winner_of(experiment, found)).memory.fits


def test_where_nothing_fits_the_least_that_lacks_is_told() -> None:
    experiment = small_experiment(
        nodes=1, node=CHIPS, model=MODEL, training={"global_batch": 16, "sequence_length": 512},
        accelerator={"memory": {"capacity": 1e7, "bandwidth": 2e12}},
    )  # fmt: skip
    limits = SPACES["one server"] | {"tensor": (4,), "microbatch": (1,)}
    found = search_plans(experiment, limits, jobs=1)
    plans = some(open_space(experiment, axes_of(limits, experiment.setup)).table)
    peaks = [simulate(with_values(experiment, plan)).memory.peak_bytes_per_accelerator for plan in plans]
    assert found.no_fit == len(plans)
    assert not found.plans
    assert found.lacking_bytes == pytest.approx(min(peaks) - 1e7)  # one stage each


def test_alternatives_are_the_best_with_another_value() -> None:
    experiment, limits = base("one server"), SPACES["one server"]
    found = search_plans(experiment, limits, top=1, jobs=1)
    everything = exhaustive(experiment, limits)
    for each in found.alternatives:
        chosen = found.plans[0].values[each.key]
        true = min(time for time, choice in everything if choice[each.key] != chosen)
        assert found.plans[0].step_s <= true * (1 + EXACT)
        assert each.worth <= true * (1 + EXACT)
        assert each.proven or each.worth == pytest.approx(true, rel=EXACT)


def _total(search: PlanSearch) -> int:
    fates = search.no_fit + search.bounded + search.simulated + search.untried + sum(search.failed.values())
    return fates + sum(search.forbidden.values())


def test_interrupted_search_tells_the_best_so_far() -> None:
    def stop(what: str, share: float) -> None:
        if what == "simulating" and share > 0:
            raise KeyboardInterrupt

    found = search_plans(base("one server"), SPACES["one server"], top=30, jobs=1, progress=stop)
    assert not found.complete
    assert found.untried > 0
    assert _total(found) == found.enumerated


def test_no_valid_plan_is_told_with_the_rules() -> None:
    with pytest.raises(PlanError, match=r"none of \d+ plans is valid: .*heads"):
        search_plans(base("one server"), {"tensor": (3,), "pipeline": (1,), "context": (1,)}, jobs=1)


@pytest.mark.parametrize(("objective", "what"), [("speed", "no objective"), ("cost", "nothing has a price")])
def test_wrong_objective_is_refused(objective: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        search_plans(base("one server"), {}, (objective,), jobs=1)


def test_twins_are_one_row_and_of_near_equals_the_one_with_memory_to_spare_is_taken() -> None:
    experiment, limits = base("one server"), SPACES["one server"]
    found = search_plans(experiment, limits, top=10, jobs=1)
    assert len({plan.step_s for plan in found.plans}) == 10
    near = [plan for plan in found.plans if plan.step_s <= found.plans[0].step_s * (1 + NEAR)]
    assert found.plans[found.choice].memory_bytes == min(plan.memory_bytes for plan in near)
    out = StringIO()
    print_search(replace(found, choice=1), Console(file=out, width=100))
    assert "Row 2 is taken" in out.getvalue()
    assert "just as well" in out.getvalue() or not any(plan.twins for plan in found.plans)


def test_reasons_add_up_to_the_difference() -> None:
    experiment = base("one server")
    found = search_plans(experiment, SPACES["one server"], top=3, jobs=1)
    out = StringIO()
    print_reasons(found, Console(file=out, width=400))
    first, second = found.plans[:2]
    gaps = {part: second.breakdown_s[part] - first.breakdown_s[part] for part in first.breakdown_s}
    assert sum(gaps.values()) == pytest.approx(second.step_s - first.step_s, abs=1e-9)
    largest = max(gaps, key=lambda part: abs(gaps[part]))
    assert f"{LABELS[largest]} {'+' if gaps[largest] > 0 else '-'}" in out.getvalue().splitlines()[2]


def test_what_is_kept() -> None:
    top, front = TopPlans(2), ParetoFront()
    for row, worth in enumerate([(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 3.0)]):
        top.add(row, np.array(worth))
        front.add(row, np.array(worth))
    assert top.rows == [1, 2, 3]  # twins count once
    assert front.rows == [1, 2, 0]
    assert top.beats(np.array([[2.1], [2.0]])).tolist() == [True, False]
    assert front.beats(np.array([(2.0, 2.5), (2.0, 2.0)])).tolist() == [True, False]


# --- files and the command --------------------------------------------------------------------


LIMITS = (
    "tensor=1,2",
    "pipeline=1,2",
    "context=1",
    "microbatch=1,2",
    "recompute=none",
    "schedule=1f1b",
    "zero_stage=3",
)


def test_limits_are_read_as_in_a_file() -> None:
    space = [
        "order=[[tensor, data, context, expert, pipeline]]",
        "training.recompute=none,full",
        "tensor_overlap=full",
        "wide",
    ]
    question = open_question("quickstart", [], space)
    assert question.limits == {
        "parallelism.order": (("tensor", "data", "context", "expert", "pipeline"),),
        "training.recompute": ("none", "full"),
        "software.tensor_overlap": ("full",),
    }
    assert question.wide


@pytest.mark.parametrize("text", ["tensor", "tensor=", "colour=1", "tensor=two", "recompute=some"])
def test_wrong_limits_are_refused(text: str, cli: Cli) -> None:
    outcome = cli("plan", "quickstart", "--space", text)
    assert outcome.code == 3
    assert "Traceback" not in outcome.err


def test_command_prints_the_best_and_writes_a_file_that_runs(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    options = [part for limit in LIMITS for part in ("--space", limit)]
    outcome = cli("plan", "llama3-8b-dgx-h100", *options, "-o", file, "-j", 1, "--top", 3)
    assert outcome.code == 0, outcome.err
    assert "The best 3 by time" in outcome.out
    assert "simulated" in outcome.out
    run = cli("run", file, "--json")
    assert run.code == 0, run.err
    again = open_question(str(file), [], [])
    assert f"{simulate(again.loaded.experiment).step.time_s:.2f} s" in outcome.out


def test_model_and_cluster_are_enough(cli: Cli) -> None:
    training = ("--set", "training.global_batch=16", "--set", "training.sequence_length=1024")
    options = [part for limit in LIMITS for part in ("--space", limit)]
    outcome = cli("plan", "--workload", "llama3-8b", "--cluster", "dgx-h100", *training, *options, "-j", 1, "--json")
    assert outcome.code == 0, outcome.err
    assert '"enumerated"' in outcome.out


def test_winning_file_keeps_the_experiment_but_its_measurement() -> None:
    question = open_question("korthikanti-22b-full", [], ["tensor=8", "microbatch=4", "zero_stage=0"])
    found = search_plans(question.loaded.experiment, question.limits, top=1, jobs=1)
    text = winning_file(question, found)
    assert "\nmeasured: null" in text
    assert "name: korthikanti-22b-full-best" in text
    assert "extends: korthikanti-22b-full\n" in text
    assert len(text.splitlines()) < 30
