"""Ctrl-C from the first moment to the last. Imports nothing that takes time.

Public: `leave_quietly`, `stop_work`, `was_heard`.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

CODE = 130

_heard = False


def was_heard() -> bool:
    """Whether work was told to stop: what fails after that, such as an import cut short, fails because of it."""
    return _heard


def leave_quietly() -> None:
    """From now on Ctrl-C ends the process at once: nothing is under way, or everything is done."""
    _on_interrupt(_leave)


def stop_work() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, so that what was computed is told; a second one ends the process."""
    sys.unraisablehook = _raise_elsewhere
    _on_interrupt(_stop)


def _on_interrupt(handler: signal._HANDLER) -> None:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as `nohup` and shells do for jobs in the background
    if not ignored:
        signal.signal(signal.SIGINT, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(CODE)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    global _heard
    _heard = True
    leave_quietly()
    raise KeyboardInterrupt


def _raise_elsewhere(unraisable: sys.UnraisableHookArgs) -> None:
    """An interrupt that fell into a destructor or a callback, where Python would print and forget it, comes again."""
    if unraisable.exc_type is KeyboardInterrupt:
        _on_interrupt(_stop)
        signal.raise_signal(signal.SIGINT)
    else:
        sys.__unraisablehook__(unraisable)
