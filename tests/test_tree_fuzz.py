"""Trees that were damaged, or edited by an unlucky hand: an error that names the line, never a crash."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger_tools import errors, tree
from banger_tools.ext4.plan import plan

HEADER = {"tree": 1, "sources": [{"path": "/x", "size": 9}, {"path": "/y", "folder": True}], "entries": 8, "bytes": 9}
ENTRIES: list[dict[str, Any]] = [
    {"path": "/", "type": "dir"},
    {"path": "/bin", "type": "dir", "mode": "0755", "uid": 1, "gid": 2, "mtime": [1, 2]},
    {"path": "/bin/a", "type": "file", "size": 4, "data": [0, 5], "xattrs": {"user.a": "aGk="}},
    {"path": "/bin/b", "type": "hardlink", "target": "/bin/a"},
    {"path": "/bin/c", "type": "symlink", "target": "a", "path_b64": "L2Jpbi9j", "target_b64": "YQ=="},
    {"path": "/bin/d", "type": "file", "size": 9000, "data": [0, 0], "segments": [[0, 1, 2], [4096, 3, 4]]},
    {"path": "/null", "type": "char", "rdev": [1, 3], "xattrs": {"system.posix_acl_access": "AgAAAA=="}},
    {"path": "/own", "type": "file", "size": 4, "data": [1, 0], "origin": "own"},
]

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars | st.sampled_from(["/", "/bin", "/bin/a", "dir", "file", "hardlink", "/a/../b", "AA==", "L2Jpbg=="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=5,
)


def look(path: Path) -> None:
    """Read a tree and plan a filesystem of it; an error must name the line, or the entry that ext4 cannot hold."""
    try:
        found = tree.read(path)
    except errors.BadInput as error:
        assert re.match(r"'.*tree\.jsonl'(, line \d+: | is cut: | is a tree of version )", error.message), error.message
        return
    try:
        plan(found.entries)
    except errors.BadInput as error:
        assert any(f"'{entry.path}'" in error.message for entry in found.entries), error.message


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "tree.jsonl"


@given(st.integers(0, len(ENTRIES) - 1), st.sampled_from(sorted(tree.Entry.__struct_fields__)), values)
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_field_is_read_or_named(path: Path, number: int, field: str, value: Any) -> None:
    changed = [dict(entry) for entry in ENTRIES]
    changed[number][field] = value
    path.write_text("".join(f"{json.dumps(line)}\n" for line in [HEADER, *changed]))
    look(path)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_damaged_bytes_are_read_or_named(path: Path, data: st.DataObject) -> None:
    body = bytearray("".join(f"{json.dumps(line)}\n" for line in [HEADER, *ENTRIES]).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(start + 12, len(body))))
        body[start:end] = data.draw(st.binary(max_size=6) | st.sampled_from([b"\n", b"[" * 5000, b"}{", b"\r", b"\0"]))
    path.write_bytes(body)
    look(path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"path": "/a", "type": "char"}', "is a device without rdev"),
        ('{"path": "/a", "type": "file", "size": 1}', "has a size and no data"),
        ('{"path": "/a/../b", "type": "dir"}', "is no path"),
        ('{"path": "/a", "type": "hardlink", "target": "/b"}', "which is not in the tree"),
        ('{"path": "/a", "type": "file", "xattrs": {"user.a": "?"}}', "no base64"),
    ],
)
def test_wrong_entry_is_named_by_its_line_and_path(path: Path, line: str, problem: str) -> None:
    path.write_text(f'{json.dumps(HEADER)}\n{{"path": "/", "type": "dir"}}\n\n{line}\n')
    with pytest.raises(errors.BadInput, match=rf"line 4: '/a.*{problem}"):
        tree.read(path)


def test_line_that_is_not_text_is_named(path: Path) -> None:
    path.write_bytes(json.dumps(HEADER).encode() + b'\n{"path": "/\xff", "type": "dir"}\n')
    with pytest.raises(errors.BadInput, match="line 2: "):
        tree.read(path)


def is_path(text: str) -> bool:
    """Judge a path by its parts, as it is written in banger-manifest(5)."""
    parts = text.split("/")
    named = all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts[1:])
    return text == "/" or (parts[0] == "" and len(parts) > 1 and named and "\0" not in text and len(text) <= 4096)


LONG = ["/" + "a" * 255, "/" + "a" * 256, "/b" + "/a" * 2047, "/b" + "/a" * 2048]
PARTS = st.sampled_from(["a", "b\n", "...", ".a", ".", "..", "", "a\0"])
PATHS = st.lists(PARTS, min_size=1, max_size=3).map("/".join).map("/{}".format) | st.sampled_from(["", "a", *LONG])


@given(st.lists(PATHS, max_size=4, unique=True))
@settings(max_examples=500, deadline=None)
def test_wrong_path_among_others_is_found(path: Path, texts: list[str]) -> None:
    lines = [HEADER, *({"path": text, "type": "dir"} for text in texts)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    wrong = [number for number, text in enumerate(texts, 2) if not is_path(text)]
    if wrong:
        with pytest.raises(errors.BadInput, match=f"line {wrong[0]}: '(?s:.*)' is no path"):
            tree.read(path)
    else:
        assert {entry.path for entry in tree.read(path).entries} >= set(texts)
