"""The command `clustersim`: from its arguments to its exit code. Workers import this too, so all else waits."""

from __future__ import annotations

import sys

from sim.cli import interrupt

TYPE_CHECKING = False  # as `typing` would say, which takes as long to import as all else here
if TYPE_CHECKING:
    import typer


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave the process with its exit code."""
    interrupt.leave_quietly()
    from sim.cli import output, verbs  # noqa: F401 - while nothing is under way

    output.occupy_closed_streams()
    interrupt.stop_work()
    try:
        code = call(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # between two lines of `call`
        code = interrupt.CODE
    interrupt.leave_quietly()
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run the command; returns its exit code. No error leaves as a traceback unless --debug is given."""
    import typer

    from sim.cli import output
    from sim.cli.verbs import app

    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    code = None
    try:
        with output.own_words():
            code = app(arguments, prog_name="clustersim", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, Exception) as error:
        if interrupt.was_heard() or isinstance(error, KeyboardInterrupt | typer.Abort):
            output.say("interrupted")
            return output.INTERRUPTED
        return output.fail(error, as_json="--json" in arguments, debug=debug)
    return code if isinstance(code, int) else output.FINE


def _usage(error: typer.TyperException) -> int:
    from io import StringIO

    from sim.cli import output

    show, told = getattr(error, "show", None), StringIO()
    if show:
        show(told)
    output.say(told.getvalue().rstrip("\n") if show else str(error))
    return output.USAGE
