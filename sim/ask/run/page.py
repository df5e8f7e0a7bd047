"""The page of a run: its result, with pictures from the same step simulated in detail.

Public: `page_of`.
"""

from __future__ import annotations

import json

from sim.ask.run.timeline import simulated_for_timeline
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.metrics.pictures import Pictures, pictures
from sim.metrics.result import Result
from sim.report.page.run import run_page


def page_of(result: Result) -> str:
    """The HTML page of a result; without pictures if its input is not one of this version."""
    return run_page(result, _pictures(result), json.dumps(result.manifest, indent=2))


def _pictures(result: Result) -> Pictures | None:
    try:
        experiment = load_experiment(result.manifest, si=True).experiment
    except ConfigError:
        return None
    run = simulated_for_timeline(experiment)
    return pictures(run.trace, run.plan, run.job, run.cluster)
