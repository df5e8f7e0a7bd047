"""What a worker does: simulate a batch of experiments, whatever comes of each.

Public: `run_batch`, `run_one`, `content_key`, `code_version`, `Batch`.
"""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pydantic_core import to_json

import sim
from sim.ask.sweep.fields import flatten
from sim.ask.sweep.judge import ERROR, INVALID, OK
from sim.ask.sweep.store import Outcome
from sim.errors import ConfigError, Problem, SimError
from sim.inputs.named_files import named_files
from sim.inputs.records import Experiment
from sim.record import Record, text_of

Batch = tuple[list[Outcome], float]  # outcomes in order, and the seconds they took


YOUNG = 10_000  # new objects between two looks for garbage: a step makes some thousands
NO_PHYSICS = ("cli", "report", "api.py")  # code that no result depends on


@cache  # reads all files of the program, for each row of a store
def code_version() -> str:
    """The version of the program, and a digest of its code: during development results change without it."""
    package, digest = Path(sim.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).parts[0] not in NO_PHYSICS:
            digest.update(file.read_bytes())
    return f"{sim.__version__}+{digest.hexdigest()[:12]}"


def content_key(experiment: Experiment) -> str:
    """Key of a resolved experiment: the same for the same input, seed and code, whatever it is called.

    The files that it names are part of it. Raises ConfigError if one of them cannot be read.
    """
    digest = hashlib.sha256(code_version().encode())
    for name, value in vars(experiment).items():
        if name not in ("name", "description"):
            text = text_of(value) if isinstance(value, Record) else to_json(value).decode()
            digest.update(f"\n{name}: {text}".encode())
    for file in named_files(experiment):
        digest.update(file.digest.encode())
    return digest.hexdigest()


def run_batch(
    experiments: Sequence[Experiment], version: str | None = None, fields: Callable[[Experiment], str] | None = None
) -> Batch:
    """Simulate each; `fields` makes JSON of an experiment, a flattened result if absent.

    Raises ConfigError if `version`, that of the one who asks, is given and not that of this code.
    """
    if version is not None and version != code_version():
        message = f"a worker runs clustersim {code_version()}, this is {version}"
        raise ConfigError(Problem("", "", message, "install the same version on all machines"))
    began = time.perf_counter()
    with _rare_collection():
        outcomes = [run_one(experiment, fields or whole_result) for experiment in experiments]
    return outcomes, time.perf_counter() - began


@contextmanager
def _rare_collection() -> Iterator[None]:
    """Look for garbage less often, whatever process this is: steps free their own."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def whole_result(experiment: Experiment) -> str:
    """The flattened result of an experiment."""
    from sim.ask.run.simulate import predict  # here: the process that hands out batches does without

    return to_json(flatten(predict(experiment).numbers)).decode()


def run_one(experiment: Experiment, fields: Callable[[Experiment], str] = whole_result) -> Outcome:
    """The outcome of one experiment; what goes wrong is told in it."""
    try:
        return Outcome(OK, "", fields(experiment))
    except ConfigError as error:
        return Outcome(INVALID, first_line(error))
    except SimError as error:
        return Outcome(ERROR, f"{type(error).__name__}: {first_line(error)}")
    except Exception as error:  # one broken point must not end the others
        return Outcome(ERROR, f"internal error: {type(error).__name__}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, and how many more there are."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return f"{first} (and {len(rest)} more)" if rest else first
