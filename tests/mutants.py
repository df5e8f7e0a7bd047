"""Good input files changed at random: values out of range or of another kind, keys gone, astray or made up.

`python tests/mutants.py 5000` tries that many, each in a process of its own that may take 20 s and 2 GB, and tells of
every one that ends otherwise than with exit code 0 to 3, or of which `check` and `run` say different things.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from sim.cli.app import call
from sim.inputs.catalogue import CATALOGUE, list_catalogue
from sim.inputs.document import STUDY, Entry, entries
from sim.inputs.load import load_experiment
from sim.inputs.reader import plain, read_file
from sim.inputs.walk import choices, dimension_of, members
from sim.units import COUNT, FRACTION

Keys = tuple[str | int, ...]

NUMBERS = (
    0,
    1,
    1,
    2,
    4,
    5,
    8,
    16,
    100,
    -1,
    2,
    3,
    7,
    64,
    1000,
    10**6,
    10**9,
    2**53,
    2**70,
    0.5,
    1.5,
    1e-300,
    1e-9,
    1e300,
)
QUANTITIES = (
    "0",
    "-1",
    "1e-300",
    "1e-12",
    "1e-3",
    "1",
    "17",
    "1e6",
    "1e12",
    "1e25",
    "1e200",
    "1e300",
    "nan",
    "inf",
    "1e400",
)
ODD: tuple[Any, ...] = (
    None, True, "", " ", "nan", "NaN", ".inf", "-inf", "x" * 3000, [], {}, [1], ["a", "b"], {"a": {"b": 1}}, [[[[]]]],
    "10 parsec", "1 GB/s", "3 s", "50 %", "../x", "/dev/zero", "./none.yaml", "\u202e", "1e9", "0x10", "1_000",
)  # fmt: skip
LIMIT_S, LIMIT_BYTES = 20, 2 * 10**9


class Mutant(NamedTuple):
    """A changed file, and what was changed."""

    kind: str
    what: str
    document: dict[str, Any]


def deep(levels: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every value under `value` that is no mapping, and every list, with its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*keys, key))
        return
    yield keys, value
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from leaves(item, (*keys, place))


def put(document: Any, keys: Keys, value: Any) -> None:
    """Set the value at `keys`, making mappings on the way; nothing where that makes no sense."""
    for key in keys[:-1]:
        if isinstance(document, dict) and not isinstance(document.get(key), dict | list):
            document[key] = {}
        try:
            document = document[key]
        except (IndexError, KeyError, TypeError):
            return
    if isinstance(document, dict) or (isinstance(document, list) and isinstance(keys[-1], int)):
        cast("Any", document)[keys[-1]] = value


def value_for(old: Any, dice: random.Random) -> Any:
    """A value to put in the place of `old`."""
    if dice.random() < 0.08:
        return dice.choice((*ODD, deep(30), deep(200)))
    if isinstance(old, str) and old[:1].isdigit():
        unit = old.lstrip("0123456789.eE+- ")
        return f"{dice.choice(QUANTITIES)} {unit}".strip()
    if isinstance(old, bool):
        return not old
    return dice.choice(NUMBERS)


def value_of(entry: Entry, dice: random.Random) -> Any:
    """A value of the declared type, mostly, and mostly a strange one."""
    dimension, options = dimension_of(entry.field), members(entry.field.annotation)
    if dice.random() < 0.04:
        return dice.choice(ODD)
    if choices(options):
        return dice.choice(choices(options))
    if dimension in (COUNT, FRACTION) or dimension is None:
        return dice.choice((True, False) if bool in options else NUMBERS)
    return f"{dice.choice(QUANTITIES)} {dice.choice(list(dimension.units))}"


def mutate(kind: str, document: dict[str, Any], dice: random.Random) -> str:
    """Change one thing in `document`; says what."""
    places = [place for place in leaves(document) if "sources" not in place[0]] or list(leaves(document))
    keys, old = dice.choice(places)
    match dice.choice((*["value"] * 6, *["declared"] * 5, "remove", "rename", "swap", "reference")):
        case "value":
            value = value_for(old, dice)
            put(document, keys, value)
            return f"{dotted(keys)}={value!r:.80}"
        case "declared":
            entry = dice.choice(declared(kind))
            value = value_of(entry, dice)
            path = entry.path.removeprefix(STUDY).split(".")
            put(document, tuple(path), value)
            return f"{'.'.join(path)}={value!r:.80}"
        case "remove":
            if len(keys) == 1 or dice.random() < 0.5:
                keys = keys[:1] if dice.random() < 0.2 else keys
            parent = at(document, keys[:-1])
            del parent[keys[-1]]
            return f"{dotted(keys)} removed"
        case "rename":
            parent = at(document, keys[:-1])
            if isinstance(parent, dict):
                parent[dice.choice((f"{keys[-1]}x", str(keys[-1])[:-1], str(dice.choice(places)[0][-1])))] = parent.pop(
                    keys[-1]
                )
            return f"{dotted(keys)} renamed"
        case "swap":
            other, value = dice.choice(places)
            put(document, keys, copy.deepcopy(value))
            put(document, other, copy.deepcopy(old))
            return f"{dotted(keys)} and {dotted(other)} exchanged"
        case _:
            references = list(CATALOGUE[kind].references.items())
            if not references:
                return "nothing"
            key, target = dice.choice(references)
            source = dice.choice([target, target, dice.choice(list(CATALOGUE))])
            name = dice.choice(list(list_catalogue(source)))
            document[key] = name if dice.random() < 0.7 else {"extends": name, str(keys[-1]): old}
            return f"{key}={document[key]!r:.80}"


def declared(kind: str) -> list[Entry]:
    """Every key that may stand in a file of that kind."""
    study = kind == "study"
    return (
        [entry for entry in entries() if entry.path.startswith(STUDY) == study and not entry.inner]
        if kind in ("experiment", "study")
        else list(_under(kind))
    )


def _under(kind: str) -> Iterator[Entry]:
    prefix = {
        "cluster": "cluster.",
        "node": "cluster.node.",
        "accelerator": "cluster.node.accelerator.",
        "storage": "cluster.storage.",
    }.get(kind, f"{kind}.")
    for entry in entries():
        if entry.path.startswith(prefix) and not entry.inner:
            yield Entry(entry.path.removeprefix(prefix), entry.record, entry.field)


def at(document: Any, keys: Keys) -> Any:
    """The value at `keys`."""
    for key in keys:
        document = document[key]
    return document


def dotted(keys: Keys) -> str:
    """Keys as a path."""
    return ".".join(map(str, keys))


def listed(value: Any) -> Any:
    """`value` with lists in place of tuples, so that it can be changed."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, list | tuple) else value


