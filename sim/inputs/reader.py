"""Safe YAML with positions.

Public: `Mark`, `SourceNode`, `read_file`, `read_bytes`, `read_text`,
`shown_path`, `from_python`, `plain`, `yaml_files`, and the limits
`MAX_BYTES`, `MAX_NODES`, `MAX_DEPTH`.

The accepted language is YAML 1.2 with the core schema and less: no tags, no merge keys, one
document, unique keys. Booleans are `true` and `false` only, so `NO` and `on` stay text, as does
`12:30:00`. Built from parser events, not from PyYAML's objects: an explicit stack, a budget of
nodes that aliases are charged to, and a position for every key.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml

from sim.errors import ConfigError, Problem
from sim.models.huggingface import from_config, is_config

STDIN = Path("-")
MAX_BYTES = 8 * 2**20
MAX_NODES = 150_000
MAX_DEPTH = 40

_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]{1,100}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_HINTS = (
    ("cannot start any token", "put the text in quotes"),
    ("mapping values are not allowed", "put text that contains ': ' in quotes"),
    ("could not find expected ':'", "write `key: value`"),
    ("did not find expected", "check the indentation and the brackets around this line"),
)


class Mark(NamedTuple):
    """Where a value was written; line 0 for what is not in a file."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class SourceNode:
    """A value and its place: a scalar, a dict of key to SourceNode, or a list of SourceNodes. Never changed."""

    value: Any
    mark: Mark


