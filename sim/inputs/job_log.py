"""Logs of jobs as clusters write them: one row of ours for each job that ran on boards.

Public: `LoggedJob`, `read_job_log`, `FORMATS`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from sim.errors import ConfigError, Problem
from sim.inputs.fleet import JobFile
from sim.inputs.named_files import read_named
from sim.inputs.problems import near

KEY = "jobs.file"
MOST_PROBLEMS = 20
OURS = (
    "name", "submit_s", "duration_s", "gpus", "user", "group", "queue", "priority", "kinds", "model", "deadline_s",
    "estimate_s", "share", "min_gpus", "max_gpus", "cores", "state",
)  # fmt: skip


class LoggedJob(NamedTuple):
    """One job of a log, in s; absent values are None or empty."""

    name: str
    submit: float
    duration: float
    gpus: int
    user: str = ""
    group: str = ""
    queue: str = ""
    priority: float = 0.0
    kinds: tuple[str, ...] = ()
    model: str = ""
    deadline: float | None = None
    estimate: float | None = None
    share: float = 1.0
    least: int = 0
    most: int = 0
    cores: float = 0.0
    done: bool = True  # whether it ended well


Cells = Mapping[str, str]


class LogFormat(NamedTuple):
    """Columns by which a log is known, and what ours are called there; `convert` for what is no plain column."""

    known_by: frozenset[str]
    columns: Mapping[str, str]
    convert: Callable[[dict[str, str], Cells], None] | None = None


def _openb(ours: dict[str, str], row: Cells) -> None:
    """Pods: shares of boards and cores in thousandths; run time from when they were scheduled, or created."""
    begun = row.get("scheduled_time") or row["creation_time"]
    ours["duration_s"] = str(float(row["deletion_time"]) - float(begun))
    if row["num_gpu"] == "1" and float(row["gpu_milli"]) < 1000:
        ours["share"] = str(float(row["gpu_milli"]) / 1000)
    ours["kinds"] = (row.get("gpu_spec") or "").replace("|", " ")
    ours["cores"] = str(float(row.get("cpu_milli") or 0) / 1000)


def _sacct(ours: dict[str, str], row: Cells) -> None:
    """Slurm accounting: boards from the trackable resources, run time as days-hours:minutes:seconds."""
    resources = row.get("AllocTRES") or row.get("ReqTRES") or ""
    found = re.search(r"gres/gpu(?::[\w.-]+)?=(\d+)", resources)
    ours["gpus"] = found[1] if found else "0"
    if kind := re.search(r"gres/gpu:([\w.-]+)=", resources):
        ours["kinds"] = kind[1] if not row.get("Constraints") else ""
    ours["duration_s"] = str(_elapsed(row["Elapsed"]))
    if row.get("Timelimit"):
        ours["estimate_s"] = str(_elapsed(row["Timelimit"])) if row["Timelimit"][0].isdigit() else ""
    if "." in row["JobID"]:
        ours["gpus"] = "0"  # a step of a job


def _elapsed(text: str) -> float:
    days, _, clock = text.rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds + 86400 * int(days or 0)


_SHARED_NAMES = {"user": "user", "group": "group", "queue": "queue", "model": "model"}
FORMATS: dict[str, LogFormat] = {
    "plain": LogFormat(frozenset({"submit_s", "duration_s", "gpus"}), {name: name for name in OURS}),
    "openb": LogFormat(
        frozenset({"gpu_milli", "num_gpu", "creation_time", "deletion_time"}),
        {"name": "name", "submit_s": "creation_time", "gpus": "num_gpu", "queue": "qos", "state": "pod_phase"},
        _openb,
    ),
    "helios": LogFormat(
        frozenset({"gpu_num", "submit_time", "duration", "vc"}),
        {
            "name": "job_id", "submit_s": "submit_time", "duration_s": "duration", "gpus": "gpu_num", "user": "user",
            "queue": "vc", "model": "jobname", "state": "state",
        },
    ),
    "acme": LogFormat(
        frozenset({"gpu_num", "submit_time", "duration", "node_num"}),
        {
            "name": "job_id", "submit_s": "submit_time", "duration_s": "duration", "gpus": "gpu_num", "user": "user",
            "model": "type", "state": "state",
        },
    ),
    "tiresias": LogFormat(
        frozenset({"num_gpu", "submit_time", "iterations", "model_name", "duration"}),
        {
            "name": "job_id", "submit_s": "submit_time", "duration_s": "duration", "gpus": "num_gpu",
            "model": "model_name",
        },
    ),
    "pai": LogFormat(
        frozenset({"num_gpu", "submit_time", "duration"}),
        {
            "name": "job_id", "submit_s": "submit_time", "duration_s": "duration", "gpus": "num_gpu", "user": "user",
            "group": "group", "kinds": "gpu_type", "estimate_s": "wait_time_est", "state": "status",
        },
    ),
    "sacct": LogFormat(
        frozenset({"JobID", "Submit", "Elapsed"}),
        {
            "name": "JobID", "submit_s": "Submit", "user": "User", "group": "Account", "queue": "Partition",
            "model": "JobName", "state": "State",
        },
        _sacct,
    ),
}  # fmt: skip
SWF = (
    "name",
    "submit_s",
    "",
    "duration_s",
    "gpus",
    "",
    "",
    "wanted",
    "estimate_s",
    "",
    "state",
    "user",
    "group",
    "",
    "queue",
)
GAVEL = ("model", "command", "", "", "steps", "submit_s", "gpus")
GOOD = {"", "pass", "completed", "complete", "succeeded", "terminated", "running", "1", "done"}


def read_job_log(asked: JobFile, path: Path) -> list[LoggedJob]:
    """The jobs of a log that are asked for, by time of submission; the first one's is 0. Raises ConfigError."""
    content = read_named(path, KEY)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(Problem(str(path), KEY, "is not text", "a log is CSV, JSON or SWF")) from None
    try:
        rows = list(_rows(text, asked, path))
    except csv.Error as error:
        raise ConfigError(Problem(str(path), KEY, f"cannot be read as CSV: {error}")) from None
    jobs = sorted((job for job in rows if job.gpus > 0 and job.duration > 0), key=lambda job: job.submit)
    return _chosen(jobs, asked, path)


