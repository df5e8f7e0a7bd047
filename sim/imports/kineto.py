"""Files of the PyTorch profiler, one for each rank that there is one of, as a recorded step that can be run again.

Public: `ImportedTrace`, `import_kineto`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import ConfigError, Problem, listed
from sim.imports.foreign import plain_name
from sim.imports.kineto_file import DeviceActivity, KinetoFile, Said, read_kineto
from sim.imports.kineto_step import StepCounts, StepReader, choose_step
from sim.imports.occupancy import Occupancy, occupancy_line, occupancy_of
from sim.inputs.reader import shown_path
from sim.inputs.recording import (
    COLLECTIVE,
    HOST,
    CollectiveKind,
    KnownShape,
    RecordedCollective,
    RecordedGroup,
    RecordedRank,
    Recording,
)

LATE = 1e-4  # s after all that it waits for from which a begin is called late
NAMED = 3  # unknown kernels in a remark
ELEMENT: dict[str, int] = {  # bytes by the last word of a type's name, in small letters
    "double": 8, "long": 8, "float64": 8, "int64": 8, "float": 4, "int": 4, "float32": 4, "int32": 4, "half": 2,
    "bfloat16": 2, "float16": 2, "short": 2, "byte": 1, "char": 1, "bool": 1, "unsigned char": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip
PRECISION = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "double": ""}
KINDS: tuple[tuple[str, CollectiveKind], ...] = (  # the first that is part of the name, without _ and in small letters
    ("allreduce", "all_reduce"), ("allgather", "all_gather"), ("reducescatter", "reduce_scatter"),
    ("alltoall", "all_to_all"), ("sendrecv", "all_to_all"), ("broadcast", "broadcast"), ("barrier", "barrier"),
    ("send", "send"), ("recv", "receive"), ("reduce", "reduce"),
)  # fmt: skip
UNTOLD = "not told"  # name of a group of which nothing is said
WAY_OUT = "one file for each rank of one job, of the same step"


@dataclass(frozen=True)
class ImportedTrace:
    """A recorded step, the fields of the workload that names it, and what a reader should know of it."""

    recording: Recording
    fields: dict[str, Any]  # but for the file
    remarks: tuple[str, ...]
    occupancy: tuple[Occupancy, ...]  # of each rank


def import_kineto(paths: Sequence[Path], name: str = "", step: int | None = None) -> ImportedTrace:
    """The step that the files recorded. Raises ConfigError with the file and the event where one is damaged.

    step: number of it, as the profiler counted; else that in which most was launched, on the first rank.
    """
    ranks: list[RecordedRank] = []
    steps: list[StepReader] = []
    occupancy: list[Occupancy] = []
    groups: dict[tuple[str, tuple[int, ...]], RecordedGroup] = {}
    files: dict[int, Path] = {}
    world = events = strange = 0
    accelerator = ""
    for path in paths:
        file = read_kineto(path)
        reader = _step_of(file, step)
        step = reader.window.number if reader.window.number >= 0 else step
        number = _rank_number(file, path, files)
        files[number], world = path, max(world, file.world, number + 1)
        drafts = reader.rank(number)
        ranks.append(_with_collectives(reader, drafts, file, groups))
        occupancy.append(occupancy_of(reader.activity.values()))
        device = next(iter(reader.activity.values())).device
        accelerator = accelerator or file.accelerators.get(device, next(iter(file.accelerators.values()), ""))
        events, strange = events + file.events, strange + file.strange
        steps.append(reader)
        reader.let_go()
    order = np.argsort([rank.rank for rank in ranks])
    world = max(world, *(rank + 1 for group in groups.values() for rank in group.ranks), 1)
    named, sorted_ranks = _told_apart(tuple(groups.values()), [ranks[place] for place in order])
    recording = Recording(
        world,
        sorted_ranks,
        named,
        accelerator,
        f"clustersim import kineto, {len(ranks)} of {world} ranks",
    )
    counts = [reader.counts for reader in steps]
    remarks = (
        _read_line(recording, counts, events, strange, step),
        *(occupancy_line(ranks[place].rank, occupancy[place]) for place in order[:NAMED]),
        *_missing(recording, counts, files),
    )
    recording = replace(recording, remarks=remarks)
    fields = {
        "kind": "trace",
        "name": name or plain_name(paths[0].name.split(".")[0]),
        "ranks": world,
        "step": f"{recording.step * 1e3:.9g} ms",
        "notes": list(remarks[1 + min(NAMED, len(ranks)) :]),
    }
    return ImportedTrace(recording, fields, remarks, tuple(occupancy[place] for place in order))


def _step_of(file: KinetoFile, step: int | None) -> StepReader:
    window = choose_step(file, step)
    place = shown_path(file.path)
    if window is None:
        known = listed(sorted({mark.number for mark in file.steps}))
        message = f"step {step} is not in it" + (f"; steps:{known}" if known else ": its steps are not marked")
        raise ConfigError(Problem(place, "--step", message, "call step() of the profiler, or leave --step out"))
    reader = StepReader(file, window)
    if not reader.activity:
        which = f"step {window.number}" if window.number >= 0 else "it"
        raise ConfigError(Problem(place, "--step", f"nothing ran on a device in {which}", "choose another step"))
    return reader


def _rank_number(file: KinetoFile, path: Path, files: dict[int, Path]) -> int:
    """The rank that a file is of; the next one where it does not say."""
    number = file.rank if file.rank >= 0 else len(files)
    if number in files:
        message = f"is of rank {number}, as {shown_path(files[number])} is"
        raise ConfigError(Problem(shown_path(path), "", message, WAY_OUT))
    if file.world and number >= file.world:
        raise ConfigError(Problem(shown_path(path), "", f"is of rank {number} of {file.world} ranks", WAY_OUT))
    return number


# --- collectives ------------------------------------------------------------------------------------


def _with_collectives(
    reader: StepReader,
    rank: RecordedRank,
    file: KinetoFile,
    groups: dict[tuple[str, tuple[int, ...]], RecordedGroup],
) -> RecordedRank:
    """The nodes of a rank with what its collectives and matrix products are."""
    order, _ = reader.order_of_nodes
    said = _said_by_thread(file.said)
    ordinals: Counter[int] = Counter()
    collectives, shapes = [], []
    for node, draft in enumerate(order):
        activity = reader.activity.get(draft)
        if activity is None:
            continue
        if rank.kind[node] == COLLECTIVE:
            about, elements, dtype = _about(activity, reader, said)
            group = _group(about, file, groups)
            kind = _collective_kind(str(about.get("Collective name", "")), activity.name)
            sequence = about.get("Seq", -1)
            sequence = sequence if isinstance(sequence, int) and sequence >= 0 else ordinals[group]
            ordinals[group] += 1
            size = _message(about, elements, dtype, kind)
            peer = about.get("Dst Rank" if kind == "send" else "Src Rank", -1)
            peer = peer if kind in ("send", "receive") and isinstance(peer, int) else -1
            collectives.append(RecordedCollective(node, kind, group, sequence, size, peer))
        elif activity.external in file.products:
            shape = _product(node, *file.products[activity.external])
            if shape and rank.kind[node] != HOST:
                shapes.append(shape)
    return replace(rank, collectives=tuple(collectives), shapes=tuple(shapes))


def _said_by_thread(said: list[Said]) -> dict[str, list[Said]]:
    by_thread: dict[str, list[Said]] = defaultdict(list)
    for each in said:
        by_thread[each.thread].append(each)
    return by_thread


def _about(
    activity: DeviceActivity, reader: StepReader, said: dict[str, list[Said]]
) -> tuple[dict[str, Any], float, str]:
    """What is known of a collective: from its kernel, else from what the host said while it launched it."""
    about, elements, dtype = dict(activity.about), 0.0, ""
    call = reader.call_of.get(activity.correlation)
    for each in said.get(call.thread, ()) if call else ():
        if call and each.start <= call.start <= each.end:
            about = each.about | about
            elements, dtype = each.elements or elements, each.dtype or dtype
            if each.name.startswith("nccl:"):
                about.setdefault("Collective name", each.name[5:])
    return about, elements, dtype


def _group(about: dict[str, Any], file: KinetoFile, groups: dict[tuple[str, tuple[int, ...]], RecordedGroup]) -> int:
    """Number of the group of a collective; made on first sight."""
    name, told = str(about.get("Process Group Name", "")), about.get("Process Group Ranks", "")
    ranks = _ranks(told)
    config = next((each for each in file.groups if str(each.get("pg_name")) == name), {}) if name else {}
    ranks = ranks or _ranks(config.get("ranks"))
    words = str(about.get("Process Group Description", config.get("pg_desc", "")))[:120]
    key = name, ranks
    groups.setdefault(key, RecordedGroup(name[:120] or UNTOLD, ranks, words))
    return list(groups).index(key)


def _told_apart(
    groups: tuple[RecordedGroup, ...], ranks: list[RecordedRank]
) -> tuple[tuple[RecordedGroup, ...], tuple[RecordedRank, ...]]:
    """A group of ranks that are not told is the whole job where all files list the same of it, else each rank alone."""
    for number, group in enumerate(groups):
        mine = [[each for each in rank.collectives if each.group == number] for rank in ranks]
        if group.ranks or len({tuple((each.kind, each.bytes) for each in some) for some in mine}) == 1:
            continue
        moved = {rank.rank: len(groups) + place for place, rank in enumerate(ranks)}
        groups += tuple(group._replace(ranks=(rank.rank,)) for rank in ranks)
        ranks = [replace(rank, collectives=_moved(rank, number, moved[rank.rank])) for rank in ranks]
    return groups, tuple(ranks)


def _moved(rank: RecordedRank, group: int, to: int) -> tuple[RecordedCollective, ...]:
    return tuple(each._replace(group=to) if each.group == group else each for each in rank.collectives)


def _ranks(told: object) -> tuple[int, ...]:
    """Ranks of a group: a list, or its text; nothing where it is cut ("[0, 1, ..., 7]")."""
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except (ValueError, RecursionError):
            return ()
    whole = isinstance(told, list) and all(isinstance(each, int) and 0 <= each < 1_000_000 for each in told)
    return tuple(dict.fromkeys(told)) if whole and isinstance(told, list) else ()


def _collective_kind(name: str, kernel: str) -> CollectiveKind:
    """What a collective does: as it is called, else by the name of its kernel."""
    for text in (name, kernel):
        plain = re.sub(r"[_\s]", "", text).lower()
        for part, kind in KINDS:
            if part in plain:
                return kind
    return "barrier" if not name else "all_reduce"


def _message(about: dict[str, Any], elements: float, dtype: str, kind: CollectiveKind) -> float:
    """Bytes of the whole tensor, -1 where they are not told."""
    told = [about.get(key) for key in ("In msg nelems", "Out msg nelems")]
    counts = [float(each) for each in told if isinstance(each, int | float) and each >= 0]
    width = ELEMENT.get(str(about.get("dtype", dtype)).split("::")[-1].lower(), 0)
    if not width or not (counts or elements):
        return -1.0
    return (max(counts) if counts else elements) * width


def _product(node: int, name: str, dims: Any, dtype: str) -> KnownShape | None:
    """A matrix product by the shapes of its operands, None where they are not as they should be."""
    width, word = ELEMENT.get(dtype.split("::")[-1].lower(), 0), PRECISION.get(dtype.split("::")[-1].lower(), "")
    try:
        operands = [dim for dim in dims if isinstance(dim, list) and len(dim) in (2, 3)][-2:]
        (*left, m, k), (*_, k_again, n) = operands
    except (TypeError, ValueError):
        return None
    batch = left[0] if left else 1
    if k != k_again or not width or not all(isinstance(each, int) and each > 0 for each in (m, n, k, batch)):
        return None
    return KnownShape(
        node, 2.0 * batch * m * n * k, float(width * batch * (m * k + k * n + m * n)), batch, m, n, k, word
    )


# --- the report -------------------------------------------------------------------------------------


def _read_line(recording: Recording, counts: list[StepCounts], events: int, strange: int, step: int | None) -> str:
    """What was read, in one line."""
    total = {name: sum(getattr(each, name) for each in counts) for name in ("kernels", "copies", "collectives")}
    which = f"step {step}" if step is not None and step >= 0 else "all of the file, as no step is marked"
    ranks = f"{len(recording.ranks)} of {recording.world} ranks"
    text = (
        f"read {events:,} events of {ranks}, {which}: {recording.step * 1e3:.6g} ms, {total['kernels']:,} kernels "
        f"({total['collectives']} collectives), {total['copies']:,} copies, {sum(each.launches for each in counts):,} "
        f"launches from {max(each.threads for each in counts)} threads to {max(each.streams for each in counts)} "
        "streams"
    )
    return text + (f"; {strange} events without what their kind has" if strange else "")


def _missing(recording: Recording, counts: list[StepCounts], files: dict[int, Path]) -> list[str]:
    """What the files do not say, and what that means for a replay."""

    def total(name: str) -> int:
        return sum(getattr(each, name) for each in counts)

    device = [rank.kind != HOST for rank in recording.ranks]
    late = [rank.lag[mine & (rank.lag > LATE)] for rank, mine in zip(recording.ranks, device, strict=True)]
    unknown = sum((each.unknown_kernels for each in counts), Counter[str]())
    collectives = [each for rank in recording.ranks for each in rank.collectives]
    sizeless = sum(each.bytes < 0 and each.kind != "barrier" for each in collectives)
    groupless = sum(not recording.groups[each.group].ranks for each in collectives)
    unlike = sum(recording.groups[each.group].name == UNTOLD for each in collectives) - groupless
    away = recording.world - len(recording.ranks)
    shared = [each for each in collectives if len(recording.groups[each.group].ranks) != 1]
    bound = np.mean([each.host_bound for each in counts])
    names = "; ".join(name for name, _ in unknown.most_common(NAMED))
    waited = sum(float(each.sum()) for each in late) * 1e3
    facts: tuple[tuple[object, str], ...] = (
        (True, f"{bound:.0%} of what ran on devices waited for its launch alone, {1 - bound:.0%} for the device"),
        (
            away and shared,
            f"{away} of {recording.world} ranks have no file: collectives keep the time they took on those that have "
            "one, waiting for the others included, and ranks without a file do as one that has",
        ),
        (
            sizeless,
            f"{sizeless} of {len(collectives)} collectives have no sizes (PyTorch before 2.4, or no shapes): they keep "
            "their recorded time on any network",
        ),
        (
            groupless,
            f"{groupless} of {len(collectives)} collectives do not say who takes part: taken as all "
            f"{recording.world} ranks",
        ),
        (
            unlike,
            f"{unlike} of {len(collectives)} collectives do not say who takes part, and ranks differ in them: each "
            "keeps its recorded time",
        ),
        (total("waits_told"), f"{total('waits_told')} waits between streams, as the runtime told them"),
        (
            total("waits_inferred"),
            f"{total('waits_inferred')} waits between streams are inferred from order and times: the profiler was not "
            "asked for them (enable_cuda_sync_events)",
        ),
        (
            total("waits_late"),
            f"{total('waits_late')} waits between streams are inferred from times alone: what began late did so within "
            "microseconds of an end in another stream",
        ),
        (
            total("waits_unknown"),
            f"{total('waits_unknown')} waits are for events of which the step does not show what they are: left out",
        ),
        (total("refused"), f"{total('refused')} edges lead back in time (clocks of host and device differ): left out"),
        (
            total("without_launch"),
            f"{total('without_launch')} kernels have no launch in the file: they wait for their stream alone",
        ),
        (
            total("still_running"),
            f"{total('still_running')} kernels of the step before ran on into this one: left out, and what waited for "
            "them keeps that wait",
        ),
        (
            waited,
            f"{sum(map(len, late))} kernels began more than {LATE * 1e3:g} ms after all that they wait for, "
            f"{waited:.3g} ms in all: the trace does not show why, and a replay keeps it",
        ),
        (
            unknown,
            f"{unknown.total()} kernels have names that say neither product, attention nor memory ({names}): they keep "
            "their time on other accelerators",
        ),
    )
    return [text for holds, text in facts if holds]
