"""Reports: what a person reads at 80 columns, and JSON that reads back to the same result."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sim.errors import ConfigError
from sim.metrics.result import Result, RunResult
from sim.report import human
from sim.report.compare import compare, print_contrast
from sim.report.jsonout import dumps, from_json, read_result, result_text
from sim.report.labels import label, told
from sim.report.text import report_text

GIB = 2.0**30


class TestText:
    def test_is_plain_and_stays_within_80_columns(self, sample_result: Result) -> None:
        text = report_text(sample_result, 80)
        assert "\x1b" not in text
        assert max(len(line) for line in text.splitlines()) <= 80

    @pytest.mark.parametrize("width", [60, 80, 120, 200])
    def test_loses_no_word_at_any_width(self, sample_result: Result, width: int) -> None:
        flat = "".join(report_text(sample_result, width).split())
        for value in (*sample_result.setup.values(), *sample_result.notes):
            assert "".join(str(value).split()) in flat

    def test_says_what_was_predicted_and_measured(self, sample_result: Result) -> None:
        text = report_text(sample_result)
        assert "step time        32.00 s" in text
        assert "step time 32.50 s, predicted 32.00 s: -1.5 % in step time" in text
        assert "within 5.0 %" in text

    def test_says_when_the_tolerance_is_missed(self, sample_result: Result) -> None:
        assert sample_result.comparison is not None
        missed = replace(sample_result, comparison=replace(sample_result.comparison, error=0.2))
        assert "OUTSIDE 5.0 %" in report_text(missed)

    def test_shows_the_parts_of_the_step_and_their_sum(self, sample_result: Result) -> None:
        lines = report_text(sample_result).splitlines()
        start = lines.index("Where the step goes")
        rows = [line.split() for line in lines[start + 1 : start + 8]]
        assert rows[-1][:3] == ["step", "32.000", "s"]
        assert sum(float(row[row.index("s") - 1]) for row in rows[:-1]) == pytest.approx(32.0, abs=2e-3)

    def test_says_that_memory_fits_and_what_is_left(self, sample_result: Result) -> None:
        assert "FITS, 33.00 GiB free" in report_text(sample_result)

    def test_says_by_how_much_memory_does_not_fit(self, sample_result: Result) -> None:
        memory = replace(sample_result.memory, fits=False, capacity_bytes=40 * GIB)
        assert "DOES NOT FIT, 7.000 GiB too much" in report_text(replace(sample_result, memory=memory))

    def test_leaves_out_what_is_absent(self, sample_result: Result) -> None:
        bare = replace(sample_result, run=None, comparison=None, notes=(), folding={})
        text = report_text(bare)
        assert not [word for word in ("measured", "time to train", "Notes", "folded") if word in text]

    def test_tells_the_spread_of_a_run_with_faults(self, sample_result: Result) -> None:
        run = RunResult({"mean": 3e6, "p5": 2.9e6, "p50": 3e6, "p95": 3.2e6}, 95368, 0.9)
        text = " ".join(report_text(replace(sample_result, run=run)).split())
        assert "(90 % between 33.56 days and 37.04 days), goodput 90.0 %" in text

    def test_needs_no_unicode(self, sample_result: Result) -> None:
        from sim.report.text import report

        buffer = StringIO()
        Console(file=buffer, width=80, color_system=None).print(report(sample_result, ascii_only=True))
        assert buffer.getvalue().isascii()


class TestJson:
    def test_reads_back_to_the_same_result(self, sample_result: Result) -> None:
        assert from_json(json.loads(result_text(sample_result))) == sample_result

    def test_is_sorted_and_ends_with_a_newline(self, sample_result: Result) -> None:
        text = result_text(sample_result)
        assert text.endswith("}\n")
        assert list(json.loads(text)) == sorted(json.loads(text))

    def test_skips_what_later_versions_add(self, sample_result: Result) -> None:
        assert from_json({**sample_result.to_json(), "weather": "fine"}) == sample_result

    def test_lists_every_field_that_is_wrong(self, sample_result: Result) -> None:
        data = sample_result.to_json()
        del data["seed"]
        data["step"]["time_s"] = "soon"
        with pytest.raises(ConfigError) as caught:
            from_json(data, "result.json")
        assert {problem.key for problem in caught.value.problems} == {"seed", "step.time_s"}

    def test_refuses_numbers_that_json_does_not_know(self) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            dumps({"time_s": float("inf")})

    def test_reads_the_folder_of_a_run(self, sample_result: Result, tmp_path: Path) -> None:
        (tmp_path / "result.json").write_text(result_text(sample_result), encoding="utf-8")
        assert read_result(tmp_path) == read_result(tmp_path / "result.json") == sample_result

    @pytest.mark.parametrize(
        ("content", "expected"),
        [(b"{\n  no", "file:2:3: is not JSON"), (b"\xff\xfe\x00", "is not a text file"), (b"[]", "is not a result")],
    )
    def test_says_where_a_file_is_not_a_result(self, content: bytes, expected: str, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=expected):
            read_result(file)

    def test_says_that_a_file_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            read_result(tmp_path / "nothing.json")


class TestCompare:
    def test_lists_changed_input_and_numbers(self, sample_result: Result) -> None:
        other = replace(
            sample_result,
            step=replace(sample_result.step, time_s=16.0),
            manifest={"training": {"microbatch": 2}, "parallelism": {"tensor": 8, "context": 2}},
        )
        contrast = compare([sample_result, other])
        assert [(change.key, change.values) for change in contrast.changes] == [
            ("training.microbatch", (1, 2)),
            ("parallelism.context", (None, 2)),
        ]
        metrics = {metric.key: metric for metric in contrast.metrics}
        assert metrics["step.time_s"].values == (32.0, 16.0)
        assert metrics["step.time_s"].ratio(1) == 0.5
        assert metrics["step.breakdown_s.input_stall"].ratio(1) is None

    def test_json_of_two_keeps_the_names_that_it_had(self, sample_result: Result) -> None:
        other = replace(sample_result, name="other", step=replace(sample_result.step, time_s=16.0))
        data = compare([sample_result, other]).to_json()
        assert (data["a"], data["b"], data["designs"]) == (sample_result.name, "other", [sample_result.name, "other"])
        step = next(metric for metric in data["metrics"] if metric["key"] == "step.time_s")
        assert (step["a"], step["b"], step["difference"], step["ratio"]) == (32.0, 16.0, -16.0, 0.5)

    def test_three_designs_are_set_against_the_first_with_what_is_asked_first_on_top(
        self, sample_result: Result
    ) -> None:
        others = [replace(sample_result, step=replace(sample_result.step, time_s=seconds)) for seconds in (16.0, 64.0)]
        contrast = compare([sample_result, *others], ["now", "fast", "slow"])
        buffer = StringIO()
        print_contrast(contrast, Console(file=buffer, width=80, color_system=None))
        (row,) = (line.split() for line in buffer.getvalue().splitlines() if line.startswith("step time"))
        assert row == ["step", "time", "32.00", "s", "16.00", "s", "-50.0", "%", "64.00", "s", "+100.0", "%"]
        assert next(iter(contrast.metrics)).key == "run.time_to_train_s.mean"

    def test_every_number_of_a_result_has_a_name_of_its_own(self, sample_result: Result) -> None:
        keys = [metric.key for metric in compare([sample_result, sample_result]).metrics]
        assert len({label(key) for key in keys}) == len(keys)

    def test_input_is_told_in_units(self, sample_result: Result) -> None:
        manifests = [{"cluster": {"node": {"nics": {"bandwidth": rate}}}} for rate in (25e9, 50e9)]
        results = [replace(sample_result, manifest=manifest) for manifest in manifests]
        buffer = StringIO()
        print_contrast(compare(results), Console(file=buffer, width=80, color_system=None))
        assert "50 GB/s" in buffer.getvalue()

    def test_prints_within_80_columns(self, sample_result: Result) -> None:
        buffer = StringIO()
        contrast = compare([sample_result, replace(sample_result, name="other", accelerators=2048)])
        print_contrast(contrast, Console(file=buffer, width=80, color_system=None))
        assert "The input is the same." in buffer.getvalue()
        assert max(len(line) for line in buffer.getvalue().splitlines()) <= 80


class TestHuman:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (human.duration(0), "0 ns"),
            (human.duration(3.05e6), "35.30 days"),
            (human.step_time(94.42), "94.42 s"),
            (human.step_time(2e-6), "2.000 us"),
            (human.size(80 * GIB), "80.00 GiB"),
            (human.traffic(412e9), "412.0 GB"),
            (human.digits(100213.4), "100,213"),
            (human.percent(0.4421), "44.2 %"),
            (human.signed_percent(-0.0154), "-1.5 %"),
        ],
    )
    def test_reads_well(self, text: str, expected: str) -> None:
        assert text == expected

    @given(st.floats(min_value=1e-9, max_value=1e12))
    def test_keeps_the_number_to_a_part_in_a_thousand(self, seconds: float) -> None:
        number, unit = human.duration(seconds).split()
        factor = {name: size for size, name in human.DURATION}[unit]
        assert float(number.replace(",", "")) * factor == pytest.approx(seconds, rel=1e-3)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("step.breakdown_s.compute", 0.25, "250.0 ms"),
        ("run.elapsed_s", 86400.0, "1.000 days"),
        ("run.steps", 1200.0, "1,200"),
        ("energy.parts_kwh.fans", 1500.0, "1.500 MWh"),
        ("energy.mean_power_w", 1500.0, "1.500 kW"),
        ("energy.kwh_per_billion_tokens", 174.4, "174.4"),
        ("cost.usd.total", 2e6, "2.000 MUSD"),
        ("cost.usd_per_step", 0.5, "0.500"),
        ("step.mfu", 0.5, "50.0 %"),
    ],
)
def test_compared_numbers_have_the_units_that_their_names_tell(key: str, value: float, text: str) -> None:
    assert told(key, value) == text
