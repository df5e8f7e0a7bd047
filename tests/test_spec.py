"""Loading: references, `extends`, overrides, semantic checks, and what is said about every key."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from uncovered import uncovered_numbers

from sim.errors import ConfigError
from sim.inputs.catalogue import CATALOGUE, catalogue_root, find_definition, find_experiment, list_catalogue
from sim.inputs.checks import CHECKS, check_experiment
from sim.inputs.document import entries, explain, json_schema, reference_markdown
from sim.inputs.load import LoadedExperiment, load_definition, load_experiment, validate_experiment
from sim.inputs.reader import from_python, plain, read_file
from sim.inputs.records import Accelerator, ClusterSpec, Experiment, Node
from sim.inputs.resolve import merge

GOOD = Path(__file__).parent / "data" / "good"
TRIAL = GOOD / "experiment.yaml"


def load(*overrides: str) -> LoadedExperiment:
    return load_experiment(TRIAL, overrides=overrides)


def problems(*overrides: str) -> list[str]:
    """The problems of the trial with overrides, as `key: message; suggestion`."""
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return [str(problem).removeprefix(f"{problem.where}: ") for problem in caught.value.problems]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOOD, tmp_path, dirs_exist_ok=True)
    return tmp_path


# --- references -------------------------------------------------------------------------------


def test_references_become_records() -> None:
    loaded = load()
    assert (loaded.accelerator.name, loaded.node.name, loaded.cluster.name) == ("small", "box", "row")
    assert (loaded.workload.name, loaded.software.name) == ("tiny", "stack")
    assert loaded.accelerator.memory.capacity == 80 * 2**30
    assert loaded.node.nics.bandwidth == 25e9
    assert [file.stem for file in loaded.files] == ["experiment", "cluster", "node", "accelerator", "model", "software"]
    assert loaded.path == TRIAL


def test_experiment_size_overrides_cluster_size() -> None:
    assert load().cluster.nodes == 2
    assert load("nodes=1", "parallelism.data=1").cluster.nodes == 1
    assert load("cluster.nodes=4").cluster.nodes == 4


def test_data_ranks_are_filled_in() -> None:
    assert load("parallelism.data=").experiment.parallelism.data == 2
    assert load("parallelism.data=", "nodes=4").data == 4
    assert load().experiment.setup.data == 2


def test_paths_are_relative_to_the_file_that_mentions_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "parts").mkdir()
    for name in ("node", "accelerator"):
        (folder / f"{name}.yaml").rename(folder / "parts" / f"{name}.yaml")
    (folder / "cluster.yaml").write_text("extends: ./base.yaml\nnode: parts/node.yaml\n")
    shutil.copy(GOOD / "cluster.yaml", folder / "base.yaml")
    assert load_experiment(folder / "experiment.yaml").accelerator.name == "small"
    monkeypatch.chdir(folder)
    assert load_experiment("experiment.yaml", ["cluster.node=./parts/node.yaml"]).node.name == "box"


def test_graph_file_is_relative_to_the_definition(folder: Path) -> None:
    (folder / "net.graphml").touch()
    (folder / "cluster.yaml").write_text(
        "name: x\nnodes: 2\nnode: ./node.yaml\nfabric: {kind: graph, graphml: net.graphml}\n"
    )
    fabric = load_experiment(folder / "experiment.yaml").cluster.fabric
    assert getattr(fabric, "graphml", None) == str(folder / "net.graphml")


def test_mapping_is_an_experiment() -> None:
    data: dict[str, Any] = plain(read_file(TRIAL))
    inline = {key: str(GOOD / data[key]) for key in ("cluster", "workload", "software")}
    loaded = load_experiment({**data, **inline})
    assert loaded.experiment == load().experiment
    assert loaded.path is None


def test_resolved_experiment_loads_again() -> None:
    loaded = load()
    assert load_experiment(loaded.experiment).experiment == loaded.experiment
    assert load_experiment(loaded.written, ["parallelism.data=2"]).experiment == loaded.experiment
    stored = json.loads(json.dumps(loaded.experiment.model_dump()))
    assert Experiment.from_si(stored) == loaded.experiment
    assert validate_experiment(Experiment.from_si(stored)) == loaded.experiment


def test_name_comes_from_the_file(folder: Path) -> None:
    text = (folder / "experiment.yaml").read_text().replace("name: trial\n", "")
    (folder / "other.yaml").write_text(text)
    assert load_experiment(folder / "other.yaml").experiment.name == "other"


def test_unresolved_name_is_an_error() -> None:
    experiment = Experiment.model_validate(
        {"cluster": "a", "workload": "b", "training": {"global_batch": 1, "sequence_length": 1}}
    )
    with pytest.raises(ConfigError):
        _ = experiment.setup.cluster


# --- extends ----------------------------------------------------------------------------------


def test_extends_changes_some_keys(folder: Path) -> None:
    (folder / "big.yaml").write_text("extends: ./accelerator.yaml\nname: big\nmemory: {capacity: 96 GB}\n")
    accelerator = load_definition("accelerator", folder / "big.yaml")
    assert isinstance(accelerator, Accelerator)
    assert (accelerator.name, accelerator.memory.capacity, accelerator.memory.bandwidth) == ("big", 96e9, 2e12)


def test_inline_mapping_extends_and_reaches_into_references(folder: Path) -> None:
    change = {"extends": str(folder / "cluster.yaml"), "node": {"accelerators": 8, "accelerator": {"launch": "9 us"}}}
    cluster = load_definition("cluster", change)
    assert isinstance(cluster, ClusterSpec)
    assert isinstance(cluster.node, Node)
    assert isinstance(cluster.node.accelerator, Accelerator)
    assert (cluster.node.accelerators, cluster.node.accelerator.launch) == (8, 9e-6)


def test_experiment_extends_an_experiment(folder: Path) -> None:
    (folder / "next.yaml").write_text("extends: ./experiment.yaml\nname: next\ntraining: {microbatch: 2}\nmeasured:\n")
    loaded = load_experiment(folder / "next.yaml")
    assert loaded.experiment.training.microbatch == 2
    assert loaded.experiment.training.global_batch == 16
    assert loaded.experiment.measured is None


@pytest.mark.parametrize(
    ("base", "change", "key", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, "", {"a": 1, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, "", {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, "", {"a": (3,)}),
        ({"a": {"b": 1}}, {"a": None}, "", {"a": None}),
        ({"kind": "switch", "x": 1}, {"kind": "torus"}, "fabric", {"kind": "torus"}),
        ({"kind": "switch", "x": 1}, {"kind": "switch"}, "fabric", {"kind": "switch", "x": 1}),
        ({"kind": "switch", "x": 1}, {"kind": "mesh"}, "local", {"kind": "mesh", "x": 1}),
        ({"a": {"b": 1}}, {"a": {"extends": "c"}}, "", {"a": {"extends": "c"}}),
    ],
)
def test_merge(base: Mapping[str, Any], change: Mapping[str, Any], key: str, merged: Mapping[str, Any]) -> None:
    assert plain(merge(from_python(base, ""), from_python(change, ""), key)) == merged


# --- overrides --------------------------------------------------------------------------------


def test_overrides_reach_into_references() -> None:
    loaded = load(
        "cluster.node.accelerator.memory.bandwidth=3 TB/s",
        "workload.layers=4",
        "training.tokens=1.5T",
        "parallelism.order=[tensor, data, context, expert, pipeline]",
        "cluster.node.accelerator.matrix.tile.1=256",
    )
    assert loaded.accelerator.memory.bandwidth == 3e12
    assert loaded.accelerator.matrix.tile == (128, 256)
    assert loaded.workload.layers == 4
    assert loaded.experiment.training.tokens == 1500 * 10**9
    assert loaded.parallelism.order[1] == "data"
    assert loaded.written["training"]["tokens"] == "1.5T"


def test_override_chooses_another_definition(folder: Path) -> None:
    (folder / "other.yaml").write_text("extends: ./cluster.yaml\nname: other\n")
    loaded = load(f"cluster={folder}/other.yaml", "cluster.routing.seed=5")
    assert (loaded.cluster.name, loaded.cluster.routing.seed, loaded.cluster.nodes) == ("other", 5, 2)
    assert load("nodes=3", "nodes=2").cluster.nodes == 2


def test_override_replaces_a_broken_reference(folder: Path) -> None:
    text = (folder / "experiment.yaml").read_text().replace("./cluster.yaml", "./gone.yaml")
    (folder / "experiment.yaml").write_text(text)
    loaded = load_experiment(folder / "experiment.yaml", [f"cluster={folder}/cluster.yaml"])
    assert loaded.cluster.name == "row"


def test_loading_leaves_cached_files_alone() -> None:
    before = plain(read_file(GOOD / "cluster.yaml"))
    load("cluster.routing.seed=99")
    assert plain(read_file(GOOD / "cluster.yaml")) == before
    assert load().cluster.routing.seed == 1


# --- error messages ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.tokns=3", "training.tokns: unknown key; did you mean tokens?"),
        ("training.precision=bf61", "did you mean bf16?"),
        ("training.microbatch=0", "training.microbatch: must be at least 1, not 0"),
        ("cluster.fabric.kind=fat-tree", "cluster.fabric.kind: must be one of switch, fat_tree, torus"),
        ("cluster.fabric.kind=fat-tree", "did you mean fat_tree?"),
        ("cluster.fabric.link.bandwidth=0", "cluster.fabric.link.bandwidth: must be more than 0 B/s, not 0"),
        ("cluster.node.launch=2 us", "cluster.node.launch: unknown key"),
        (
            "cluster.node.accelerator.memory={}",
            "capacity: this key is required: memory of one accelerator (a data size",
        ),
        ("cluster.node.accelerator.memory={capasity: 1 GB}", "is 'capasity' meant to be it?"),
        ("parallelism.sequence_parallel=yes", "must be true or false, not 'yes'; write true"),
        ("parallelism.placement=[0, x]", "parallelism.placement.1: must be a whole number, not 'x'"),
        (
            "parallelism.placement=near",
            "packed, round_robin, random, random_nodes, fragmented, not 'near'",
        ),
        ("description=405", 'must be text, not 405; write "405"'),
        ("cluster.node.accelerator.matrix.tile=[1]", "an entry is missing"),
        ("workload=3", "workload: must be a name, a path or a mapping of keys, not 3"),
        (
            "cluster.fabric=topology.conf",
            "cluster.fabric: must be a mapping of keys, not 'topology.conf'; `clustersim import` reads",
        ),
        ("nodes=1e6", "nodes: must be at most 200000, not 1000000"),
        ("cluster.node=dgx-a10", "no node is called 'dgx-a10'"),
        ("training.tokens=300G", "did you mean 300B?"),
    ],
)
def test_message(override: str, message: str) -> None:
    assert any(message in problem for problem in problems(override))


def test_one_problem_for_one_mistake() -> None:
    for override in ("parallelism.placement=near", "cluster.fabric=3", "cluster.fabric={}", "workload.layers=x"):
        assert len(problems(override)) == 1


def test_place_is_in_the_file_that_holds_the_value(folder: Path) -> None:
    path = folder / "accelerator.yaml"
    path.write_text(path.read_text().replace("bandwidth: 2 TB/s", "bandwidth: 2"))
    with pytest.raises(ConfigError) as caught:
        load_experiment(folder / "experiment.yaml")
    problem = caught.value.problems[0]
    assert problem.where == f"{path}:13:3"
    assert problem.key == "cluster.node.accelerator.memory.bandwidth"
    assert problem.message == "2 has no unit; a data rate is wanted"


def test_place_is_relative_to_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "own.yaml").write_text("extends: ./experiment.yaml\nseed: -1\n")
    with pytest.raises(ConfigError) as caught:
        load_experiment("own.yaml")
    assert caught.value.problems[0].where == "own.yaml:2:1"


# --- semantic checks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallelism.data=4"], "tensor 2 * context 1 * pipeline 2 * data 4 = 16 ranks, the cluster has 8"),
        (["parallelism.data=4"], "set nodes to 4 or more"),
        (["parallelism.data=", "parallelism.tensor=4", "nodes=3"], "do not divide 12 accelerators; set data to"),
        (["parallelism.tensor=3"], "heads 8 cannot be divided by tensor 3; use a tensor of 2 or 4"),
        (["workload.kv_heads=6", "workload.heads=12", "parallelism.tensor=4"], "kv_heads 6 cannot be divided by"),
        (["workload.ffn=2047"], "ffn 2047 cannot be divided by tensor 2"),
        (["workload.hidden=1001"], "heads 8 do not divide hidden 1001"),
        (["workload.kv_heads=3"], "kv_heads 3 do not divide heads 8"),
        (["workload.layers=3"], "pipeline 2 * virtual_stages 2 = 4 chunks for 3 layers"),
        (["training.global_batch=15"], "is no multiple of data 2 * microbatch 1 = 2; use 14 or 16"),
        (["training.global_batch=1"], "use 2"),
        (["training.sequence_length=1001"], "tokens per context rank 1001 cannot be divided by tensor 2"),
        (["parallelism.context=2", "training.sequence_length=1002"], "no multiple of 2 * context 2 = 4"),
        (["training.document_length=100000"], "100000 tokens are more than sequence_length"),
        (["training.document_length=10", "parallelism.context=2"], "over the ranks of a ring are not modelled"),
        (["training.document_length=10", "workload.attention=unfused"], "computes all scores and masks them"),
        (["parallelism.pipeline=1", "parallelism.data=4"], "virtual_stages 2 without a pipeline"),
        (["training.global_batch=6"], "3 microbatches a replica are no multiple of pipeline 2"),
        (["parallelism.schedule=gpipe"], "gpipe has no virtual_stages, 2 are given"),
        (["training.precision=fp8"], "small has no matrix rate for fp8; it has fp32, bf16"),
        (["parallelism.order=[tensor]"], "does not name each dimension once"),
        (["parallelism.placement=[0, 1]"], "2 entries for 8 ranks"),
        (["parallelism.placement=[0, 1, 2, 3, 4, 5, 6, 6]"], "some accelerators appear twice 6"),
        (["parallelism.placement=[0, 1, 2, 3, 4, 5, 6, 8]"], "there is no accelerator 8; they are numbered 0 to 7"),
        (["parallelism.shard_group=3"], "data ranks 2 cannot be divided by shard_group 3"),
        (["parallelism.shard_group=2", "parallelism.zero_stage=0"], "zero_stage 0 shards nothing"),
        (["training.sequence_length=2048"], "sequence_length 2048 is more than max_positions 1024 of tiny"),
        (["parallelism.expert=2"], "tiny has no experts, expert is 2; set expert to 1"),
        (["parallelism.expert_tensor=2"], "tiny has no experts, expert_tensor is 2; set expert_tensor to 1"),
        (["parallelism.expert=3"], "tensor * context * data 4 cannot be divided by expert * expert_tensor 3"),
        (["parallelism.order=[expert, data, tensor, context]"], "does not name each dimension once"),
        (["cluster.node.local.bandwidth=0"], "4 accelerators a node without a network between them"),
        (["cluster.fabric="], "2 nodes and no network between them"),
        (["cluster.node.nics.count=0"], "2 nodes whose adapters have no rate"),
        (["cluster.node.host.pcie_bandwidth=25 GB/s", "cluster.node.pcie.switches=9"], "9 switches for 4 boards"),
        (["cluster.node.collectives.patterns=[tree]"], "a library without ring and exchange cannot run every"),
        (["cluster.fabric={kind: torus, shape: [1], link: {bandwidth: 1 GB/s}}"], "2 nodes in a fabric with"),
        (["cluster.fabric={kind: graph}"], "a graph needs either graphml or nodes and links"),
        (["cluster.fabric={kind: graph, nodes: [{id: a}, {id: a}]}"], "two vertices have the same id"),
        (["degradations=[{factor: 0.5}]"], "name either an accelerator or a link"),
        (["cluster.node.accelerator.power.idle=500 W"], "idle 500 W is more than tdp 400 W"),
    ],
)  # fmt: skip
def test_check(overrides: list[str], message: str) -> None:
    assert any(message in problem for problem in problems(*overrides)), problems(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallelism.data=1"],
        ["parallelism.virtual_stages=1", "workload.layers=7"],
        ["workload.layers=5"],
        ["parallelism.tensor=4", "parallelism.data=1", "workload.kv_heads=2"],
        ["parallelism.placement=[7, 6, 5, 4, 3, 2, 1, 0]"],
        ["workload.positions=rotary", "training.sequence_length=4k"],
        ["cluster.fabric=", "nodes=1", "parallelism.data=1"],
        ["parallelism.shard_group=2"],
    ],
    ids=" ".join,
)
def test_sensible_plan_passes(overrides: list[str]) -> None:
    assert check_experiment(load(*overrides).experiment) == []


def test_all_checks_report_at_once() -> None:
    found = problems("parallelism.expert=2", "training.precision=fp8", "training.global_batch=15")
    assert len(found) >= 3
    assert all(check.__name__.startswith("check_") and check.__doc__ for check in CHECKS)


# --- sources ----------------------------------------------------------------------------------


def test_numbers_without_a_source_are_found() -> None:
    assert uncovered_numbers(load().accelerator) == []
    node = load("cluster.node.sources={accelerators: a, nics.bandwidth: b, local: c, host: d}").node
    assert uncovered_numbers(node) == [
        *("nics.count", "nics.latency"),
        *("collectives.floor", "collectives.ring_hop", "collectives.ramp"),
    ]


# --- the catalogue ----------------------------------------------------------------------------


def test_catalogue_folders_exist() -> None:
    for kind in CATALOGUE.values():
        assert (catalogue_root() / kind.folder).is_dir()


@pytest.mark.parametrize("kind", CATALOGUE)
def test_catalogue_is_found_by_name(kind: str) -> None:
    for name, path in list_catalogue(kind).items():
        assert find_definition(kind, name, Path()) == path
        assert os.path.samefile(find_definition(kind, str(path), Path()), path)
    assert all(find_experiment(name) == path for name, path in list_catalogue("experiment").items())


# --- documentation ----------------------------------------------------------------------------


def test_every_key_is_documented() -> None:
    assert [entry.path for entry in entries() if not entry.doc and not entry.path.endswith("kind")] == []


def test_explain_says_type_bounds_and_default() -> None:
    text = explain("parallelism.zero_stage")
    assert "one of 0, 1, 2, 3" in text
    assert "default  0" in text
    assert "more than 0 B/s" in explain("accelerator.memory.bandwidth")
    assert text in explain("zero_stage")
    assert "leaf_oversubscription" in explain("cluster.fabric")
    assert "training" in explain("")
    assert all(explain(entry.path) for entry in entries())


def test_explain_guesses_a_misspelled_key() -> None:
    with pytest.raises(ConfigError) as caught:
        explain("paralelism.zero_stag")
    assert "did you mean parallelism.zero_stage" in str(caught.value)


def test_reference_lists_every_key() -> None:
    text = reference_markdown()
    assert all(f"`{entry.path.rpartition('.')[2]}`" in text for entry in entries())


@pytest.mark.parametrize("kind", CATALOGUE)
def test_schema_knows_every_key(kind: str) -> None:
    schema = json_schema(kind)
    records = CATALOGUE[kind].records.values()
    variants = [schema] if len(records) == 1 else [schema["$defs"][record.__name__] for record in records]
    for record, variant in zip(records, variants, strict=True):
        assert set(variant["properties"]) == {"extends", *record.model_fields}
    assert schema["$schema"].startswith("https://json-schema.org/")
    json.dumps(schema)
