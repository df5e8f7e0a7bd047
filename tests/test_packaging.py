"""The wheel holds the program and its catalogue, and works without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

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
