"""Every notebook runs from its first cell to its last, and every answer shows itself."""

from __future__ import annotations

import ast
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import sim
from sim.errors import SimError
from support import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def run_cell(text: str, names: dict[str, object]) -> object:
    """The value of the last line, as a notebook shows it."""
    tree = ast.parse(text)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert shown[0] is not None
    if hasattr(shown[0], "_repr_html_"):
        assert "<pre" in shown[0]._repr_html_()
    assert not any(cell.get("outputs") for cell in cells), "stored output goes out of date"


def test_every_notebook_is_listed() -> None:
    listed = (ROOT / "docs" / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) >= 7
    assert all(f"({file.name})" in listed for file in NOTEBOOKS)


def test_answers_become_tables_or_say_what_is_missing() -> None:
    result = sim.simulate("quickstart")
    if find_spec("pandas") is None:
        with pytest.raises(SimError, match=r"clustersim\[pandas\]"):
            result.to_dataframe()
        return
    assert result.to_dataframe()["step.time_s"][0] == result.step.time_s
    contrast = sim.compare(result, sim.simulate("quickstart", training={"microbatch": 2}))
    assert {"key", "name"} < set(contrast.to_dataframe().columns)


def test_comparing_one_is_refused() -> None:
    with pytest.raises(sim.ConfigError, match="two designs or more"):
        sim.compare("quickstart")
