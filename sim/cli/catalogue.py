"""The verb `list`: what ships with the program, and what a cluster is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Option

from sim.cli import complete, output
from sim.cli.run import AsJson, Overrides

if TYPE_CHECKING:
    from sim.cluster.cluster import Cluster


def list_(
    what: Annotated[
        str | None,
        Argument(metavar="KIND|NAME", help="A kind, a name or a file.", autocompletion=complete.kinds_and_definitions),
    ] = None,
    everything: Annotated[bool, Option("--all", help="List every part of a cluster, not the first few.")] = False,
    export: Annotated[
        Path | None, Option("--export", metavar="FILE", help="Write the network to FILE.graphml or FILE.json.")
    ] = None,
    overrides: Overrides = None,
    json: AsJson = False,
) -> int:
    """Show the catalogue, one kind of it, a definition, or a cluster's parts.

    A cluster is listed by its nodes, adapters, switches and links, whose names serve in `degradations`; any
    other name as its file has it.
    """
    from sim.cli.kinds import kind_called
    from sim.inputs.load import CATALOGUE

    kind = what and kind_called(what)
    if export and (what is None or kind):
        raise BadParameter("needs the name of a cluster", param_hint="--export")
    if what is None or kind:
        return _list_kinds([kind] if kind else list(CATALOGUE), json)
    return _list_name(what, overrides or [], everything, export, json)


def _list_kinds(kinds: list[str], as_json: bool) -> int:
    from sim.inputs.load import list_catalogue
    from sim.report.oneline import print_kind, print_overview

    if as_json:
        output.emit_json({kind: {name: _line(kind, name) for name in list_catalogue(kind)} for kind in kinds})
    elif len(kinds) > 1:
        output.emit_rich(lambda console: print_overview({kind: list(list_catalogue(kind)) for kind in kinds}, console))
    else:
        lines = {name: _line(kinds[0], name) for name in list_catalogue(kinds[0])}
        output.emit_rich(lambda console: print_kind(kinds[0], lines, console))
    return output.FINE


def _line(kind: str, name: str) -> str:
    from sim.errors import ConfigError
    from sim.inputs.load import load_definition
    from sim.report.oneline import one_line

    try:
        return one_line(load_definition(kind, name))
    except ConfigError as error:
        return f"invalid: {error.problems[0]}"


def _list_name(name: str, overrides: list[str], everything: bool, export: Path | None, as_json: bool) -> int:
    from sim.cli.kinds import kind_of

    kind = kind_of(name)
    if kind in ("cluster", "instance"):
        return _list_cluster(name, overrides, everything, export, as_json)
    if export:
        raise BadParameter(f"{name} is not a cluster", param_hint="--export")
    return _list_definition(kind, name, overrides, as_json)


def _list_definition(kind: str, name: str, overrides: list[str], as_json: bool) -> int:
    from sim.inputs.load import load_definition

    record = load_definition(kind, name, overrides)
    if as_json:
        output.emit_json({kind: record.model_dump(mode="json")})
    else:
        output.emit_lines(_as_written(kind, name))
    return output.FINE


def _as_written(kind: str, name: str) -> Iterator[str]:
    """The file of a definition, key by key, with the units it was written in."""
    from sim.inputs.catalogue import find_definition
    from sim.inputs.reader import plain, read_file
    from sim.report.compare import flatten

    path = find_definition(kind, name, Path())
    yield f"{kind} in {path}"
    for key, value in flatten(plain(read_file(path))):
        yield f"  {key}: {str(value).lower() if isinstance(value, bool) else value}"


def _list_cluster(name: str, overrides: list[str], everything: bool, export: Path | None, as_json: bool) -> int:
    from sim.report.parts import list_parts, listing_lines

    cluster = _build(name, overrides)
    if export:
        _write_graph(cluster, export)
    listing = list_parts(cluster, everything)
    if as_json:
        output.emit_json(listing.to_json())
    elif not export:
        output.emit_lines(listing_lines(listing))
    return output.FINE


def _build(name: str, overrides: list[str]) -> Cluster:
    from sim.cluster.build import build_cluster
    from sim.inputs.load import load_definition
    from sim.inputs.records import ClusterSpec

    spec = load_definition("cluster", name, overrides)
    if not isinstance(spec, ClusterSpec):
        raise TypeError(f"{name} decodes to a {type(spec).__name__}")
    return build_cluster(spec)


def _write_graph(cluster: Cluster, file: Path) -> None:
    from sim.cluster.export import graphml, node_link
    from sim.report.files import write_text
    from sim.report.jsonout import dumps

    writers: dict[str, Callable[[Cluster], str]] = {
        ".graphml": graphml,
        ".json": lambda cluster: dumps(node_link(cluster)),
    }
    writer = writers.get(file.suffix)
    if writer is None:
        raise BadParameter(f"{file} ends neither in .graphml nor in .json", param_hint="--export")
    write_text(file, writer(cluster), "--export")
    output.say(f"wrote {file}")
