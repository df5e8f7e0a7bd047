"""XML whose elements know their lines. Entities are refused: they can stand for more than memory holds.

Public: `MarkedElement`, `read_xml`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers.expat import ExpatError, ParserCreate

from sim.errors import ConfigError
from sim.imports.foreign import ForeignFile

MOST_DEPTH = 200


@dataclass
class MarkedElement:
    """An element: its name without prefix, what it says, what is in it, and where it begins."""

    tag: str
    attributes: dict[str, str]
    line: int
    column: int
    text: str = ""
    inside: list[MarkedElement] = field(default_factory=list)

    def each(self, *tags: str) -> Iterator[MarkedElement]:
        """Elements of these names under it, however deep, in the order of the file."""
        rest = self.inside[::-1]
        while rest:
            element = rest.pop()
            if element.tag in tags:
                yield element
            rest += element.inside[::-1]


def read_xml(file: ForeignFile, root: str) -> MarkedElement:
    """The element called `root` that is the whole of `file`. Raises ConfigError."""
    parser, open_elements = ParserCreate(), [MarkedElement("", {}, 1, 1)]

    def start(tag: str, attributes: dict[str, str]) -> None:
        if len(open_elements) > MOST_DEPTH:
            file.stop(parser.CurrentLineNumber, 1, f"is nested deeper than {MOST_DEPTH} elements")
        name = tag.rpartition(":")[2]
        element = MarkedElement(name, attributes, parser.CurrentLineNumber, parser.CurrentColumnNumber + 1)
        open_elements[-1].inside.append(element)
        open_elements.append(element)

    def text(characters: str) -> None:
        open_elements[-1].text += characters

    def entity(*_: Any) -> None:
        file.stop(parser.CurrentLineNumber, 1, "declares an entity, which is not read", "write it out")

    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler, parser.EntityDeclHandler = lambda _: open_elements.pop(), entity
    try:
        parser.Parse(file.content, True)
    except ConfigError:
        raise
    except ExpatError as error:
        reason = str(error).partition(": line ")[0]
        file.stop(error.lineno, error.offset + 1, f"is not XML: {reason}")
    except (LookupError, ValueError) as error:
        file.stop(parser.CurrentLineNumber, 1, f"is not XML: {error}")
    found = open_elements[0].inside[0]
    if found.tag != root:
        file.stop(found.line, found.column, f"begins with {found.tag[:80]}, not {root}")
    return found
