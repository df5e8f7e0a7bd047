"""Experiments and definitions from names, files or mappings to checked records.

Public: `load_experiment`, `load_node`, `load_base`, `load_definition`, `LoadedExperiment`, `Base`,
`open_definition`, `validate_experiment`, `with_file_paths`;
from `catalogue`: `catalogue_root`, `find_experiment`, `list_catalogue`, `CATALOGUE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from sim.inputs.catalogue import CATALOGUE, catalogue_root, find_definition, find_experiment, list_catalogue
from sim.inputs.checks import CHECKS, check_experiment
from sim.inputs.findings import Check
from sim.inputs.medians import with_medians
from sim.inputs.overrides import Override, apply_overrides, set_value
from sim.inputs.problems import decode, mark_at
from sim.inputs.reader import Mark, SourceNode, from_python, plain
from sim.inputs.records import ClusterSpec, Experiment
from sim.inputs.resolve import Resolver, real_path
from sim.inputs.schedule_file import SUFFIX, read_schedule
from sim.inputs.setup import Setup
from sim.memo import Memo, Same
from sim.record import Record, RecordT
from sim.units import show_value

__all__ = [
    "CATALOGUE", "Base", "LoadedExperiment", "catalogue_root", "find_experiment", "list_catalogue",
    "load_base", "load_definition", "load_experiment", "load_node", "open_definition", "validate_experiment",
    "with_file_paths",
]  # fmt: skip

Source = str | Path | Mapping[str, Any] | SourceNode
OTHER_KINDS = {  # keys of files that are about experiments: what such a file is, and what takes it
    "axes": ("this is a study", "use clustersim sweep"),
    "base": ("this is a study", "use clustersim sweep"),
    "jobs": ("this is a fleet", "use clustersim fleet"),
    "cases": ("this is a table of measured runs", "use clustersim validate"),
    "curves": ("this is a table of measured collectives", "use clustersim validate"),
}


@dataclass(frozen=True)
class LoadedExperiment(Setup):
    """A checked experiment, complete in itself, and where it came from."""

    path: Path | None  # the experiment's own file
    files: tuple[Path, ...]  # every file that was read, in order
    written: dict[str, Any]  # as written, with units: references resolved, overrides applied


PARTS = frozenset(("cluster", "workload", "training", "extends", "base"))  # of which an experiment has one at least
PLACES = {  # where an experiment has definitions of each kind
    "workload": "workload", "cluster": "cluster", "software": "software", "node": "cluster.node",
    "accelerator": "cluster.node.accelerator", "storage": "cluster.storage", "failures": "failures", "site": "site",
    "prices": "prices",
}  # fmt: skip


def load_experiment(
    source: Source | Experiment,
    overrides: Sequence[Override] = (),
    *,
    si: bool = False,
    checks: Sequence[Check] = CHECKS,
) -> LoadedExperiment:
    """The experiment that `source` names, with all definitions inline and the overrides set.

    An override is a text `key.path=value`, or a pair of key path and value. `source` is a name in the
    catalogue, a path, a mapping, a text that was read, or a record; with `si` the numbers of a mapping may be plain SI
    values. `checks` are what it has to meet. Raises ConfigError with all problems found.
    """
    resolver = Resolver()
    if isinstance(source, Experiment):
        source, si = source.model_dump(), True
    root, path = open_definition(resolver, "experiment", source)
    return _experiment(resolver, root, path, overrides, si, checks)


def load_node(root: SourceNode, path: Path, overrides: Sequence[Override] = ()) -> LoadedExperiment:
    """The experiment that the mapping `root`, a part of the file `path`, says. Raises ConfigError."""
    resolver = Resolver()
    resolver.was_read(path, root.mark.source)
    return _experiment(resolver, _extended(resolver, "experiment", root, None), path, overrides, si=False)


def load_base(resolver: Resolver, node: SourceNode) -> Base:
    """The experiment that `node`, a name, a path or a mapping, stands for. Raises ConfigError."""
    root = resolver.resolve("experiment", node, "base")
    if not isinstance(root.value, dict):
        raise ConfigError(resolver.problems or Problem(str(node.mark), "base", "must be a name, a path or a mapping"))
    root = _with_recorded(resolver.resolve("experiment", _with_defaults(root, None)))
    experiment = _finished(resolver, root, si=False)[0]
    decoded = _decoded(resolver, Experiment, with_file_paths(resolver, root), si=False)
    return Base(root, decoded, dict(resolver.homes), experiment)


@dataclass(frozen=True)
class Base:
    """An experiment from which others differ by a few keys; its files are read once."""

    root: SourceNode  # as written, references resolved
    decoded: Experiment  # what root says
    homes: dict[str, Path]  # see Resolver
    experiment: Experiment

    def changed(self, changes: Iterable[tuple[str, SourceNode]]) -> Experiment:
        """The checked experiment with the value of each key path set. Raises ConfigError."""
        resolver, root = Resolver(homes=dict(self.homes)), self.root
        for key, node in changes:
            root = set_value(resolver, root, "experiment", key, node)
        root = _with_decoded(root, self.root, self.decoded)
        return _finished(resolver, resolver.resolve("experiment", root), si=False)[0]


def _with_decoded(node: SourceNode, before: SourceNode, decoded: Record) -> SourceNode:
    """`node` with the records of `decoded`, which is what `before` says, for all mappings in it that are the same."""
    inner = {}
    for key, item in node.value.items():
        old = before.value.get(key)
        part = getattr(decoded, key, None) if old is not None and isinstance(old.value, dict) else None
        if not isinstance(part, Record):
            continue
        if item is old:
            inner[key] = SourceNode(part, item.mark)
        elif isinstance(item.value, dict):
            inner[key] = _with_decoded(item, old, part)
    return SourceNode(node.value | inner, node.mark)


def _experiment(
    resolver: Resolver,
    root: SourceNode,
    path: Path | None,
    overrides: Sequence[Override],
    si: bool,
    checks: Sequence[Check] = CHECKS,
) -> LoadedExperiment:
    _raise_if(_of_another_kind(root, path))
    root = apply_overrides(resolver, _with_defaults(root, path), "experiment", overrides)
    experiment, root = _finished(resolver, resolver.resolve("experiment", root), si, checks)
    return LoadedExperiment(experiment, path, tuple(dict.fromkeys(resolver.files)), plain(root))


def _of_another_kind(root: SourceNode, path: Path | None) -> list[Problem]:
    """What to do with a file that varies experiments or lists them, and is none itself."""
    found = [key for key in OTHER_KINDS if key in root.value and key not in Experiment.model_fields]
    if not found or ("cluster" in root.value and "jobs" not in found):
        return _a_part(root, path)
    what, verb = OTHER_KINDS[found[0]]
    return [Problem(str(root.value[found[0]].mark), found[0], f"{what}, not an experiment", f"{verb} {path or 'FILE'}")]


def _a_part(root: SourceNode, path: Path | None) -> list[Problem]:
    """What to do with a definition that experiments name, such as a workload."""
    keys = set(root.value)
    if path is None or keys & PARTS or keys <= set(Experiment.model_fields):
        return []
    for kind, where in PLACES.items():
        if any(keys <= set(record.model_fields) for record in CATALOGUE[kind].records.values()):
            way_out = f"name it in one as {where}, or put it into one by --set {where}={path}"
            return [Problem(str(root.mark), "", f"this is a definition of kind {kind}, not an experiment", way_out)]
    return []


def _finished(
    resolver: Resolver, root: SourceNode, si: bool, checks: Sequence[Check] = CHECKS
) -> tuple[Experiment, SourceNode]:
    """The checked and completed experiment of a resolved mapping, and the mapping with paths from here."""
    root = _with_recorded(with_file_paths(resolver, root))
    experiment = with_medians(_decoded(resolver, Experiment, root, si))
    _raise_if(_placed(check_experiment(experiment, checks), root))
    return _completed(experiment), root


def validate_experiment(experiment: Experiment) -> Experiment:
    """`experiment`, resolved by the caller, after the semantic checks; raises ConfigError."""
    _raise_if(check_experiment(experiment))
    return _completed(experiment)


def load_definition(kind: str, source: Source, overrides: Sequence[Override] = ()) -> Record:
    """The record of one definition: accelerator, node, cluster, workload or software."""
    resolver = Resolver()
    root, _ = open_definition(resolver, kind, source)
    root = apply_overrides(resolver, root, kind, overrides)
    root = with_file_paths(resolver, resolver.resolve(kind, root))
    return with_medians(_decoded(resolver, _record_of(kind, root), root, si=False))


def _record_of(kind: str, root: SourceNode) -> type[Record]:
    """The record that a definition fills; where `kind` says which, raises ConfigError if it says none that there is."""
    records = CATALOGUE[kind].records
    if len(records) == 1:
        return next(iter(records.values()))
    written = root.value.get("kind")
    if written is None:
        raise ConfigError(Problem(str(root.mark), "kind", f"this key is required: one of {', '.join(records)}"))
    if written.value not in records:
        message = f"must be one of {', '.join(records)}, not {show_value(plain(written))}"
        raise ConfigError(Problem(str(written.mark), "kind", message))
    return records[written.value]


def open_definition(resolver: Resolver, kind: str, source: Source) -> tuple[SourceNode, Path | None]:
    """The mapping that `source` stands for, with its own `extends` applied, and its file. Raises ConfigError."""
    if isinstance(source, SourceNode):
        root, path = source, None
    elif isinstance(source, Mapping):
        root, path = from_python(source, f"<{kind}>"), None
    else:
        path = _found(kind, source)
        root = resolver.read(path)
    return _extended(resolver, kind, root, path), path


def _extended(resolver: Resolver, kind: str, root: SourceNode, path: Path | None) -> SourceNode:
    """`root` with its own `extends` applied; `path` is the file that a chain must not come back to."""
    if "extends" in root.value:
        root = resolver.resolve(kind, root, "", () if path is None else (real_path(path),))
        if not isinstance(root.value, dict):
            raise ConfigError(resolver.problems)
    return root


def _found(kind: str, source: str | Path) -> Path:
    try:
        if kind == "experiment":
            return find_experiment(source)
        return source if isinstance(source, Path) else find_definition(kind, source, Path())
    except ConfigError as error:
        raise ConfigError(
            [replace(problem, where=str(source)[:120] or f"<{kind}>") for problem in error.problems]
        ) from None


def _with_defaults(root: SourceNode, path: Path | None) -> SourceNode:
    """`root` with its name from the file and its default references written out."""
    fields = Experiment.model_fields
    default = {"software": from_python({"extends": fields["software"].default, "assumed": True}, "default of software")}
    if path is not None and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{,119}", path.stem):
        default["name"] = SourceNode(path.stem, Mark(str(path)))
    return SourceNode(default | root.value, root.mark)


def _with_recorded(root: SourceNode) -> SourceNode:
    """`root` with what a recorded step says of its job: as many ranks, each with a sample, unless that is said."""
    workload = root.value.get("workload")
    if workload is None or not isinstance(workload.value, dict) or "recording" not in workload.value:
        return root
    training, plan = (root.value.get(key, SourceNode({}, root.mark)) for key in ("training", "parallelism"))
    ranks = workload.value.get("ranks")
    if not all(isinstance(each.value, dict) for each in (training, plan)) or not ranks or type(ranks.value) is not int:
        return root
    replica = getattr(plan.value.get("tensor"), "value", 1)
    replicas = ranks.value // replica if type(replica) is int and replica > 0 else 1
    data = plan.value.get("data", SourceNode(max(1, replicas), ranks.mark))
    said = {"parallelism": SourceNode(plan.value | {"data": data}, plan.mark)}
    said["training"] = SourceNode({"global_batch": data} | training.value, training.mark)
    return SourceNode(root.value | said, root.mark)


def with_file_paths(resolver: Resolver, root: SourceNode) -> SourceNode:
    """`root` whose files (GraphML, fault log, grid, recording), relative to the one that names them, are from here."""
    if not isinstance(root.value, dict):
        return root
    nested = [
        name
        for name in ("cluster", "fabric", "failures", "log", "site", "workload", "measured", "teacher")
        if name in root.value
    ]
    inner = {name: with_file_paths(resolver, root.value[name]) for name in nested}
    for name in ("graphml", "file", "carbon_file", "recording", "trace", "power_log"):
        path = root.value.get(name)
        if path is not None and isinstance(path.value, str):
            home = resolver.homes.get(path.mark.source, resolver.outside)
            inner[name] = SourceNode(str(home / path.value), path.mark)
    if (parallel := root.value.get("parallelism")) is not None:
        inner["parallelism"] = _with_table(resolver, parallel)
    return SourceNode(root.value | inner, root.mark) if inner else root


def _with_table(resolver: Resolver, parallel: SourceNode) -> SourceNode:
    """`parallelism` with the table of a schedule instead of the file that it names."""
    schedule = parallel.value.get("schedule") if isinstance(parallel.value, dict) else None
    if schedule is None or not isinstance(schedule.value, str) or not schedule.value.endswith(SUFFIX):
        return parallel
    home = resolver.homes.get(schedule.mark.source, resolver.outside)
    try:
        table = read_schedule(home / schedule.value)
    except ConfigError as error:
        resolver.problems += error.problems
        return SourceNode({key: value for key, value in parallel.value.items() if key != "schedule"}, parallel.mark)
    return SourceNode(parallel.value | {"schedule": SourceNode(table, schedule.mark)}, parallel.mark)


def _decoded(resolver: Resolver, record: type[RecordT], root: SourceNode, si: bool) -> RecordT:
    decoded, problems = decode(record, root, si), list(dict.fromkeys(resolver.problems))
    if isinstance(decoded, list):
        raise ConfigError([*problems, *decoded])
    _raise_if(problems)
    return decoded


def _placed(problems: list[Problem], root: SourceNode) -> list[Problem]:
    """`problems` at the places of their keys, those that have no place in another file."""
    return [
        problem if problem.where else replace(problem, where=str(mark_at(root, problem.key.split("."))))
        for problem in problems
    ]


# points that share a cluster go on sharing it, so that keys of it are written once
_sized: Memo[ClusterSpec] = Memo(limit=16)


def _completed(experiment: Experiment) -> Experiment:
    """`experiment` with the cluster at the wanted size and the data-parallel ranks filled in.

    Experiments that share a cluster and want it at the same size share that too.
    """
    setup = experiment.setup
    spec, nodes = setup.cluster, experiment.nodes or setup.cluster.nodes
    cluster = _sized.get((Same(spec), nodes), lambda: spec.resized(nodes), lambda _: 1.0)
    parallelism = experiment.parallelism.model_copy(update={"data": setup.data})
    return experiment.model_copy(update={"cluster": cluster, "parallelism": parallelism})


def _raise_if(problems: Sequence[Problem]) -> None:
    if problems:
        raise ConfigError(list(problems))