def plain(node: SourceNode) -> Any:
    """The values of `node` without their places; lists become tuples."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return tuple(plain(item) for item in value) if isinstance(value, list) else value


def yaml_files(path: Path) -> list[Path]:
    """The YAML files under a folder, sorted; a file stands for itself."""
    if not path.is_dir():
        return [path]
    return sorted(file for suffix in ("yaml", "yml") for file in path.rglob(f"*.{suffix}"))


def read_file(path: Path) -> SourceNode:
    """The mapping in the YAML or JSON file `path`. Raises ConfigError. Equal contents are parsed once.

    A `config.json` of Hugging Face becomes the workload that it describes.
    """
    node = _parsed(read_bytes(path, MAX_BYTES, "a definition is a few kilobytes"), shown_path(path))
    return _converted(node, path) if is_config(node.value) else node


def _converted(node: SourceNode, path: Path) -> SourceNode:
    """The workload of a config, called as its folder if the file has the usual name."""
    named = path.absolute().parent.name if path.stem == "config" else path.stem
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", named).strip("-.+")[:119] or "imported"
    try:
        return from_python(from_config(plain(node), name), node.mark.source)
    except ConfigError as error:
        places = (str(node.value[each.key].mark if each.key in node.value else node.mark) for each in error.problems)
        located = [replace(each, where=where) for each, where in zip(error.problems, places, strict=True)]
        raise ConfigError(located) from None


def read_bytes(path: Path, most: int, usual: str = "") -> bytes:
    """The content of a regular file of at most `most` bytes; `usual` says how large they are. Raises ConfigError.

    Devices and pipes, which may never end, are refused before they are opened.
    """
    source = shown_path(path)
    if _is_handed_over(path):
        return _handed_over(path, most)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            _refuse(Mark(source), "is a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            _refuse(Mark(source), "is not a regular file")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except FileNotFoundError:
        _refuse(Mark(source), "no such file")
    except (OSError, ValueError) as error:
        _refuse(Mark(source), f"cannot be read: {getattr(error, 'strerror', None) or error}")
    if len(content) > most:
        _refuse(Mark(source, 1, 1), f"is larger than {most // 2**20} MiB", usual)
    return content


_received: dict[Path, bytes] = {}  # a pipe can be read once, what is in it is asked for by several verbs


def _is_handed_over(path: Path) -> bool:
    """Standard input, or what a shell hands over for `<(...)`."""
    return path == STDIN or (path.is_relative_to("/dev/fd") and path.is_fifo())


def _handed_over(path: Path, most: int) -> bytes:
    if path not in _received:
        if path == STDIN:
            _received[path] = sys.stdin.buffer.read(most + 1)
        else:
            with path.open("rb") as file:
                _received[path] = file.read(most + 1)
    if len(_received[path]) > most:
        _refuse(Mark(shown_path(path), 1, 1), f"is larger than {most // 2**20} MiB")
    return _received[path]


def read_text(text: str, source: str) -> SourceNode:
    """The value that the YAML `text` says; `source` names it in errors."""
    control = _CONTROL.search(text)
    if control:
        _refuse(_mark_at(text, control.start(), source), f"holds the control character {control[0]!r}")
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([*builder.problems, _syntax_problem(error, text, source)]) from None
    except yaml.YAMLError as error:
        _refuse(Mark(source), f"is not YAML: {error}")
    if builder.problems:
        raise ConfigError(builder.problems)
    return builder.root or SourceNode(None, Mark(source, 1, 1))


def from_python(value: object, source: str, depth: int = 0) -> SourceNode:
    """SourceNode of plain Python data, for callers that have no file."""
    mark = Mark(source)
    if depth > MAX_DEPTH:
        _refuse(mark, _TOO_DEEP)
    if isinstance(value, Mapping):
        return SourceNode({str(key): from_python(item, source, depth + 1) for key, item in value.items()}, mark)
    if isinstance(value, list | tuple):
        return SourceNode([from_python(item, source, depth + 1) for item in value], mark)
    return SourceNode(str(value) if isinstance(value, Path) else value, mark)


# --- text -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)  # files refer to the same ones again and again
def _parsed(content: bytes, source: str) -> SourceNode:
    node = read_text(_decoded(content, source), source)
    if node.value is None:
        _refuse(Mark(source, 1, 1), "is empty", "write `key: value` lines; `clustersim explain` lists the keys")
    if not isinstance(node.value, dict):
        _refuse(node.mark, "does not hold a mapping at the top", "write `key: value` lines")
    return node


def _decoded(content: bytes, source: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(Mark(source, 1, 1), "is UTF-16 text", "save it as UTF-8")
    if b"\0" in content[:4096]:
        _refuse(Mark(source, 1, 1), "is a binary file, not YAML text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        _refuse(Mark(source, line, column), "is not UTF-8 text", "save it as UTF-8")


def shown_path(path: Path) -> str:
    """`path` as it stands in messages: from here, and cut to a readable length."""
    if path == STDIN:
        return "<stdin>"
    here = Path.cwd()
    text = str(path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path)
    return text if len(text) <= 300 else f"{text[:100]}...{text[-100:]}"


def _mark_at(text: str, position: int, source: str) -> Mark:
    return Mark(source, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _mark(source: str, mark: Any) -> Mark:
    return Mark(source, mark.line + 1, mark.column + 1)


def _refuse(mark: Mark, message: str, suggestion: str = "") -> NoReturn:
    raise ConfigError(Problem(str(mark), "", message, suggestion)) from None


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, source: str) -> Problem:
    if error.problem_mark is None:
        return Problem(source, "", f"is not YAML: {error.problem}")
    where = _mark(source, error.problem_mark)
    if "\t" in _character(text, where):
        return Problem(str(where), "", "is indented with a tab", "indent with spaces")
    message = " ".join(part for part in (error.context, error.problem) if part)
    if "nesting depth" in message:  # libyaml 0.2.6 and newer look ahead and stop first, at 1,000 levels
        return Problem(str(where), "", _TOO_DEEP)
    hint = next((hint for pattern, hint in _HINTS if pattern in message), "")
    return Problem(str(where), "", f"is not YAML: {message}", hint)


def _character(text: str, mark: Mark) -> str:
    lines = text.splitlines()
    return lines[mark.line - 1][mark.column - 1 : mark.column] if mark.line <= len(lines) else ""


# --- events to nodes --------------------------------------------------------------------------


@dataclass(slots=True)
class _Frame:
    """A collection that is being read."""

    mark: Mark
    anchor: str | None
    before: int  # nodes read before this one
    value: Any  # dict or list of SourceNodes
    key_mark: Mark
    key: str | None = None
    height: int = 0  # levels below this one

    @property
    def wants_key(self) -> bool:
        return self.key is None and isinstance(self.value, dict)


@dataclass(slots=True)
class _Builder:
    """Builds the SourceNode of one document from parser events, within the limits."""

    source: str
    root: SourceNode | None = None
    problems: list[Problem] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    anchors: dict[str, tuple[SourceNode, int, int]] = field(default_factory=dict)  # node, its size, its height
    size: int = 0
    documents: int = 0

    def feed(self, event: Any) -> None:
        handler = _HANDLERS.get(type(event))
        if handler:
            handler(self, event)

    def start_document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            _refuse(_mark(self.source, event.start_mark), "starts a second document", "keep one document to a file")

    def scalar(self, event: Any) -> None:
        mark = self.enter(event)
        top = self.frames[-1] if self.frames else None
        if top is not None and top.wants_key:
            self.start_entry(top, event.value, mark)
        else:
            node = SourceNode(scalar(event.value) if event.implicit[0] else event.value, mark)
            self.keep(event.anchor, node, 1, 0)
            self.add(node, 0)

    def start_entry(self, frame: _Frame, key: str, mark: Mark) -> None:
        if key == "<<":
            _refuse(mark, "merge keys are not supported", "use `extends: NAME` to start from another definition")
        frame.key, frame.key_mark = key, mark

    def start_collection(self, event: Any) -> None:
        mark = self.enter(event)
        self.refuse_as_key(mark)
        value: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.frames.append(_Frame(mark, event.anchor, self.size - 1, value, mark))
        self.check_depth(mark, 0)

    def end_collection(self, event: Any) -> None:
        frame = self.frames.pop()
        node = SourceNode(frame.value, frame.mark)
        self.keep(frame.anchor, node, self.size - frame.before, frame.height)
        self.add(node, frame.height + 1)

    def alias(self, event: Any) -> None:
        mark = _mark(self.source, event.start_mark)
        self.refuse_as_key(mark)
        if event.anchor not in self.anchors:
            _refuse(mark, f"the alias *{event.anchor} stands for nothing that is complete here")
        node, size, height = self.anchors[event.anchor]
        self.charge(size, mark)
        self.check_depth(mark, height)
        self.add(SourceNode(node.value, mark), height + 1)

    def enter(self, event: Any) -> Mark:
        mark = _mark(self.source, event.start_mark)
        self.charge(1, mark)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")[:60]
            self.problems.append(Problem(str(mark), "", f"the tag {tag} is not allowed", "remove it"))
        return mark

    def charge(self, size: int, mark: Mark) -> None:
        self.size += size
        if self.size > MAX_NODES:
            _refuse(mark, f"more than {MAX_NODES} values, aliases expanded")

    def check_depth(self, mark: Mark, height: int) -> None:
        if len(self.frames) + height > MAX_DEPTH:
            _refuse(mark, _TOO_DEEP)

    def refuse_as_key(self, mark: Mark) -> None:
        if self.frames and self.frames[-1].wants_key:
            _refuse(mark, "a key must be text", "put text with braces or brackets in quotes")

    def keep(self, anchor: str | None, node: SourceNode, size: int, height: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = node, size, height

    def add(self, node: SourceNode, height: int) -> None:
        if not self.frames:
            self.root = node
            return
        frame = self.frames[-1]
        frame.height = max(frame.height, height)
        if frame.key is None:
            frame.value.append(node)
        else:
            self.add_entry(frame, frame.key, node)

    def add_entry(self, frame: _Frame, key: str, node: SourceNode) -> None:
        if key in frame.value:
            first = frame.value[key].mark
            text = f"the key stands here and at {first.line}:{first.column}"
            self.problems.append(Problem(str(frame.key_mark), key, text, "remove one of them"))
        frame.value[key] = SourceNode(node.value, frame.key_mark)
        frame.key = None


_HANDLERS: dict[type, Callable[[_Builder, Any], None]] = {
    yaml.DocumentStartEvent: _Builder.start_document,
    yaml.ScalarEvent: _Builder.scalar,
    yaml.AliasEvent: _Builder.alias,
    yaml.MappingStartEvent: _Builder.start_collection,
    yaml.SequenceStartEvent: _Builder.start_collection,
    yaml.MappingEndEvent: _Builder.end_collection,
    yaml.SequenceEndEvent: _Builder.end_collection,
}


def scalar(text: str) -> Any:
    """Value of a plain scalar under the YAML 1.2 core schema; numbers are decimal."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
