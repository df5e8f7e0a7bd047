"""An accelerator from a data sheet has the shares of its peaks that chips of its kind have, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import small_experiment

from sim.ask.run.simulate import simulate
from sim.inputs.load import load_base, load_definition, load_experiment
from sim.inputs.medians import with_medians
from sim.inputs.reader import from_python
from sim.inputs.records import Accelerator, Experiment
from sim.inputs.resolve import Resolver

SHEET = """\
name: my-h100
matrix: {peak: {bf16: 989.4 TFLOP/s}}
memory: {capacity: 80 GiB, bandwidth: 3.35 TB/s}
power: {tdp: 700 W, idle: 80 W}
sources: {matrix.peak: data sheet}
"""
RUN = "llama3-8b-dgx-h100"


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(SHEET, encoding="utf-8")
    return file


def chip(file: Path | str) -> Accelerator:
    record = load_definition("accelerator", file)
    assert isinstance(record, Accelerator)
    return record


def test_shares_are_the_lower_medians_of_chips_that_are_no_variants(sheet: Path) -> None:
    mine = chip(sheet)
    names = ("a100-sxm-80gb", "a40", "b200", "h100-sxm", "mi300x", "v100-sxm2-16gb")
    others = [chip(f"topologies/accelerators/{name}.yaml") for name in names]
    assert mine.matrix.efficiency == sorted(other.matrix.efficiency for other in others)[2]
    assert mine.matrix.compute_units == sorted(other.matrix.compute_units for other in others)[2]
    assert mine.launch == sorted(other.launch for other in others)[2]
    assert mine.vector.bf16 is not None
    assert 0.03 < mine.vector.bf16 / 989.4e12 < 0.3
    assert {"matrix.efficiency", "attention.cudnn", "vector", "launch"} <= set(mine.assumed)
    assert "memory.bandwidth" not in mine.assumed


def test_an_h100_from_its_data_sheet_is_near_the_one_of_the_catalogue(sheet: Path) -> None:
    """It was 20 to 28 % too fast with the peak taken as what kernels reach."""
    own = simulate(load_experiment(RUN, [f"cluster.node.accelerator={sheet}"]).experiment)
    known = simulate(load_experiment(RUN).experiment)
    assert own.step.time_s == pytest.approx(known.step.time_s, rel=0.1)
    assert any("assumed of my-h100" in note and "matrix.efficiency 0.702" in note for note in own.notes)
    assert not any("assumed of" in note for note in known.notes)


def test_what_is_given_stays_and_is_not_assumed(sheet: Path) -> None:
    changes = ["matrix.efficiency=0.61", "launch=1 us", "attention.flash2.forward=0.3"]
    record = load_definition("accelerator", sheet, changes)
    assert isinstance(record, Accelerator)
    assert (record.matrix.efficiency, record.launch, record.attention["flash2"].forward) == (0.61, 1e-6, 0.3)
    assert not {"matrix.efficiency", "launch", "attention.flash2"} & set(record.assumed)


def test_a_complete_experiment_stays_the_very_same() -> None:
    experiment = small_experiment()
    assert with_medians(experiment) is experiment
    assert experiment.setup.accelerator.assumed == ()


def test_points_of_a_sweep_share_what_was_completed(sheet: Path) -> None:
    base = load_base(Resolver(), from_python({"extends": RUN, "cluster": {"node": {"accelerator": str(sheet)}}}, "b"))
    one, two = (base.changed([("training.microbatch", from_python(n, "b"))]) for n in (1, 2))
    assert one.cluster is two.cluster
    less = base.changed([("cluster.node.accelerator.matrix.efficiency", from_python(0.5, "b"))])
    assert "matrix.efficiency" not in less.setup.accelerator.assumed
    assert {"matrix.tile", "launch"} <= set(less.setup.accelerator.assumed)


def test_an_experiment_that_comes_back_as_data_is_the_same(sheet: Path) -> None:
    experiment = load_experiment(RUN, [f"cluster.node.accelerator={sheet}"]).experiment
    again = load_experiment(Experiment.from_si(experiment.model_dump())).experiment
    assert again == experiment


def test_a_kind_has_the_medians_of_its_own_chips(sheet: Path) -> None:
    record = load_definition("accelerator", sheet, ["kind=systolic"])
    assert isinstance(record, Accelerator)
    assert record.matrix.efficiency == 0.8  # of tpu-v4 and trainium1
    assert "matrix.efficiency" in record.assumed
