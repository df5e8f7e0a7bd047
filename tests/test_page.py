"""Pages in a real browser: quiet, self-contained, with the numbers of the result, usable by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import Visit, chromium
from sim.ask.run.page import page_of
from sim.ask.run.simulate import simulate
from sim.ask.sweep.store import Store
from sim.ask.sweep.study_page import study_view
from sim.ask.sweep.sweep_table import SweepTable
from sim.inputs.load import load_experiment
from sim.metrics.pictures import Edge, NetworkPicture
from sim.metrics.result import Result
from sim.report import human
from sim.report.page.compare import compare_page
from sim.report.page.frame import Figure, Section, code, page, table
from sim.report.page.network import network_chart
from sim.report.page.study import StudyView, study_page
from support import Cli

CHANGES = ["parallelism.tensor=2", "parallelism.pipeline=2", "training.global_batch=16"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(load_experiment("quickstart", CHANGES).experiment)


@pytest.fixture(scope="module")
def file(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("page") / "run.html"
    target.write_text(page_of(result), encoding="utf-8")
    return target


@pytest.fixture(scope="module", params=[(1280, "light"), (390, "dark")], ids=["desk", "phone"])
def visit(browser: Any, file: Path, request: pytest.FixtureRequest) -> Visit:
    """The page on a wide light screen, and on a narrow dark one, with all its figures drawn."""
    opened = Visit(browser, file, *request.param)
    opened.draw_all()
    return opened


def test_it_opens_without_complaint_and_without_a_network(visit: Visit) -> None:
    assert visit.complaints == []
    assert visit.strangers == []
    assert visit.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_colours_follow_the_theme(visit: Visit) -> None:
    paper = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = visit.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert paper == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_figures_show_the_numbers_of_the_result(visit: Visit, result: Result) -> None:
    def figure(name: str) -> Any:
        return visit.page.evaluate(f"document.getElementById('plot-{name}').data")

    parts = [trace["x"][0] for trace in figure("breakdown")]
    assert sum(parts) == pytest.approx(result.step.time_s, rel=1e-9)
    stacked = [sum(heights) * 2**30 for heights in zip(*(trace["y"] for trace in figure("memory")), strict=True)]
    assert max(stacked) == pytest.approx(result.memory.peak_bytes_per_accelerator, rel=1e-9)
    assert [pytest.approx(sum(parts.values())) for parts in result.memory.by_stage] == stacked
    assert len(figure("pipeline")[0]["z"]) == 2
    assert result.energy is not None
    energy = figure("energy")[0]
    assert sum(energy["customdata"]) == pytest.approx(result.energy.total_kwh, rel=1e-9)
    assert human.step_time(result.step.time_s) in visit.page.inner_text(".cards")


def test_rows_are_ordered_by_size_in_units_of_people(visit: Visit, result: Result) -> None:
    section = "section:has(#plot-{}) tbody tr:not(:last-child) td:nth-child(2)"
    for name in ("breakdown", "energy"):
        cells = visit.page.query_selector_all(section.format(name))
        values = [float(cell.get_attribute("data-value")) for cell in cells]
        parts = values[: len(result.energy.parts_kwh)] if result.energy and name == "energy" else values
        assert len(parts) > 2
        assert parts == sorted(parts, reverse=True)
    assert result.energy is not None
    assert human.energy(result.energy.total_kwh) in visit.page.inner_text("section:has(#plot-energy)")


def test_the_picture_of_the_network_uses_its_width() -> None:
    tiers = (("gpu", (), 64), ("nvswitch", (), 8), ("nic", (), 64))
    edges = [
        Edge(source, target, 64, 1e9, 0.5, 0.6, "one", 1.0)
        for source, target in (("gpu", "nvswitch"), ("nvswitch", "gpu"), ("gpu", "nic"), ("nic", "gpu"))
    ]
    figure = network_chart(NetworkPicture(tiers, tuple(edges)))
    gpu, switch, nic = figure.layout["shapes"]
    assert gpu["x1"] - gpu["x0"] == nic["x1"] - nic["x0"] > 0.9
    xs = {x for trace in figure.data if trace["mode"] == "lines" for x in trace["x"] if x is not None}
    assert len(xs) == 4
    passing = [x for x in xs if not switch["x0"] <= x <= switch["x1"]]
    assert len(passing) == 2
    assert all(gpu["x0"] < x < gpu["x1"] for x in xs)


def test_columns_sort_and_rows_filter(visit: Visit) -> None:
    names = visit.column("operations", 1)
    visit.page.click("#operations th:nth-child(1) button")
    assert visit.column("operations", 1) == sorted(names, key=str.lower)
    visit.page.click("#operations th:nth-child(1) button")
    assert visit.column("operations", 1) == sorted(names, key=str.lower, reverse=True)
    visit.page.click("#operations th:nth-child(3) button")
    counts = [int(text.replace(",", "")) for text in visit.column("operations", 3)]
    assert counts == sorted(counts)
    visit.page.fill("section:has(#operations) .filter", "matmul")
    kept = visit.column("operations", 2)
    assert 0 < len(kept) < len(names)
    assert set(kept) == {"matmul"}


def test_hovering_a_link_tells_its_numbers(visit: Visit, result: Result) -> None:
    visit.page.query_selector("#plot-network").scroll_into_view_if_needed()
    where = visit.page.evaluate(
        """() => { const p = document.getElementById('plot-network'), l = p._fullLayout, b = p.getBoundingClientRect();
        const marks = p.data[p.data.length - 2];
        return [b.left + l._size.l + l.xaxis.l2p(marks.x[0]), b.top + l._size.t + l.yaxis.l2p(marks.y[0])]; }"""
    )
    visit.page.mouse.move(where[0] - 20, where[1] - 20)
    visit.page.mouse.move(*where)
    visit.page.wait_for_selector("#plot-network .hoverlayer .hovertext", timeout=10_000)
    words = visit.page.eval_on_selector("#plot-network .hoverlayer", "layer => layer.textContent")
    busy = {human.percent(use.mean) for use in result.utilization.links}
    assert any(share in words for share in busy)
    assert "capacity" in words


def test_a_page_of_two_results(browser: Any, result: Result, tmp_path: Path) -> None:
    other = simulate(load_experiment("quickstart", [*CHANGES, "training.microbatch=2"]).experiment)
    (tmp_path / "two.html").write_text(compare_page([result, other]), encoding="utf-8")
    visit = Visit(browser, tmp_path / "two.html")
    visit.draw_all()
    assert visit.complaints == []
    assert visit.column("changes", 1) == ["training.microbatch"]
    assert "step time" in visit.column("metrics", 1)
    assert "step.time_s" in visit.column("metrics", 4)


def study_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "point": n, "seed": 0, "nodes": 8 * 2 ** (n % 4), "kind": "ab"[n // 4 % 2],
            "status": "ok" if n % 7 else "error",
            "reason": "" if n % 7 else "broke", "pareto": n == 1, "step.time_s": 10.0 / (1 + n % 4) + n / count,
            "energy.total_kwh": 5.0 + n % 4, "step.tokens_per_s": 1e4 * (1 + n % 4),
        }
        for n in range(count)
    ]  # fmt: skip


OBJECTIVES = (("step.time_s", False), ("energy.total_kwh", False))


def test_a_page_of_a_study(browser: Any, tmp_path: Path) -> None:
    rows = study_rows(40)
    view = StudyView("s", "d", ("nodes", "kind"), OBJECTIVES, {"ok": 34, "error": 6}, 40, rows)
    (tmp_path / "s.html").write_text(study_page(view), encoding="utf-8")
    visit = Visit(browser, tmp_path / "s.html")
    visit.draw_all()
    assert visit.complaints == []
    assert visit.strangers == []
    front = visit.page.evaluate("document.getElementById('plot-pareto').data[1]")
    assert (front["x"], front["y"]) == ([rows[1]["step.time_s"]], [rows[1]["energy.total_kwh"]])
    curves = visit.page.evaluate("document.getElementById('plot-scaling').data")
    assert [curve["name"] for curve in curves if curve["name"] != "ideal"] == ["kind a", "kind b"]
    visit.page.click("#points a[href='#point-3']")
    visit.page.wait_for_selector("#point h3")
    assert "Point 3" in visit.page.inner_text("#point")
    assert "energy\t8.000 kWh" in visit.page.inner_text("#point")
    assert "error: broke" in visit.column("points", 6)
    heads = visit.page.query_selector_all("#points th")
    assert [head.inner_text() for head in heads] == ["point", "nodes", "kind", "step time", "energy", "status"]
    assert heads[4].get_attribute("title") == "energy.total_kwh"
    good = [float(text.split()[0]) for text in visit.column("points", 4)[:34]]
    assert good == sorted(good)


def test_a_study_with_seeds_tells_means_and_intervals_in_units_of_people() -> None:
    rows = [
        {
            "point": point, "seed": seed, "site.electricity (USD/kWh)": price, "status": "ok", "reason": "",
            "pareto": point == 0, "run.time_to_train_s": 86400.0 * (10 + point + seed), "cost.usd.total": 2e6,
        }
        for point, price in enumerate([0.05, 0.09]) for seed in (0, 2)
    ]  # fmt: skip
    objectives = (("run.time_to_train_s", False), ("cost.usd.total", False))
    text = study_page(StudyView("s", "d", ("site.electricity (USD/kWh)",), objectives, {"ok": 4}, 4, rows))
    assert "d. 4 of 4 runs are usable; least time to train is 11.00 days ± 12.71 days" in text
    assert "with electricity (USD/kWh) 0.05; least cost is 2.000 MUSD" in text
    assert '"text":"time to train, days"' in text
    assert text.count('<td class="n" data-value="0.05">0.05</td>') == 1


def test_every_figure_is_drawn_without_scrolling(browser: Any, file: Path) -> None:
    visit = Visit(browser, file)
    drawn = "[...document.querySelectorAll('.plot')].every(place => place.dataset.drawn === 'yes')"
    visit.page.wait_for_function(drawn)
    assert visit.complaints == []
    assert visit.page.evaluate("window.scrollY") == 0


def test_a_page_of_very_many_points_shows_a_sample_and_the_density_of_all(tmp_path: Path) -> None:
    store = Store()
    rows = study_rows(100_000)
    store.connection.execute(
        """CREATE TABLE points AS SELECT range AS point, 0 AS seed, 8 * 2 ** (range % 4) AS nodes, 'ok' AS status,
        '' AS reason, range % 1000 = 0 AS pareto, range / 1e5 AS "step.time_s", range % 4 AS "energy.total_kwh"
        FROM range(100000)"""
    )
    view = study_view(SweepTable(store, ("nodes",), OBJECTIVES), "s", "d", "all.parquet")
    assert view.total == len(rows)
    assert len(view.rows) <= 1000
    assert sum(row["pareto"] for row in view.rows) == 100
    assert view.density is not None
    assert sum(map(sum, view.density.counts)) == 100_000
    text = study_page(view)
    assert len(text.encode()) < 8e6
    assert "all.parquet" in text
    store.close()


def test_a_sample_of_points_keeps_all_seeds_of_each() -> None:
    store = Store()
    store.connection.execute(
        """CREATE TABLE points AS SELECT range // 3 AS point, range % 3 AS seed, 8 AS nodes,
        if(range = 1, 'error', 'ok') AS status, '' AS reason, range // 3 % 9 = 0 AND range <> 1 AS pareto,
        range / 1e5 AS "step.time_s", 1.0 AS "energy.total_kwh" FROM range(30000)"""
    )
    view = study_view(SweepTable(store, ("nodes",), OBJECTIVES), "s", "d")
    store.close()
    points = [row["point"] for row in view.rows]
    assert {points.count(point) for point in points} == {3}
    assert [row["status"] for row in view.rows[:3]] == ["ok", "error", "ok"]
    assert len(points) <= 1000


class TestFrame:
    def test_what_is_written_stays_text(self) -> None:
        nasty = "<script>alert(1)</script>"
        figure = Figure("f", nasty, [{"name": "</script>" + nasty}])
        text = page(nasty, nasty, [Section(nasty, [table([nasty], [[nasty]]), code(nasty, nasty), figure])])
        assert nasty not in text
        assert "</script><script>alert" not in text

    def test_sections_without_content_are_left_out(self) -> None:
        assert "Nothing" not in page("t", "s", [Section("Nothing", [])])


class TestCommands:
    def test_report_and_compare_write_pages(self, cli: Cli, tmp_path: Path) -> None:
        changes = [part for change in CHANGES for part in ("--set", change)]
        assert cli("run", "quickstart", *changes, "-o", tmp_path / "a").code == 0
        outcome = cli("report", tmp_path / "a", "--html", tmp_path / "new" / "a.html")
        assert (outcome.code, outcome.out) == (0, "")
        assert "Pipeline" in (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
        assert cli("compare", tmp_path / "a", tmp_path / "a", "--html", tmp_path / "c.html").code == 0
        assert "The input is the same." in (tmp_path / "c.html").read_text(encoding="utf-8")

    def test_a_result_of_another_version_has_a_page_without_pictures(self, cli: Cli, tmp_path: Path) -> None:
        assert cli("run", "quickstart", "-o", tmp_path).code == 0
        stored = json.loads((tmp_path / "result.json").read_text())
        stored["manifest"]["unknown"] = 1
        (tmp_path / "result.json").write_text(json.dumps(stored))
        assert cli("report", tmp_path, "--html", tmp_path / "a.html").code == 0
        text = (tmp_path / "a.html").read_text(encoding="utf-8")
        assert "Where the step goes" in text
        assert 'id="plot-pipeline"' not in text


@pytest.mark.slow
def test_the_page_of_16384_accelerators_is_small_enough(browser: Any, tmp_path: Path) -> None:
    text = page_of(simulate(load_experiment("llama3-405b-h100").experiment))
    (tmp_path / "p.html").write_text(text, encoding="utf-8")
    assert len(text.encode()) < 8e6
    visit = Visit(browser, tmp_path / "p.html")
    visit.draw_all()
    assert visit.complaints == []
