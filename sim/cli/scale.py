"""The verb `scale`: strong and weak scaling."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import BadParameter, Option

from sim.cli import output
from sim.cli.run import AsJson, Overrides, Source


class Mode(StrEnum):
    """What grows with the cluster."""

    strong = "strong"
    weak = "weak"
    both = "both"


def scale(
    source: Source,
    nodes: Annotated[str, Option("--nodes", metavar="LIST", help="Sizes: 16..2048 doubles, or 16,24,32.")],
    mode: Annotated[Mode, Option("--mode", help="Keep the batch, let it grow with the cluster, or both.")] = Mode.both,
    overrides: Overrides = None,
    replan: Annotated[bool, Option("--replan", help="Search the best plan for each size.")] = False,
    tokens: Annotated[
        str | None, Option("--tokens", metavar="COUNT|NAME", help="Token target: 1T, hoffmann or parametric.")
    ] = None,
    critical: Annotated[
        str | None,
        Option("--critical-batch", metavar="COUNT", help="Critical batch size in tokens; from the loss if absent."),
    ] = None,
    workers: Annotated[
        int | None, Option("--workers", "-j", min=1, help="Processes; as many as processors if absent.")
    ] = None,
    csv: Annotated[Path | None, Option("--csv", metavar="FILE", help="Also write a row for each size.")] = None,
    html: Annotated[Path | None, Option("--html", metavar="FILE", help="Also write a page for the browser.")] = None,
    json: AsJson = False,
) -> int:
    """Simulate an experiment on clusters of many sizes.

    Exit code 1 says that no size could be simulated.
    """
    from sim.ask.scale.scaling import node_counts
    from sim.ask.scale.scaling import scale as study_of
    from sim.cli.progress import told
    from sim.inputs.load import load_experiment
    from sim.report.files import deliver, write_text
    from sim.report.page.scaling import scaling_page
    from sim.report.scaling import print_scaling, scaling_csv

    counts = node_counts(nodes)
    target = tokens if tokens in (None, "hoffmann", "parametric") else _count(tokens, "--tokens")
    batch = None if critical is None else _count(critical, "--critical-batch")
    experiment = load_experiment(source, overrides or []).experiment
    with told(experiment.name) as progress:
        study = study_of(
            experiment,
            counts,
            mode.value,
            replan=replan,
            tokens=target,
            critical=batch,
            jobs=workers,
            progress=progress,
        )

    def show() -> None:
        if json:
            output.emit_json(study.to_json())
        else:
            output.emit_rich(lambda console: print_scaling(study, console))

    def keep_rows() -> None:
        if csv:
            write_text(csv, scaling_csv(study), "--csv")

    def keep_page() -> None:
        if html:
            write_text(html, scaling_page(study), "--html")

    deliver(keep_rows, keep_page, show)
    if not study.complete:
        output.say("interrupted")
        return output.INTERRUPTED
    return output.FINE if any(point.step_s for point in study.points) else output.MISSED


def _count(text: str, option: str) -> float:
    from sim.units import QuantityError, parse_count

    try:
        count = parse_count(text)
    except QuantityError as error:
        raise BadParameter(str(error), param_hint=option) from None
    if count <= 0:
        raise BadParameter(f"{text} is not above 0", param_hint=option)
    return float(count)