def _chosen(jobs: list[LoggedJob], asked: JobFile, path: Path) -> list[LoggedJob]:
    """Those in the time, queue and number asked for; time begins with the first job, or where it is asked to."""
    start = jobs[0].submit if jobs and not _is_plain(jobs, asked) else 0.0
    found = []
    for job in jobs:
        since = job.submit - start
        inside = asked.first <= since <= (inf if asked.last is None else asked.last)
        if inside and (asked.queue is None or job.queue == asked.queue) and (asked.cancelled or job.done):
            found.append(job._replace(submit=(since - asked.first) / asked.load))
    if not found:
        raise ConfigError(Problem(str(path), KEY, "holds no job that is asked for and ran on boards"))
    return found[: asked.most]


def _is_plain(jobs: Sequence[LoggedJob], asked: JobFile) -> bool:
    """Seconds that count from the beginning of the log stay as they are; dates and epochs do not."""
    return jobs[0].submit < 1e8


def _rows(text: str, asked: JobFile, path: Path) -> Iterator[LoggedJob]:
    lead = text.lstrip()[:1]
    chosen = asked.format
    if chosen == "philly" or (chosen == "auto" and lead == "["):
        yield from _philly(text, path)
        return
    if chosen == "swf" or (chosen == "auto" and (lead == ";" or path.suffix == ".swf")):
        yield from _collected(_swf(text), path, {})
        return
    if chosen == "gavel" or (chosen == "auto" and "\t" in text.partition("\n")[0] and "gpus" not in text[:200]):
        yield from _collected(_gavel(text, asked, path), path, {})
        return
    first = text.partition("\n")[0]
    mark = max("|,\t;", key=first.count)
    reader = csv.DictReader(text.splitlines(), delimiter=mark)
    header = [name.strip() for name in reader.fieldnames or ()]
    found = _format_of(header, asked, path)
    columns = dict(found.columns) | asked.columns
    _check_columns(columns, header, asked, path)
    yield from _collected(_converted(reader, header, columns, found), path, columns)


def _format_of(header: Sequence[str], asked: JobFile, path: Path) -> LogFormat:
    if asked.format != "auto":
        return FORMATS[asked.format]
    names = set(header)
    found = [form for form in FORMATS.values() if form.known_by <= names]
    if found:
        return found[0]
    return FORMATS["plain"]


