"""Results as JSON: the same names as the records, keys sorted, no infinities."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sim.errors import ConfigError, Problem
from sim.metrics.result import Result


def dumps(document: Any) -> str:
    """One JSON document, the same bytes for the same content, with a newline at its end."""
    return json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_lines(rows: Iterable[Any], file: Path) -> None:
    """Write one JSON document to a line."""
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def result_text(result: Result) -> str:
    """A result as JSON text."""
    return dumps(result.to_json())


def from_json(data: Any, where: str = "result") -> Result:
    """The result that `to_json` wrote. Unknown keys are skipped: later versions may add some.

    Raises ConfigError with one problem for each field that is missing or has the wrong type.
    """
    try:
        return TypeAdapter(Result).validate_python(data)
    except ValidationError as error:
        raise ConfigError([_problem(where, detail) for detail in error.errors()]) from None


def read_result(path: Path) -> Result:
    """Read a result file, or `result.json` in a folder that `run -o` wrote. Raises ConfigError."""
    file = path / "result.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(Problem(str(file), "", f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem(str(file), "", "is not a text file")) from None
    except json.JSONDecodeError as error:
        place = f"{file}:{error.lineno}:{error.colno}"
        raise ConfigError(Problem(place, "", f"is not JSON: {error.msg}", _HOW)) from None
    return from_json(data, str(file))


_HOW = "write one with `clustersim run NAME -o DIR` or `--json`"


def _problem(where: str, detail: Any) -> Problem:
    key = ".".join(str(part) for part in detail["loc"])
    return Problem(where, key, f"is not a result: {detail['msg']}", _HOW)