def whole(name: str, *overrides: str) -> dict[str, Any]:
    """An experiment of the catalogue with all its definitions inside."""
    written: dict[str, Any] = listed(load_experiment(name, overrides).written)
    return written


def mutants(bases: list[tuple[str, dict[str, Any]]], number: int, seed: int) -> Iterator[Mutant]:
    """That many changed files; the same for the same seed."""
    dice = random.Random(seed)
    for _ in range(number):
        kind, base = dice.choice(bases)
        document = copy.deepcopy(base)
        whats = [mutate(kind, document, dice) for _ in range(dice.choice((1, 1, 1, 1, 2, 3))) if document]
        yield Mutant(kind, f"{document.get('name', base.get('name'))!s:.30}: {'; '.join(whats)}", document)


def written(mutant: Mutant, folder: Path) -> Path:
    """The mutant as a file; JSON is YAML."""
    path = folder / "mutant.yaml"
    path.write_text(json.dumps(mutant.document, indent=1), encoding="utf-8")
    return path


# --- by hand ----------------------------------------------------------------------------------


def shipped() -> list[tuple[str, dict[str, Any]]]:
    """Everything in the catalogue: experiments complete in themselves, other files as they are."""
    found = [("experiment", whole(str(path))) for path in list_catalogue("experiment").values()]
    tori = ("nodes=64", "parallelism.tensor=1", "parallelism.sequence_parallel=false", "training.precision=bf16")
    found.append(
        (
            "experiment",
            whole("quickstart", "cluster=torus-4x4x4", *tori, "workload=gpt3-1.3b", "training.sequence_length=2048"),
        )
    )
    found.append(("experiment", whole("quickstart", "cluster=dragonfly-128", "nodes=16", "training.global_batch=128")))
    for name in ("llama3-405b-54-days", "opt-175b", "async-checkpoint"):
        found.append(("experiment", whole(name, "site=google-iowa", "prices=aws-p5")))
    found *= 8
    for kind in CATALOGUE:
        if kind != "experiment":
            found += [(kind, listed(plain(read_file(path)))) for path in list_catalogue(kind).values()]
    return found


def outcome(mutant: Mutant, folder: Path) -> str:
    """What `check` says of the mutant and `run` (`sweep`) makes of it, in a process of its own."""
    path = written(mutant, folder)
    report = folder / "codes"
    report.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES + _address_space(), resource.RLIM_INFINITY))
            null = os.open(os.devnull, os.O_RDWR)
            errors = os.open(folder / "errors", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(errors, 2)
            codes: list[int] = []
            verbs = {"experiment": ["run"], "study": ["sweep", "-j", "1", "-o", str(folder / "out")]}.get(mutant.kind)
            for arguments in (["check", str(path)], [*verbs, str(path)] if verbs else ["check", str(path)]):
                signal.alarm(LIMIT_S)
                report.write_text(f"{codes} and then {arguments[0]}")
                codes.append(call([*arguments, "--debug"]))
            report.write_text(f"{codes}")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    text = report.read_text() if report.exists() else "nothing"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name} after {text}"
    if "then" in text:
        return f"died after {text}"
    first, second = json.loads(text)
    errors_text = (folder / "errors").read_text(errors="replace")
    last = errors_text.strip().splitlines()[-1:] or [""]
    if "Traceback (most recent" in errors_text and (first == 4 or second == 4):
        return f"{first} {second}: {_where(errors_text)}"
    if not {first, second} <= {0, 1, 2, 3}:
        return f"{first} {second}: {last[0]:.200}"
    if (first == 3) != (second == 3):
        lines = [line for line in errors_text.splitlines() if "mutant.yaml" in line or "Error" in line]
        return f"{first} {second} differ: {(lines or last)[-1]:.200}"
    return ""


def _where(text: str) -> str:
    lines = text.strip().splitlines()
    places = [line.strip() for line in lines if line.strip().startswith("File") and "/sim/" in line]
    message = next(
        (line for line in reversed(lines) if "Error" in line or "Deadlock" in line or "Warning" in line), lines[-1]
    )
    return f"{places[-1] if places else ''} {message:.150}"


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def main(number: int, seed: int) -> None:
    """Try mutants and tell of the bad ones."""
    bases, began, seen = shipped(), time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        for count, mutant in enumerate(mutants(bases, number, seed)):
            result = outcome(mutant, Path(name))
            if result:
                seen[result] += 1
                if seen[result] <= 3:
                    print(f"{count}: {mutant.kind} {mutant.what}\n    {result}", flush=True)  # noqa: T201
    print(f"{number} mutants, {sum(seen.values())} bad, {time.monotonic() - began:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
