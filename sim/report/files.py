"""Files that are written whole or not at all, and told of if they cannot be.

Public: `write_text`, `write_packed`, `replacing`, `writing`, `deliver`.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim.errors import OutputError, Problem


def write_text(file: Path, text: str, option: str = "") -> None:
    """Write `text` into `file`, which `option` asked for. Raises OutputError."""
    with replacing(file, option) as part:
        part.write_text(text, encoding="utf-8")


def write_packed(file: Path, lines: Iterable[str], option: str = "") -> None:
    """Write `lines` into `file`, packed if it ends in .gz; the same lines give the same bytes. Raises OutputError."""
    with replacing(file, option) as part, part.open("wb") as raw:
        if file.suffix != ".gz":
            raw.writelines(line.encode() for line in lines)
            return
        with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
            packed.writelines(line.encode() for line in lines)


@contextmanager
def replacing(file: Path, option: str = "") -> Iterator[Path]:
    """A path to write to instead of `file`; it takes the place of `file` in the end, or is gone after an error.

    So a disk that fills costs no earlier result. Devices and pipes are written to directly. Raises OutputError.
    """
    with writing(file, option):
        if file.is_relative_to("/dev") or (file.exists() and not file.is_file()):
            yield file
            return
        target = file.resolve()  # a link goes on to lead there
        part = target.with_name(f"{target.name}.part")
        try:
            yield part
            if target.exists():
                part.chmod(target.stat().st_mode)  # who may read it stays as it was
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, option: str = "") -> Iterator[None]:
    """What cannot be written inside is told with `path` and the option that named it. Raises OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(Problem(str(path), option, f"cannot be written: {error.strerror or error}")) from None


def deliver(*outputs: Callable[[], object]) -> None:
    """Make all of them, also after one that cannot be written: what was computed is not lost with it.

    Raises OutputError with all that failed.
    """
    problems: list[Problem] = []
    for output in outputs:
        try:
            output()
        except OutputError as error:
            problems += error.problems
    if problems:
        raise OutputError(problems)
