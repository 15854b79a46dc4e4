"""The disk writes an image while it is filled, and what it cannot write is heard of."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from banger_tools.contents import Contents
from banger_tools.ext4 import copier


def test_what_is_put_into_a_file_is_flushed_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = threading.Event()
    sync = os.fdatasync

    def note(descriptor: int) -> None:
        sync(descriptor)
        flushed.set()

    monkeypatch.setattr(os, "fdatasync", note)
    with open(tmp_path / "file", "wb", buffering=0) as file, copier.flushing(file.fileno()):
        file.write(bytes(4096))
        assert flushed.wait(60)


def test_what_the_disk_cannot_write_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports a failed write once, to whoever syncs first: later all seems well."""
    asked = threading.Event()

    def fail(_descriptor: int) -> None:
        asked.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with open(tmp_path / "image", "wb") as file, pytest.raises(OSError, match=os.strerror(errno.EIO)):
        with copier.copying([], [], Contents([], []), file.fileno()):
            assert asked.wait(60)


def test_an_error_of_the_body_comes_up_and_nothing_flushes_on(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), open(tmp_path / "file", "wb") as file, copier.flushing(file.fileno()):
        raise KeyError
    assert threading.active_count() == before
