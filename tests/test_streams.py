"""What the command does where it writes: full disks, closed pipes, terminals, spreadsheets, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim.ask.sweep.store import Outcome, PointEntry, Store
from sim.cli import interrupt
from sim.errors import ConfigError, OutputError, Problem
from sim.report.files import deliver, replacing
from sim.report.visible import visible
from support import ROOT, Cli

FULL = Path("/dev/full")
HOSTILE = "red \x1b[31m \x9b31m \u202e desrever \x07"
STUDY = """\
base: quickstart
axes:
  - {key: training.microbatch, values: [1, 2]}
  - {key: seed, range: {first: 1, last: 40, step: 1}}
"""
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no device here that is always full")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which `clustersim` is the command."""
    command = f'clustersim() {{ "{sys.executable}" -m sim.cli "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def heard() -> None:
    """Ctrl-C reaches the child, whatever the tests themselves were started with."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# --- stdout and stderr ------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize("words", ["list", "--help", "--version", "list dgx-h100 --json"])
def test_a_full_stdout_is_told_in_a_line(words: str) -> None:
    done = shell(f"clustersim {words} >/dev/full")
    assert (done.returncode, done.stderr) == (2, "stdout: cannot be written: No space left on device\n")


@pytest.mark.parametrize("words", ["list", "--version", "run quickstart --json"])
def test_a_closed_stdout_is_told_in_a_line(words: str) -> None:
    done = shell(f"clustersim {words} >&-")
    assert (done.returncode, done.stderr) == (2, "stdout: is closed\n")


@pytest.mark.parametrize("words", ["list", "--help"])
def test_a_reader_that_went_away_is_no_error(words: str) -> None:
    done = shell(f"clustersim {words} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("0\n", "")


@needs_full
@pytest.mark.parametrize("where", [">/dev/full", "2>&-"])
@pytest.mark.parametrize(("words", "code"), [("run nothing", 3), ("run --unknown", 2)])
def test_where_nobody_can_be_told_the_code_is_right(words: str, code: int, where: str) -> None:
    done = shell(f"clustersim {words} 2{where}" if where == ">/dev/full" else f"clustersim {words} {where}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@needs_full
def test_invalid_input_stays_3_when_its_document_cannot_be_written() -> None:
    done = shell("clustersim run nothing --json >/dev/full")
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "stdout: cannot be written: No space left on device"
    assert "Traceback" not in done.stderr


def test_no_file_becomes_a_closed_stream(tmp_path: Path) -> None:
    done = shell(f"clustersim run quickstart -o {tmp_path} >&- 2>&- <&-")
    assert done.returncode == 2
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["name"] == "quickstart"


# --- files ------------------------------------------------------------------------------------


@needs_full
def test_files_are_written_where_stdout_is_full(tmp_path: Path) -> None:
    assert shell(f"clustersim run quickstart -o {tmp_path} >/dev/full").returncode == 2
    assert {file.name for file in tmp_path.iterdir()} == {"result.json", "manifest.json"}


def test_what_was_computed_is_printed_where_its_file_cannot_be_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = "an earlier result"
    (tmp_path / "result.json").write_text(before, encoding="utf-8")
    monkeypatch.setattr(Path, "write_text", _disk_is_full)
    outcome = cli("run", "quickstart", "-o", tmp_path, "--json")
    monkeypatch.undo()
    assert outcome.code == 2
    assert json.loads(outcome.out)["name"] == "quickstart"
    assert outcome.err == f"{tmp_path / 'result.json'}: cannot be written: No space left on device\n"
    assert (tmp_path / "result.json").read_text(encoding="utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def _disk_is_full(file: Path, text: str, encoding: str | None = None) -> int:
    with file.open("w", encoding=encoding) as out:
        out.write(text[:10])
    raise OSError(28, os.strerror(28))


def test_all_outputs_are_made_and_all_problems_told() -> None:
    made = list[str]()

    def fails(where: str) -> Callable[[], None]:
        def output() -> None:
            raise OutputError(Problem(where, "", "is full"))

        return output

    with pytest.raises(OutputError) as told:
        deliver(fails("one"), lambda: made.append("written"), fails("two"))
    assert [problem.where for problem in told.value.problems] == ["one", "two"]
    assert made == ["written"]


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    with replacing(Path(os.devnull)) as target:
        assert target == Path(os.devnull)
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    for text in ("x", "y"):
        with replacing(link) as part:
            part.write_text(text)
        file.chmod(0o600)
    assert link.is_symlink()
    assert file.read_text() == "y"
    with replacing(link) as part:
        part.write_text("z")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("z", 0o600)


def test_a_sweep_on_a_full_disk_keeps_what_it_has_and_goes_on(tmp_path: Path, cli: Cli) -> None:
    study, folder, limit = tmp_path / "mine.yaml", tmp_path / "out", 300_000
    study.write_text(STUDY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "sim.cli", "sweep", str(study), "-o", str(folder), "-j", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    kept, problem = done.stderr.splitlines()
    number = int(kept.split()[0])
    assert done.returncode == 2
    assert 0 < number < 80
    assert kept == f"{number} of 80 points are kept in {folder}; the same command goes on from there"
    assert problem.startswith(f"{folder / 'sweep.duckdb'}: cannot be written: File too large; make room, or choose ")
    store = Store(folder)
    assert len(store.connection.execute("SELECT key FROM results").fetchall()) == number
    store.close()
    assert json.loads(cli("sweep", study, "-o", folder, "-j", 1, "--json").out)["counts"] == {"ok": 80}


@needs_full
def test_an_export_that_fails_costs_neither_the_others_nor_the_summary(tmp_path: Path, cli: Cli) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(STUDY.partition("  - {key: seed")[0], encoding="utf-8")
    page = tmp_path / "page.html"
    outcome = cli("sweep", study, "-o", tmp_path / "out", "-j", 1, "--csv", FULL, "--parquet", FULL, "--html", page)
    assert outcome.code == 2
    assert "2 rows: 2 ok" in outcome.out
    assert page.is_file()
    assert outcome.err.splitlines() == [
        f"/dev/full: {option}: cannot be written: No space left on device" for option in ("--csv", "--parquet")
    ]


# --- the store --------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a store of some results."""
    store = Store(tmp_path)
    store.record({f"key{number}": Outcome("ok", "", json.dumps({"a": number})) for number in range(500)})
    store.close()
    return tmp_path


