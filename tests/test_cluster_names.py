"""Names of vertices and links: unique, readable back, and helpful when mistyped."""

from __future__ import annotations

import pytest
from cluster_cases import CASES, make_cluster, small_cases

from sim.cluster.blocks import VertexBlock, find_vertex
from sim.errors import ConfigError


@pytest.mark.parametrize("case", small_cases())
def test_every_vertex_has_one_name_that_finds_it(case: str) -> None:
    cluster = make_cluster(**CASES[case])
    names = [cluster.vertex_name(v) for v in range(cluster.n_vertices)]
    assert len(set(names)) == cluster.n_vertices
    assert [find_vertex(cluster.blocks, name) for name in names] == list(range(cluster.n_vertices))


@pytest.mark.parametrize("case", small_cases())
def test_every_link_has_one_name_that_finds_it(case: str) -> None:
    cluster = make_cluster(**CASES[case])
    names = [cluster.link_name(link) for link in range(cluster.links.n)]
    assert len(set(names)) == cluster.links.n
    assert [cluster.find_link(name) for name in names] == list(range(cluster.links.n))


def test_accelerators_come_first_and_are_found_by_name() -> None:
    cluster = make_cluster(nodes=3)
    assert cluster.vertex_name(13) == "node1/gpu5"
    assert cluster.find_accelerator("node1/gpu5") == 13
    assert cluster.vertex_kind(13) == "gpu"


def test_names_tell_the_parts_of_a_rail_optimized_fat_tree() -> None:
    cluster = make_cluster(**CASES["rails 2 tiers"])
    link = cluster.find_link("node3/nic2->unit1/leaf2")
    assert cluster.link_kind(link) == "nic-leaf"
    assert cluster.link_name(link) == "node3/nic2->unit1/leaf2"
    assert cluster.vertex_name(cluster.n_vertices - 1) == "spine3"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("node9/gpu0", "node0/gpu0 to node1/gpu7"),
        ("nod1/gpu7", "did you mean node1/gpu7"),
        ("node0/nvswitch", "is a nvswitch, not an accelerator"),
        ("?", "there are node1/gpu7"),
    ],
)
def test_an_unknown_accelerator_is_answered_with_what_there_is(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_cluster(nodes=2, fabric={"kind": "switch"}).find_accelerator(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("node0/gpu0", "source->target"),
        ("node0/gpu0->node1/gpu0", "node0/gpu0->node0/nvswitch"),
        ("node0/gpu0->node0/nvswich", "did you mean"),
        ("node1/nic0->switch7", "switch0 to switch0"),
    ],
)
def test_an_unknown_link_is_answered_with_what_there_is(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make_cluster(nodes=2, fabric={"kind": "switch"}).find_link(name)


def test_leading_zeros_are_not_a_name() -> None:
    assert VertexBlock("gpu", "node{}/gpu{}", 0, (2, 8)).find("node01/gpu2") is None
