"""Public reports of people's own runs: what was measured, what is predicted, and how that is judged.

`data/public_reports.yaml` holds them. A report has an `input` (an experiment) or a `curve` (an entry of a table of
collectives) and cases, each with what was `measured` of which `quantity`; `set` changes keys for the case. A quantity
`times the ...` is relative to the input with the changes of `base`. A case is right if the prediction

- is no opposite verdict: what died is not called FITS, what ran is not called DOES NOT FIT (`fits`),
- lies within the band of trust that the run itself states (`judged: band`),
- lies within a share of the measurement (`within`), or
- goes into the direction of the measurement, half to twice as far (`judged: direction`): where causes are guessed.

A step time that is among the validated runs, so that the band rests on it too, is `seen`.
`misses` says why a case is not right yet; `not_modelled` what is not there, and `refused` with which key that is said.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import sim
from sim.ask.validate.collectives import predict_curve
from sim.inputs.curves import load_curves
from sim.inputs.reader import plain, read_file
from sim.metrics.curves import bus_factor
from sim.metrics.result import Result
from support import ROOT

DATA = ROOT / "tests" / "data" / "public_reports.yaml"
TIMES = "times the "
DAY = 86400.0
GIB = 2.0**30


@dataclass(frozen=True)
class Case:
    """One thing that a report tells."""

    report: str
    name: str  # beside the report; may be empty
    source: str
    assumed: str
    quantity: str
    measured: float | bool | None  # None: not modelled
    judged: str  # band, direction, verdict or within
    within: float  # share of the measurement, of judged: within
    input: Mapping[str, Any] | None  # the experiment, or the curve if that has rows; None: none can be written
    base: Mapping[str, Any]  # changes of what `times` is relative to
    changes: Mapping[str, Any]
    seen: bool
    misses: str
    not_modelled: str
    refused: str  # the key whose message says what is not modelled

    @property
    def title(self) -> str:
        return f"{self.report}: {self.name}" if self.name else self.report

    @property
    def altered(self) -> dict[str, Any]:
        """The input with the changes of the case."""
        return _changed(self.input or {}, self.changes)


@dataclass(frozen=True)
class Answer:
    """The prediction of a case."""

    predicted: float | str  # a verdict
    band: float | None  # of trust in the step time; None: not validated, or no step
    right: bool | None  # None: the run says NOT VALIDATED, so that nothing was promised


@cache
def cases() -> tuple[Case, ...]:
    """All cases of all reports, in their order."""
    return tuple(case for report in _lists(plain(read_file(DATA)))["reports"] for case in _cases(report))


def _cases(report: Mapping[str, Any]) -> Iterator[Case]:
    for case in report["cases"]:
        measured = case.get("measured")
        yield Case(
            report=report["report"],
            name=case.get("name", ""),
            source=case.get("source", report["source"]),
            assumed="; ".join(part["assumed"] for part in (report, case) if "assumed" in part),
            quantity=case.get("quantity", ""),
            measured=measured,
            judged=case.get("judged", "verdict" if isinstance(measured, bool) else "within"),
            within=case.get("within", 0.0),
            input=report.get("input", report.get("curve")),
            base=case.get("base", {}),
            changes=case.get("set", {}),
            seen=case.get("seen", False),
            misses=case.get("misses", ""),
            not_modelled=case.get("not_modelled", ""),
            refused=case.get("refused", ""),
        )


def answer(case: Case) -> Answer:
    """What is predicted, and whether that is right."""
    assert case.measured is not None
    if case.judged == "verdict":
        verdict = sim.simulate(case.altered).memory.verdict
        return Answer(verdict, None, verdict != ("does not fit" if case.measured else "fits"))
    predicted, band = _predicted(case.quantity.removeprefix(TIMES), case.altered)
    if case.quantity.startswith(TIMES):
        predicted /= _predicted(case.quantity.removeprefix(TIMES), _changed(case.input or {}, case.base))[0]
    return Answer(predicted, band, _is_right(case, predicted, band))


def _is_right(case: Case, predicted: float, band: float | None) -> bool | None:
    assert case.measured is not None
    if case.judged == "direction":
        return 0.5 <= log(predicted) / log(case.measured) <= 2
    if case.judged == "within":
        return abs(predicted / case.measured - 1) <= case.within
    return None if band is None else abs(time_error(case, predicted)) <= band


def time_error(case: Case, predicted: float | str) -> float:
    """Predicted over measured time, less one, of a case about time."""
    assert case.measured is not None
    assert not isinstance(predicted, str)
    rate = case.quantity.startswith(("tokens/s", "% HFU"))
    return float(case.measured / predicted if rate else predicted / case.measured) - 1


def _predicted(quantity: str, given: Mapping[str, Any]) -> tuple[float, float | None]:
    """The quantity, and the band of the step time it rests on."""
    if quantity == "GB/s":
        return _bus_bandwidth(given), None
    result = sim.simulate(given)
    return QUANTITIES[quantity](result), result.trust.band if result.trust else None


def _bus_bandwidth(curve: Mapping[str, Any]) -> float:
    """Bus bandwidth of one all-reduce [GB/s]."""
    size = int(curve["bytes"])
    entry = {key: value for key, value in curve.items() if key != "bytes"}
    entry |= {"name": "report", "unit": "GB/s", "rows": [[size, 1]], "source": "the report"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "curve.yaml"
        file.write_text(json.dumps({"notes": "one report", "curves": [entry]}), encoding="utf-8")
        score = predict_curve(load_curves(file)[0])
    return bus_factor(score.collective, score.ranks) * size / score.points[0].predicted / 1e9


def _held(result: Result) -> float:
    memory = result.memory
    return (memory.peak_bytes_per_accelerator - memory.parts["reserved"]) / GIB


def _allocated(result: Result) -> float:
    return _held(result) - result.memory.parts["allocator"] / GIB


def _tokens(result: Result) -> float:
    assert result.step.tokens_per_s is not None
    return result.step.tokens_per_s


def _days(result: Result) -> float:
    assert result.run is not None
    return result.run.time_to_train_s["mean"] / DAY


def _usd(result: Result) -> float:
    assert result.cost is not None
    return result.cost.usd["total"]


def _save(result: Result) -> float:
    assert result.checkpoint is not None
    return result.checkpoint.blocking_s


def _all_weights(result: Result) -> float:
    return sum(stage["weights"] for stage in result.memory.by_stage) / GIB


QUANTITIES: dict[str, Callable[[Result], float]] = {
    "GiB held": _held,  # reserved, as counters of PyTorch see it: all but context and libraries
    "GiB allocated": _allocated,  # the same without what the allocator cannot fill
    "GiB of weights of all stages": _all_weights,
    "GiB of weights": lambda result: result.memory.parts["weights"] / GIB,
    "seconds a step": lambda result: result.step.time_s,
    "tokens/s": _tokens,
    "tokens/s a board": lambda result: _tokens(result) / result.accelerators,
    "% HFU": lambda result: 100 * result.step.hfu,
    "days": _days,
    "USD": _usd,
    "seconds a save blocks": _save,
}


def rows() -> Iterator[str]:
    """Lines of the table of reports, a case each."""
    yield "|---|---|---|---|---|---|---|"
    for case in cases():
        yield f"| {' | '.join([case.title, case.source, case.quantity, *_cells(case)])} |"


def inside() -> str:
    """How many cases about time lie in the band that the run states, and how many are new to it."""
    found = [(case.seen, answer(case).right) for case in cases() if case.judged == "band" and case.quantity != "USD"]
    promised = [(seen, right) for seen, right in found if right is not None]
    new = [right for seen, right in promised if not seen]
    within = sum(bool(right) for _, right in promised)
    return f"{within} of {len(promised)}, {sum(map(bool, new))} of {len(new)} of those that no band rests on."


def _cells(case: Case) -> list[str]:
    """Measured, predicted, band, verdict."""
    if case.not_modelled:
        return ["" if case.measured is None else _number(case.measured), "", "", f"not modelled: {case.not_modelled}"]
    found = answer(case)
    assert case.measured is not None
    return [_number(case.measured), _number(found.predicted), _band(case, found), _verdict(case, found)]


def _band(case: Case, found: Answer) -> str:
    if case.judged == "band":
        return "not validated" if found.band is None else f"±{found.band:.0%}".replace("%", " %")
    return f"±{case.within:.0%}".replace("%", " %") if case.judged == "within" and case.within >= 0.01 else ""


def _verdict(case: Case, found: Answer) -> str:
    word = {True: "right", False: "wrong", None: "said to be not validated"}[found.right]
    if case.judged == "band":
        word = (
            f"{word.replace('right', 'inside').replace('wrong', 'outside')} ({time_error(case, found.predicted):+.0%})"
        )
    return f"{word}: {case.misses}".replace("%", " %") if case.misses else word.replace("%", " %")


def _number(value: float | bool | str) -> str:
    if isinstance(value, str):
        return value.upper()
    if isinstance(value, bool):
        return "ran" if value else "died"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _changed(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `given` with other values at dotted keys."""
    copy = deepcopy(dict(given))
    for key, value in changes.items():
        *way, last = key.split(".")
        inner = copy
        for name in way:
            inner = inner[name]
        inner[last] = value
    return copy


def _lists(value: Any) -> Any:
    """`value` with lists for tuples, as an input has them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, tuple) else value
