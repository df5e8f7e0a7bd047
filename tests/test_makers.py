"""No maker's name decides anything: chips, servers and libraries are files, their names stand in no code.

Docstrings and comments may say whose paper or program a formula is from. What reads a file of a maker's program, or
asks a maker's library on the user's machine, is named after it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "sim").rglob("*.py"))
MAKERS = (
    *(
        "nvidia",
        "amd",
        "intel",
        "habana",
        "google",
        "aws",
        "amazon",
        "azure",
        "cerebras",
        "groq",
        "graphcore",
        "xilinx",
    ),
    *("gaudi", "trainium", "inferentia", "tpu", "instinct", "xeon", "epyc", "ironwood", "geforce", "tesla"),
    *("nvlink", "nvswitch", "nvls", "xgmi", "neuronlink", "ici", "mellanox"),
    *("nccl", "rccl", "hccl", "nccom", "cuda", "rocm", "hip", "cudnn", "cublas", "oneccl", "nvml", "amdsmi"),
)
# Where a name is that of a file format, a program or a library that is read or asked, or a documented key.
ALLOWED = {
    "ask/calibrate": "programs whose output is read, and libraries that are asked on the machine that is measured",
    "cli/calibrate.py": "the same, in help",
    "report/calibration.py": "the same, in a hint",
    "cli/verbs.py": "the same, as verbs",
    "cli/calibrate_choices.py": "the log of a library that is read",
    "metrics/choices.py": "the same",
    "report/choices.py": "the same",
    "inputs/power_log.py": "the same, of a meter",
    "report/timeline.py": "events as PyTorch's profiler names them",
    "imports": "files and outputs of programs that are read",
    "cli/imports.py": "the same, as verbs",
    "cli/import_files.py": "the same",
}
# Values of keys that files in use have; each may go, none may come.
KEYS = {
    "inputs/records.py": {"tpu", "cudnn"},
    "inputs/medians.py": {"tpu", "cudnn"},
    "metrics/validation.py": {"cudnn"},
    "devices/catalogue.py": {"tpu"},
    "devices/compute.py": {"cudnn"},
    "devices/power.py": {"cudnn"},
    "cluster/server.py": {"nvswitch"},
}
DESCRIBES = {"description", "help", "doc"}  # arguments that explain a key to people


def words(text: str) -> set[str]:
    """The words of a name or a text, in small letters: those of `nvmlInit` and `nccl_tests` one by one."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return {word.lower() for word in re.split(r"[^A-Za-z0-9]+|(?<=[a-z])(?=\d)", apart) if word}


def explained(tree: ast.AST) -> set[int]:
    """Constants that explain: docstrings and descriptions of keys."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr):
                found |= {id(part) for part in ast.walk(first)}
        if isinstance(node, ast.keyword) and node.arg in DESCRIBES:
            found |= {id(part) for part in ast.walk(node)}
    return found


def named(file: Path) -> Iterator[tuple[int, str]]:
    """Makers that code names: in identifiers, and in text that is no explanation; with the line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = explained(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        texts = [getattr(node, key, None) for key in ("id", "attr", "name", "arg", "module")]
        if isinstance(node, ast.Constant):
            texts.append(node.value)
        for text in texts:
            if isinstance(text, str):
                yield from ((getattr(node, "lineno", 0), maker) for maker in words(text) & set(MAKERS))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT / "sim").as_posix())
def test_no_code_names_a_maker(file: Path) -> None:
    place = file.relative_to(ROOT / "sim").as_posix()
    if any(place == each or place.startswith(f"{each}/") for each in ALLOWED):
        return
    found = {(line, maker) for line, maker in named(file) if maker not in KEYS.get(place, set())}
    assert found == set()


def test_a_maker_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text('"""As NVIDIA does."""\nif board.vendor == "NVIDIA":\n    cudaInit()\nx = output(hip_ster=1)\n')
    assert sorted(named(file)) == [(2, "nvidia"), (3, "cuda"), (4, "hip")]


def test_no_vendor_is_compared_with_a_name() -> None:
    """`vendor` is shown, counted among what runs differ in, and compared with what files say; never with a constant."""
    asked = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Match)
        and any(isinstance(part, ast.Attribute) and part.attr == "vendor" for part in ast.walk(node))
        and any(isinstance(part, ast.Constant) and part.value for part in ast.walk(node))
    ]
    assert asked == []
