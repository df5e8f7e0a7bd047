"""Completion of shells knows the catalogue and the keys."""

from __future__ import annotations

import pytest

from support import Command


def completed(clustersim: Command, line: str) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CLUSTERSIM_COMPLETE": "complete_bash"}
    return clustersim(**asked).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("clustersim run quickst", ["quickstart"]),
        ("clustersim sweep oversub", ["oversubscription"]),
        ("clustersim check dgx-h100-s", ["dgx-h100-superpod"]),
        ("clustersim run quickstart --set parallelism.zero", ["parallelism.zero_stage"]),
        ("clustersim explain paral", ["parallelism"]),
        ("clustersim list prices", ["prices"]),
        ("clustersim calibrate device --base h100-s", ["h100-sxm"]),
    ],
)
def test_offers_what_there_is(clustersim: Command, line: str, offered: list[str]) -> None:
    assert completed(clustersim, line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_its_script(clustersim: Command, shell: str) -> None:
    done = clustersim(_CLUSTERSIM_COMPLETE=f"source_{shell}")
    assert "_CLUSTERSIM_COMPLETE" in done.stdout
