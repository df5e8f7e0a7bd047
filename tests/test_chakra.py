"""Chakra traces: read and written without loss, mended where the answer is certain, refused by node where it is not."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from chakra_files import collective, host, kernel, message, write_ranks
from plans import Fields, job_of, run_collectives, small_experiment
from test_recording import small_recording

from sim.ask.run.chakra import recorded_step, write_chakra
from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.imports import chakra
from sim.imports.chakra import import_chakra, roofline_of
from sim.imports.chakra_file import COMM_TYPES, ChakraNode, chakra_bytes, open_chakra
from sim.imports.chakra_own import chakra_nodes, rank_attributes
from sim.inputs.load import load_experiment
from sim.inputs.recording import COLLECTIVE, HOST, RecordedCollective, RecordedRank, Recording, recording_text
from sim.programs.ranks import Job
from support import Cli

SAMPLES = Path(os.environ.get("CLUSTERSIM_CHAKRA_TRACES", "no such folder"))
HALF = b"\x00\x00\x00\x00\x00\x00\xf8\x3f"  # 1.5 in 64 bit
EXPERIMENT = """
cluster: dgx-h100-superpod
nodes: 2
workload: {kind: transformer, layers: 4, hidden: 1024, heads: 16, ffn: 4096, vocab: 51200}
parallelism: {tensor: 2, pipeline: 4, data: 2, zero_stage: 1}
training: {global_batch: 8, sequence_length: 1024, precision: bf16}
software: megatron-core
"""


def nodes_of(path: Path) -> list[ChakraNode]:
    return list(open_chakra(path).nodes)


def imported(folder: Path, *ranks: Sequence[ChakraNode]) -> tuple[Recording, str]:
    """The recording of ranks, and all that is said of it."""
    found = import_chakra(write_ranks(folder / "trace", ranks))
    return found.recording, "\n".join(found.remarks)


def refused(folder: Path, *ranks: Sequence[ChakraNode]) -> str:
    with pytest.raises(ConfigError) as error:
        imported(folder, *ranks)
    return str(error.value)


def waits(rank: RecordedRank) -> set[tuple[int, int]]:
    return set(zip(rank.before.tolist(), rank.after.tolist(), strict=True))


# --- the file -------------------------------------------------------------------------------


def random_node(draw: random.Random, number: int) -> ChakraNode:
    """A node with values of every kind at the ends of their ranges."""
    values = (True, False, 0, -1, 2**63 - 1, -(2**63), 1.5, -1e300, "", "ring ä", (), (1, -2), ("a", ""), (1.0,), None)
    attributes = {f"a{i}": draw.choice(values) for i in range(draw.randrange(6))}
    ids = tuple(draw.randrange(2**64) for _ in range(draw.randrange(4)))
    name = "n" * draw.choice((0, 1, 127, 128, 300))
    return ChakraNode(draw.randrange(2**64), name, draw.randrange(1, 8), ids, ids[:1], 2**63, number, attributes)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_written_is_read(tmp_path: Path, packed: bool) -> None:
    draw = random.Random(7)
    nodes = [random_node(draw, number) for number in range(200)]
    content = b"".join(chakra_bytes(nodes, {"schema": "x", "n": 3}))
    path = tmp_path / "t.0.et"
    path.write_bytes(gzip.compress(content) if packed else content)
    stream = open_chakra(path)
    assert (stream.version, stream.attributes) == ("0.0.4", {"schema": "x", "n": 3})
    assert list(stream.nodes) == nodes


def test_numbers_are_read_in_every_width(tmp_path: Path) -> None:
    """AttributeProto: double 3, float 5, int32 7, uint64 13, sint64 17, fixed32 19, sfixed64 25, bool 27, bytes 31."""
    said = {
        "double": b"\x19" + HALF, "float": b"\x2d\x00\x00\xc0\x3f", "int32": b"\x38" + b"\xff" * 9 + b"\x01",
        "uint64": b"\x68" + b"\xff" * 9 + b"\x01", "sint64": b"\x88\x01\x03", "fixed32": b"\x9d\x01\x05\x00\x00\x00",
        "sfixed64": b"\xc9\x01" + b"\xff" * 8, "bool": b"\xd8\x01\x01", "bytes": b"\xfa\x01\x02\x01\xff",
        "packed int64": b"\x52\x04\x0a\x02\x05\x06", "packed double": b"\x22\x0a\x0a\x08" + HALF,
    }  # fmt: skip
    node = b"\x18\x04"
    for name, value in said.items():
        inner = bytes([0x0A, len(name)]) + name.encode() + value
        node += bytes([0x52, len(inner)]) + inner
    (tmp_path / "t.0.et").write_bytes(b"\x00" + bytes([len(node) & 127 | 128, len(node) >> 7]) + node)
    (found,) = nodes_of(tmp_path / "t.0.et")
    assert found.attributes == {
        "double": 1.5, "float": 1.5, "int32": -1, "uint64": 2**64 - 1, "sint64": -2, "fixed32": 5, "sfixed64": -1,
        "bool": True, "bytes": "01ff", "packed int64": (5, 6), "packed double": (1.5,),
    }  # fmt: skip


def test_json_of_the_feeder_is_read(tmp_path: Path) -> None:
    graph = {"workload_graph": [{"Id": 3, "Name": "a", "NodeType": 4, "ctrlDeps": [1], "data_deps": [], "runtime": 7}]}
    (tmp_path / "t.0.json").write_text(json.dumps(graph))
    (node,) = nodes_of(tmp_path / "t.0.json")
    assert (node.id, node.control, node.duration_us) == (3, (1,), 7)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-3], "node 2 at byte"),
        (lambda content: b"", "is empty"),
        (lambda content: b"\x00" + b"\xff" * 20, "begins with no length"),
        (lambda content: content + b"\xff\xff\xff\x7f", "would be 268435455 bytes long"),
        (lambda content: content + b"\x02\x18\x09", "has the type 9"),
        (lambda content: content + b"\x02\x1c\x09", "which is none"),
        (lambda content: content + b"\x03\x18\x04\x08", "a number is cut"),
        (lambda content: content + b"\x05\x18\x04\x12\x01\xff", "can't decode byte"),
        (lambda content: gzip.compress(content)[:-12], "cannot be read"),
        (lambda content: b'{"nodes": []}', "workload_graph"),
        (lambda content: b'{"workload_graph": [{"Id": 1}]}', "workload_graph.0: 'type' is missing"),
        (lambda content: b'{"schema": "1.0.2-chakra.0.0.4"}', "it holds no times"),
        (lambda content: b"{", "cannot be read as JSON"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path: Path, damage: Callable[[bytes], bytes], said: str) -> None:
    content = b"".join(chakra_bytes([kernel(0), kernel(1, 0), kernel(2, 1)]))
    path = tmp_path / "t.0.et"
    path.write_bytes(damage(content))
    with pytest.raises(ConfigError) as error:
        import_chakra(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)


def test_any_damage_is_an_error_of_the_input_or_none(tmp_path: Path) -> None:
    """A file with a few bytes changed or cut off is read or refused, never anything else."""
    draw = random.Random(3)
    content = b"".join(chakra_bytes([host(1), kernel(2, 1, tid=7), collective(3, 2, tid=8), kernel(4, 2, tid=7)]))
    path, outcomes = tmp_path / "t.0.et", Counter[bool]()
    for _ in range(300):
        damaged = bytearray(content[: draw.randrange(1, len(content) + 1)])
        for _ in range(draw.randrange(3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(bytes(damaged))
        told = ""
        try:
            import_chakra(path)
        except ConfigError as error:
            told = str(error)
        assert not told or str(path) in told
        outcomes[bool(told)] += 1
    assert outcomes[False] > 0
    assert outcomes[True] > 100


def test_more_nodes_than_memory_is_for_are_refused_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chakra, "MOST_NODES", 50)
    said = refused(tmp_path, [kernel(number) for number in range(1000)])
    assert "more than 50 nodes" in said


# --- what converters leave wrong ------------------------------------------------------------


def test_waits_for_nodes_that_are_nowhere_are_left_out(tmp_path: Path) -> None:
    recording, said = imported(tmp_path, [kernel(1, 99, control=(98,)), kernel(2, 1)])
    assert "2 waits for nodes that are in no file" in said
    assert recording.ranks[0].nodes == 2


def test_ctrl_deps_of_another_numbering_are_left_out(tmp_path: Path) -> None:
    """A node that waits for itself shows it: here the kernel 2 would wait for what waits for it."""
    recording, said = imported(tmp_path, [host(1), kernel(2, 1, control=(3,), tid=7), host(3, 2, control=(3,))])
    assert "2 ctrl_deps were left out" in said
    assert waits(recording.ranks[0]) == {(0, 1), (1, 2)}


def test_a_launch_cannot_wait_for_its_kernel(tmp_path: Path) -> None:
    recording, said = imported(tmp_path, [host(1, 2), kernel(2, 1, tid=7)])
    assert "1 waits of host work for the kernel that it launched" in said
    assert waits(recording.ranks[0]) == {(0, 1)}


def test_what_began_later_cannot_have_been_waited_for(tmp_path: Path) -> None:
    early = ChakraNode(1, "a", 4, (), (2,), 100, 10, {"is_cpu_op": False})
    late = ChakraNode(2, "b", 4, (), (1,), 200, 10, {"is_cpu_op": False})
    recording, said = imported(tmp_path, [early, late])
    assert "1 waits for what began later" in said
    assert recording.ranks[0].start.tolist() == [0.0, pytest.approx(1e-4)]


def test_a_cycle_is_refused_with_its_nodes(tmp_path: Path) -> None:
    said = refused(tmp_path, [kernel(1), kernel(2, 1, 4, name="b"), kernel(3, 2), kernel(4, 3)])
    assert "node 2 (b): waits for itself through others" in said
    assert "node 1" not in said


def test_lost_numbers_are_refused_and_a_node_that_is_there_twice_is_one(tmp_path: Path) -> None:
    recording, said = imported(tmp_path, [kernel(1), kernel(1), kernel(2, 1)])
    assert "1 nodes that stand in their file twice" in said
    assert recording.ranks[0].nodes == 2
    lost = refused(tmp_path, [kernel(0, name="a"), kernel(0, name="b"), kernel(0, name="c")])
    assert "node 0 (a): 3 different nodes have this number" in lost


def test_a_collective_without_a_kernel_waits_for_the_last_one_launched(tmp_path: Path) -> None:
    """Kernels without outgoing edges let collectives begin at once."""
    trace = [host(1), kernel(2, 1, tid=7), host(3, 1), collective(4, 3, tid=8, us=20), kernel(5, 3, tid=7)]
    recording, said = imported(tmp_path, trace)
    rank = recording.ranks[0]
    assert "1 collectives that waited for no kernel" in said
    number = rank.collectives[0].node
    assert (rank.names.index("gemm"), number) in {(int(rank.name[before]), after) for before, after in waits(rank)}


def test_a_collective_without_its_kind_is_what_its_kernel_is_called(tmp_path: Path) -> None:
    node = ChakraNode(1, "ncclKernel_Broadcast_RING_LL_Sum_int8_t", 7, (), (), 0, 9, {"is_cpu_op": False, "tid": 14})
    recording, said = imported(tmp_path, [node])
    assert recording.ranks[0].collectives == (RecordedCollective(0, "broadcast", 0, 0, -1.0),)
    assert "1 collectives without comm_type" in said
    assert "1 transfers have no comm_size" in said


def test_lost_broadcasts_are_put_in(tmp_path: Path) -> None:
    whole = [collective(1), collective(2, 1, kind=5, size=64), collective(3, 2)]
    recording, said = imported(tmp_path, whole, [collective(1), collective(3, 1)])
    assert "1 broadcasts that other ranks of the group recorded were put in" in said
    one, other = (rank.collectives for rank in recording.ranks)
    assert [each[1:] for each in one] == [each[1:] for each in other]
    assert waits(recording.ranks[0]) == waits(recording.ranks[1])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            [collective(1, kind=2), collective(2, 1)],
            "is all_gather number 0 of group of all, other ranks have all_reduce",
        ),
        ([collective(1)], "is the last of 1 collectives in group of all, another rank has 2"),
        ([collective(1, pg_name="7")], "its group 7 is in no file of groups"),
        ([collective(1, kind=3)], "is a collective of no known kind"),
        ([collective(1, size=True), collective(2, tag=1, comm_size="many")], "comm_size is 'many'"),
        ([message(1, to=1)], "goes to rank 1, which is no other rank"),
        ([message(1, to=0)], "rank 0 has no receive for it"),
    ],
)
def test_what_ranks_do_not_agree_on_is_refused(tmp_path: Path, other: list[ChakraNode], said: str) -> None:
    assert said in refused(tmp_path, [collective(1), collective(2, 1)], other)


def test_messages_are_told_to_keep_their_time(tmp_path: Path) -> None:
    _, said = imported(tmp_path, [kernel(1), message(2, 1, to=1)], [message(1, by=0), kernel(2, 1)])
    assert "2 sends and receives: a replay gives each its recorded time" in said


def test_ranks_that_wait_for_one_another_are_refused(tmp_path: Path) -> None:
    first = [message(1, by=1), message(2, 1, to=1)]
    second = [message(1, by=0), message(2, 1, to=0)]
    assert "ranks wait for one another" in refused(tmp_path, first, second)


# --- what is made of it ---------------------------------------------------------------------


def test_sizes_are_those_of_the_whole_tensor(tmp_path: Path) -> None:
    """comm_size of an all-gather is what a rank contributes, of others what it holds; groups are those of the file."""
    folder = tmp_path / "trace"
    trace = [collective(number, kind=kind, pg_name="1") for number, kind in enumerate((0, 2, 7, 6), start=1)]
    write_ranks(folder, [trace] * 4)
    (folder / "t.json").write_text('{"1": [0, 1, 2, 3], "2": [0]}')
    rank = import_chakra(folder).recording.ranks[3]
    kinds = [(each.kind, each.bytes / 2**20) for each in rank.collectives]
    assert kinds == [("all_reduce", 1), ("all_gather", 4), ("reduce_scatter", 1), ("all_to_all", 1)]


def test_a_pipeline_begins_what_it_can(tmp_path: Path) -> None:
    """Without recorded times a rank does not stand behind a backward pass that waits for another rank."""
    first = [
        kernel(1, name="f0"),
        message(2, 1, to=1),
        message(3, by=1, tag=1),
        kernel(4, 3, name="b0"),
        kernel(5, name="f1"),
    ]
    second = [message(1, by=0), kernel(2, 1, us=50), message(3, 2, to=0, tag=1)]
    recording, _ = imported(tmp_path, first, second)
    rank = recording.ranks[0]
    order = [
        rank.names[name]
        for name, kind in zip(rank.name.tolist(), rank.kind.tolist(), strict=True)
        if kind != COLLECTIVE
    ]
    assert order == ["f0", "f1", "b0"]


def test_computation_without_a_duration_is_priced_by_a_roofline(tmp_path: Path) -> None:
    folder = write_ranks(tmp_path / "trace", [[kernel(1, us=0, num_ops=10**12, tensor_size=10**6)]])
    free = import_chakra(folder)
    assert free.recording.ranks[0].seconds.tolist() == [0.0]
    assert "--accelerator prices them" in "\n".join(free.remarks)
    priced = import_chakra(folder, price=roofline_of("h100-sxm"))
    assert priced.recording.ranks[0].seconds[0] == pytest.approx(1e12 / 989.4e12, rel=1e-3)


# --- our steps ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recording, Path, float]:
    """A step as recorded, the folder of its trace, and its time as `run` has it."""
    folder = tmp_path_factory.mktemp("step")
    (folder / "mine.yaml").write_text(EXPERIMENT)
    experiment = load_experiment(folder / "mine.yaml").experiment
    (folder / "et").mkdir()
    write_chakra(experiment, (), folder / "et")
    return recorded_step(experiment), folder / "et", simulate(experiment).step.time_s


def replayed(recording: Recording) -> float:
    """How long a recording takes if collectives end together, as long after the last came as the shortest took."""
    place = [(rank, node) for rank in recording.ranks for node in range(rank.nodes)]
    end = [np.zeros(rank.nodes) for rank in recording.ranks]
    meetings: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for number, rank in enumerate(recording.ranks):
        for each in rank.collectives:
            meetings[each.group, each.sequence].append((number, each.node))
    met = {(n, node): key for key, places in meetings.items() for n, node in places}
    for _ in range(len(place)):  # until nothing moves
        moved = False
        for number, rank in enumerate(recording.ranks):
            begin, last = np.zeros(rank.nodes), dict[int, float]()
            inner = defaultdict(list)
            for before, after in zip(rank.before.tolist(), rank.after.tolist(), strict=True):
                inner[after].append(before)
            for node in range(rank.nodes):
                queue = int(rank.queue[node])
                ready = max([last.get(queue, 0.0), *(end[number][other] for other in inner[node])])
                begin[node] = ready + rank.lag[node]
                done = begin[node] + rank.seconds[node]
                if (number, node) in met:
                    places = meetings[met[number, node]]
                    least = min(recording.ranks[n].seconds[i] for n, i in places)
                    arrivals = [begin[node] if (n, i) == (number, node) else end[n][i] - least for n, i in places]
                    done = max(arrivals) + least
                moved |= abs(done - end[number][node]) > 1e-15
                end[number][node] = done
                last[queue] = max(done, last.get(queue, 0.0))
        if not moved:
            break
    return max(float(each.max()) for each in end)


def test_a_recorded_step_takes_as_long_as_the_step(step: tuple[Recording, Path, float]) -> None:
    recording, _, seconds = step
    assert recording.step == pytest.approx(seconds, rel=1e-9)
    assert replayed(recording) == pytest.approx(seconds, rel=1e-6)


def test_a_recorded_step_holds_every_collective_on_all_its_ranks(step: tuple[Recording, Path, float]) -> None:
    met: defaultdict[tuple[int, int], list[tuple[str, float]]] = defaultdict(list)
    for rank in step[0].ranks:
        assert (rank.before < rank.after).all()
        assert (rank.lag == 0).all(), "all that it waits for is on the rank itself, or a collective"
        for each in rank.collectives:
            met[each.group, each.sequence].append((each.kind, each.bytes))
    for (group, _), ends in met.items():
        assert len(ends) == len(step[0].groups[group].ranks)
        assert len({size for _, size in ends}) == 1
        assert {kind for kind, _ in ends} == {"send", "receive"} or len({kind for kind, _ in ends}) == 1


def test_our_trace_comes_back_without_loss(step: tuple[Recording, Path, float]) -> None:
    again = import_chakra(step[1]).recording
    assert list(recording_text(again)) == list(recording_text(step[0]))


def test_a_recording_of_a_profiler_comes_back_without_loss(tmp_path: Path) -> None:
    recording = small_recording(3)
    for rank in recording.ranks:
        content = b"".join(chakra_bytes(chakra_nodes(recording, rank), rank_attributes(recording, rank)))
        (tmp_path / f"t.{rank.rank}.et").write_bytes(content)
    assert list(recording_text(import_chakra(tmp_path).recording)) == list(recording_text(recording))


def test_what_astra_sim_reads_says_the_same(step: tuple[Recording, Path, float]) -> None:
    """Numbers unique, waits of earlier nodes alone, durations in whole microseconds that lose nothing in a queue."""
    recording, folder, _ = step
    groups = json.loads((folder / "mine.json").read_text())
    for rank in recording.ranks:
        nodes = nodes_of(folder / f"mine.{rank.rank}.et")
        assert [node.id for node in nodes] == list(range(rank.nodes))
        assert all(other < node.id for node in nodes for other in (*node.control, *node.data))
        for node in nodes:
            if node.type == 7:
                each = next(one for one in rank.collectives if one.node == node.id)
                group = groups[str(node.attributes["pg_name"])]
                assert rank.rank in group
                assert COMM_TYPES[node.whole("comm_type")] == each.kind
                share = len(group) if each.kind == "all_gather" else 1
                assert node.whole("comm_size") == pytest.approx(each.bytes / share, abs=1)
        told = sum(node.duration_us for node in nodes) * 1e-6
        assert told == pytest.approx(float(rank.seconds.sum()), abs=0.5e-6 * len(rank.queues))


def test_a_changed_file_of_ours_is_refused(tmp_path: Path) -> None:
    recording = small_recording(1)
    nodes = list(chakra_nodes(recording, recording.ranks[0]))[1:]
    content = b"".join(chakra_bytes(nodes, rank_attributes(recording, recording.ranks[0])))
    (tmp_path / "t.0.et").write_bytes(content)
    with pytest.raises(ConfigError, match="changed since: node 0 has the number 1"):
        import_chakra(tmp_path)


def test_the_commands(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    assert cli("export", "chakra", tmp_path / "mine.yaml", "-o", tmp_path / "et", "--ranks", "0,5..7").code == 0
    assert sorted(path.name for path in (tmp_path / "et").iterdir()) == [
        "mine.0.et", "mine.5.et", "mine.6.et", "mine.7.et", "mine.json",
    ]  # fmt: skip
    assert cli("export", "chakra", tmp_path / "mine.yaml", "-o", tmp_path / "et", "--ranks", "99").code == 3
    done = cli("import", "chakra", tmp_path / "et", "-o", tmp_path / "again.yaml")
    assert done.code == 0
    assert "kind: trace" in (tmp_path / "again.yaml").read_text()
    write_ranks(tmp_path / "et", [[kernel(1)]], "other")
    several = cli("import", "chakra", tmp_path / "et")
    assert (several.code, "say which: --prefix mine" in several.err) == (3, True)
    (tmp_path / "et" / "other.0.et").write_bytes(b"\x05ab")
    broken = cli("import", "chakra", tmp_path / "et", "--prefix", "other", "-o", tmp_path / "broken.yaml")
    assert broken.code == 3
    assert not list(tmp_path.glob("broken*"))


# --- ASTRA-sim ------------------------------------------------------------------------------


def astra_job(n: int, size: float, share: float) -> Job:
    """A ring of `n` servers as in test_astra_sim: 50 * 2^30 B/s, 500 ns, endpoint 10 ns, memory 1600 GB/s."""
    extra = 10e-9 + share * 3 * (size / n) / 1600e9
    node: Fields = {
        "accelerators": 1,
        "local": {"kind": "none", "bandwidth": 0.0},
        "nics": {"count": 1, "bandwidth": 50 * 2.0**30, "latency": 0.0},
        "collectives": {"ring_hop_network": extra, "tree_efficiency": 1e-3},
    }
    ring = {"kind": "torus", "shape": [n], "link": {"bandwidth": 50 * 2.0**30, "latency": 500e-9}}
    return job_of(small_experiment(nodes=n, node=node, fabric=ring, training={"global_batch": n}))


def closed_form(kind: str, n: int, comm_size: int) -> float:
    """ASTRA-sim's ring in one chunk, exact to the nanosecond [s]: whole bytes, whole nanoseconds."""
    m = comm_size if kind == "all_gather" else comm_size // n
    net = int(500 + m / (50 * 1.073741824))
    red = 3 * (m // 1600)
    steps = {
        "all_reduce": (n - 1) * (net + red) + (n - 1) * net + 10 * (2 * (n - 1) + 1),
        "reduce_scatter": (n - 1) * (net + red) + 10 * n,
        "all_gather": (n - 1) * net + 10 * n,
    }
    return steps[kind] * 1e-9


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize(("n", "size"), [(8, 2**20), (8, 2**30), (64, 2**30)])
def test_collectives_of_astra_sim_take_what_it_says(tmp_path: Path, kind: str, n: int, size: int) -> None:
    """The file of a microbenchmark, its size and ranks as imported, on our network."""
    comm_size = size // n if kind == "all_gather" else size
    ranks = [[collective(0, kind=COMM_TYPES.index(kind), size=comm_size)] for _ in range(n)]
    recording, _ = imported(tmp_path, *ranks)
    (each,) = recording.ranks[0].collectives
    assert (recording.world, each.kind, each.bytes) == (n, kind, size)
    share = {"all_reduce": 0.5, "reduce_scatter": 1.0, "all_gather": 0.0}[kind]
    seconds = run_collectives(astra_job(n, size, share), [("gradient", each.kind, each.bytes)])
    assert seconds == pytest.approx(closed_form(kind, n, comm_size), rel=0.01)


RING = """
cluster:
  name: ring
  nodes: 8
  node:
    name: one
    accelerator: h100-sxm
    accelerators: 1
    local: {{kind: none, bandwidth: 0 B/s}}
    nics: {{count: 1, bandwidth: 53687091200 B/s, latency: 0 s}}
    collectives: {{ring_hop_network: {hop} ns, tree_efficiency: 0.001}}
  fabric: {{kind: torus, shape: [8], link: {{bandwidth: 53687091200 B/s, latency: 500 ns}}}}
workload: ./step.yaml
parallelism: {{tensor: 8}}
training: {{global_batch: 1}}
"""


@pytest.mark.parametrize(
    ("kind", "hop"),
    [("all_reduce", 10 + 0.5 * 3 * 2**17 / 1600), ("all_gather", 10), ("reduce_scatter", 10 + 3 * 2**17 / 1600)],
)
def test_a_microbenchmark_is_imported_and_run(tmp_path: Path, cli: Cli, kind: str, hop: float) -> None:
    """From the files to the answer of `run`: 1 MiB on eight ranks; the hop is that of `astra_job`."""
    write_ranks(tmp_path / "trace", [[collective(0, kind=COMM_TYPES.index(kind))] for _ in range(8)])
    assert cli("import", "chakra", tmp_path / "trace", "-o", tmp_path / "step.yaml").code == 0
    (tmp_path / "run.yaml").write_text(RING.format(hop=hop))
    done = cli("run", tmp_path / "run.yaml", "--json")
    seconds = json.loads(done.out)["step"]["time_s"]
    assert seconds == pytest.approx(closed_form(kind, 8, 2**20), rel=0.01)
    assert "there is nothing to compare with" in " ".join(cli("run", tmp_path / "run.yaml").out.split())


def test_our_trace_is_run_again_in_the_same_time(step: tuple[Recording, Path, float], tmp_path: Path, cli: Cli) -> None:
    """As recorded, and with collectives from our model on the same cluster."""
    assert cli("import", "chakra", step[1], "-o", tmp_path / "step.yaml").code == 0
    head = "cluster: dgx-h100-superpod\nnodes: 2\nworkload: ./step.yaml\nparallelism: {tensor: 16}\n"
    (tmp_path / "run.yaml").write_text(head + "training: {global_batch: 1}\n")
    for ways in ("recorded", "modelled"):
        done = cli("run", tmp_path / "run.yaml", "--json", "--set", f"workload.collectives={ways}")
        assert json.loads(done.out)["step"]["time_s"] == pytest.approx(step[2], rel=1e-6)


# --- traces of others -----------------------------------------------------------------------


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="CLUSTERSIM_CHAKRA_TRACES names no folder")
class TestSamples:
    """Traces of astra-sim/astra-sim, mlcommons/chakra and astra-sim/stage."""

    @pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
    def test_microbenchmarks(self, kind: str) -> None:
        found = import_chakra(SAMPLES / "astra_microbench_8npus_1MB", prefix=kind).recording
        assert [each.kind for rank in found.ranks for each in rank.collectives] == [kind] * 8

    def test_a_ring_of_messages(self) -> None:
        found = import_chakra(SAMPLES / "astra_custom_ring_8npus").recording
        assert [len(rank.collectives) for rank in found.ranks] == [28] * 8

    def test_a_real_rank(self) -> None:
        found = import_chakra(SAMPLES / "chakra_feeder_real" / "chakra.0.et")
        (rank,) = found.recording.ranks
        assert (rank.nodes, len(rank.collectives)) == (3664, 7)
        assert rank.seconds[rank.kind != HOST].sum() == pytest.approx(329.543e-3)
        assert "3,664 ctrl_deps were left out" in "\n".join(found.remarks)

    def test_a_generated_model(self) -> None:
        found = import_chakra(SAMPLES / "stage_gpt_8npus").recording
        assert [rank.nodes for rank in found.ranks] == [348] * 4 + [356] * 4

    def test_an_observer_file_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="it holds no times"):
            import_chakra(SAMPLES / "chakra_feeder_real" / "1.0.2-chakra.0.0.4.json")
