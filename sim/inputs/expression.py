"""Expressions such as `parallelism.tensor <= 8 and memory.fits`, read and evaluated without running code.

Public: `Expression`, `parse_expression`, `Absent`, `ExpressionError`, `ExpressionText`.

The language is a small part of Python's: numbers, texts, key paths, arithmetic, comparisons, `and`, `or`,
`not`, `x if c else y`, lists after `in`, and the functions in `FUNCTIONS`. Numbers are SI.
"""

from __future__ import annotations

import ast
import math
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from sim.units import show_value

MAX_LENGTH, MAX_DEPTH = 1000, 50
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "ceil": math.ceil, "floor": math.floor, "log2": math.log2, "max": max, "min": min,
    "round": round, "sqrt": math.sqrt,
}  # fmt: skip
WORDS = {"true": True, "false": False, "none": None, "null": None, "True": True, "False": False, "None": None}

Lookup = Callable[[str], Any]  # value of a key path; KeyError if it has none


class ExpressionError(ValueError):
    """An expression cannot be read or evaluated; `suggestion` is the way out."""

    def __init__(self, message: str, suggestion: str = "") -> None:
        super().__init__(message)
        self.message, self.suggestion = message, suggestion


class Absent(ExpressionError):
    """A value that the expression needs does not exist in this experiment or result."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is absent")


@dataclass(frozen=True)
class Expression:
    """A checked expression. `names` are the key paths it mentions with their columns, counted from 1."""

    text: str
    tree: ast.expr = field(repr=False, compare=False)
    names: tuple[tuple[str, int], ...]

    def evaluate(self, lookup: Lookup) -> Any:
        """Its value. Raises Absent for a value that is needed and missing, ExpressionError for bad arithmetic."""
        try:
            return _finite(_value(self.tree, lookup))
        except (ArithmeticError, ValueError, TypeError) as error:
            if isinstance(error, ExpressionError):
                raise
            raise ExpressionError(f"{self.text!r} cannot be evaluated: {error}") from None

    def holds(self, lookup: Lookup) -> bool:
        """Whether its value is true."""
        return bool(self.evaluate(lookup))


def parse_expression(text: str) -> Expression:
    """The expression that `text` says. Raises ExpressionError with the column of what is wrong."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"is longer than {MAX_LENGTH} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        column = getattr(error, "offset", 0) or len(text.strip()) + 1
        message = f"{show_value(text)} is not an expression, column {column}"
        raise ExpressionError(message, "write it like parallelism.tensor <= 8") from None
    _refuse_depth(tree)
    _refuse_strangers(tree)
    return Expression(text.strip(), tree, tuple(_names(tree)))


def _checked(text: str) -> str:
    try:
        parse_expression(text)
    except ExpressionError as error:
        context = {"problem": error.message, "suggestion": error.suggestion}
        raise PydanticCustomError("quantity", "{problem}", context) from None
    return text


ExpressionText = Annotated[str, AfterValidator(_checked)]
"""A field that holds the text of an expression."""


# --- reading ----------------------------------------------------------------------------------

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: lambda a, b: float(a) ** float(b),
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
}  # fmt: skip
_EQUALITY: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_ALLOWED = (
    ast.BoolOp, ast.And, ast.Or, ast.Not, ast.UnaryOp, ast.BinOp, ast.Compare, ast.IfExp, ast.Call, ast.Name,
    ast.Attribute, ast.Constant, ast.Tuple, ast.List, ast.Load, *_BINARY, *_UNARY, *_ORDER, *_EQUALITY,
)  # fmt: skip


def _refuse_depth(tree: ast.expr) -> None:
    """Refuse what is nested so deep that evaluating it would exhaust the stack."""
    level: list[ast.AST] = [tree]
    for _ in range(MAX_DEPTH):
        level = [inner for node in level for inner in ast.iter_child_nodes(node)]
    if level:
        raise ExpressionError(f"is nested deeper than {MAX_DEPTH} levels", "split it, or use fewer brackets")


