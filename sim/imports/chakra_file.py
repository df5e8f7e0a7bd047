"""Files of Chakra execution traces: a stream of messages, each behind its length, a node at a time.

Field numbers are those of et_def.proto of mlcommons/chakra (schema 0.0.4, the same at package version 1.0.0), which
ASTRA-sim's feeder reads: GlobalMetadata first, then a Node each. Wire format: Protocol Buffers, "Encoding".

Public: `ChakraNode`, `ChakraStream`, `open_chakra`, `chakra_bytes`, `NODE_TYPES`, `COMM_TYPES`.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from sim.errors import ConfigError, Problem
from sim.inputs.reader import read_bytes, shown_path

METADATA, MEM_LOAD, MEM_STORE, COMP, COMM_SEND, COMM_RECV, COMM_COLL = range(1, 8)
JSON_KEYS = {
    "id": "id", "name": "name", "nodetype": "type", "type": "type", "ctrldeps": "control", "ctrl_deps": "control",
    "data_deps": "data", "datadeps": "data", "runtime": "duration_us", "duration_micros": "duration_us",
    "start_time_micros": "start_us",
}  # fmt: skip
NODE_TYPES = ("invalid", "metadata", "load", "store", "computation", "send", "receive", "collective")
COMM_TYPES = (
    "all_reduce", "reduce", "all_gather", "gather", "scatter", "broadcast", "all_to_all", "reduce_scatter",
    "reduce_scatter", "barrier",
)  # fmt: skip
VERSION = "0.0.4"
MOST_MESSAGE = 2**24  # bytes of one node: with more its length is no length
MOST_JSON = 128 * 2**20
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types
FIXED = {  # scalar fields of a value that have a fixed width [B]
    3: (8, "<d"), 5: (4, "<f"), 19: (4, "<I"), 21: (8, "<Q"), 23: (4, "<i"), 25: (8, "<q"),
}  # fmt: skip
WAY_OUT = "write the trace again; the copy is damaged, or no Chakra trace"

Value = bool | int | float | str | tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class ChakraNode:
    """A node as it stands in a file. Times in microseconds, as the schema counts them."""

    id: int
    name: str
    type: int
    control: tuple[int, ...] = ()  # ids that it waits for
    data: tuple[int, ...] = ()
    start_us: int = 0
    duration_us: int = 0
    attributes: Mapping[str, Value] = field(default_factory=dict)

    def whole(self, name: str, otherwise: int = 0) -> int:
        """A whole number among its attributes, in whatever width it was written. Raises ValueError."""
        value = self.attributes.get(name)
        if value is None or value == "":
            return otherwise
        if isinstance(value, tuple) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(f"{name} is {value!r}, no whole number")
        try:
            return int(value)
        except ValueError:
            raise ValueError(f"{name} is {str(value)[:40]!r}, no whole number") from None


class _Damaged(ValueError):
    """A message that cannot be one."""


@dataclass
class ChakraStream:
    """The nodes of a file, read as they are asked for; `attributes` are those of the trace."""

    path: Path
    version: str
    attributes: dict[str, Value]
    nodes: Iterator[ChakraNode]


def open_chakra(path: Path) -> ChakraStream:
    """The trace of one rank: protobuf (packed with gzip or not), or the JSON that the feeder of Chakra reads.

    Raises ConfigError, and later while nodes are taken, with the number of the node and its place in bytes.
    """
    shown = shown_path(path)
    if not path.is_file():
        raise ConfigError(Problem(shown, "", "no such file" if not path.exists() else "is not a regular file"))
    with path.open("rb") as file:
        lead = file.read(2)
    if lead[:1] in (b"{", b"["):
        return _json_stream(path)
    messages = _messages(path, packed=lead == b"\x1f\x8b")
    try:
        first = next(messages, None)
        version, attributes = _metadata(first[1]) if first else ("", {})
    except (ValueError, struct.error) as error:
        raise ConfigError(Problem(shown, "metadata", str(error), WAY_OUT)) from None
    if first is None:
        raise ConfigError(Problem(shown, "", "is empty", WAY_OUT))
    return ChakraStream(path, version, attributes, _nodes(messages, shown))


def _nodes(messages: Iterator[tuple[int, bytes]], shown: str) -> Iterator[ChakraNode]:
    for number, (place, message) in enumerate(messages):
        try:
            yield _node(message)
        except (ValueError, struct.error, OverflowError) as error:
            raise ConfigError(Problem(shown, f"node {number} at byte {place}", str(error), WAY_OUT)) from None


def _messages(path: Path, packed: bool) -> Iterator[tuple[int, bytes]]:
    """Each message with its place in the file. Raises ConfigError where the file is cut or no stream of messages."""
    place = number = 0

    def refuse(message: str) -> NoReturn:
        where = f"node {number - 1} at byte {place}" if number else "metadata"
        raise ConfigError(Problem(shown_path(path), where, message, WAY_OUT))

    try:
        with path.open("rb") as raw:
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
            while (length := _length(file, refuse)) is not None:
                if length > MOST_MESSAGE:
                    refuse(f"would be {length} bytes long")
                message = file.read(length)
                if len(message) < length:
                    refuse(f"is cut: {len(message)} of {length} bytes")
                yield place, message
                place, number = file.tell(), number + 1
    except (OSError, EOFError, zlib.error) as error:
        refuse(f"cannot be read: {error}")


def _length(file: IO[bytes], refuse: Callable[[str], NoReturn]) -> int | None:
    """The length that stands before a message; None at the end of the file."""
    value = shift = 0
    while byte := file.read(1):
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value
        if shift > 28:
            refuse("begins with no length")
    if shift:
        refuse("is cut in its length")
    return None


# --- messages -------------------------------------------------------------------------------


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise _Damaged("a number is cut")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field; bytes where it has a length or a fixed width."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value: Any
            value, at = _varint(message, at)
        else:
            if wire == LENGTH:
                size, at = _varint(message, at)
            elif wire in (FIXED64, FIXED32):
                size = 8 if wire == FIXED64 else 4
            else:
                raise _Damaged(f"field {number} has the wire type {wire}, which is none")
            if at + size > end:
                raise _Damaged(f"field {number} is cut")
            value = message[at : at + size]
            at += size
        if number == 0:
            raise _Damaged("a field has the number 0")
        yield number, wire, value


def _metadata(message: bytes) -> tuple[str, dict[str, Value]]:
    version, attributes = "", dict[str, Value]()
    for number, wire, value in _fields(message):
        if number == 1:
            version = _text(value, wire)
        elif number == 2:
            name, said = _attribute(value, wire)
            attributes[name] = said
    return version, attributes


def _node(message: bytes) -> ChakraNode:
    numbers, lists = dict.fromkeys((1, 3, 6, 7), 0), {4: list[int](), 5: list[int]()}
    name, attributes = "", dict[str, Value]()
    for number, wire, value in _fields(message):
        if number in numbers:
            numbers[number] = _number(value, wire, number)
        elif number in lists:
            lists[number] += _packed_varints(value) if wire == LENGTH else [_number(value, wire, number)]
        elif number == 2:
            name = _text(value, wire)
        elif number == 10:
            key, said = _attribute(value, wire)
            attributes[key] = said
    if not 0 < numbers[3] < len(NODE_TYPES):
        raise _Damaged(f"{name[:60] or 'a node'} has the type {numbers[3]}, not 1 to {len(NODE_TYPES) - 1}")
    return ChakraNode(
        numbers[1], name, numbers[3], tuple(lists[4]), tuple(lists[5]), numbers[6], numbers[7], attributes
    )


def _number(value: Any, wire: int, number: int) -> int:
    if wire != VARINT:
        raise _Damaged(f"field {number} is no whole number")
    return int(value)


def _text(value: Any, wire: int) -> str:
    if wire != LENGTH:
        raise _Damaged("a name is no text")
    return bytes(value).decode()


def _packed_varints(message: bytes) -> list[int]:
    at, found = 0, []
    while at < len(message):
        value, at = _varint(message, at)
        found.append(value)
    return found


def _attribute(message: Any, wire: int) -> tuple[str, Value]:
    """Name and value of an attribute; None where it has no value."""
    if wire != LENGTH:
        raise _Damaged("an attribute is no message")
    name, said = "", None
    for number, kind, value in _fields(message):
        if number == 1:
            name = _text(value, kind)
        elif number >= 3:
            said = _scalar(value, kind, number) if number % 2 else _listed(value, kind, number)
    return name, said


def _listed(value: Any, wire: int, number: int) -> Value:
    """The list in field `number` holds values of the scalar field before it."""
    if wire != LENGTH:
        raise _Damaged("a list is no message")
    found: list[Any] = []
    scalar = number - 1
    for inner, kind, item in _fields(value):
        if inner != 1:
            continue
        if kind != LENGTH or scalar in (29, 31):
            found.append(_scalar(item, kind, scalar))
        elif scalar in FIXED:
            width, form = FIXED[scalar]
            found += [struct.unpack_from(form, item, at)[0] for at in range(0, len(item), width)]
        else:
            found += [_signed(each, scalar) for each in _packed_varints(item)]
    return tuple(found)


def _scalar(value: Any, wire: int, number: int) -> Value:
    if wire == VARINT:
        return bool(value) if number == 27 else _signed(value, number)
    if number in FIXED and len(value) == FIXED[number][0]:
        unpacked: float = struct.unpack(FIXED[number][1], value)[0]
        return unpacked
    if number == 29:
        return _text(value, wire)
    if number == 31:
        return bytes(value).hex()
    raise _Damaged(f"a value in field {number} has the wire type {wire}")


def _signed(value: int, number: int) -> int:
    if number in (15, 17):
        return (value >> 1) ^ -(value & 1)
    if number in (7, 9) and value >= 2**63:
        return value - 2**64
    return value


# --- JSON -----------------------------------------------------------------------------------


def _json_stream(path: Path) -> ChakraStream:
    """The encoding of Chakra's JSON feeder: `workload_graph`, a list of nodes. Raises ConfigError."""
    shown = shown_path(path)
    try:
        content = json.loads(read_bytes(path, MOST_JSON))
    except (ValueError, RecursionError) as error:
        raise ConfigError(Problem(shown, "", f"cannot be read as JSON: {error}", WAY_OUT)) from None
    if isinstance(content, dict) and "workload_graph" in content:
        return ChakraStream(path, "json", {}, _json_nodes(content["workload_graph"], shown))
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, str) and "chakra" in schema:
        message = f"is what PyTorch's observer writes ({schema[:40]}): it holds no times"
        way_out = "join it with the profiler's trace by chakra_trace_link and chakra_converter, or import kineto"
        raise ConfigError(Problem(shown, "schema", message, way_out))
    raise ConfigError(Problem(shown, "workload_graph", "is missing: no Chakra trace as JSON", WAY_OUT))


