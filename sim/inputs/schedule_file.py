"""A schedule of the user's own from a table: a line for each task, in the order in which its stage does it.

The columns are stage, phase (forward, backward, weight), chunk and microbatch. Public: `read_schedule`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

from sim.errors import ConfigError, Problem
from sim.inputs.named_files import read_named
from sim.phase import Phase
from sim.schedule.own import blocked_at, own_schedule, own_text
from sim.schedule.table import Schedule, Task

KEY, SUFFIX = "parallelism.schedule", ".csv"
COLUMNS = ("stage", "phase", "chunk", "microbatch")
PHASES = {"forward": Phase.FORWARD, "backward": Phase.INPUT_GRADIENT, "weight": Phase.WEIGHT_GRADIENT}
NAMES = {phase: name for name, phase in PHASES.items()}
MOST_NUMBER, MOST_TASKS = 100_000, 100_000
MOST_TOLD = 20  # tasks that are missing


class TaskLine(NamedTuple):
    """A task of a stage, and its line."""

    stage: int
    task: Task
    line: int


def read_schedule(path: Path) -> str:
    """The table in a file, as text that stands for a schedule. Raises ConfigError with the line of each mistake."""
    try:
        lines = read_named(path, KEY).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(Problem(str(path), KEY, f"is no text: {error.reason}", "save it as UTF-8")) from None
    found: list[Problem] = []
    rows = list(_rows(path, lines, found)) if _has_columns(path, lines, found) else []
    found += [] if found else _of_rows(path, rows)
    if not found:
        stages: list[list[TaskLine]] = [[] for _ in range(1 + max(row.stage for row in rows))]
        for row in rows:
            stages[row.stage].append(row)
        tasks = [[row.task for row in stage] for stage in stages]
        found = list(_of_schedule(path, stages, own_schedule(tasks)))
    if found:
        raise ConfigError(found)
    return own_text(path.name, tasks)


def _at(path: Path, line: int, message: str, way_out: str) -> Problem:
    return Problem(f"{path}:{line}:1", KEY, message, way_out)


def _said(task: Task) -> str:
    return f"{NAMES[task.phase]} of chunk {task.chunk}, microbatch {task.microbatch}"


def _has_columns(path: Path, lines: list[str], found: list[Problem]) -> bool:
    names = [name.strip() for name in lines[0].split(",")] if lines else []
    if sorted(names) != sorted(COLUMNS):
        told = ", ".join(names) or "nothing"
        found.append(_at(path, 1, f"the first line names {told}", f"name the columns {', '.join(COLUMNS)}"))
    return not found


def _rows(path: Path, lines: list[str], found: list[Problem]) -> Iterator[TaskLine]:
    """The tasks in the order of their lines; lines that say nothing are passed over."""
    names = [name.strip() for name in lines[0].split(",")]
    for line, cells in enumerate(csv.reader(lines[1:]), start=2):
        texts = [cell.strip() for cell in cells]
        if not any(texts) or texts[0].startswith("#"):
            continue
        if len(texts) != len(names):
            found.append(_at(path, line, f"{len(texts)} cells for {len(names)} columns", "give one for each column"))
            continue
        said = dict(zip(names, texts, strict=True))
        wrong = [name for name in ("stage", "chunk", "microbatch") if not _is_number(said[name])]
        for name in wrong:
            found.append(
                _at(path, line, f"{name} {said[name]!r} is no whole number from 0 on", "number them from 0 on")
            )
        if said["phase"] not in PHASES:
            found.append(_at(path, line, f"there is no phase {said['phase']!r}", f"use {', '.join(PHASES)}"))
        elif not wrong:
            task = Task(PHASES[said["phase"]], int(said["chunk"]), int(said["microbatch"]))
            yield TaskLine(int(said["stage"]), task, line)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_NUMBER)) and int(text) < MOST_NUMBER


def _of_rows(path: Path, rows: list[TaskLine]) -> list[Problem]:
    """Tasks are there, once each, and chunks on one stage each; stages, chunks and microbatches are numbered from 0."""
    if not 0 < len(rows) <= MOST_TASKS:
        message = f"there are {len(rows):,} tasks"
        return [_at(path, 1, message, f"give a line for each task of a step, at most {MOST_TASKS:,}")]
    found, seen, home = [], dict[Task, int](), dict[int, TaskLine]()
    for row in rows:
        if row.task in seen:
            message = f"{_said(row.task)}, is on line {seen[row.task]} already"
            found.append(_at(path, row.line, message, "do each task once"))
        seen.setdefault(row.task, row.line)
        first = home.setdefault(row.task.chunk, row)
        if first.stage != row.stage:
            message = f"chunk {row.task.chunk} is on stage {row.stage} here and on {first.stage} on line {first.line}"
            found.append(_at(path, row.line, message, "place a chunk on one stage"))
    counted = {
        "stage": {row.stage: row.line for row in rows},
        "chunk": {row.task.chunk: row.line for row in rows},
        "microbatch": {row.task.microbatch: row.line for row in rows},
    }
    for name, lines in counted.items():
        if len(lines) != 1 + max(lines):
            gap = next(number for number in range(len(lines) + 1) if number not in lines)
            message = f"there is a {name} {max(lines)}, but no {name} {gap}"
            found.append(_at(path, lines[max(lines)], message, "number them from 0 on, and leave none out"))
    if not found and len({sum(row.stage == stage for row in home.values()) for stage in counted["stage"]}) > 1:
        found.append(_at(path, 1, "some stages have more chunks than others", "give all stages as many"))
    if Phase.INPUT_GRADIENT not in {task.phase for task in seen}:
        found.append(_at(path, 1, "there is no backward pass", "add lines with phase backward"))
    return found or _missing(path, seen)


def _missing(path: Path, seen: dict[Task, int]) -> list[Problem]:
    """Each phase that any task has comes for each chunk and microbatch."""
    phases, chunks, turns = (sorted({task[i] for task in seen}) for i in range(3))
    every = (Task(Phase(phase), chunk, turn) for phase, chunk, turn in product(phases, chunks, turns))
    lacking = [task for task in every if task not in seen]
    return [_at(path, 1, f"{_said(task)}, is missing", "do each task once") for task in lacking[:MOST_TOLD]]


def _of_schedule(path: Path, stages: list[list[TaskLine]], schedule: Schedule) -> Iterator[Problem]:
    """Tasks come in an order that the engine knows, and stages do not wait for one another for ever."""
    before = None
    for rows in stages:
        line = {row.task: row.line for row in rows}
        for row in rows:
            task = row.task
            earlier = [task._replace(microbatch=task.microbatch - 1)] if task.microbatch else []
            earlier += [task._replace(phase=Phase(task.phase - 1))] if task.phase > Phase.FORWARD else []
            for need in earlier:
                if line[need] > row.line:
                    before = f"{_said(task)}, comes before the {_said(need)}, on line {line[need]}"
                    yield _at(path, row.line, before, "microbatches take turns, and phases follow one another")
    if before:
        return
    for stage, at in blocked_at(schedule).items():
        row = stages[stage][at]
        message = f"stage {stage} waits here for ever, as others wait for it: {_said(row.task)}, never begins"
        yield _at(path, row.line, message, "move it behind what the other stages need first")
