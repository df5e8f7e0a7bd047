"""Names of the catalogue and keys of the input, for the completion of shells."""

from __future__ import annotations


def experiments(incomplete: str) -> list[str]:
    """Experiments of the catalogue; files are completed by the shell."""
    return _names(("experiment",), incomplete)


def studies(incomplete: str) -> list[str]:
    """Studies of the catalogue."""
    return _names(("study",), incomplete)


def fleets(incomplete: str) -> list[str]:
    """Fleets of the catalogue."""
    return _names(("fleet",), incomplete)


def definitions(incomplete: str) -> list[str]:
    """Every name of the catalogue."""
    from sim.cli.kinds import ORDER

    return _names(ORDER, incomplete)


def kinds_and_definitions(incomplete: str) -> list[str]:
    """Every kind, and every name of the catalogue."""
    return kinds(incomplete) + definitions(incomplete)


def clusters(incomplete: str) -> list[str]:
    """Clusters of the catalogue."""
    return _names(("cluster", "instance"), incomplete)


def workloads(incomplete: str) -> list[str]:
    """Workloads of the catalogue."""
    return _names(("workload",), incomplete)


def nodes(incomplete: str) -> list[str]:
    """Kinds of server of the catalogue."""
    return _names(("node",), incomplete)


def accelerators(incomplete: str) -> list[str]:
    """Accelerators of the catalogue."""
    return _names(("accelerator",), incomplete)


def kinds(incomplete: str) -> list[str]:
    """Kinds of definitions."""
    from sim.cli.kinds import ORDER

    return [kind for kind in ORDER if kind.startswith(incomplete)]


def keys(incomplete: str) -> list[str]:
    """Key paths of an experiment, level by level."""
    from sim.inputs.document import entries

    depth = incomplete.count(".")
    paths = (entry.path for entry in entries() if entry.path.count(".") == depth)
    return sorted({path for path in paths if path.startswith(incomplete)})


def explainable(incomplete: str) -> list[str]:
    """Key paths, and `run`."""
    return [*(["run"] if "run".startswith(incomplete) else []), *keys(incomplete)]


def _names(wanted: tuple[str, ...], incomplete: str) -> list[str]:
    from sim.inputs.catalogue import list_catalogue

    return sorted({name for kind in wanted for name in list_catalogue(kind) if name.startswith(incomplete)})
