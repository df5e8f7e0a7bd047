"""Definitions by name: which kinds exist, where their files lie, and which record they fill.

Public: `CATALOGUE`, `Kind`, `catalogue_root`, `list_catalogue`, `find_definition`, `find_experiment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.inputs.energy import Prices, Site
from sim.inputs.fleet import FleetSpec
from sim.inputs.records import Accelerator, ClusterSpec, Experiment, Node, Software
from sim.inputs.reliability import Failures
from sim.inputs.storage import Storage
from sim.inputs.study import Study
from sim.models.catalogue import FAMILIES
from sim.record import Record


@dataclass(frozen=True)
class Kind:
    """One kind of definition: its folder in the catalogue, its records, and the keys that refer to others.

    Where there are several records, `kind` in a file says which it fills.
    """

    name: str
    folder: str
    records: Mapping[str, type[Record]]
    references: Mapping[str, str] = field(default_factory=dict)  # key to kind


def _kind(name: str, folder: str, record: type[Record], references: Mapping[str, str] | None = None) -> Kind:
    return Kind(name, folder, {name: record}, references or {})


CATALOGUE: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("accelerator", "topologies/accelerators", Accelerator),
        _kind("node", "topologies/nodes", Node, {"accelerator": "accelerator"}),
        _kind("storage", "topologies/storage", Storage),
        _kind("cluster", "topologies", ClusterSpec, {"node": "node", "storage": "storage"}),
        Kind("workload", "workloads", FAMILIES),
        _kind("software", "workloads/software", Software),
        _kind("failures", "topologies/failures", Failures),
        _kind("site", "topologies/sites", Site),
        _kind("prices", "topologies/prices", Prices),
        _kind(
            "experiment",
            "experiments",
            Experiment,
            {
                "cluster": "cluster",
                "workload": "workload",
                "software": "software",
                "failures": "failures",
                "site": "site",
                "prices": "prices",
            },
        ),
        _kind("study", "experiments/studies", Study, {"base": "experiment"}),
        _kind(
            "fleet",
            "experiments/fleet",
            FleetSpec,
            {"cluster": "cluster", "failures": "failures", "site": "site", "prices": "prices"},
        ),
    )
}


TAKEN_BY = {  # what is wanted, what a name is: the way on
    ("experiment", "study"): ": clustersim sweep takes it",
    ("experiment", "cluster"): ": clustersim list shows it, and an experiment names it as its cluster",
    ("experiment", "workload"): ": clustersim list shows it, and an experiment names it as its workload",
    ("study", "experiment"): ": clustersim run takes it",
}


def catalogue_root() -> Path:
    """Folder of the catalogue: inside the installed package, else the repository that holds it."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "_catalogue"
    return inside if inside.is_dir() else package.parent


def list_catalogue(kind: str) -> dict[str, Path]:
    """Name and file of every definition of `kind`, sorted by name."""
    folder = catalogue_root() / CATALOGUE[kind].folder
    files = [file for file in folder.glob("*.y*ml") if file.suffix in (".yaml", ".yml")]
    return {file.stem: file for file in sorted(files)}


def is_path(reference: str) -> bool:
    """Whether `reference` is a path and not a name; `-` is standard input."""
    return "/" in reference or reference == "-" or reference.endswith((".yaml", ".yml", ".json"))


def find_definition(kind: str, reference: str, beside: Path) -> Path:
    """File of the definition that `reference` names; a path is relative to the folder `beside`.

    Raises ConfigError with the nearest names; a path is not checked to exist.
    """
    if is_path(reference):
        return beside / reference
    path = catalogue_root() / CATALOGUE[kind].folder / f"{reference}.yaml"
    return path if _is_name(reference) and path.is_file() else _listed(kind, reference)


def find_experiment(name_or_path: str | Path) -> Path:
    """File of an experiment: an existing path, or a name in the catalogue."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or is_path(text):
        return Path(text)
    return find_definition("experiment", text, Path())


def _is_name(reference: str) -> bool:
    return 0 < len(reference) <= 120 and reference.isprintable()


def _listed(kind: str, reference: str) -> Path:
    known = list_catalogue(kind)
    if reference in known:
        return known[reference]
    close = get_close_matches(reference[:120], known, n=3, cutoff=0.5)
    other = next((each for each in CATALOGUE if _is_name(reference) and reference in list_catalogue(each)), None)
    if other:
        article = "an" if other[0] in "aeiou" else "a"
        way_out = f"{reference} is {article} {other}{TAKEN_BY.get((kind, other), '')}"
    elif close:
        way_out = f"did you mean {' or '.join(close)}?"
    else:
        way_out = f"`clustersim list` shows what there is; a path ends in .yaml, such as ./{kind}.yaml"
    article = "an" if kind[0] in "aeiou" else "a"
    message = f"no {kind} is called {reference[:120]!r}" if reference else f"{article} {kind} has no name"
    raise ConfigError(Problem("", "", message, way_out))
