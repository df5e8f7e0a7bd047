"""The wheel holds the program and its catalogue, and works without the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

import sim
from support import ROOT

FOLDERS = ("topologies", "workloads", "experiments")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the installed hatchling without network."""
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "No module named" in done.stderr:
        pytest.skip("hatchling is not installed")
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the wheel in a folder, as an installer would lay them out."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_elsewhere(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the unpacked command from a folder that has nothing to do with the repository."""
    return subprocess.run(
        [sys.executable, "-m", "sim.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_every_definition(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).rglob("*.yaml")]
    assert len(files) > 30
    assert {f"sim/_catalogue/{file.as_posix()}" for file in files} <= names


def test_the_wheel_holds_the_program_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"sim", f"clustersim-{sim.__version__}.dist-info"}


def test_names_are_found_anywhere(unpacked: Path, tmp_path: Path) -> None:
    done = run_elsewhere(unpacked, tmp_path, "check", "quickstart", "dgx-h100", "llama3-8b", "megatron-core")
    assert (done.returncode, done.stderr) == (0, "")


def test_runs_without_the_repository(unpacked: Path, tmp_path: Path) -> None:
    done = run_elsewhere(unpacked, tmp_path, "run", "quickstart", "--json")
    assert done.returncode == 0, done.stderr


def test_the_command_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"clustersim": "sim.cli.app:main"}
    assert project["name"] == "clustersim"


# --- the lock ---------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = (
    {"sys_platform": "linux", "platform_system": "Linux"},
    {"sys_platform": "darwin", "platform_system": "Darwin"},
)
WANTED = {
    "run": [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"]],
    "dev": [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]],
    "peers": PROJECT["dependency-groups"]["peers"],
    "site": PROJECT["dependency-groups"]["site"],
    "alone": PROJECT["dependency-groups"]["alone"],
}


def pins(lock: str) -> list[Requirement]:
    """Every line of a lock that names a version."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    joined = re.sub(r" \\\n\s+--hash=\S+", "", text)
    return [Requirement(line) for line in joined.splitlines() if not line.startswith("#")]


def holds(marker: Marker | None, python: str, system: dict[str, str]) -> bool:
    """Whether a line counts for a version of Python on a system."""
    place = {"python_version": python, "python_full_version": f"{python}.0", "extra": "", **system}
    return marker is None or marker.evaluate({**place, "platform_python_implementation": "CPython"})


def plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system["sys_platform"])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("lock", WANTED)
def test_the_lock_has_one_version_of_all_that_is_needed(lock: str, python: str, system: dict[str, str]) -> None:
    here = [pin for pin in pins(lock) if holds(pin.marker, python, system)]
    versions = {plain(pin.name): str(pin.specifier).removeprefix("==") for pin in here}
    assert len(versions) == len(here), "each once"
    for line in WANTED[lock]:
        wanted = Requirement(line)
        assert versions[plain(wanted.name)] in wanted.specifier, f"{line}: renew it with make lock"


def test_the_locks_agree() -> None:
    everything = {(pin.name, str(pin.marker)): str(pin.specifier) for pin in pins("dev")}
    assert {(pin.name, str(pin.marker)): str(pin.specifier) for pin in pins("run")}.items() <= everything.items()


@pytest.mark.parametrize("lock", WANTED)
def test_the_lock_names_files_by_hash_and_no_place(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^\S.*==.*(?:\n +--hash=sha256:[0-9a-f]{64}(?: \\)?)+$", text, re.MULTILINE)
    assert len(entries) == len(pins(lock))
    assert not re.search(r"://|/tmp|/home|/root|^-", text, re.MULTILINE)


def test_the_wheel_keeps_its_open_ranges(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    needed = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)]
    assert not [str(need) for need in needed if "==" in str(need.specifier)]
    assert {plain(need.name) for need in needed if need.marker is None} == {
        plain(Requirement(line).name) for line in PROJECT["project"]["dependencies"]
    }
