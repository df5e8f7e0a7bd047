"""Calibrations as text: how well the fits hold."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.metrics.calibration import Calibration, DeviceCalibration, TimeCheck
from sim.report import human
from sim.units import DATA_RATE, POWER, TIME, WORK_RATE, format_quantity

NO_METER = {
    "gpu": "no power meter: nvidia-ml-py or amdsmi is needed",
    "cpu": "no power meter: /sys/class/powercap has none, or is closed to this user",
    "systolic": "no power meter: such devices tell none",
}


def print_collectives(calibration: Calibration, console: Console) -> None:
    """One line for each table: what was fitted and how far the platform is from it."""
    console.print(Text(f"{calibration.name}, from {calibration.base}", style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(("collective", "ranks", "sizes", "floor", "start", "saturated", "fit", "platform")):
        table.add_column(name, justify="right" if number else "left")
    for each in calibration.fitted:
        run, fit = each.table, each.fit
        table.add_row(
            run.collective,
            f"{run.ranks} on {run.nodes}",
            str(len(run.seconds)),
            format_quantity(fit.floor, TIME),
            format_quantity(fit.start, TIME),
            format_quantity(fit.rate, DATA_RATE),
            human.percent(fit.error),
            human.percent(each.check.mean_error) if each.check else "-",
        )
    console.print(table)
    console.print(
        Text("fit: mean error of the fitted curve; platform: of a simulation with the file below", style="dim")
    )


def contradiction(calibration: Calibration) -> str:
    """Which runs no platform explains together with the others, and what to do."""
    errors = ", ".join(
        f"{each.table.collective} over {each.table.ranks} on {each.table.nodes} "
        f"{human.signed_percent(each.check.largest.error)}"
        for each in calibration.unexplained
        if each.check
    )
    return (
        f"no algorithm explains all runs together; nearest to them, the largest message takes: {errors}. Were they run "
        "with the same servers and settings? Calibrate from fewer of them"
    )


def print_device(calibration: DeviceCalibration, console: Console) -> None:
    """Rates by kind of work, power by phase, and the layer measured against predicted."""
    measured = calibration.measurement
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    console.print(Text(f"{measured.device}, {measured.compute_units} processors ({versions})", style="bold"))
    console.print(_products(calibration))
    rows = {
        "attention forward": format_quantity(measured.attention_forward, TIME),
        "attention backward": format_quantity(measured.attention_backward, TIME),
        "memory": format_quantity(measured.streaming, DATA_RATE),
        "sum, GELU and norm": format_quantity(measured.pointwise, DATA_RATE),
        "optimizer": format_quantity(measured.optimizer, DATA_RATE),
        "kernel launch": format_quantity(measured.launch, TIME),
        "host issue": format_quantity(measured.issue, TIME),
        **{f"power, {phase}": format_quantity(watts, POWER) for phase, watts in measured.watts.items()},
        **{key: human.percent(share) for key, share in calibration.shares.items()},
    }
    for name, value in rows.items():
        console.print(Text(f"  {name:<28}{value:>12}"))
    if not measured.watts:
        console.print(Text(f"  {NO_METER[measured.kind]}", style="dim"))
    console.print(Text("What the profile was not made from", style="bold"))
    checks = {"layer forward": calibration.forward, "layer backward": calibration.backward}
    for name, check in {**checks, **{f"step of {model}": step for model, step in calibration.steps.items()}}.items():
        console.print(Text(f"  {name:<26}{_check(check)}"))
    if measured.disturbed:
        told = f"this machine is busy, so these may be too slow: {', '.join(measured.disturbed)}"
        console.print(Text(f"  {told}", style="dim"))


def _products(calibration: DeviceCalibration) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(("products", "shapes", "slowest", "fastest", "at m x n x k")):
        table.add_column(name, justify="right" if number else "left")
    products = calibration.measurement.products
    for precision in dict.fromkeys(each.precision for each in products):
        mine = sorted((each for each in products if each.precision == precision), key=lambda each: each.rate)
        best = mine[-1]
        rates = (format_quantity(each.rate, WORK_RATE) for each in (mine[0], best))
        table.add_row(precision, str(len(mine)), *rates, f"{best.m} x {best.n} x {best.k}")
    return table


def _check(check: TimeCheck) -> str:
    measured, predicted = (format_quantity(seconds, TIME) for seconds in (check.measured, check.predicted))
    return f"{measured:>10} measured, {predicted:>10} predicted: {human.signed_percent(check.error)}"
