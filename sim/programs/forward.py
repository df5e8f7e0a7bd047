"""How long passes take that go forward alone: an evaluation, a teacher.

Public: `forward_seconds`.
"""

from __future__ import annotations

from sim.layout.plan import send_kind
from sim.phase import Phase
from sim.programs.costs import Costs, Place
from sim.programs.exchange import Traffic
from sim.programs.ranks import Job


def forward_seconds(job: Job, microbatches: int) -> float:
    """Seconds until so many microbatches of each replica have gone through all stages, with nothing beside them.

    Stages in a row take sum + (m - 1) * longest, whatever the others are. Stages with several chunks run them one after
    the other. Sends are waited for unless the stack hides them; ZeRO-3 gathers the weights of a stage beside the pass
    before, or ahead of each.
    """
    costs, software = Costs(job), job.plan.software
    stages = []
    for number, ranks in enumerate(job.stages):
        chunks = job.plan.course.chunks[number]
        passes = max(
            sum(costs.chain(Place(rank.number, Phase.FORWARD, chunk)).seconds for chunk in chunks) for rank in ranks
        )
        if job.plan.experiment.parallelism.zero_stage == 3:
            gather = max(_gather(job, costs, rank.flows.get("gradient", -1), number) for rank in ranks)
            passes = max(passes, gather) if software.parameter_prefetch else passes + gather
        flows = [rank.flows[send_kind(1)] for rank in ranks if send_kind(1) in rank.flows]
        send = 0.0
        if number + 1 < len(job.stages) and flows:
            send = max(job.seconds(flow, "send", costs.stage_message) for flow in flows)
        stages.append((passes, send, max(passes, send) if software.pipeline_overlap else passes + send))
    longest = max(beat for *_, beat in stages)
    return sum(passes + send for passes, send, _ in stages) + (microbatches - 1) * longest


def _gather(job: Job, costs: Costs, flow: int, stage: int) -> float:
    """Seconds to gather the sharded weights of a stage."""
    if flow < 0:
        return 0.0
    parameters = sum(
        segment.exchanged("parameters", "gradient")
        for chunk in job.plan.chunks
        if chunk.stage == stage
        for segment in chunk.segments
    )
    return job.seconds(flow, "all_gather", costs.bytes_of(Traffic.WEIGHTS, parameters))