@pytest.mark.parametrize("place", [0, 9, 4096, 4200, 8192, 12_288, 12_400, 30_000, 270_000, 274_500, -100_000])
def test_a_flipped_bit_is_told_or_harmless(folder: Path, place: int) -> None:
    file = folder / "sweep.duckdb"
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    try:
        store = Store(folder)
        store.begin()
        store.list_entries([PointEntry(number, 0, f"key{number}", "", "", "{}") for number in range(500)])
        assert {row.fields["a"] for row in store.rows() if row.fields} <= set(range(500))
    except ConfigError as error:
        problem = error.problems[0]
        assert problem.where == str(file)
        assert "cannot be read" in problem.message
        assert "move it away" in problem.suggestion


def test_a_store_of_another_version_is_told(tmp_path: Path) -> None:
    import duckdb

    connection = duckdb.connect(str(tmp_path / "sweep.duckdb"))
    connection.execute("CREATE TABLE results (key VARCHAR PRIMARY KEY, outcome VARCHAR)")
    connection.close()
    with pytest.raises(ConfigError, match="was written by another version: its table results has other columns"):
        Store(tmp_path)


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "sweep.duckdb").write_text("point,seed\n1,0\n" * 1000)
    with pytest.raises(ConfigError, match="cannot be read"):
        Store(tmp_path)


def test_formulas_do_not_reach_a_spreadsheet_and_numbers_stay_numbers(tmp_path: Path) -> None:
    texts = ["=1+1", "+cmd", "-x", "@sum", "\tx", "-3.5", "plain", "a=b"]
    store = Store()
    store.list_entries(
        [PointEntry(n, 0, None, "ok", "", json.dumps({"text": t, "n": -n})) for n, t in enumerate(texts)]
    )
    columns = {"point": "BIGINT", "seed": "BIGINT", "text": "VARCHAR", "n": "BIGINT"}
    heads = [{"point": number, "seed": 0} for number in range(len(texts))]
    store.write_table(columns, {"head": ["point", "seed"], "inputs": ["text", "n"]}, heads)
    store.export(tmp_path / "t.csv", "csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["'=1+1", "'+cmd", "'-x", "'@sum", "'\tx", "-3.5", "plain", "a=b"]
    assert [row["n"] for row in rows] == [str(-number) for number in range(len(texts))]


# --- stored results ---------------------------------------------------------------------------


def _remove(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        inner: Any = document
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (_remove("memory", "fits"), "memory.fits"),
        (_remove("step", "breakdown_s", "bubble"), "step.breakdown_s.bubble"),
        (_remove("run", "time_to_train_s", "p5"), "run.time_to_train_s.p5"),
    ],
)
@pytest.mark.parametrize("verb", ["report", "compare"])
def test_a_field_that_is_missing_is_named(
    cli: Cli, tmp_path: Path, verb: str, change: Callable[[dict[str, Any]], None], key: str, stored: Path
) -> None:
    document = json.loads(stored.read_text(encoding="utf-8"))
    change(document)
    document["version"] = "0.0.1"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(document), encoding="utf-8")
    outcome = cli(verb, broken, *([stored] if verb == "compare" else []))
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err.startswith(f"{broken}: {key}: is not a result: Field required; clustersim 0.0.1 wrote it, this")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"time_s": 32.0', '"time_s": NaN', "NaN is not a finite number"),
        ('"time_s": 32.0', '"time_s": 1e999', "1e999 is not a finite number"),
        ('"capacity_bytes": 85899345920.0', '"capacity_bytes": 0', "holds values that no run of this version gives"),
        ("{", "[" * 100_000 + "{", "is not a result"),
    ],
)
def test_values_that_no_run_gives_are_invalid_input(cli: Cli, stored: Path, old: str, new: str, message: str) -> None:
    text = stored.read_text(encoding="utf-8")
    assert old in text
    stored.write_text(text.replace(old, new, 1), encoding="utf-8")
    outcome = cli("report", stored)
    assert outcome.code == 3
    assert message in outcome.err


