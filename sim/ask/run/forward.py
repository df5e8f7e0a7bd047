"""Passes beside the steps of a training: what a step takes longer for a teacher, and in the mean for evaluations.

Public: `forward_passes`.
"""

from __future__ import annotations

from math import ceil

from sim.ask.run.reuse import plan_step
from sim.inputs.records import Experiment
from sim.metrics.result import ForwardPasses
from sim.programs.forward import forward_seconds
from sim.programs.ranks import Job, build_job

LOGIT_PASSES = 5  # over an element of logits: those of both models are read twice, and a gradient is written
LOGIT_BYTES = 2


def forward_passes(job: Job, experiment: Experiment) -> ForwardPasses | None:
    """What passes go forward alone in the training of a job, None if none do. Raises ConfigError, PlanError."""
    training, setup = experiment.training, experiment.setup
    if experiment.teacher is None and training.evaluation is None:
        return None
    teacher_s = evaluation_s = 0.0
    if experiment.teacher is not None:
        taught = build_job(plan_step(setup.taught.experiment))
        teacher_s = forward_seconds(taught, setup.microbatches) + setup.microbatches * _loss_seconds(job)
    if training.evaluation is not None:
        microbatches = ceil(training.evaluation.samples / (setup.data * training.microbatch))
        evaluation_s = forward_seconds(job, microbatches)
    every = training.evaluation.every if training.evaluation else 0
    return ForwardPasses(teacher_s, evaluation_s, every)


def _loss_seconds(job: Job) -> float:
    """What the loss of a microbatch takes longer: logits of both models are compared."""
    plan, memory = job.plan, job.plan.cluster.accelerator.memory
    words = getattr(plan.model, "vocab", 0)
    elements = plan.shard.microbatch * plan.shard.sequence_length * words / plan.shard.tensor / plan.shard.context
    return float(elements * LOGIT_PASSES * LOGIT_BYTES / (memory.bandwidth * memory.efficiency))
