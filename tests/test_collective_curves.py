"""Published collectives against the platform files: saturated bandwidth, whole curves, and wrong tables.

Where a platform number was taken from one of these curves this holds the file to its source; the others
(numbers of ranks, other collectives, other tables) are predictions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.ask.validate.collectives import find_curves, validate_curves
from sim.cli.app import call
from sim.errors import ConfigError
from sim.inputs.catalogue import catalogue_root
from sim.inputs.curves import load_curve_table
from sim.metrics.curves import CurveScore, CurveValidation, bus_factor

FOLDER = catalogue_root() / "experiments" / "collectives"
TABLES = sorted(FOLDER.glob("*.yaml"))

TABLE = """\
curves:
  - name: mine
    cluster: dgx-h100
    unit: us
    rows: [[1073741824, 4100], [1024, 33]]
    source: a test
"""


@pytest.fixture(scope="module")
def published() -> CurveValidation:
    return validate_curves(find_curves([FOLDER]))


def scored(published: CurveValidation, name: str) -> CurveScore:
    return next(score for score in published.scores if score.name == name)


def test_saturated_bandwidth_is_within_five_percent_everywhere(published: CurveValidation) -> None:
    far = {s.name: s.saturated_error for s in published.scores if abs(s.saturated_error or 0.0) > 0.05}
    assert far == {}
    assert sum(s.saturated_error is not None for s in published.scores) > 35


def test_whole_curves_are_within_fifteen_percent_on_average(published: CurveValidation) -> None:
    """By curve, and by message size where a curve goes from small messages to large ones."""
    assert published.total.mean < 0.15
    sweeps = [score for score in published.scores if len(score.points) >= 20]
    assert len(sweeps) >= 6
    assert max(score.mean_error for score in sweeps) < 0.15


def test_servers_without_nvlink_are_within_sixteen_percent(published: CurveValidation) -> None:
    """Each table on average; servers are described in a line, and a number of channels can halve what they reach."""
    pcie = {score.name: score.mean_error for score in published.scores if score.table == "pcie"}
    assert len(pcie) == 14
    assert {name: error for name, error in pcie.items() if error > 0.16} == {}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_says_where_it_is_from(path: Path) -> None:
    table = load_curve_table(path)
    assert all(len(curve.source) > 10 for curve in table.curves)
    assert all(len(left.reason) > 10 for left in table.left_out)


def test_more_servers_take_the_measured_turns(published: CurveValidation) -> None:
    """The algorithms that the runs report: in the switch, over trees when small, rings when large."""
    eight = {point.size: point.algorithm for point in scored(published, "azure-h100-8").points}
    assert (eight[1024], eight[2**33]) == ("tree", "in_network")
    four = {point.size: point.algorithm for point in scored(published, "p6-b200-32").points}
    assert (four[32 * 1024], four[2**34]) == ("tree", "ring")
    assert {point.algorithm for point in scored(published, "a3-mega-16").points} == {"tree"}


def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    assert [bus_factor(kind, 8) for kind in ("all_reduce", "all_gather", "all_to_all")] == [1.75, 0.875, 0.875]


class TestOwnTables:
    def test_a_table_of_ones_own(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "ours.yaml"
        file.write_text(TABLE, encoding="utf-8")
        assert call(["validate", str(file), "--json"]) == 0
        curve = json.loads(capsys.readouterr().out)["collectives"]["curves"][0]
        assert (curve["name"], curve["ranks"], curve["platform"]) == ("mine", 8, "dgx-h100")
        assert curve["points"][0]["measured"] == pytest.approx(4.1e-3)
        assert call(["validate", str(tmp_path), "-o", str(tmp_path / "out")]) == 0
        assert "dgx-h100" in capsys.readouterr().out
        assert "Collectives" in (tmp_path / "out" / "validation.html").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("dgx-h100", "dgx-h1000", "did you mean dgx-h100"),
            ("unit: us", "unit: ms", "must be one of GB/s, us"),
            ("[1024, 33]", "[1024, 0]", r"ours.yaml:5:.*must be two numbers above 0"),
            ("    unit: us\n", "    unit: us\n    accelerators: 9\n", "9 ranks on each of 1 nodes of 8 accelerators"),
            ("curves:", "curves: # \nnote: x", "unknown key"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        file = tmp_path / "ours.yaml"
        text = TABLE.replace(old, new) if old != "curves:" else TABLE + "note: x\n"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            validate_curves(find_curves([file]))