def _check_columns(columns: Mapping[str, str], header: Sequence[str], asked: JobFile, path: Path) -> None:
    """All that is needed is there, and what is mapped exists on both sides."""
    problems = []
    for ours, theirs in asked.columns.items():
        if ours not in OURS:
            problems.append(Problem("", f"jobs.columns.{ours}", "is no column of ours", near(ours, OURS)))
        elif theirs not in header:
            problems.append(Problem(f"{path}:1:1", theirs, "is no column of this log", near(theirs, header)))
    needed = {"submit_s", "gpus"} | (set() if "Elapsed" in header or "deletion_time" in header else {"duration_s"})
    absent = [ours for ours in sorted(needed) if columns.get(ours) not in header and "AllocTRES" not in header]
    for ours in absent:
        theirs = columns.get(ours, ours)
        way_out = near(theirs, header) if header else ""
        hint = f"{way_out}; `jobs: {{file: ..., columns: {{{ours}: NAME}}}}` says which column it is"
        problems.append(Problem(f"{path}:1:1", theirs, "this column is missing", hint))
    if problems:
        raise ConfigError(problems)


class _LogLine(NamedTuple):
    number: int
    cells: dict[str, str]


def _converted(
    reader: csv.DictReader[str], header: list[str], columns: Mapping[str, str], form: LogFormat
) -> Iterator[_LogLine]:
    """Cells under our names."""
    reader.fieldnames = header
    taken = [(ours, theirs) for ours, theirs in columns.items() if theirs in header]
    for row in reader:
        cells = {ours: (row[theirs] or "").strip() for ours, theirs in taken}
        if form.convert is not None:
            try:
                form.convert(cells, row)
            except (ValueError, TypeError, KeyError) as error:
                cells["problem"] = f"cannot be read: {error}"
        yield _LogLine(reader.line_num, cells)


def _swf(text: str) -> Iterator[_LogLine]:
    """Standard Workload Format: 18 numbers a line, -1 for what is not known; processors are boards."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        parts = line.split()
        cells = {name: value for name, value in zip(SWF, parts, strict=False) if name and value != "-1"}
        cells.setdefault("gpus", cells.get("wanted", "0"))
        cells.setdefault("duration_s", "0")
        if len(parts) < 5:
            cells["problem"] = "has fewer than 5 of the 18 fields of SWF"
        yield _LogLine(number, cells)


def _gavel(text: str, asked: JobFile, path: Path) -> Iterator[_LogLine]:
    """Gavel's traces: 7 tab-separated fields, or 10 of later versions; run time from steps and a table of steps/s."""
    if asked.throughputs is None:
        message = "a trace of Gavel has steps, not times"
        raise ConfigError(Problem(str(path), "jobs.throughputs", message, "name the JSON table of steps/s"))
    rates = _gavel_rates(path.parent / asked.throughputs)
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split("\t")
        if len(parts) >= 10:
            parts = [parts[0], parts[1], "", "", parts[5], parts[-1], parts[6]]
        cells = {name: value for name, value in zip(GAVEL, parts, strict=False) if name}
        rate = rates.get((cells.get("model", ""), cells.get("gpus", "")))
        if rate:
            try:
                cells["duration_s"] = str(float(cells["steps"]) / rate)
            except ValueError:
                cells["problem"] = f"{cells['steps'][:40]!r} is no number of steps"
        else:
            cells["duration_s"] = "0"  # no throughput for this model and size: left out, as Gavel does
        cells["name"] = str(number - 1)
        yield _LogLine(number, cells)


def _gavel_rates(path: Path) -> dict[tuple[str, str], float]:
    try:
        table = json.loads(read_named(path, "jobs.throughputs"))
        kind = "v100" if "v100" in table else next(iter(table))
        found = {}
        for key, rates in table[kind].items():
            name = re.fullmatch(r"\('(.*)', (\d+)\)", key)
            if name:
                found[name[1], name[2]] = float(rates["null"])
        return found
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        message = f"cannot be read as a table of steps/s: {error}"
        raise ConfigError(Problem(str(path), "jobs.throughputs", message)) from None


