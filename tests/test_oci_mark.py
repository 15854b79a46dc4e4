"""The mark of a verified file: what keeps it and what takes it away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from banger_tools.oci import mark

DIGEST = "sha256:" + "fedcba9876543210" * 4


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    mark.put(path, DIGEST)
    return path


def test_reading_and_renaming_keep_a_mark(marked: Path) -> None:
    marked.read_bytes()
    moved = marked.rename(marked.with_name("other"))
    assert mark.stands(os.stat(moved), DIGEST)


def test_a_mark_is_of_one_digest(marked: Path) -> None:
    assert not mark.stands(os.stat(marked), "sha256:" + "0" * 64)


def test_a_single_written_byte_takes_the_mark_away(marked: Path) -> None:
    with open(marked, "r+b") as file:
        file.write(b"d")
    assert not mark.stands(os.stat(marked), DIGEST)


def test_a_mark_of_another_boot_is_not_trusted(marked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "boot_id"
    other.write_text("b2a4bf1e-0000-4000-8000-000000000000\n")
    mark.boot.cache_clear()
    monkeypatch.setattr(mark, "_BOOT_ID", other)
    assert not mark.stands(os.stat(marked), DIGEST)
    monkeypatch.undo()
    mark.boot.cache_clear()
    assert mark.stands(os.stat(marked), DIGEST)
