"""Results as the last line of a notebook's cell: what the command line prints, in HTML; tables and figures of them.

Each is the record of its question with three things more: it shows itself, `to_dataframe()` for pandas, and `plot()`
for Plotly where there is a picture of it.

Public: `NotebookResult`, `NotebookPlans`, `NotebookScaling`, `NotebookContrast`, `NotebookValidation`, `NotebookWhy`,
`notebook_html`, `dataframe_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sim.errors import SimError
from sim.metrics.planning import PlanSearch
from sim.metrics.result import Result
from sim.metrics.scaling import ScalingStudy
from sim.metrics.validation import Validation
from sim.metrics.why import Why
from sim.report.compare import Contrast, flatten, print_contrast
from sim.report.labels import label
from sim.report.page.charts import breakdown_chart
from sim.report.planning import print_search
from sim.report.scaling import print_scaling
from sim.report.text import print_report
from sim.report.validation import print_validation
from sim.report.why import print_why

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

WIDTH = 80  # columns
FRAME = '<pre style="line-height: normal; overflow-x: auto">{code}</pre>'


class NotebookResult(Result):
    """A result that notebooks show as its report."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_report(self, console))

    def to_dataframe(self) -> pandas.DataFrame:
        """Every number by its key, one row. Needs pandas."""
        numbers = {key: value for key, value in flatten(self.to_json()) if not key.startswith("manifest.")}
        return dataframe_of([{key: value for key, value in numbers.items() if isinstance(value, int | float)}])

    def plot(self) -> Figure:
        """Where the step goes."""
        chart = breakdown_chart(self.step)
        return _figure(chart.data, {**chart.layout, "height": chart.height, "title": {"text": self.name}})


class NotebookPlans(PlanSearch):
    """Plans that were found, best first."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_search(self, console))

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each plan: its values, and what it comes to. Needs pandas."""
        told = ("step_s", "mfu", "memory_bytes", "tokens_per_s", "time_to_train_s", "usd")
        return dataframe_of({**plan.values, **{name: getattr(plan, name) for name in told}} for plan in self.plans)

    def plot(self) -> Figure:
        """Step time over memory."""
        points = {
            "type": "scatter",
            "mode": "markers",
            "x": [plan.memory_bytes / 2**30 for plan in self.plans],
            "y": [plan.step_s for plan in self.plans],
            "text": [", ".join(f"{key} {value}" for key, value in plan.values.items()) for plan in self.plans],
        }
        return _figure([points], _axes("memory of the fullest accelerator [GiB]", "step time [s]"))


class NotebookScaling(ScalingStudy):
    """One experiment on clusters of many sizes."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_scaling(self, console))

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each size and mode. Needs pandas."""
        return dataframe_of(map(asdict, self.points))

    def plot(self) -> Figure:
        """Efficiency over accelerators."""
        modes = dict.fromkeys(point.mode for point in self.points)
        lines = [
            {
                "type": "scatter",
                "name": mode,
                "x": [point.accelerators for point in self.points if point.mode == mode],
                "y": [point.efficiency for point in self.points if point.mode == mode],
            }
            for mode in modes
        ]
        layout = _axes("accelerators", "tokens/s of an accelerator, relative to the smallest size")
        return _figure(lines, {**layout, "xaxis": {**layout["xaxis"], "type": "log"}})


class NotebookContrast(Contrast):
    """Designs side by side."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_contrast(self, console))

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each number, a column for each design. Needs pandas."""
        rows = (
            {"key": m.key, "name": label(m.key), **dict(zip(self.names, m.values, strict=True))} for m in self.metrics
        )
        return dataframe_of(rows)

    def plot(self) -> Figure:
        """Every number that differs, relative to the first design."""
        shown = [metric for metric in self.shown() if metric.values[0]]
        bars = [
            {
                "type": "bar",
                "name": name,
                "x": [label(metric.key) for metric in shown],
                "y": [metric.ratio(number) for metric in shown],
            }
            for number, name in enumerate(self.names)
        ]
        return _figure(bars, _axes("", f"relative to {self.names[0]}"))


class NotebookValidation(Validation):
    """Measured runs, predicted."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_validation(self, console))

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each run. Needs pandas."""
        return dataframe_of(self.to_json()["rows"])

    def plot(self) -> Figure:
        """Predicted over measured step times."""
        rows = [row for row in self.rows if not row.problem]
        points = {
            "type": "scatter",
            "mode": "markers",
            "x": [row.step_s / (1 + row.error) for row in rows],
            "y": [row.step_s for row in rows],
            "text": [row.name for row in rows],
        }
        layout = _axes("measured step time [s]", "predicted [s]")
        return _figure([points], {key: {**axis, "type": "log"} for key, axis in layout.items()})


class NotebookWhy(Why):
    """Where the time of a step goes, and what would help."""

    def _repr_html_(self) -> str:
        return notebook_html(lambda console: print_why(self, console))

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each part of the critical path. Needs pandas."""
        return dataframe_of(map(asdict, self.path))


def notebook_html(print_to: Callable[[Console], None]) -> str:
    """What `print_to` prints, as HTML. Colours are those of the notebook, so that it is good on dark too."""
    console = Console(
        record=True, width=WIDTH, file=StringIO(), force_jupyter=False, highlight=False, emoji=False, markup=False
    )
    print_to(console)
    return console.export_html(inline_styles=True, code_format=FRAME)


def dataframe_of(rows: Iterable[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows for pandas. Raises SimError where that is not installed."""
    try:
        import pandas
    except ImportError:
        raise SimError("to_dataframe() needs pandas: pip install 'clustersim[pandas]'") from None
    return pandas.DataFrame(list(rows))


def _figure(data: Iterable[Mapping[str, Any]], layout: Mapping[str, Any]) -> Figure:
    from plotly.graph_objects import Figure

    return Figure({"data": list(data), "layout": dict(layout)})


def _axes(x: str, y: str) -> dict[str, dict[str, Any]]:
    return {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}}
