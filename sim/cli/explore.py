"""The verb `explore`: a local page on which a design is moved and its results follow."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from sim.cli import complete, output

FIRST = "gpt3-175b-a100"


def explore(
    source: Annotated[
        str,
        Argument(metavar="[FILE|NAME]", help="The experiment to begin with.", autocompletion=complete.experiments),
    ] = FIRST,
    port: Annotated[int, Option("--port", min=0, max=65_535, help="Where to listen; a free port if 0.")] = 0,
    browser: Annotated[bool, Option(help="Open the page in the browser.")] = True,
) -> int:
    """Move a design and see what follows, on a local page.

    Model, machine, plan, bandwidth, memory, failures, power and price are controls; step, memory, energy, cost and time
    follow as they move. The best plan is a button. Nothing leaves this machine. Ctrl-C ends it.
    """
    import webbrowser

    from sim.explore.server import serve
    from sim.inputs.load import find_experiment

    find_experiment(source)

    def told(address: str) -> None:
        output.say(f"{address}  (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)

    serve(source, port, told)
    return output.FINE
