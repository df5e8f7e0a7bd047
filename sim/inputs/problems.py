"""Decoding with readable errors: from a SourceNode to a record, or to the list of all problems.

Public: `decode`, `mark_at`, `near`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePath
from typing import Any

from pydantic import ValidationError

from sim.errors import Problem
from sim.inputs.reader import Mark, SourceNode, plain
from sim.inputs.walk import KeyPlace, choices, dimension_of, is_record, kind_of, locate, members
from sim.record import Record, RecordT
from sim.units import COUNT, FRACTION, SI, show_value

MAX_PROBLEMS = 100


def decode(record: type[RecordT], node: SourceNode, si: bool = False) -> RecordT | list[Problem]:
    """The record that `node` says, or everything that is wrong with it in file order."""
    try:
        return record.model_validate(plain(node), context=SI if si else None)
    except ValidationError as error:
        details = error.errors(include_url=False)
        findings = _without_echoes([_finding(record, node, detail) for detail in details[: 10 * MAX_PROBLEMS]])
        placed = [(mark_at(node, finding.place.keys), finding) for finding in findings]
        placed.sort(key=lambda item: (item[0].source != node.mark.source, item[0]))
        shown = [_problem(mark, finding) for mark, finding in placed[:MAX_PROBLEMS]]
        return shown + _rest(node, len(findings) - MAX_PROBLEMS, more=len(details) > 10 * MAX_PROBLEMS)


def mark_at(node: SourceNode, keys: Sequence[str | int]) -> Mark:
    """Where the value at `keys` was written, or the nearest mapping around it."""
    return _node_at(node, keys)[0].mark


def near(word: str, known: Sequence[str]) -> str:
    """`did you mean ...?` if a known word is close, else the list of what is known."""
    folded = {name.casefold(): name for name in known}
    close = get_close_matches(word[:80].casefold().replace("-", "_"), folded, n=2, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(folded[name] for name in close)}?"
    return f"known are {', '.join(known)}" if known else ""


@dataclass(frozen=True)
class _Finding:
    """One pydantic error, with the field it is about and the value as it was written."""

    detail: Any
    place: KeyPlace
    written: Any
    found: bool  # whether the key is in the input

    @property
    def type(self) -> str:
        return str(self.detail["type"])

    @property
    def context(self) -> dict[str, Any]:
        context: dict[str, Any] = self.detail.get("ctx", {})
        return context

    @property
    def shown(self) -> str:
        return show_value(self.written)


def _finding(record: type[Record], node: SourceNode, detail: Any) -> _Finding:
    place = locate(record, detail["loc"])
    if detail["type"].startswith("union_tag"):
        place = KeyPlace((*place.keys, "kind"), None, place.field, place.options)
    inner, found = _node_at(node, place.keys)
    return _Finding(detail, place, plain(inner) if found else None, found)


def _node_at(node: SourceNode, keys: Sequence[str | int]) -> tuple[SourceNode, bool]:
    for key in keys:
        inside = isinstance(node.value, dict) and key in node.value
        if not inside and not (isinstance(node.value, list) and isinstance(key, int) and key < len(node.value)):
            return node, False
        node = node.value[key]
    return node, True


def _without_echoes(findings: list[_Finding]) -> list[_Finding]:
    """One finding a key: a union of words and a list reports both of its sides."""
    unions = [finding for finding in findings if finding.type in ("literal_error", "tuple_type")]
    echoes = {id(finding) for finding in unions if _is_echo(finding, findings)}
    return [finding for finding in findings if id(finding) not in echoes]


def _is_echo(finding: _Finding, findings: list[_Finding]) -> bool:
    """Whether this is about the side of the union that was not meant."""
    if finding.type != ("literal_error" if isinstance(finding.written, tuple) else "tuple_type"):
        return False
    keys = finding.place.keys
    return any(other is not finding and other.place.keys[: len(keys)] == keys for other in findings)


def _rest(node: SourceNode, number: int, more: bool) -> list[Problem]:
    count = f"more than {number}" if more else str(number)
    return [Problem(str(node.mark), "", f"and {count} further problems")] if number > 0 else []


def _problem(mark: Mark, finding: _Finding) -> Problem:
    message, suggestion = _MESSAGES.get(finding.type, _other)(finding)
    return Problem(str(mark), ".".join(map(str, finding.place.keys)), message, suggestion)


# --- one message for each kind of error: what is wrong, and the way out ------------------------


def _quantity(finding: _Finding) -> tuple[str, str]:
    return finding.context["problem"], finding.context["suggestion"]


def _missing(finding: _Finding) -> tuple[str, str]:
    field = finding.place.field
    if field is None or isinstance(finding.place.keys[-1], int):
        return "an entry is missing", ""
    dimension = dimension_of(field)
    example = f" ({dimension.article}, such as {dimension.examples[0]})" if dimension else ""
    return f"this key is required: {field.description or field.annotation}{example}", _misspelled(finding)


def _misspelled(finding: _Finding) -> str:
    """The key that was perhaps meant to be the missing one."""
    name, given = str(finding.place.keys[-1]), finding.detail["input"]
    known = finding.place.record.model_fields if finding.place.record else {}
    unknown = [str(key) for key in given if key not in known] if isinstance(given, dict) else []
    close = get_close_matches(name, unknown, n=1, cutoff=0.7)
    return f"is {close[0]!r} meant to be it?" if close else ""


def _unknown(finding: _Finding) -> tuple[str, str]:
    known = list(finding.place.record.model_fields) if finding.place.record else []
    return "unknown key", near(str(finding.place.keys[-1]), known)


def _choice(finding: _Finding) -> tuple[str, str]:
    known = choices(finding.place.options)
    allowed = f"must be {'one of ' if len(known) > 1 else ''}{', '.join(known)}"
    text = near(finding.written, known) if isinstance(finding.written, str) else ""
    return f"{allowed}, not {finding.shown}", text if text.startswith("did") else ""


def _variant(finding: _Finding) -> tuple[str, str]:
    known = [kind for option in finding.place.options if is_record(option) for kind in kind_of(option)]
    if not finding.found:
        return f"this key is required: one of {', '.join(known)}", ""
    text = near(str(finding.written), known)
    return f"must be one of {', '.join(known)}, not {finding.shown}", text if text.startswith("did") else ""


def _bound(words: str, name: str) -> Callable[[_Finding], tuple[str, str]]:
    def message(finding: _Finding) -> tuple[str, str]:
        dimension = dimension_of(finding.place.field) if finding.place.field else None
        unit = dimension.symbol if dimension and dimension not in (COUNT, FRACTION) else ""
        limit = f"{finding.context[name]:.15g} {unit}".strip()
        return f"must be {words} {limit}, not {finding.shown}", ""

    return message


def _kind_of_value(words: str) -> Callable[[_Finding], tuple[str, str]]:
    return lambda finding: (f"must be {words}, not {finding.shown}", "")


def _mapping(finding: _Finding) -> tuple[str, str]:
    named = finding.place.field is not None and str in members(finding.place.field.annotation)
    foreign = isinstance(finding.written, str) and PurePath(finding.written).suffix not in ("", ".yaml", ".yml")
    way_out = "`clustersim import` reads files of other programs" if foreign else ""
    return f"must be {'a name, a path or ' if named else ''}a mapping of keys, not {finding.shown}", way_out


def _text(finding: _Finding) -> tuple[str, str]:
    number = isinstance(finding.written, int | float) and not isinstance(finding.written, bool)
    return f"must be text, not {finding.shown}", f'write "{finding.shown}"' if number else ""


def _flag(finding: _Finding) -> tuple[str, str]:
    words = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
    meant = words.get(str(finding.written).casefold())
    return f"must be true or false, not {finding.shown}", f"write {meant}" if meant else ""


def _name(finding: _Finding) -> tuple[str, str]:
    return f"{finding.shown} is not a name; letters, digits and . _ + - are, a letter or digit first", ""


def _length(words: str, name: str) -> Callable[[_Finding], tuple[str, str]]:
    def message(finding: _Finding) -> tuple[str, str]:
        return f"must have at {words} {finding.context[name]} entries, not {len(finding.written)}", ""

    return message


def _too_long_text(finding: _Finding) -> tuple[str, str]:
    return f"must have at most {finding.context['max_length']} characters", ""


def _other(finding: _Finding) -> tuple[str, str]:
    return f"{finding.shown} is not allowed here", ""


_MESSAGES: dict[str, Callable[[_Finding], tuple[str, str]]] = {
    "quantity": _quantity,
    "missing": _missing,
    "extra_forbidden": _unknown,
    "literal_error": _choice,
    "union_tag_invalid": _variant,
    "union_tag_not_found": _variant,
    "greater_than": _bound("more than", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("less than", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "model_type": _mapping,
    "model_attributes_type": _mapping,
    "dict_type": _kind_of_value("a mapping of keys"),
    "tuple_type": _kind_of_value("a list"),
    "int_type": _kind_of_value("a whole number"),
    "float_type": _kind_of_value("a number"),
    "finite_number": _kind_of_value("a finite number"),
    "string_type": _text,
    "bool_type": _flag,
    "string_pattern_mismatch": _name,
    "string_too_long": _too_long_text,
    "too_short": _length("least", "min_length"),
    "too_long": _length("most", "max_length"),
}