def _philly(text: str, path: Path) -> Iterator[LoggedJob]:
    """Microsoft's Philly log: attempts of each job; its run time is their sum, its boards those of the first."""
    try:
        jobs = json.loads(text)
        for job in jobs:
            spans = [
                (_time(attempt["start_time"]), _time(attempt["end_time"]), attempt["detail"])
                for attempt in job["attempts"]
                if attempt.get("start_time") and attempt.get("end_time")
            ]
            if spans and job.get("submitted_time"):
                yield LoggedJob(
                    str(job["jobid"]),
                    _time(job["submitted_time"]),
                    sum(end - start for start, end, _ in spans),
                    sum(len(server["gpus"]) for server in spans[0][2]),
                    user=str(job.get("user") or ""),
                    queue=str(job.get("vc") or ""),
                    done=job.get("status") == "Pass",
                )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        message = f"cannot be read as a log of Philly: {reason}"
        raise ConfigError(
            Problem(str(path), KEY, message, "a list of jobs with jobid, submitted_time, attempts")
        ) from None


def _collected(lines: Iterator[_LogLine], path: Path, columns: Mapping[str, str]) -> Iterator[LoggedJob]:
    """The jobs of all lines. Raises ConfigError with what is wrong in the first of those that cannot be read."""
    problems: list[Problem] = []
    for line in lines:
        try:
            if "problem" in line.cells:
                raise _WrongCell("", line.cells["problem"], "")
            job = _job(line.cells, line.number)
        except _WrongCell as wrong:
            name = columns.get(wrong.column, wrong.column)
            place = f"{path}:{line.number}" + (
                f":{list(columns.values()).index(name) + 1}" if name in columns.values() else ""
            )
            problems.append(Problem(place, name, wrong.problem, wrong.way_out))
            if len(problems) == MOST_PROBLEMS:
                break
            continue
        yield job
    if problems:
        raise ConfigError(problems)


class _WrongCell(Exception):
    def __init__(self, column: str, problem: str, way_out: str) -> None:
        super().__init__(problem)
        self.column, self.problem, self.way_out = column, problem, way_out


def _job(cells: Cells, line: int) -> LoggedJob:
    gpus = _number(cells, "gpus", 0.0)
    share = _number(cells, "share", 1.0)
    if 0 < gpus < 1:
        gpus, share = 1.0, gpus
    if gpus != int(gpus):
        raise _WrongCell("gpus", f"{cells['gpus']!r} boards are neither whole nor less than one", "")
    if not 0 < share <= 1:
        raise _WrongCell("share", f"{cells['share']!r} is not between 0 and 1", "a share is of one board")
    deadline, estimate = (_number(cells, name, -1.0) for name in ("deadline_s", "estimate_s"))
    return LoggedJob(
        cells.get("name") or str(line - 2),
        _moment(cells),
        max(0.0, _number(cells, "duration_s", 0.0)),
        int(gpus),
        cells.get("user", ""),
        cells.get("group", ""),
        cells.get("queue", ""),
        _number(cells, "priority", 0.0, signed=True),
        tuple(cells.get("kinds", "").split()),
        cells.get("model", ""),
        deadline if deadline > 0 else None,
        estimate if estimate > 0 else None,
        share,
        int(_number(cells, "min_gpus", 0.0)),
        int(_number(cells, "max_gpus", 0.0)),
        _number(cells, "cores", 0.0),
        cells.get("state", "").casefold().split(" ")[0] in GOOD,
    )


def _number(cells: Cells, column: str, absent: float, signed: bool = False) -> float:
    text = cells.get(column, "")
    if not text:
        return absent
    try:
        value = float(text)
    except ValueError:
        raise _WrongCell(column, f"{text[:40]!r} is not a number", "") from None
    if not isfinite(value) or abs(value) > 1e15:
        raise _WrongCell(column, f"{text[:40]!r} is out of range", "")
    if value < 0 and not signed and column != "duration_s":
        raise _WrongCell(column, f"{text[:40]!r} is negative", "")
    return value


def _moment(cells: Cells) -> float:
    text = cells.get("submit_s", "")
    if not text:
        raise _WrongCell("submit_s", "is empty", "each job has a time of submission")
    try:
        return _time(text)
    except ValueError:
        raise _WrongCell(
            "submit_s", f"{text[:40]!r} is no time", "seconds, or a date such as 2020-04-01 12:30:00"
        ) from None


def _time(text: Any) -> float:
    """Seconds that a number or a date says."""
    try:
        value = float(text)
    except ValueError:
        moment = datetime.fromisoformat(str(text).replace(" PST", "").replace(" PDT", ""))
        return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()
    if not isfinite(value) or abs(value) > 1e15:
        raise ValueError(text)
    return value
