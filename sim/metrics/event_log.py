"""The log of a life: everything that happened to a job, in order of time.

Public: `life_events`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

from sim.life.life_inputs import Fault, Incident, Life, Repair, Span, called

Row = dict[str, Any]


def life_events(life: Life) -> Iterator[Row]:
    """Rows with `time_s` and `event`, by time; docs/how-to/failures.md says what else is in them.

    Stops of the job are incidents, other faults rows of their own. Single saves have no rows: a stretch of
    training with all its saves is one phase, or two.
    """
    rows = [
        *map(_phase, life.spans),
        *(_fault(fault) for fault in life.faults if fault.effect != "stop"),
        *(_incident(incident, life.names) for incident in life.incidents),
        *map(_repair, life.repairs),
    ]
    yield from sorted(rows, key=itemgetter("time_s"))
    yield {"time_s": life.elapsed_s, "event": "end", "outcome": life.outcome, "steps": life.steps}


def _phase(span: Span) -> Row:
    nodes = {"busy_nodes": span.busy_nodes, "spare_nodes": span.spare_nodes, "down_nodes": span.down_nodes}
    state = {"replicas": span.state.replicas, "slow_parts": len(span.state.slow)}
    times = {"until_s": span.end, "seconds": span.seconds}
    return {"time_s": span.start, "event": "phase", "phase": span.phase} | times | nodes | state


def _fault(fault: Fault) -> Row:
    return {
        "time_s": fault.time,
        "event": "fault",
        "cause": fault.cause,
        "component": fault.component,
        "nodes": list(fault.nodes),
        "effect": fault.effect,
    }


def _incident(incident: Incident, names: Mapping[int, str]) -> Row:
    return {
        "time_s": incident.time,
        "event": "incident",
        "cause": incident.cause,
        "component": incident.component,
        "nodes": list(incident.nodes),
        "names": list(called(incident.nodes, names)),
        "action": incident.action,
        "downtime_s": incident.downtime_s,
        "lost_steps": incident.lost_steps,
    }


def _repair(repair: Repair) -> Row:
    return {"time_s": repair.asked, "event": "repair", "began_s": repair.began, "until_s": repair.ended}
