"""Events of a Chrome trace (Kineto, Perfetto's JSON), one after the other: memory does not grow with the file.

The file is an object with a list `traceEvents`, or that list alone; `.gz` is unpacked on the way. Objects are decoded
one at a time from a window of the text, so a gigabyte takes time, not memory.

Public: `trace_events`, `MOST_EVENT`.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from sim.errors import ConfigError, Problem
from sim.inputs.reader import shown_path

CHUNK = 2**20  # characters that are read at once
MOST_EVENT = 2**25  # characters of one event, or of one entry beside the events
CUT = 16  # signs from the end of the window within which a value may just be cut
SPACE = " \t\r\n"
LIST = "traceEvents"


def trace_events(path: Path, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of a file in its order; what else it says at the top level is put into `about`. Raises ConfigError.

    `about` is whole when all events were asked for: entries may follow them.
    """
    if not path.is_file():
        kind = "is a directory, not a file" if path.is_dir() else "is not a regular file"
        raise ConfigError(Problem(shown_path(path), "", kind if path.exists() else "no such file"))
    try:
        with path.open("rb") as packed:
            is_packed = packed.read(2) == b"\x1f\x8b"
            packed.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=packed) if is_packed else packed  # type: ignore[assignment]
            with io.TextIOWrapper(stream, encoding="utf-8") as text:
                yield from TextWindow(text, path).events(about)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(Problem(shown_path(path), "", message, "is it whole, and JSON or packed JSON?")) from None


class TextWindow:
    """A part of a text, moved along it; values are decoded where it stands."""

    def __init__(self, text: IO[str], path: Path) -> None:
        self.text, self.path = text, path
        self.held, self.at, self.events_read = "", 0, 0
        self.decode = json.JSONDecoder().raw_decode

    def events(self, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """All events; other entries of the top level go into `about`."""
        first = self.next_sign()
        if first == "[":
            yield from self.items()
        elif first == "{":
            yield from self.entries(about)
        else:
            self.refuse("holds no JSON object" if first else "is empty")

    def entries(self, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Events of the list in an object."""
        found, sign = False, self.peek()
        while sign != "}":
            key = self.value()
            if self.next_sign() != ":":
                self.refuse(f"has no value after {key!r}")
            if key == LIST and self.peek() == "[":
                found = True
                self.next_sign()
                yield from self.items()
            else:
                about[str(key)] = self.value()
            sign = self.next_sign()
            if sign not in ("}", ","):
                self.refuse("ends in the middle of an object" if not sign else f"has {sign!r} between two entries")
        if not found:
            self.refuse(f"has no list {LIST!r}: it is no trace of the PyTorch profiler")

    def items(self) -> Iterator[dict[str, Any]]:
        """Events up to the end of the list."""
        if self.peek() == "]":
            self.next_sign()
            return
        while True:
            event = self.value()
            self.events_read += 1
            if isinstance(event, dict):
                yield event
            sign = self.next_sign()
            if sign == "]":
                return
            if sign != ",":
                self.refuse("ends in the middle of the list" if not sign else f"has {sign!r} between two events")

    def value(self) -> Any:
        """The value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.held, self.at)
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated") or error.pos > len(self.held) - CUT
                if len(self.held) - self.at > MOST_EVENT:
                    self.refuse(f"has an entry of more than {MOST_EVENT // 2**20} MiB")
                if may_go_on and self.more():
                    continue
                self.refuse("ends in the middle of an entry" if may_go_on else f"is damaged: {error.msg}")
            except RecursionError:
                self.refuse("is nested too deep")
            if end == len(self.held) and self.more():  # a number may go on
                continue
            self.at = end
            return value

    def peek(self) -> str:
        """The next sign that is no space, "" at the end; it stays."""
        while True:
            while self.at < len(self.held) and self.held[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.held):
                return self.held[self.at]
            if not self.more():
                return ""

    def next_sign(self) -> str:
        """The same, and it is passed."""
        sign = self.peek()
        self.at += len(sign)
        return sign

    def more(self) -> bool:
        """Hold more of the text; whether there was more."""
        chunk = self.text.read(max(CHUNK, len(self.held) - self.at))  # doubles, so that long entries are read once
        self.held, self.at = self.held[self.at :] + chunk, 0
        return bool(chunk)

    def refuse(self, message: str) -> NoReturn:
        """Raise ConfigError at the event where the text is not as it should be."""
        where = f"{shown_path(self.path)}: event {self.events_read}" if self.events_read else shown_path(self.path)
        raise ConfigError(Problem(where, "", message, "record the trace again, or export it whole"))
