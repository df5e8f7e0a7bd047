"""The YAML subset: what is a number, what stays text, and what is refused at which place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import ConfigError
from sim.inputs.reader import MAX_BYTES, MAX_DEPTH, MAX_NODES, SourceNode, from_python, plain, read_file, read_text


def value_of(text: str) -> Any:
    return plain(read_text(f"key: {text}\n", "a.yaml"))["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1E+3", 1000.0),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("42", 42),
        ("010", 10),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("'1e9'", "1e9"),
        ('"true"', "true"),
        ("400 Gb/s", "400 Gb/s"),
        ("45 %", "45 %"),
        ("9" * 200, 1e200),
        ("[1, two, 3.0]", (1, "two", 3.0)),
        ("{on: 1, 2: x}", {"on": 1, "2": "x"}),
        (">-\n  two\n  lines", "two lines"),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_every_key_knows_its_place() -> None:
    root = read_text("a: 1\nb:\n  c: [x, y]\n  d: {e: 2}\n", "a.yaml")
    inner = root.value["b"].value
    assert str(root.value["b"].mark) == "a.yaml:2:1"
    assert str(inner["c"].mark) == "a.yaml:3:3"
    assert str(inner["c"].value[1].mark) == "a.yaml:3:10"
    assert str(inner["d"].value["e"].mark) == "a.yaml:4:7"


def test_aliases_repeat_values() -> None:
    assert plain(read_text("a: &x {b: [1, 2]}\nc: *x\nd: &y 5\ne: *y\n", "")) == {
        "a": {"b": (1, 2)},
        "c": {"b": (1, 2)},
        "d": 5,
        "e": 5,
    }


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


def tower(levels: int, height: int) -> str:
    lines = ["a0: &a0 x"]
    lines += [f"a{i}: &a{i} {'[' * height}*a{i - 1}{']' * height}" for i in range(1, levels)]
    return "\n".join(lines)


REFUSED = {
    "duplicate": ("a: 1\nb: 2\na: 3\n", "a.yaml:3:1", "stands here and at 1:1"),
    "inner duplicate": ("a:\n  b: 1\n  b: 2\n", "a.yaml:3:3", "at 2:3"),
    "tag": ("a: !!python/object/apply:os.system [ls]\n", "a.yaml:1:4", "tag"),
    "plain tag": ("a: !!str 1\n", "a.yaml:1:4", "tag"),
    "own tag": ("a: !thing {b: 1}\n", "a.yaml:1:4", "tag"),
    "tab": ("a:\n\tb: 1\n", "a.yaml:2:1", "spaces"),
    "two documents": ("a: 1\n---\nb: 2\n", "a.yaml:2:1", "second document"),
    "unclosed brace": ("a: {b: 1\n", "a.yaml:2:1", "not YAML"),
    "unclosed quote": ("a: 'b\n", "a.yaml:2:1", "not YAML"),
    "two colons": ("a: b: c\n", "a.yaml:1:5", "quotes"),
    "at sign": ("a: @b\n", "a.yaml:1:4", "quotes"),
    "indentation": ("a: 1\n  b: 2\n", "a.yaml:2:4", "not YAML"),
    "merge key": ("a: &x {b: 1}\nc:\n  <<: *x\n", "a.yaml:3:3", "extends"),
    "mapping as key": ("{a: 1}: 2\n", "a.yaml:1:1", "key must be text"),
    "list as key": ("? [a]\n: 2\n", "a.yaml:1:3", "key must be text"),
    "unknown alias": ("a: *x\n", "a.yaml:1:4", "alias *x"),
    "alias of itself": ("a: &x [*x]\n", "a.yaml:1:8", "alias *x"),
    "control character": ("a: 1\nb: \x01\n", "a.yaml:2:4", "control character"),
    "directive": ("%YAML 3.0\n---\na: 1\n", "a.yaml:1:1", "not YAML"),
    "deep": ("a: " + "[" * 100 + "]" * 100, "a.yaml:1:", "nested deeper"),
    "very deep": ("[" * 1_000_000, "a.yaml:1:", "nested deeper"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(200)), "a.yaml:", "nested deeper"),
    "billion laughs": (bomb(12), "a.yaml:", f"more than {MAX_NODES} values"),
    "tower of aliases": (tower(50, MAX_DEPTH // 2), "a.yaml:", "nested deeper"),
    "many values": ("a: [" + "1," * MAX_NODES + "]", "a.yaml:1:", f"more than {MAX_NODES} values"),
}


@pytest.mark.parametrize(("text", "where", "words"), REFUSED.values(), ids=REFUSED)
def test_text_is_refused_at_its_place(text: str, where: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_text(text, "a.yaml")
    problem = caught.value.problems[0]
    assert problem.where.startswith(where)
    assert words in str(problem)


FILES = {
    "empty": (b"", "is empty"),
    "only a comment": (b"# nothing\n", "is empty"),
    "list": (b"- a\n- b\n", "mapping at the top"),
    "text": (b"hello\n", "mapping at the top"),
    "Latin-1": ("a: é\n".encode("latin-1"), "UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "UTF-16"),
    "binary": (bytes(range(256)) * 10, "binary"),
    "too large": (b"#" * (MAX_BYTES + 1), "larger than 8 MiB"),
    "large and deep": (b"[" * MAX_BYTES, "nested deeper"),
    "large and flat": (b"a: [" + b"1," * (MAX_BYTES // 2 - 10) + b"]", "values"),
}


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert caught.value.problems[0].where.startswith(f"{path}:")
    assert words in str(caught.value)
    assert time.process_time() - started < 10  # measured: below 1 s; a loaded machine is slower


def test_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert plain(read_file(path)) == {"a": 1, "b": 2}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml", Path("/dev/zero"), Path("a\0b"), Path("a" * 5000)):
        with pytest.raises(ConfigError):
            read_file(path)


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\n")
    assert plain(read_file(path)) == {"a": 1}
    path.write_text("a: 234\n")
    assert plain(read_file(path)) == {"a": 234}


def test_python_data_becomes_nodes() -> None:
    data = {"a": [1, {"b": "x"}], "c": None}
    assert plain(from_python(data, "here")) == {"a": (1, {"b": "x"}), "c": None}
    endless: dict[str, object] = {}
    endless["a"] = endless
    with pytest.raises(ConfigError):
        from_python(endless, "here")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(read_text(text, "a.yaml"), SourceNode)
    except ConfigError as error:
        problems = error.problems
        assert all(problem.where.startswith("a.yaml") and problem.message for problem in problems)
