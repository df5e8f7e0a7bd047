"""The borders of the design hold: who may import whom, and one door per dependency."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from simpy import Container, Environment, Resource, Store

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "sim").rglob("*.py"))

LAYERS = (
    {"", "units", "errors", "rng", "memo", "ragged", "phase", "record"},
    {"engine", "schedule", "graph"},
    {"transforms"},
    {"models"},
    {"inputs"},
    {"cluster", "workload"},
    {"comm"},
    {"layout"},
    {"devices"},
    {"programs"},
    {"life", "fleet"},
    {"metrics"},
    {"report"},
    {"imports"},
    {"ask"},
    {"explore"},
    {"cli", "api"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STRANGERS = ({"cluster", "workload"}, {"engine", "schedule", "graph"})  # same level, but they do not see each other
DOORS = {
    "yaml": {"inputs"},
    "networkx": {"cluster"},
    "simpy": {"engine", "programs", "life", "fleet"},
    "rich": {"cli", "report"},
    "typer": {"cli"},
    "random": {"rng"},
}
PRINTERS = {"cli", "report"}
CACHE = re.compile(r"\s*@(cached_property|cache|lru_cache)\b|.* = Memo\(")


def part_of(file: Path) -> str:
    """The layer a file belongs to: `cluster` for sim/cluster/graph.py, "" for sim/__init__.py."""
    parts = file.relative_to(ROOT / "sim").with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(file: Path) -> Iterator[str]:
    """Dotted names of all modules a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(file: Path) -> Iterator[str]:
    """Layers of this project that a file imports from."""
    for name in imports(file):
        package, _, rest = name.partition(".")
        if package == "sim":
            part = rest.split(".")[0]
            yield part if part in LEVEL else ""


def uses_numpy_random(file: Path) -> bool:
    """Whether a file reaches into numpy.random."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    touched = any(ast.unparse(node) in ("np.random", "numpy.random") for node in attributes)
    return touched or any(name.startswith("numpy.random") for name in imports(file))


def prints(file: Path) -> bool:
    """Whether a file calls print or writes to the standard streams."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    called = any(isinstance(n, ast.Call) and ast.unparse(n.func) == "print" for n in ast.walk(tree))
    return called or any(isinstance(n, ast.Attribute) and ast.unparse(n) == "sys.stdout" for n in ast.walk(tree))


def simpy_secrets() -> set[str]:
    """Attributes that SimPy's objects keep to themselves."""
    env = Environment()
    process = env.process(env.event() for _ in range(1))
    things = (env, env.event(), env.timeout(1), process, Resource(env), Container(env), Store(env))
    named = {name for thing in things for name in (*dir(thing), *vars(thing))}
    return {name for name in named if name.startswith("_") and not name.startswith("__")}


SECRETS = simpy_secrets()


def pries_into_simpy(file: Path) -> bool:
    """Whether a file touches such an attribute of anything but itself, or inherits from a class of SimPy."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    touches = any(node.attr in SECRETS and ast.unparse(node.value) not in ("self", "cls") for node in attributes)
    lent = {name.rsplit(".", 1)[1] for name in imports(file) if name.startswith("simpy.")}
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    return touches or any(ast.unparse(base).split(".")[-1] in lent for node in classes for base in node.bases)


def offenders(breaks_rule: Callable[[Path], object]) -> list[str]:
    """The files that break a rule."""
    return [str(file.relative_to(ROOT)) for file in FILES if breaks_rule(file)]


def imports_upward(file: Path) -> bool:
    level = LEVEL[part_of(file)]
    return any(LEVEL[part] > level for part in own_parts(file))


def sees_a_stranger(file: Path) -> bool:
    part = part_of(file)
    hidden = {other for pair in STRANGERS if part in pair for other in pair - {part}}
    return bool(hidden & set(own_parts(file)))


def forces_a_door(file: Path) -> bool:
    libraries = {name.split(".")[0] for name in imports(file)}
    return any(library in libraries and part_of(file) not in owners for library, owners in DOORS.items())


def test_every_file_stands_in_a_known_layer() -> None:
    assert offenders(lambda file: part_of(file) not in LEVEL) == []


def test_no_file_imports_from_a_higher_layer() -> None:
    assert offenders(imports_upward) == []


def test_strangers_do_not_see_each_other() -> None:
    assert offenders(sees_a_stranger) == []


def test_each_library_is_used_behind_its_door_only() -> None:
    assert offenders(forces_a_door) == []


def test_random_numbers_come_from_named_streams_only() -> None:
    assert offenders(lambda file: part_of(file) != "rng" and uses_numpy_random(file)) == []


def test_only_the_command_line_and_reports_print() -> None:
    assert offenders(lambda file: part_of(file) not in PRINTERS and prints(file)) == []


def test_simpy_is_used_by_its_documented_interface() -> None:
    assert {"_queue", "_now", "_eid", "_ok", "_value"} <= SECRETS
    assert offenders(pries_into_simpy) == []


def test_no_two_classes_share_a_name() -> None:
    classes = [
        node.name for file in FILES for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)
    ]
    assert sorted(name for name, times in Counter(classes).items() if times > 1) == []


def unexplained_caches(file: Path) -> list[int]:
    """Lines that keep a value for the next question, without a comment there or above that says why."""
    lines = file.read_text(encoding="utf-8").splitlines()
    caches = [
        n for n, line in enumerate(lines) if re.match(r"\s*@(cached_property|cache|lru_cache)\b|.* = Memo\(", line)
    ]
    return [n + 1 for n in caches if "  # " not in lines[n] and not lines[n - 1].lstrip().startswith("# ")]


def test_each_cache_says_why_it_is_there() -> None:
    assert offenders(unexplained_caches) == []
