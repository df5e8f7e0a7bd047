"""Results as JSON: the same names as the records, keys sorted, no infinities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import sim
from sim.errors import ConfigError, Problem, SimError
from sim.metrics.result import BREAKDOWN, Result
from sim.report.files import replacing
from sim.report.visible import ORDERS

_ESCAPED = {order: f"\\u{order:04x}" for order in ORDERS if order >= 0x7F}


def dumps(document: Any) -> str:
    """One JSON document, the same bytes for the same content, with a newline at its end.

    Control characters are escaped, those too that JSON does not ask for: a terminal would obey them.
    """
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.translate(_ESCAPED)


def write_lines(rows: Iterable[Any], file: Path) -> None:
    """Write one JSON document to a line. Raises OutputError."""
    with replacing(file) as part, part.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def result_text(result: Result) -> str:
    """A result as JSON text."""
    return dumps(result.to_json())


def from_json(data: Any, where: str = "result") -> Result:
    """The result that `to_json` wrote. Unknown keys are skipped: later versions may add some.

    Raises ConfigError with one problem for each field that is missing or has the wrong type.
    """
    try:
        result = TypeAdapter(Result).validate_python(data)
    except ValidationError as error:
        way_out = _way_out(data)
        raise ConfigError([_problem(where, detail, way_out) for detail in error.errors()]) from None
    if missing := list(_missing(result)):
        raise ConfigError([Problem(where, key, "is not a result: Field required", _way_out(data)) for key in missing])
    return result


def read_result(path: Path) -> Result:
    """Read a result file, or `result.json` in a folder that `run -o` wrote. Raises ConfigError."""
    file = stored_in(path)
    try:
        if file.exists() and not file.is_file():
            raise ConfigError(Problem(str(file), "", "is not a file", _HOW))
        data = json.loads(file.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except OSError as error:
        raise ConfigError(Problem(str(file), "", f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise ConfigError(Problem(str(file), "", "is not a text file")) from None
    except json.JSONDecodeError as error:
        place = f"{file}:{error.lineno}:{error.colno}"
        raise ConfigError(Problem(place, "", f"is not JSON: {error.msg}", _HOW)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(Problem(str(file), "", f"is not a result: {error}", _HOW)) from None
    return from_json(data, str(file))


def stored_in(path: Path) -> Path:
    """The file of the result at `path`, which may be its folder."""
    return path / "result.json" if path.is_dir() else path


@contextmanager
def shown_from(*paths: Path) -> Iterator[None]:
    """Stored results are shown inside; values that no run gives come as ConfigError, whatever they did."""
    try:
        yield
    except SimError:
        raise
    except Exception as error:
        where = " or ".join(str(stored_in(path)) for path in paths)
        what = f"holds values that no run of this version gives ({type(error).__name__}: {error})"
        raise ConfigError(Problem(where, "", what, _HOW)) from error


_HOW = "write one with `clustersim run NAME -o DIR` or `--json`"
_QUANTILES = ("mean", "p5", "p50", "p95")


def _finite(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _missing(result: Result) -> Iterator[str]:
    """Entries that every result has."""
    yield from (f"step.breakdown_s.{part}" for part in BREAKDOWN if part not in result.step.breakdown_s)
    if result.run:
        yield from (f"run.time_to_train_s.{name}" for name in _QUANTILES if name not in result.run.time_to_train_s)


def _way_out(data: Any) -> str:
    """How to get a result, and why this may be none."""
    version = data.get("version", sim.__version__) if isinstance(data, dict) else sim.__version__
    return _HOW if version == sim.__version__ else f"clustersim {version} wrote it, this is {sim.__version__}; {_HOW}"


def _problem(where: str, detail: Any, way_out: str) -> Problem:
    key = ".".join(str(part) for part in detail["loc"])
    return Problem(where, key, f"is not a result: {detail['msg']}", way_out)
