"""Good files broken in hundreds of ways: every one is a ConfigError that says where and what.

The good files in `data/good` have one key a line, so that a mutation is a change of one line and
its place is known. Most cases are made from the files; the rest are listed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sim.errors import ConfigError
from sim.inputs.load import load_definition, load_experiment
from support import ROOT

GOOD = Path(__file__).parent / "data" / "good"
FILES = ("accelerator", "node", "cluster", "model", "software", "experiment")
INTERNALS = re.compile(
    r"Input should|union_tag|tagged-union|function-|pydantic|literal\[|tuple\[|type=|value_error|NoneType|<class"
    r"|inline\.|\.inline|\.name\b.*inline|Traceback|ValidationError|yaml\.|\bNode\("
)
LEAF = re.compile(r"^(?P<indent> *)(?P<key>\w+): (?P<value>\S.*)$")
QUANTITY = re.compile(r"^[\d.]+ ?(?!%)[A-Za-z/]+$")
WORDS = {
    "kind", "schedule", "precision", "recompute", "tensor_overlap", "activation", "norm", "positions", "attention",
    "fold",
}  # fmt: skip
REQUIRED = {
    "accelerator": ("name", "capacity", "bandwidth", "tdp"),
    "node": ("name", "accelerator", "accelerators"),
    "cluster": ("name", "nodes", "node", "kind", "nodes_per_unit"),
    "model": ("layers", "hidden", "heads", "ffn", "vocab"),
    "software": ("name",),
    "experiment": ("cluster", "workload", "global_batch", "sequence_length"),
}


class Line(NamedTuple):
    """A leaf of a good file: `key: value` on the line `number`."""

    file: str
    number: int
    indent: str
    key: str
    value: str


class Broken(NamedTuple):
    """A good file with the line `number` replaced, or removed if `text` is empty.

    The error is at that line, or for what is missing above it.
    """

    file: str
    number: int
    text: str


def lines_of(file: str) -> Iterator[Line]:
    in_sources = False
    for number, text in enumerate((GOOD / f"{file}.yaml").read_text().splitlines(), start=1):
        in_sources = text == "sources:" or (in_sources and text.startswith(" "))
        match = LEAF.match(text)
        if match and not in_sources:
            yield Line(file, number, match["indent"], match["key"], match["value"])


LINES = [line for file in FILES for line in lines_of(file)]


def values_for(line: Line) -> list[str]:
    """Values that are wrong for this key."""
    if QUANTITY.match(line.value) and not line.value[:-1].isdigit():
        return ["5", "5 parsec", f"-{line.value}", "plenty", "[1 s]", "1e999 s", line.value.swapcase()]
    if re.fullmatch(r"\d+k?", line.value) and line.key not in ("zero_stage", "gradient_bytes", "optimizer_bytes"):
        return ["2.5", "-1", "many", "{a: 1}", "true"]
    if line.value in ("true", "false"):
        return ["yes", "1", "[]"]
    if line.key in WORDS:
        return ["something", "[a]", "3"]
    return ["[1, {a: b}]", "{a: {b: c}}"]


def made() -> Iterator[Broken]:
    for line in LINES:
        yield Broken(line.file, line.number, f"{line.indent}{line.key}x: {line.value}")
        for value in values_for(line):
            yield Broken(line.file, line.number, f"{line.indent}{line.key}: {value}")
        if line.key in REQUIRED[line.file] and line.value != "ecmp":
            yield Broken(line.file, line.number, "")


CASES = list(made())


def copy_good(folder: Path) -> Path:
    shutil.copytree(GOOD, folder, dirs_exist_ok=True)
    return folder / "experiment.yaml"


def errors_of(run: Callable[[], object]) -> ConfigError:
    """The ConfigError of `run`, whose problems must all be readable."""
    with pytest.raises(ConfigError) as caught:
        run()
    assert caught.value.problems
    for problem in caught.value.problems:
        assert problem.where
        assert problem.message
        assert not INTERNALS.search(str(problem)), str(problem)
        assert len(str(problem)) < 1000
    return caught.value


def test_the_good_files_are_good(tmp_path: Path) -> None:
    assert load_experiment(copy_good(tmp_path)).data == 2


def test_there_are_many_cases() -> None:
    assert len(CASES) > 300


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}-{case.number}-{case.text.strip()}")
def test_broken_line_is_reported_at_its_place(case: Broken, tmp_path: Path) -> None:
    experiment = copy_good(tmp_path)
    path = tmp_path / f"{case.file}.yaml"
    lines = path.read_text().splitlines()
    lines[case.number - 1 : case.number] = [case.text] if case.text else []
    path.write_text("\n".join(lines) + "\n")
    error = errors_of(lambda: load_experiment(experiment))
    missing = not case.text or case.text.strip() in ("kindx: fat_tree", "kindx: transformer")
    wanted = f"{path}:" if missing else f"{path}:{case.number}:"
    assert any(problem.where.startswith(wanted) for problem in error.problems), str(error)


def test_all_errors_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    experiment = copy_good(tmp_path)
    for file in FILES:
        with (tmp_path / f"{file}.yaml").open("a") as stream:
            stream.write("unknown_key: 1\n")
    error = errors_of(lambda: load_experiment(experiment))
    assert [Path(problem.where.split(":")[0]).stem for problem in error.problems] == [
        "experiment",
        *sorted(set(FILES) - {"experiment"}),
    ]


CONTENTS = {
    "empty": b"",
    "blank": b"\n\n  \n",
    "comment": b"# nothing here\n",
    "list": b"- name: x\n",
    "text": b"just text\n",
    "number": b"42\n",
    "null": b"~\n",
    "tab": b"name: x\nfabric:\n\tkind: switch\n",
    "two documents": b"name: x\n---\nname: y\n",
    "duplicate key": b"name: x\nname: y\n",
    "tag": b"name: !!python/name:os.system x\n",
    "object": b"!!python/object/apply:os.system [true]\n",
    "merge key": b"a: &a {name: x}\n<<: *a\n",
    "laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(12)),
    "self alias": b"name: &a [*a]\n",
    "unknown alias": b"name: *a\n",
    "deep": b"name: " + b"[" * 5000,
    "huge": b"# " + b"x" * (9 * 2**20),
    "huge list": b"name: [" + b"1," * 2**20 + b"]",
    "binary": bytes(range(256)) * 20,
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "UTF-16": "name: x\n".encode("utf-16"),
    "UTF-16 without mark": "name: x\n".encode("utf-16-le"),
    "Latin-1": "name: é\n".encode("latin-1"),
    "lone surrogate": b"name: \xed\xa0\x80\n",
    "escape character": b"name: \x1b[31mx\n",
    "JSON, cut off": b'{"name": "x", "nodes": ',
    "unclosed quote": b"name: 'x\n",
    "bad indentation": b"name: x\n  nodes: 2\n",
    "colon missing": b"name x\nnodes: 2\n",
    "percent": b"name: %x\n",
    "key is a list": b"? [a, b]\n: 1\n",
    "key is a mapping": b"{a: b}: 1\n",
    "null key": b"~: 1\n",
    "extends itself": b"extends: ./cluster.yaml\n",
    "extends a list": b"extends: [a, b]\nname: x\n",
    "extends nothing": b"extends:\n",
    "extends an unknown name": b"extends: no-such-cluster\n",
    "extends a missing file": b"extends: ./none.yaml\n",
    "extends another kind": b"extends: ./model.yaml\n",
    "extends a directory": b"extends: ./\n",
    "name of a file": b"name: ../../x\nnodes: 1\nnode: ./node.yaml\n",
    "node missing": b"name: x\nnodes: 1\nnode: ./none.yaml\n",
    "node unknown": b"name: x\nnodes: 1\nnode: no-such-node\n",
    "node empty": b"name: x\nnodes: 1\nnode: ''\n",
    "node number": b"name: x\nnodes: 1\nnode: 4\n",
    "node with zero byte": b'name: x\nnodes: 1\nnode: "./a\\0b.yaml"\n',
    "node is very long": b"name: x\nnodes: 1\nnode: ./" + b"x" * 5000 + b"\n",
    "node is a link to itself": b"name: x\nnodes: 1\nnode: ./loop.yaml\n",
    "node is a pipe": b"name: x\nnodes: 1\nnode: ./pipe.yaml\n",
    "a million nodes": b"name: x\nnodes: 1e6\nnode: ./node.yaml\n",
    "infinite nodes": b"name: x\nnodes: 1e999\nnode: ./node.yaml\n",
    "no nodes": b"name: x\nnodes: 0\nnode: ./node.yaml\n",
    "empty keys": b"name:\nnodes:\nnode:\n",
    "fabric without kind": b"extends: ./base.yaml\nfabric: {spines: 2}\nnodes: x\n",
    "fabric of unknown kind": b"extends: ./base.yaml\nfabric: {kind: fattree}\n",
    "fabric of list kind": b"extends: ./base.yaml\nfabric: {kind: [switch]}\n",
    "fabric is text": b"extends: ./base.yaml\nfabric: switch\n",
    "fabric is a list": b"extends: ./base.yaml\nfabric: [switch]\n",
    "torus without shape": b"extends: ./base.yaml\nfabric: {kind: torus, link: {bandwidth: 1 GB/s}}\n",
    "torus of four": b"extends: ./base.yaml\nfabric: {kind: torus, shape: [2, 2, 2, 2], link: {bandwidth: 1 GB/s}}\n",
    "torus of none": b"extends: ./base.yaml\nfabric: {kind: torus, shape: [], link: {bandwidth: 1 GB/s}}\n",
    "keys of another fabric": b"extends: ./base.yaml\nfabric: {kind: switch, spines: 2}\n",
    "graph edges astray": b"extends: ./base.yaml\nfabric: {kind: graph, "
    b"nodes: [{id: a, kind: node}, {id: b, kind: node}], links: [{source: a, target: c, bandwidth: 1 GB/s}]}\n",
    "graph of nothing": b"extends: ./base.yaml\nfabric: {kind: graph}\n",
    "graph entry is text": b"extends: ./base.yaml\nfabric: {kind: graph, nodes: [a, b]}\n",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    experiment = copy_good(tmp_path)
    (tmp_path / "cluster.yaml").rename(tmp_path / "base.yaml")
    (tmp_path / "cluster.yaml").write_bytes(content)
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    error = errors_of(lambda: load_experiment(experiment))
    assert any("cluster.yaml:" in problem.where for problem in error.problems), str(error)


OVERRIDES = [
    "foo",
    "=3",
    "a..b=3",
    "traning.tokens=3",
    "training.tokens=-3",
    "training.tokens=lots",
    "training.tokens=0",
    "training=3",
    "training=",
    "training.lora={rank: 8, targets: [qkv, qkv]}",
    "training.lora={rank: 0}",
    "training.lora={rank: 8, targets: [head]}",
    "training.precision=fp61",
    "training.precision=fp8",
    "training.precision={",
    "training.precision=!!str bf16",
    "training.tokens.more=3",
    "parallelism.tensor=3",
    "parallelism.tensor=16",
    "parallelism.tensor=0",
    "parallelism.data=3",
    "parallelism.data=64",
    "parallelism.pipeline=9",
    "parallelism.virtual_stages=5",
    "parallelism.schedule=gpipe",
    "parallelism.schedule=interleaved",
    "parallelism.expert=2",
    "parallelism.context=3",
    "parallelism.order=[tensor, data]",
    "parallelism.order=[tensor, tensor, data, context, pipeline]",
    "parallelism.order=[tensor, context, expert, data, pipelin]",
    "parallelism.order=tensor",
    "parallelism.placement=compact",
    "parallelism.placement=[0, 1]",
    "parallelism.placement=[0, 1, 2, 3, 4, 5, 6, 6]",
    "parallelism.placement=[0, 1, 2, 3, 4, 5, 6, 99]",
    "parallelism.placement=[0, 1, 2, x]",
    "parallelism.placement={a: b}",
    "parallelism.on_nodes=[node0, node0]",
    "parallelism.on_nodes=[gpu0]",
    "parallelism.on_nodes=[node01]",
    "parallelism.on_nodes=[node99]",
    "parallelism.on_nodes=[]",
    "parallelism.on_nodes=node0",
    "parallelism.shard_group=3",
    "parallelism.zero_stage=4",
    "parallelism.zero_stage=two",
    "parallelism.zero_stage=1.5",
    "training.global_batch=17",
    "training.global_batch=6",
    "training.sequence_length=1001",
    "training.sequence_length=4096",
    "nodes=1000000",
    "nodes=0",
    "nodes=two",
    "nodes=1.5",
    "cluster=no-such-cluster",
    "cluster=./none.yaml",
    "cluster=",
    "cluster=3",
    "cluster=[a]",
    "cluster.node=no-such-node",
    "cluster.node.accelerator=./none.yaml",
    "cluster.node.accelerator.memory=3",
    "cluster.node.accelerator.memory.bandwidth=3",
    "cluster.node.accelerator.memory.bandwidth=3 tb/s",
    "cluster.node.accelerator.memory.bandwith=3 TB/s",
    "cluster.node.accelerator.matrix.peak.bf16=",
    "cluster.node.accelerator.matrix.tile=[128]",
    "cluster.node.accelerator.matrix.tile=[1, 2, 3]",
    "cluster.node.accelerator.matrix.tile.5=3",
    "cluster.node.accelerator.matrix.tile.x=3",
    "cluster.node.accelerator.power.idle=900 W",
    "cluster.node.accelerators=0",
    "cluster.node.pcie.switches=9",
    "cluster.node.nics.bandwidth=0",
    "cluster.node.local.bandwidth=0",
    "cluster.fabric=",
    "cluster.fabric.kind=torus",
    "cluster.fabric={kind: torus, shape: [1], link: {bandwidth: 1 GB/s}}",
    "cluster.fabric.leaf_oversubscription=0",
    "cluster.fabric.leaf_oversubscription=1:3",
    "workload.layers=3",
    "workload.heads=7",
    "workload.kv_heads=3",
    "workload.hidden=1001",
    "workload.kind=resnet",
    "workload.name=a b",
    "workload.max_positions=100",
    "software=none-such",
    "software.gradient_bytes=3",
    "software.sources=[a]",
    "software.sources={a: 1}",
    "measured.source=3",
    "measured.step_time=32",
    "measured.tokens_per_s=fast",
    "measured.tolerance=110 %",
    "degradations=[{factor: 0.5}]",
    "degradations=[{link: a, accelerator: b, factor: 0.5}]",
    "degradations=[{link: a, factor: 0}]",
    "degradations=slow",
    "degradations.0.factor=0.5",
    "seed=-1",
    "seed=1.5",
    "seed=x",
    "seed.x=1",
    "name=",
    "name=" + "x" * 200,
    "description=3",
]


@pytest.mark.parametrize("override", OVERRIDES)
def test_broken_override_is_named(override: str) -> None:
    error = errors_of(lambda: load_experiment(GOOD / "experiment.yaml", overrides=["seed=1", override]))
    assert all(problem.where.startswith("--set 2") or "good/" in problem.where for problem in error.problems)


PLACES = (
    "",
    ".",
    "none.yaml",
    "./none",
    "no-such-experiment",
    "/dev/null",
    "/dev/zero",
    "a\0b.yaml",
    "x" * 6000 + ".yaml",
)


@pytest.mark.parametrize("source", PLACES, ids=lambda source: repr(source)[:20])
def test_what_is_no_experiment_is_refused(source: str, tmp_path: Path) -> None:
    errors_of(lambda: load_experiment(source))
    errors_of(lambda: load_experiment(tmp_path / source[:300]))
    errors_of(lambda: load_definition("cluster", source))


@pytest.mark.parametrize(
    "data",
    [{}, {"cluster": 3}, {"cluster": {"extends": 3}}, {1: 2}, {"cluster": object()}, {"training": b"x"}],
    ids=["empty", "number", "number to extend", "key", "object", "bytes"],
)
def test_mapping_that_is_no_experiment_is_refused(data: dict[str, object]) -> None:
    errors_of(lambda: load_experiment(data))


def test_circle_of_extends_names_the_files(tmp_path: Path) -> None:
    experiment = copy_good(tmp_path)
    for file, base in (("cluster", "one"), ("one", "two"), ("two", "one")):
        (tmp_path / f"{file}.yaml").write_text(f"extends: ./{base}.yaml\n")
    error = errors_of(lambda: load_experiment(experiment))
    assert "one -> two -> one" in str(error)
    assert error.problems[0].where == f"{tmp_path}/two.yaml:1:1"


def test_long_chain_of_extends_is_refused(tmp_path: Path) -> None:
    experiment = copy_good(tmp_path)
    (tmp_path / "cluster.yaml").write_text("extends: ./0.yaml\n")
    for number in range(500):
        (tmp_path / f"{number}.yaml").write_text(f"extends: ./{number + 1}.yaml\n")
    assert "more than" in str(errors_of(lambda: load_experiment(experiment)))


def test_many_problems_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "many.yaml"
    path.write_text("".join(f"key{number}: 1\n" for number in range(5000)))
    assert len(errors_of(lambda: load_experiment(path)).problems) < 200


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    experiment = copy_good(tmp_path)
    (tmp_path / "cluster.yaml").chmod(0)
    assert "cannot be read" in str(errors_of(lambda: load_experiment(experiment)))


@pytest.mark.parametrize(
    ("file", "key", "what", "verb"),
    [
        ("studies/rails.yaml", "axes", "this is a study", "sweep"),
        ("validation/nemo_24.yaml", "cases", "this is a table of measured runs", "validate"),
        ("collectives/cloud.yaml", "curves", "this is a table of measured collectives", "validate"),
    ],
)
def test_a_file_about_experiments_is_sent_to_its_verb(file: str, key: str, what: str, verb: str) -> None:
    path = ROOT / "experiments" / file
    with pytest.raises(ConfigError) as refused:
        load_experiment(path)
    (problem,) = refused.value.problems
    assert (problem.key, problem.message) == (key, f"{what}, not an experiment")
    assert problem.suggestion == f"use clustersim {verb} {path}"


@pytest.mark.parametrize(
    ("file", "kind", "where"),
    [
        ("workloads/llama2-7b.yaml", "workload", "workload"),
        ("topologies/dgx-h100-superpod.yaml", "cluster", "cluster"),
        ("topologies/nodes/dgx-h100.yaml", "node", "cluster.node"),
        ("workloads/software/nemo.yaml", "software", "software"),
    ],
)
def test_a_definition_is_told_from_an_experiment(file: str, kind: str, where: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_experiment(ROOT / file)
    (problem,) = error.value.problems
    assert problem.message == f"this is a definition of kind {kind}, not an experiment"
    assert f"--set {where}=" in problem.suggestion