# --- terminals --------------------------------------------------------------------------------


def test_control_characters_are_shown_not_obeyed() -> None:
    shown = visible(f"{HOSTILE}\n\tnext")
    assert shown == "red \ufffd[31m \ufffd31m \ufffd desrever \ufffd\n\tnext"


def test_descriptions_give_no_orders_to_a_pipe(cli: Cli) -> None:
    description = json.dumps(HOSTILE)
    for words in (("run",), ("run", "--json")):
        outcome = cli(words[0], "quickstart", "--set", f"description={description}", *words[1:])
        assert not set("\x1b\x9b\u202e\x07") & set(outcome.out)
    assert json.loads(outcome.out)["description"] == HOSTILE


def test_messages_give_no_orders(cli: Cli) -> None:
    assert "\x1b" not in cli("run", "quickstart", "--set", "\x1b[31m=1").err
    assert "\x1b" not in cli("run", "quickstart", "--\x1b[31m").err


def test_descriptions_give_no_orders_to_a_terminal() -> None:
    reader, terminal = pty.openpty()
    setting = f"description={json.dumps(HOSTILE)}"
    with subprocess.Popen(
        [sys.executable, "-m", "sim.cli", "run", "quickstart", "--set", setting], cwd=ROOT, stdout=terminal
    ) as process:
        os.close(terminal)
        told = b""
        while chunk := _read(reader):
            told += chunk
        assert process.wait() == 0
    os.close(reader)
    assert b"\x1b[1mquickstart" in told, "what is ours has its style"
    assert b"\x1b[31m" not in told
    assert b"desrever" in told


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


# --- Ctrl-C -----------------------------------------------------------------------------------


def test_ctrl_c_during_the_start_is_quiet() -> None:
    """From the first line of ours on: `list` has said nothing yet when the module of verbs asks to be interrupted."""
    script = """
import builtins, os, signal, sys
importing = builtins.__import__
def interrupted(name, *rest):
    if name == sys.argv[1]:
        builtins.__import__ = importing
        os.kill(os.getpid(), signal.SIGINT)
    return importing(name, *rest)
from sim.cli.app import main
builtins.__import__ = interrupted
main(["list"])
"""
    for module in ("typer", "sim.cli", "rich.console", "numpy", "sim.inputs.load"):
        done = subprocess.run(
            [sys.executable, "-c", script, module],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=heard,
        )
        if module != "numpy" or done.returncode:  # which this verb may do without
            assert (done.returncode, done.stdout) == (130, ""), module
            assert done.stderr in ("", "interrupted\n"), module


def test_what_fails_because_of_ctrl_c_is_no_internal_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(*_: object, **__: object) -> None:
        monkeypatch.setattr(interrupt, "_heard", True)
        raise ImportError("half of a library")

    monkeypatch.setattr("sim.ask.run.single.run_experiment", cut_short)
    outcome = cli("run", "quickstart")
    assert (outcome.code, outcome.err) == (130, "interrupted\n")


def test_ctrl_c_while_workers_start_is_quiet(tmp_path: Path) -> None:
    study = tmp_path / "mine.yaml"
    study.write_text(STUDY, encoding="utf-8")
    for wait_s in (0.15, 0.3, 0.45, 0.6):
        with subprocess.Popen(
            [sys.executable, "-m", "sim.cli", "sweep", str(study), "-o", str(tmp_path / "out"), "-j", "3"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heard,
        ) as process:
            time.sleep(wait_s)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
            _, err = process.communicate(timeout=60)
        if "Traceback" in err and "sim/cli" not in err:
            continue  # Python itself had not come to our first line
        assert "Traceback" not in err
        assert process.returncode in (130, 0, -signal.SIGINT)  # the last: before our first line
