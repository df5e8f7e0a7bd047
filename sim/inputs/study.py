"""Study files: one base experiment, what varies, what must hold and what is best.

Public: `Study`, `Axis`, `LinearRange`, `LogRange`, `Objective`, `Sampling`, `Search`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sim.inputs.expression import ExpressionText
from sim.record import Name, Record
from sim.units import Count

Bound = int | float | str


class LinearRange(Record):
    """Values at equal distances, both ends included. Neither step nor count: every value between, for sampling."""

    first: Bound = Field(description="least value, with its unit if it has one")
    last: Bound = Field(description="largest value, in the same unit")
    step: Bound | None = Field(default=None, description="distance of neighbours, in the same unit")
    count: Count | None = Field(default=None, ge=2, le=1_000_000, description="number of values, instead of a step")


class LogRange(Record):
    """Values at equal ratios, both ends included. Neither factor nor count: every value between, for sampling."""

    first: Bound = Field(description="least value, with its unit if it has one")
    last: Bound = Field(description="largest value, in the same unit")
    factor: float | int | None = Field(default=None, gt=1, description="ratio of neighbours")
    count: Count | None = Field(default=None, ge=2, le=1_000_000, description="number of values, instead of a factor")


class Axis(Record):
    """One thing that varies; the points of a study are all combinations of its axes."""

    key: str | None = Field(default=None, min_length=1, description="key path of the experiment, such as parallelism.tensor")
    values: tuple[Any, ...] | None = Field(default=None, min_length=1, description="the values of the key, one after the other")
    range: LinearRange | None = Field(default=None, description="values at equal distances")
    log_range: LogRange | None = Field(default=None, description="values at equal ratios")
    zip: dict[str, tuple[Any, ...]] | None = Field(default=None, min_length=1, description="keys that change together, instead of `key`: a list of values for each")
    when: ExpressionText | None = Field(default=None, description="vary only where this holds, else keep the base's value; sees the base and earlier axes")


class Objective(Record):
    """What is best: one of the two."""

    minimize: ExpressionText | None = Field(default=None, description="a result or an expression, such as step.time_s; less is better")
    maximize: ExpressionText | None = Field(default=None, description="the same; more is better")


class Sampling(Record):
    """Which of all combinations are simulated."""

    method: Literal["full", "random", "latin_hypercube", "sobol"] = Field(default="full", description="all, or a sample of the space")
    points: Count | None = Field(default=None, ge=1, le=1_000_000, description="size of the sample; not for full")
    seed: int = Field(default=0, ge=0, description="seed of the sample")


class Search(Record):
    """Looks for the best points, generation by generation, instead of sampling."""

    trials: Count = Field(ge=1, le=1_000_000, description="points to try in all")
    sampler: Literal["tpe", "nsga2", "random"] | None = Field(default=None, description="how Optuna proposes points; tpe for one objective, nsga2 for several if absent")
    population: Count = Field(default=16, ge=1, le=100_000, description="points of a generation: proposed together, simulated in parallel")
    seed: int = Field(default=0, ge=0, description="seed of the search")


class Study(Record):
    """Many experiments that differ from one base."""

    name: Name = Field(default="study", description="name in reports; the file name if absent")
    description: str = Field(default="", description="one line for people")
    base: str | dict[str, Any] = Field(description="experiment by name, path or inline")
    axes: tuple[Axis, ...] = Field(default=(), description="what varies, the last axis fastest")
    constraints: tuple[ExpressionText, ...] = Field(default=(), description="what must hold, such as parallelism.tensor <= 8 or memory.fits; on inputs alone it saves the simulation")
    objectives: tuple[Objective, ...] = Field(default=(), description="what is best; several make a Pareto set")
    sampling: Sampling = Field(default=Sampling(), description="which combinations are simulated")
    search: Search | None = Field(default=None, description="look for the best instead of sampling")
    seeds: Count = Field(default=1, ge=1, le=1_000_000, description="runs of each point, with seeds that count up from the base's")