def _refuse_strangers(tree: ast.expr) -> None:
    for node in ast.walk(tree):
        column = getattr(node, "col_offset", 0) + 1
        if not isinstance(node, _ALLOWED):
            what = type(node).__name__
            known = "numbers, texts, key paths, + - * / // % **, comparisons, in, and, or, not and if-else are"
            raise ExpressionError(f"{what} is not allowed in an expression, column {column}", known)
        if isinstance(node, ast.Constant) and not isinstance(node.value, int | float | str | None):
            raise ExpressionError(f"{show_value(repr(node.value))} is not allowed, column {column}")
        if isinstance(node, ast.Call):
            _refuse_call(node, column)
        if isinstance(node, ast.Attribute) and not _path(node):
            raise ExpressionError(f"only key paths have keys, column {column}", "write it like memory.fits")


def _refuse_call(node: ast.Call, column: int) -> None:
    name = ast.unparse(node.func)
    if name not in FUNCTIONS:
        raise ExpressionError(f"there is no function {name!r}, column {column}", f"known are {', '.join(FUNCTIONS)}")
    if node.keywords or not node.args:
        raise ExpressionError(f"{name} takes values, column {column}", f"write it like {name}(parallelism.tensor, 8)")


def _path(node: ast.expr) -> str:
    """The dotted key path that `node` is, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    inner = _path(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if isinstance(node, ast.Attribute) and inner else ""


def _names(node: ast.AST) -> Iterator[tuple[str, int]]:
    """The key paths under `node` in order of their places."""
    if isinstance(node, ast.Name | ast.Attribute):
        path = _path(node)
        if path not in WORDS:
            yield path, node.col_offset + 1
        return
    for inner in node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node):
        yield from _names(inner)


# --- evaluating -------------------------------------------------------------------------------


def _finite(value: Any) -> Any:
    if isinstance(value, complex) or (isinstance(value, int | float) and not abs(value) <= sys.float_info.max):
        raise ValueError("its value is no finite number")
    return value


def _value(node: ast.expr, lookup: Lookup) -> Any:
    return _EVALUATE[type(node)](node, lookup)


def _named(node: ast.Name | ast.Attribute, lookup: Lookup) -> Any:
    path = _path(node)
    if path in WORDS:
        return WORDS[path]
    try:
        return lookup(path)
    except KeyError:
        return None


def _needed(node: ast.expr, lookup: Lookup) -> Any:
    """The value of `node`, which must exist."""
    value = _value(node, lookup)
    if value is None:
        raise Absent(ast.unparse(node))
    return value


def _number(node: ast.expr, lookup: Lookup) -> float:
    value = _needed(node, lookup)
    if not isinstance(value, int | float):
        raise ExpressionError(f"{ast.unparse(node)} is {show_value(value)}, not a number")
    return value


def _logical(node: ast.BoolOp, lookup: Lookup) -> Any:
    wanted = isinstance(node.op, ast.Or)
    return wanted if any(bool(_needed(item, lookup)) == wanted for item in node.values) else not wanted


def _unary(node: ast.UnaryOp, lookup: Lookup) -> Any:
    if isinstance(node.op, ast.Not):
        return not _needed(node.operand, lookup)
    return _UNARY[type(node.op)](_number(node.operand, lookup))


def _compare(node: ast.Compare, lookup: Lookup) -> bool:
    lefts = [node.left, *node.comparators]
    return all(
        _one(op, left, right, lookup) for op, left, right in zip(node.ops, lefts, node.comparators, strict=False)
    )


def _one(op: ast.cmpop, left: ast.expr, right: ast.expr, lookup: Lookup) -> bool:
    if type(op) in _ORDER:
        return _ORDER[type(op)](_number(left, lookup), _number(right, lookup))
    return _EQUALITY[type(op)](_value(left, lookup), _value(right, lookup))


_EVALUATE: dict[type[ast.expr], Callable[[Any, Lookup], Any]] = {
    ast.Constant: lambda node, lookup: node.value,
    ast.Name: _named,
    ast.Attribute: _named,
    ast.Tuple: lambda node, lookup: [_value(item, lookup) for item in node.elts],
    ast.List: lambda node, lookup: [_value(item, lookup) for item in node.elts],
    ast.BoolOp: _logical,
    ast.UnaryOp: _unary,
    ast.BinOp: lambda node, lookup: _BINARY[type(node.op)](_number(node.left, lookup), _number(node.right, lookup)),
    ast.Compare: _compare,
    ast.IfExp: lambda node, lookup: _value(node.body if _needed(node.test, lookup) else node.orelse, lookup),
    ast.Call: lambda node, lookup: FUNCTIONS[node.func.id](*(_number(item, lookup) for item in node.args)),
}
