"""Passes that go forward alone beside the steps of a training: evaluation, and a teacher.

Public: `Evaluation`, `FORWARD_CHECKS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from sim.errors import Problem, finding
from sim.record import Record
from sim.units import Count

if TYPE_CHECKING:  # setups hold experiments, which hold these records
    from sim.inputs.setup import Setup

KEY = "teacher"


class Evaluation(Record):
    """The model on samples that it is not trained on: forward alone, the same plan, all replicas."""

    every: Count = Field(ge=1, le=1_000_000_000, description="steps between two evaluations")
    samples: Count = Field(ge=1, le=1_000_000_000_000, description="samples of one evaluation, over all replicas")


def check_teacher(setup: Setup) -> Iterator[Problem]:
    """The plan suits the teacher too, and both say the same words."""
    if setup.experiment.teacher is None:
        return
    model = setup.taught.workload
    for rule in model.rules:
        for problem in rule(model, setup.parallelism, setup.taught.training):
            yield finding(KEY, f"{model.name}: {problem.message}", problem.suggestion)
    if model.layers < setup.parallelism.pipeline:
        yield finding(KEY, f"{model.layers} layers for {setup.parallelism.pipeline} stages", "use fewer stages")
    words = [getattr(each, "vocab", None) for each in (model, setup.workload)]
    if None not in words and words[0] != words[1]:
        message = f"{words[0]} words of {model.name}, {words[1]} of {setup.workload.name}"
        yield finding(KEY, message, "use a teacher with the same vocabulary")


FORWARD_CHECKS = (check_teacher,)
