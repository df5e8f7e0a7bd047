"""The command `clustersim`: from its arguments to its exit code. Workers import this too, so the verbs wait."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sim.cli import output

if TYPE_CHECKING:
    import typer


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave the process with its exit code."""
    sys.exit(call(sys.argv[1:] if arguments is None else arguments))


def call(arguments: list[str]) -> int:
    """Run the command; returns its exit code. No error leaves as a traceback unless --debug is given."""
    import typer

    from sim.cli.verbs import app

    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, prog_name="clustersim", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        output.say("interrupted")
        return output.INTERRUPTED
    except Exception as error:
        return output.fail(error, as_json="--json" in arguments, debug=debug)
    return code if isinstance(code, int) else output.FINE


def _usage(error: typer.TyperException) -> int:
    show = getattr(error, "show", None)
    if show:
        show(sys.stderr)
    else:
        output.say(str(error))
    return output.USAGE
