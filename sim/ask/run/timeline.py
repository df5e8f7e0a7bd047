"""The timeline of one step, in files that viewers open.

Public: `simulated_for_timeline`, `window`, `write_timeline`, `write_picture`, `write_profiler_traces`, `parse_ranks`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

from sim.ask.run.step import Simulated, simulate_step
from sim.errors import ConfigError, Problem
from sim.inputs.records import Experiment
from sim.metrics.replay import recorded_spans
from sim.metrics.timeline import Timeline, timeline
from sim.report.files import replacing, write_text
from sim.report.timeline import check_size, chrome_events, profiler_trace, write_events
from sim.report.timeline_picture import timeline_picture

SHOWN = 8  # ranks, if none are asked for


def simulated_for_timeline(experiment: Experiment) -> Simulated:
    """The step with each collective as an event of its own; its times are those of any other run."""
    options = experiment.simulation.model_copy(update={"coalesce": "off"})
    return simulate_step(experiment.model_copy(update={"simulation": options}))


def window(run: Simulated, ranks: Sequence[int], begin: float = 0.0, end: float = inf) -> Timeline:
    """What the ranks do between `begin` and `end` [s]; without ranks, one of each pipeline stage first.

    Raises ConfigError for ranks that the job has not.
    """
    world = run.plan.grid.n_ranks
    wrong = [rank for rank in ranks if not 0 <= rank < world]
    if wrong:
        raise ConfigError(
            Problem("", "--ranks", f"rank {wrong[0]} is not there", f"the job has ranks 0 to {world - 1}")
        )
    shown = timeline(run.trace, run.plan, run.cluster, ranks or default_ranks(run), begin, end)
    recorded = [span for span in recorded_spans(run.job, list(shown.places)) if span.end > begin and span.start < end]
    return replace(shown, recorded=tuple(recorded))


def default_ranks(run: Simulated) -> list[int]:
    """One rank of each kind, at most SHOWN."""
    return sorted(rank.representative for rank in run.job.ranks)[:SHOWN]


def write_timeline(shown: Timeline, file: Path, limit: float) -> int:
    """Write for Chrome and Perfetto; returns the size in bytes. Raises ConfigError if it is over `limit`."""
    return write_events(chrome_events(shown), file, limit)


def write_picture(shown: Timeline, file: Path, limit: float) -> None:
    """Write one SVG picture. Raises ConfigError if it is over `limit` bytes, OutputError if it cannot be written."""
    text = timeline_picture(shown)
    check_size(len(text.encode()), file, limit)
    write_text(file, text, "--output")


def write_profiler_traces(run: Simulated, shown: Timeline, folder: Path) -> list[Path]:
    """Write one compressed file per rank as torch.profiler does, for trace analysers. Raises OutputError."""
    names = dict.fromkeys(kind.accelerator.name for kind in run.cluster.kinds)
    world, device = run.plan.grid.n_ranks, " and ".join(names)
    files = []
    for rank in shown.places:
        file = folder / f"rank-{rank}.json.gz"
        with replacing(file, "--output") as part, gzip.open(part, "wt") as out:
            json.dump(profiler_trace(shown, rank, world, device), out)  # readers look for `"rank": `, with the blank
        files.append(file)
    return files


def parse_ranks(text: str) -> list[int]:
    """The ranks in a text such as `0,8,16..23`. Raises ValueError."""
    ranks: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        ranks += range(int(first), int(last) + 1) if dots else [int(first)]
    return list(dict.fromkeys(ranks))
