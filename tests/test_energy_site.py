"""Cooling, supplies, the grid, and settings that cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.ask.run.simulate import simulate
from sim.ask.run.step import prepare_step
from sim.errors import ConfigError
from sim.inputs.carbon import Grid, grid_of
from sim.inputs.energy import Site, Supply
from sim.inputs.load import load_experiment
from sim.metrics.energy import consumption
from sim.metrics.energy_plant import efficiency
from sim.metrics.energy_step import activity_of

KWH = 3.6e6
EXACT = 1e-9


def test_overhead_that_does_not_fall_with_the_load_weighs_more_on_an_idle_cluster() -> None:
    site = {"pue": 1.5, "fixed_overhead": 0.4}
    simulated = prepare_step(load_experiment("quickstart").experiment).run()
    plant = consumption(activity_of(simulated.trace, simulated.job), Site.from_si({"name": "s"} | site)).levels.plant
    assert plant.cooling(plant.rated) == pytest.approx(0.5 * plant.rated)
    idle = plant.draw(0.0, 0, 1)
    assert idle["cooling"] > 0.5 * (sum(idle.values()) - idle["cooling"])


def test_supplies_are_best_at_half_load() -> None:
    supply = Supply.from_si({"rated": 1000, "at_10": 0.9, "at_20": 0.94, "at_50": 0.96, "at_100": 0.91})
    assert efficiency(supply, 500) == 0.96 > efficiency(supply, 1000) > efficiency(supply, 10) == 0.9
    assert efficiency(supply, 350) == pytest.approx(0.95)


def test_grid_by_the_hour(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text("hour,g_per_kwh\n0,100\n1,300\n2,200\n")
    grid = grid_of(Site(name="s", carbon_file=str(file), start_hour=1))
    assert grid is not None
    gram = 1e-3 / KWH
    assert grid.mean(0, 3600) == pytest.approx(300 * gram)
    assert grid.mean(0, 3 * 3600) == pytest.approx(200 * gram)
    assert grid.mean(7, 7 + 9 * 3600) == pytest.approx(200 * gram)
    assert grid.mean(1800, 5400) == pytest.approx(250 * gram)
    assert grid.mean(5400, 5400) == pytest.approx(200 * gram)
    hours = [float(value) for value in np.random.default_rng(1).uniform(0, 1, 24)]
    many = Grid(tuple(hours))
    assert many.mean(0, 86400 * 5) == pytest.approx(float(np.mean(hours)))


def test_a_grid_file_lies_beside_the_site_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "grid.csv").write_text("hour,g_per_kwh\n0,100\n1,300\n")
    (tmp_path / "site.yaml").write_text("name: here\npue: 1.2\ncarbon_file: grid.csv\n")
    loaded = load_experiment("quickstart", (f"site={tmp_path / 'site.yaml'}",))
    energy = simulate(loaded.experiment).energy
    assert energy is not None
    assert energy.carbon_kg is not None
    assert energy.carbon_kg / energy.total_kwh == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    ("text", "message"), [("hour,g\n0,much\n", "grid.csv:2"), ("hour,g\n", "no hours"), (None, "no such file")]
)
def test_a_broken_grid_file_is_told(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "grid.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        grid_of(Site(name="s", carbon_file=str(file)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("power.limit=900 W", "more than the 400 W"),
        ("power.limit=20 W", "cannot keep to 20 W.*give more than 87.5 W"),
        ("power.limit=80 W", "draws 87.5 W while it communicates"),
        ("power.clock=3 GHz", "is not between"),
        ("cluster.node.accelerator.power.waiting=500 W", "is not between idle"),
        ("prices=own-a100 prices.pay=spot", "has no price for spot"),
        ("prices=aws-p4d prices.pay=purchase", "no price of purchase"),
        ("site=jean-zay site.carbon_file=x.csv", "constant carbon_intensity is given too"),
    ],
)
def test_settings_that_cannot_be_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("gpt3-175b-a100", override.replace(" p", "\np").replace(" s", "\ns").split("\n"))
