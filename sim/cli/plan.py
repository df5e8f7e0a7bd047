"""The verb `plan`: the best parallel plan for a model on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from sim.cli import complete, output
from sim.cli.run import AsJson, Overrides


def plan(
    source: Annotated[
        str | None,
        Argument(
            metavar="[FILE|NAME]",
            help="An experiment; its own plan need not be valid.",
            autocompletion=complete.experiments,
        ),
    ] = None,
    workload: Annotated[
        str | None,
        Option(
            "--workload", metavar="NAME", help="A model, instead of an experiment.", autocompletion=complete.workloads
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        Option("--cluster", metavar="NAME", help="A cluster, beside --workload.", autocompletion=complete.clusters),
    ] = None,
    overrides: Overrides = None,
    space: Annotated[
        list[str] | None,
        Option(
            "--space",
            metavar="KEY=LIST|wide",
            help="Try only these values, as tensor=1,2,4; wide: also what the software does not offer. Repeatable.",
        ),
    ] = None,
    objectives: Annotated[
        str, Option("--objective", metavar="LIST", help="time, energy, cost; with several, what nothing dominates.")
    ] = "time",
    top: Annotated[int, Option("--top", min=1, help="How many of the best plans to find.")] = 10,
    workers: Annotated[
        int | None, Option("--workers", "-j", min=1, help="Processes; as many as processors if absent.")
    ] = None,
    file: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Write the experiment with the best plan there.")
    ] = None,
    explain: Annotated[bool, Option("--explain", help="Tell why each of the others is not the first.")] = False,
    json: AsJson = False,
) -> int:
    """Find the best parallel plan, exactly.

    Every plan is bounded from below; plans are simulated in order of that bound until no other can be better. Of plans
    that are as good as the best, the one with most memory to spare is taken, and said.
    Ctrl-C prints the best so far. Exit code 1 says that no plan fits into memory.
    """
    from sim.ask.plan.files import open_question, winning_file
    from sim.ask.plan.search import search_plans
    from sim.report.files import deliver, write_text
    from sim.report.planning import print_reasons, print_search

    if (source is None) == (workload is None) or (workload is None) != (cluster is None):
        raise BadParameter("give an experiment, or --workload and --cluster", param_hint="FILE|NAME")
    named: dict[str, object] = {
        "name": f"{workload}-on-{cluster}",
        "workload": workload,
        "cluster": cluster,
        "training": {},
    }
    question = open_question(source or named, overrides or [], space or [])
    wanted = [name.strip() for name in objectives.split(",")]
    with _progress() as progress:
        search = search_plans(
            question.loaded.experiment, question.limits, wanted, top, workers, progress, question.wide
        )

    def show() -> None:
        if json:
            output.emit_json(search.to_json())
        else:
            output.emit_rich(lambda console: print_search(search, console))
            if explain and search.plans[1:]:
                output.emit_rich(lambda console: print_reasons(search, console))

    def keep() -> None:
        if file and search.plans:
            write_text(file, winning_file(question, search, file.parent), "--output")

    deliver(keep, show)
    if not search.complete:
        output.say("interrupted")
        return output.INTERRUPTED
    return output.FINE if search.plans else output.MISSED


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr with the time left, if it is a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = output.message_console()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, int] = {}

        def show(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=share)  # type: ignore[arg-type]

        yield show
