"""The verbs under `export`: our runs in formats of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import BadParameter, Option, Typer

from sim.cli import output
from sim.cli.run import Overrides, Source, writable

app = Typer(
    name="export",
    help="Give runs to other programs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def group() -> None:
    """Give runs to other programs."""


@app.command("chakra")
def chakra(
    source: Source,
    folder: Annotated[Path, Option("--output", "-o", metavar="DIR", help="Folder for NAME.RANK.et and NAME.json.")],
    overrides: Overrides = None,
    ranks: Annotated[str, Option("--ranks", metavar="LIST", help="Such as 0,8,16..23; all if absent.")] = "",
) -> int:
    """Write a simulated step as Chakra execution traces, a file for each rank, and the file of communicators.

    ASTRA-sim and others that read the current schema take them; `import chakra` reads them back without loss.
    """
    from sim.ask.run.chakra import write_chakra
    from sim.ask.run.timeline import parse_ranks
    from sim.inputs.load import load_experiment

    try:
        chosen = parse_ranks(ranks) if ranks else []
    except ValueError:
        raise BadParameter(f"{ranks!r} is no list of ranks such as 0,8,16..23", param_hint="--ranks") from None
    experiment = load_experiment(source, overrides or []).experiment
    writable(folder)
    written = write_chakra(experiment, chosen, folder)
    for remark in written.remarks:
        output.say(remark)
    output.say(f"wrote {len(written.files)} files of {written.nodes:,} nodes to {folder}")
    return output.FINE