def _json_nodes(entries: Any, shown: str) -> Iterator[ChakraNode]:
    """Keys as the feeder spells them in either case; what is no key of a node is an attribute."""
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            said = {JSON_KEYS.get(key.lower(), key): value for key, value in entry.items()}
            head = {
                name: said.pop(name)
                for name in ("id", "name", "type", "control", "data", "duration_us")
                if name in said
            }
            lists = {name: tuple(map(int, head.get(name, ()))) for name in ("control", "data")}
            node = ChakraNode(
                int(head["id"]), str(head.get("name", "")), int(head["type"]), **lists,
                start_us=int(said.pop("start_us", 0)), duration_us=int(head.get("duration_us", 0)), attributes=said,
            )  # fmt: skip
            if not 0 < node.type < len(NODE_TYPES):
                raise ValueError(f"its type is {node.type}, not 1 to {len(NODE_TYPES) - 1}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ConfigError(Problem(shown, f"workload_graph.{number}", reason, WAY_OUT)) from None
        yield node


# --- writing --------------------------------------------------------------------------------


def chakra_bytes(nodes: Iterable[ChakraNode], attributes: Mapping[str, Value] | None = None) -> Iterator[bytes]:
    """The messages of a trace, each behind its length: what `open_chakra` reads."""
    head = _lengthed(1, VERSION.encode())
    head += b"".join(_lengthed(2, _attribute_bytes(name, value)) for name, value in (attributes or {}).items())
    yield _written(len(head)) + head
    for node in nodes:
        message = _node_bytes(node)
        yield _written(len(message)) + message


def _written(value: int) -> bytes:
    found = bytearray()
    value &= 2**64 - 1
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _tagged(number: int, value: int) -> bytes:
    return _written(number << 3 | VARINT) + _written(value)


def _lengthed(number: int, content: bytes) -> bytes:
    return _written(number << 3 | LENGTH) + _written(len(content)) + content


def _node_bytes(node: ChakraNode) -> bytes:
    parts = [_tagged(1, node.id), _lengthed(2, node.name.encode()), _tagged(3, node.type)]
    for number, ids in ((4, node.control), (5, node.data)):
        if ids:
            parts.append(_lengthed(number, b"".join(map(_written, ids))))
    parts += [_tagged(6, node.start_us), _tagged(7, node.duration_us)]
    parts += [_lengthed(10, _attribute_bytes(name, value)) for name, value in node.attributes.items()]
    return b"".join(parts)


def _attribute_bytes(name: str, value: Value) -> bytes:
    """An attribute in the width that the examples of ASTRA-sim use: bool, int64, double, string, or a list of these."""
    parts = [_lengthed(1, name.encode())]
    if isinstance(value, tuple):
        kind = _field_of(value[0]) if value else 29
        items = (_value_bytes(1, kind, item) for item in value)
        parts.append(_lengthed(kind + 1, b"".join(items)))
    elif value is not None:
        kind = _field_of(value)
        parts.append(_value_bytes(kind, kind, value))
    return b"".join(parts)


def _field_of(value: Value) -> int:
    if isinstance(value, bool):
        return 27
    return 9 if isinstance(value, int) else 3 if isinstance(value, float) else 29


def _value_bytes(number: int, kind: int, value: Any) -> bytes:
    if kind == 3:
        return _written(number << 3 | FIXED64) + struct.pack("<d", value)
    return _lengthed(number, str(value).encode()) if kind == 29 else _tagged(number, int(value))
