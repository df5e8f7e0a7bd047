"""Definitions by name: which kinds exist, where their files lie, and which record they fill.

Public: `CATALOGUE`, `Kind`, `catalogue_root`, `list_catalogue`, `serving`, `known_as`, `find_definition`,
`find_experiment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from sim.errors import ConfigError, Problem
from sim.inputs.energy import Prices, Site
from sim.inputs.fleet import FleetSpec
from sim.inputs.reader import plain, read_file
from sim.inputs.records import Accelerator, ClusterSpec, Experiment, Node, Software
from sim.inputs.reliability import Failures
from sim.inputs.storage import Storage
from sim.inputs.study import Study
from sim.models.catalogue import FAMILIES
from sim.record import Record


@dataclass(frozen=True)
class Kind:
    """One kind of definition: its folder in the catalogue, its records, and the keys that refer to others.

    Where there are several records, `kind` in a file says which it fills. Names of the kinds in `also` serve as well.
    """

    name: str
    folder: str
    records: Mapping[str, type[Record]]
    references: Mapping[str, str] = field(default_factory=dict)  # key to kind
    also: tuple[str, ...] = ()


def _kind(name: str, folder: str, record: type[Record], references: Mapping[str, str] | None = None) -> Kind:
    return Kind(name, folder, {name: record}, references or {})


GROUP = {"node": "node", "prices": "prices"}  # references of an entry, where a list of kinds stands for one
CLUSTER = {"node": "node", "storage": "storage", "prices": "prices"}  # references of a cluster

CATALOGUE: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("accelerator", "topologies/accelerators", Accelerator),
        _kind("node", "topologies/nodes", Node, {"accelerator": "accelerator"}),
        _kind("storage", "topologies/storage", Storage),
        Kind("cluster", "topologies", {"cluster": ClusterSpec}, CLUSTER, also=("instance",)),
        Kind("instance", "topologies/instances", {"instance": ClusterSpec}, CLUSTER, also=("cluster",)),
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
                "teacher": "workload",
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


def serving(kind: str) -> dict[str, Path]:
    """Name and file of every definition that may stand where `kind` is wanted, its own first."""
    own = list_catalogue(kind)
    return own | {name: path for other in CATALOGUE[kind].also for name, path in list_catalogue(other).items()}


def known_as(kind: str, reference: str) -> Path | None:
    """File of the definition that has `reference` for a name, else for an alias; letters of either size."""
    if not _is_name(reference):
        return None
    for folder in (kind, *CATALOGUE[kind].also):
        path = catalogue_root() / CATALOGUE[folder].folder / f"{reference}.yaml"
        if path.is_file():
            return path
    return serving(kind).get(reference) or _aliases(kind).get(reference.lower())


def is_path(reference: str) -> bool:
    """Whether `reference` is a path and not a name; `-` is standard input."""
    return "/" in reference or reference == "-" or reference.endswith((".yaml", ".yml", ".json"))


def find_definition(kind: str, reference: str, beside: Path) -> Path:
    """File of the definition that `reference` names; a path is relative to the folder `beside`.

    Raises ConfigError with the nearest names; a path is not checked to exist.
    """
    if is_path(reference):
        return beside / reference
    return known_as(kind, reference) or _refuse(kind, reference)


def find_experiment(name_or_path: str | Path) -> Path:
    """File of an experiment: an existing path, or a name in the catalogue."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or is_path(text):
        return Path(text)
    return find_definition("experiment", text, Path())


def _is_name(reference: str) -> bool:
    return 0 < len(reference) <= 120 and reference.isprintable()


@cache  # files of the catalogue stay as they are while a program runs
def _aliases(kind: str) -> dict[str, Path]:
    """Other names of definitions, in small letters; of kinds that have such."""
    if not all("aliases" in record.model_fields for record in CATALOGUE[kind].records.values()):
        return {}
    found = {name.lower(): path for name, path in serving(kind).items()}
    for path in serving(kind).values():
        found |= {str(alias).lower(): path for alias in plain(read_file(path)).get("aliases", ())}
    return found


def _refuse(kind: str, reference: str) -> Path:
    from sim.inputs.alike import way_to  # reads the catalogue

    article = "an" if kind[0] in "aeiou" else "a"
    message = f"no {kind} is called {reference[:120]!r}" if reference else f"{article} {kind} has no name"
    raise ConfigError(Problem("", "", message, way_to(kind, reference[:120], [*serving(kind), *_aliases(kind)])))
