"""Tables of time over message size under a line that names their columns, as most benchmarks of collectives print.

Read by their columns: the OSU and Intel MPI benchmarks, that of oneCCL, nccom-test, hccl_demo and hccl_test. Which
collective it was, and over how many ranks, is looked for in the lines before. Public: `tables_of`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sim.ask.calibrate.told import Told
from sim.errors import ConfigError, Problem
from sim.metrics.calibration import TimeTable

_WORD = re.compile(r"(?:Avg|Min|Max|P\d+) (?:Latency|Lat)[^\s|]*|[^\s|]+")  # names of columns hold no spaces but these
_SIZE = re.compile(r"#?(?:bytes|(?:data_)?size(?:\((?:b|bytes)\))?):?", re.IGNORECASE)
_TIME = re.compile(r"(?:time|time:avg|ave?g_time|avg latency|t_avg)(?:[\[(](\w+)[\])])?:?", re.IGNORECASE)
SECONDS = {"us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0}
FAILED = re.compile(r"failed?|wrong", re.IGNORECASE)  # what a row says of its results

COLLECTIVES = {
    "all_reduce": r"all[_-]?reduce|\ballr\b",
    "all_gather": r"all[_-]?gather|\ballg\b",
    "reduce_scatter": r"reduce[_-]?scatter|\bredsct\b",
    "all_to_all": r"all[_-]?(?:to[_-]?all|2all)|\balltoa\b",
}
_RANKS = re.compile(r"#processes\s*[:=]\s*(\d+)|\bnccom-test\b.*\s-r\s+(\d+)|--nranks[ =](\d+)|\s-np?\s+(\d+)")
_PER_NODE = re.compile(r"--ranks_per_node[ =](\d+)|\s-(?:ppn|npernode)\s+(\d+)|ppr:(\d+):node")


@dataclass(frozen=True)
class Benchmark:
    """A program: what only it prints, and whether the size of a gathering or an exchange is what one rank sends."""

    name: str
    prints: str
    sizes_of_rank: bool = False


BENCHMARKS = (
    Benchmark("OSU Micro-Benchmarks", r"\bOSU MPI", sizes_of_rank=True),
    Benchmark("nccom-test", r"\bnccom-test\b|count\(elems\)"),
    Benchmark("hccl_demo", r"hccl_demo|nw_bw"),
    Benchmark("hccl_test", r"alg_bandwidth\(GB/s\)"),
    Benchmark("Intel MPI or oneCCL benchmarks", r"#repetitions", sizes_of_rank=True),
)
UNKNOWN = Benchmark("a benchmark", "")
SENT_BY_RANK = ("all_gather", "all_to_all")  # whose size the first of these count for one rank


@dataclass
class _Heading:
    """Columns of a table, what was said before it, and its rows so far."""

    line: int
    columns: int
    size: int
    time: int
    unit: float
    before: str
    first: int = 0
    times: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    remarks: list[str] = field(default_factory=list)


def tables_of(path: Path, lines: Sequence[str], told: Told) -> list[TimeTable]:
    """Every table in `lines`. Raises ConfigError, with the line, for rows that do not fit and for what is not told."""
    return [_table(path, each, told) for each in _headings(path, lines) if each.times]


def _headings(path: Path, lines: Sequence[str]) -> Iterator[_Heading]:
    heading: _Heading | None = None
    before: list[str] = []
    for number, line in enumerate(lines, 1):
        found = _heading(number, line, "\n".join(before))
        if found:
            if heading:
                yield heading
            heading, before = found, []
        elif heading and re.match(r"\s*\d", line):
            _add_row(heading, path, number, line)
        else:
            before.append(line)
    if heading:
        yield heading


def _heading(number: int, line: str, before: str) -> _Heading | None:
    """The columns that `line` names, if it names a size first and a time."""
    words = [word for word in _WORD.findall(line) if word != "#"]
    times = [place for place, word in enumerate(words) if _TIME.fullmatch(word)]
    if not words or not times or not _SIZE.fullmatch(words[0]):
        return None
    named = _TIME.fullmatch(words[times[0]])
    unit = (named[1] if named else None) or "us"
    return _Heading(number, len(words), 0, times[0], SECONDS.get(unit.lower(), 1e-6), f"{before}\n{line}")


def _add_row(heading: _Heading, path: Path, number: int, line: str) -> None:
    words = [word for word in re.split(r"[\s|]+", line.strip()) if word]
    try:
        if len(words) != heading.columns:
            raise ValueError
        size, seconds = int(words[heading.size]), float(words[heading.time]) * heading.unit
    except ValueError:
        message = f"{len(words)} columns under the {heading.columns} of line {heading.line}, or no numbers in them"
        hint = "give the output as it was printed, lines uncut"
        raise ConfigError(Problem(f"{path}:{number}", "", message, hint)) from None
    if any(FAILED.fullmatch(word) for word in words):
        heading.remarks.append(f"line {number}: wrong results, left out")
    elif size > 0 and seconds > 0:
        heading.first = heading.first or number
        heading.times[size].append(seconds)


def _table(path: Path, heading: _Heading, told: Told) -> TimeTable:
    place = f"{path}:{heading.first}"
    program = next((each for each in BENCHMARKS if re.search(each.prints, heading.before)), UNKNOWN)
    collective = told.collective or _named(heading.before)
    ranks = told.ranks or _number(_RANKS, heading.before)
    if collective is None or ranks is None:
        missing = {"which collective was run (--collective)": collective, "over how many ranks (--ranks)": ranks}
        message = "the output does not say " + " and ".join(name for name, value in missing.items() if value is None)
        raise ConfigError(Problem(place, "", message, "say so, or give the whole output with the command"))
    if ranks < 2:
        raise ConfigError(Problem(place, "", f"{ranks} rank", "give a run of at least two"))
    remarks = list(heading.remarks)
    per_node = _number(_PER_NODE, heading.before)
    nodes = told.nodes or (-(-ranks // per_node) if per_node else None)
    if nodes is None:
        nodes = 1
        remarks.append(f"line {heading.first}: taken as ranks of one server; say --nodes if there were more")
    factor = ranks if program.sizes_of_rank and collective in SENT_BY_RANK else 1
    seconds = {size * factor: median(times) for size, times in sorted(heading.times.items())}
    return TimeTable(path, heading.first, program.name, collective, ranks, nodes, "", seconds, tuple(remarks))


def _named(text: str) -> str | None:
    """The collective that is named last."""
    found = [
        (match.start(), name)
        for name, words in COLLECTIVES.items()
        for match in re.finditer(words, text, re.IGNORECASE)
    ]
    return max(found)[1] if found else None


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    """The number that was said last."""
    found = [next(filter(None, match.groups())) for match in pattern.finditer(text)]
    return int(found[-1]) if found else None
