"""The errors of the published runs, kept beside them, and the trust band of a new run.

Public: `trust_of`, `traits_of`, `residuals_of`, `read_residuals`, `write_residuals`, `RESIDUALS`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

from sim.inputs.catalogue import catalogue_root
from sim.inputs.records import Experiment
from sim.inputs.setup import Setup
from sim.metrics.result import Trust
from sim.metrics.trust import Bands, Residual
from sim.metrics.validation import Row, RunTraits
from sim.transforms.recompute import recompute_text

RESIDUALS = Path("experiments/validation/residuals.csv")  # in the catalogue
_PLAN: dict[str, Callable[[str], Any]] = {
    field.name: int if field.type == "int" else str for field in fields(RunTraits)
}


MIXED = "several kinds of node in one job, of which no run was measured"


def trust_of(experiment: Experiment) -> Trust | None:
    """How published runs like `experiment` were predicted; of several kinds of node, as on the least trusted.

    None for a step that was recorded, unlike all of them; none of them had workers that do not step together.
    """
    if experiment.setup.workload.replay:
        return None
    kinds = experiment.setup.kinds
    found = [shipped_bands().trust(traits_of(kind.experiment)) for kind in kinds]
    told = [trust for trust in found if trust is not None]
    if not told:
        return None
    trust = max(told, key=lambda trust: inf if trust.band is None else trust.band)
    if len(kinds) > 1:
        trust = replace(trust, extrapolates=(MIXED, *trust.extrapolates))
    if experiment.synchronization is not None:
        unlike = f"synchronization {experiment.synchronization.kind}"
        trust = replace(trust, band=None, extrapolates=(unlike, *trust.extrapolates))
    return trust


@cache  # reads a file, for each run of a process
def shipped_bands() -> Bands:
    """The bands of the runs that ship with the program."""
    file = catalogue_root() / RESIDUALS
    return Bands(read_residuals(file) if file.exists() else ())


def read_residuals(file: Path) -> tuple[Residual, ...]:
    """The residuals in a file that `write_residuals` wrote."""
    with file.open(encoding="utf-8", newline="") as lines:
        return tuple(
            Residual(
                line["source"],
                line["name"],
                float(line["error"]),
                RunTraits(**{name: kind(line[name]) for name, kind in _PLAN.items()}),
            )
            for line in csv.DictReader(lines)
        )


def residuals_of(rows: Iterable[Row]) -> tuple[Residual, ...]:
    """The errors of the runs that could be predicted."""
    return tuple(Residual(row.source, row.name, row.error, row.plan) for row in rows if row.plan is not None)


def write_residuals(rows: Iterable[Row], file: Path) -> None:
    """Write the errors of the runs that could be predicted, one line each."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        table = csv.writer(lines, lineterminator="\n")
        table.writerow(["source", "name", "error", *_PLAN])
        for residual in residuals_of(rows):
            table.writerow([residual.source, residual.name, f"{residual.error:.6f}", *asdict(residual.plan).values()])


def _network(setup: Setup) -> int:
    """What a rank can send to other nodes [MB/s]; 0 within one node, or where links between nodes are not adapters."""
    nics, node = setup.node.nics, setup.node
    return 0 if setup.cluster.nodes == 1 else round(nics.count * nics.bandwidth / node.accelerators / 1e6)


def traits_of(experiment: Experiment) -> RunTraits:
    """What tells the run from others."""
    setup = experiment.setup
    parallelism, training = setup.parallelism, setup.training
    hidden, head = setup.workload.widths
    return RunTraits(
        accelerator=setup.accelerator.name,
        accelerators=setup.ranks,
        per_node=setup.node.accelerators,
        model=setup.workload.name,
        hidden=hidden,
        layers=setup.workload.layers,
        head_dim=head,
        precision=training.precision,
        recompute=recompute_text(training.recompute),
        software=setup.software.name,
        tensor=parallelism.tensor,
        pipeline=parallelism.pipeline,
        context=parallelism.context,
        data=setup.data,
        zero_stage=parallelism.zero_stage,
        microbatch=training.microbatch,
        microbatches=setup.microbatches,
        sequence_length=training.sequence_length or 0,
        family=f"{setup.workload.kind} with experts" if setup.workload.experts else setup.workload.kind,
        trained="lora" if training.lora else "all",
        attention=_attention(setup),
        vendor=setup.accelerator.vendor,
        local=setup.node.local.kind if setup.node.accelerators > 1 else "none",
        network=_network(setup),
        assumed=len(setup.accelerator.assumed),
    )


def _attention(setup: Setup) -> str:
    """The attention kernel."""
    fuses = setup.workload.fuses_attention
    return "none" if fuses is None else setup.software.attention_kernel if fuses else "unfused"
