"""tree.jsonl as people edit it: put into order, completed, or refused by the line or entry that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger_tools import errors, tree
from tests import support

SOURCES = [{"path": "/layer.tar"}, {"path": "/folder", "folder": True}]
HEADER: dict[str, Any] = {"tree": 1, "sources": SOURCES, "entries": 0, "bytes": 0}


def write(folder: Path, *entries: dict[str, Any], header: dict[str, Any] = HEADER) -> Path:
    path = folder / "tree.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *entries)))
    return path


def paths(folder: Path, *entries: dict[str, Any]) -> list[str]:
    return [entry.path for entry in tree.read(write(folder, *entries)).entries]


def test_entries_are_put_into_tree_order_with_the_folders_they_imply(tmp_path: Path) -> None:
    found = paths(
        tmp_path, {"path": "/b-c", "type": "dir"}, {"path": "/b/d", "type": "fifo"}, {"path": "/a/x/y", "type": "fifo"}
    )
    assert found == ["/", "/a", "/a/x", "/a/x/y", "/b", "/b/d", "/b-c"]


def test_implied_folders_are_0_0_0755(tmp_path: Path) -> None:
    entry = tree.read(write(tmp_path, {"path": "/a/b", "type": "fifo"})).entries[1]
    assert (entry.uid, entry.gid, entry.mode, entry.mtime) == (0, 0, "0755", (0, 0))


REFUSED: dict[str, dict[str, Any]] = {
    "climbs": {"path": "/a/../b", "type": "dir"},
    "dot": {"path": "/./b", "type": "dir"},
    "relative": {"path": "b", "type": "dir"},
    "empty component": {"path": "/a//b", "type": "dir"},
    "trailing slash": {"path": "/a/", "type": "dir"},
    "long name": {"path": "/" + "n" * 256, "type": "dir"},
    "long path": {"path": "/n" * 2100, "type": "dir"},
    "nul": {"path": "/a\0b", "type": "dir"},
    "type": {"path": "/a", "type": "door"},
    "mode": {"path": "/a", "type": "dir", "mode": "100755"},
    "mode with newline": {"path": "/a", "type": "dir", "mode": "0755\n"},
    "uid": {"path": "/a", "type": "dir", "uid": 2**32 - 1},
    "negative size": {"path": "/a", "type": "file", "size": -1},
    "nanoseconds": {"path": "/a", "type": "dir", "mtime": [0, 10**9]},
    "a time that no kernel has": {"path": "/a", "type": "dir", "mtime": [2**63, 0]},
    "no data": {"path": "/a", "type": "file", "size": 1},
    "no such source": {"path": "/a", "type": "file", "size": 1, "data": [2, 0]},
    "a size beyond all": {"path": "/a", "type": "file", "size": 2**63, "data": [0, 0], "segments": []},
    "segments beyond the size": {"path": "/a", "type": "file", "size": 5, "data": [0, 0], "segments": [[0, 0, 6]]},
    "segments out of order": {
        "path": "/a", "type": "file", "size": 9, "data": [0, 0], "segments": [[5, 0, 1], [0, 0, 1]],
    },
    "link to nothing": {"path": "/a", "type": "symlink"},
    "hardlink to nowhere": {"path": "/a", "type": "hardlink", "target": "/b"},
    "hardlink to a folder": {"path": "/a", "type": "hardlink", "target": "/"},
    "device without numbers": {"path": "/a", "type": "char"},
    "bad base64": {"path": "/a", "type": "dir", "path_b64": "L2E"},
    "bad xattr": {"path": "/a", "type": "dir", "xattrs": {"user.x": "%"}},
    "data of a folder without its name": {"path": "/a", "type": "file", "size": 1, "data": [1, 0]},
    "name in a source that is a file": {
        "path": "/a", "type": "file", "size": 1, "data": [0, 0], "origin": {"path": "a", "mtime": [0, 0]},
    },
    "name that climbs out of the folder": {
        "path": "/a", "type": "file", "size": 1, "data": [1, 0], "origin": {"path": "../a", "mtime": [0, 0]},
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_entry_is_refused(case: str, tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput):
        tree.read(write(tmp_path, {"path": "/ok", "type": "dir"}, REFUSED[case]))


def test_bad_line_is_named_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="line 3: Expected `str`"):
        tree.read(write(tmp_path, {"path": "/ok", "type": "dir"}, {"path": 5, "type": "dir"}))


@pytest.mark.parametrize("mode", ["", "9", "07777 ", "0755\n", "10755", "-1", "0o7", "٧"])
def test_mode_that_is_not_octal_is_refused_with_its_line(mode: str, tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="line 3: '/bad' has a mode"):
        tree.read(write(tmp_path, {"path": "/ok", "type": "dir"}, {"path": "/bad", "type": "dir", "mode": mode}))


def test_entry_below_a_file_and_one_named_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="is no folder"):
        paths(tmp_path, {"path": "/a", "type": "fifo"}, {"path": "/a/b", "type": "fifo"})
    with pytest.raises(errors.BadInput, match="twice"):
        paths(tmp_path, {"path": "/a", "type": "fifo"}, {"path": "/a", "type": "dir"})


def test_cut_tree_and_another_version_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"path": "/a", "type": "dir"})
    path.write_text(path.read_text()[:-5])
    with pytest.raises(errors.BadInput, match="is cut"):
        tree.read(path)
    with pytest.raises(errors.BadInput, match="version 2"):
        tree.read(write(tmp_path, header={**HEADER, "tree": 2}))


def test_tree_that_was_edited_after_its_manifest_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path, {"path": "/a", "type": "dir"})
    with pytest.raises(errors.BadInput, match="digest differs") as raised:
        tree.read(path, digest="sha256:" + "0" * 64)
    assert raised.value.hint is not None


def test_edited_tree_goes_into_mkext4(tmp_path: Path) -> None:
    path = write(tmp_path, {"path": "/srv/new", "type": "dir", "uid": 33})
    support.run_ok("bg-mkext4", "--size=8M", "-C", tmp_path, path)


names = st.binary(min_size=1, max_size=20).filter(lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b".."))


@given(st.lists(st.lists(names, min_size=1, max_size=4), max_size=10))
@settings(deadline=None)
def test_any_name_survives_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, found: list[list[bytes]]
) -> None:
    wanted = {b"/" + b"/".join(parts) for parts in found}
    path = tmp_path_factory.mktemp("tree") / "tree.jsonl"
    tree.write(path, tree.Tree([], [tree.new_entry(name, "dir") for name in wanted]))
    read = [tree.path_bytes(entry) for entry in tree.read(path).entries]
    assert wanted <= set(read)
    assert read == sorted(read, key=lambda name: name.strip(b"/").split(b"/") if name != b"/" else [])
