"""How quickly the explorer answers: the first page after start, and a slider."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from bench.measure import ROOT, Sample

EXPLORED = "gpt3-175b-a100"
SLIDER = "cluster.node.nics.bandwidth"
POSITIONS = tuple(f"{rate} Gb/s" for rate in (25, 50, 100, 400, 800, 1600, 3200, 300, 150, 75))


@contextmanager
def explorer() -> Iterator[tuple[http.client.HTTPConnection, float]]:
    """A running explorer, and the seconds from its start to its first page."""
    line = [sys.executable, "-m", "sim.cli", "explore", EXPLORED, "--no-browser"]
    began = perf_counter()
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    port = int(process.stderr.readline().split(":")[2].split("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    connection.getresponse().read()
    try:
        yield connection, perf_counter() - began
    finally:
        connection.close()
        process.send_signal(signal.SIGINT)
        process.wait(20)


def first_page(repetitions: int) -> Sample:
    """Seconds from the start of the command to the page."""
    found = []
    for _ in range(repetitions):
        with explorer() as (_, seconds):
            found.append(seconds)
    return Sample(tuple(found))


def slider() -> Sample:
    """Seconds of an answer to each of some positions, none of them asked for before."""
    with explorer() as (connection, _):
        _ask(connection, {})
        return Sample(tuple(_ask(connection, {SLIDER: position}) for position in POSITIONS))


def _ask(connection: http.client.HTTPConnection, changes: dict[str, str]) -> float:
    question = json.dumps({"base": EXPLORED, "set": changes})
    began = perf_counter()
    connection.request("POST", "/answer", question, {"Content-Type": "application/json"})
    assert "done" in json.load(connection.getresponse())
    return perf_counter() - began
