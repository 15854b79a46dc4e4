"""Atomic files, copies that keep holes, locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger_tools import errors, files
from tests.support import ROOT, environment


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_atomic_file_appears_only_when_finished(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with files.atomic(target) as temporary:
        temporary.write_text("x")
        assert not target.exists()
        assert temporary.parent == tmp_path
    assert (names(tmp_path), target.read_text()) == (["a"], "x")


def test_failed_atomic_file_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic(target, force=True) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (names(tmp_path), target.read_text()) == (["a"], "old")


def test_existing_target_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(errors.CannotCreate, match="exists"), files.atomic(tmp_path / "a"):
        pytest.fail("the work was begun")


def test_dangling_link_counts_as_existing(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(errors.CannotCreate, match="exists"), files.atomic(tmp_path / "a"):
        pytest.fail("the work was begun")


def test_target_that_another_program_made_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(errors.CannotCreate, match="made by another program"), files.atomic(target) as temporary:
        temporary.write_text("ours")
        target.write_text("theirs")
    assert (names(tmp_path), target.read_text()) == (["a"], "theirs")


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.CannotCreate, match="its folder does not exist"), files.atomic(tmp_path / "no" / "a"):
        pytest.fail("the work was begun")


def test_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(errors.CannotCreate, match="is a folder"), files.atomic(tmp_path / "a", force=True):
        pytest.fail("the work was begun")


def test_full_disk_is_an_io_failure_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(errors.IOFailure, match="no space left"), files.atomic(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_mode_of_a_small_file_obeys_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
        files.write_text(tmp_path / "secret", "x", mode=0o600)
    finally:
        os.umask(previous)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "secret")] == [0o640, 0o600]


def test_long_names_still_get_a_temporary(tmp_path: Path) -> None:
    for name in ("n" * 255, "名" * 85):
        files.write_text(tmp_path / name, "x")
    assert names(tmp_path) == ["n" * 255, "名" * 85]


def test_filesystem_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    files.write_text(tmp_path / "a", "x")
    with pytest.raises(errors.CannotCreate, match="meanwhile"), files.atomic(tmp_path / "b") as temporary:
        temporary.write_text("x")
        (tmp_path / "b").write_text("theirs")
    assert (names(tmp_path), (tmp_path / "b").read_text()) == (["a", "b"], "theirs")


def test_temporary_folder_is_private_and_goes(tmp_path: Path) -> None:
    with files.temporary_folder(tmp_path / "work") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
    assert names(tmp_path) == []


def test_a_forked_child_does_not_remove_its_parents_temporaries(tmp_path: Path) -> None:
    path = files.temporary_name(tmp_path / "a")
    path.write_text("x")
    child = os.fork()
    if child == 0:
        files.remove_temporaries()
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()
    files.remove_temporaries()
    assert not path.exists()


def test_links_in_a_discarded_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "me").write_text("x")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "keep")
    files.discard(tmp_path / "gone")
    assert (tmp_path / "keep" / "me").exists()


def sparse_file(path: Path, pieces: list[tuple[int, bytes]], size: int) -> None:
    with open(path, "wb") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
        file.truncate(size)


def test_copy_keeps_content_mode_and_holes(tmp_path: Path) -> None:
    sparse_file(tmp_path / "a", [(0, b"begin"), (5 << 20, b"middle")], 64 << 20)
    (tmp_path / "a").chmod(0o640)
    files.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    status = (tmp_path / "b").stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o640, 64 << 20)
    assert status.st_blocks * 512 < 1 << 20


def test_copy_never_replaces(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        files.copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "b"


blocks = st.lists(st.booleans(), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks, st.integers(0, 4095))
def test_data_ranges_cover_all_data_and_no_whole_hole(tmp_path: Path, filled: list[bool], tail: int) -> None:
    path = tmp_path / "f"
    pieces = [(i * 65536, b"x" * 65536) for i, full in enumerate(filled) if full]
    sparse_file(path, pieces, len(filled) * 65536 + tail)
    with open(path, "rb") as file:
        ranges = list(files.data_ranges(file.fileno(), 0, path.stat().st_size))
    covered = {i for start, end in ranges for i in range(start // 65536, -(-end // 65536))}
    assert covered >= {i for i, full in enumerate(filled) if full}
    assert sum(end - start for start, end in ranges) <= sum(filled) * 65536 + tail + 65536


def test_copying_from_a_file_that_became_shorter_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"short")
    with open(tmp_path / "a", "rb") as source, open(tmp_path / "b", "wb") as target:
        with pytest.raises(errors.BadInput, match="became shorter"):
            files.copy_range(source.fileno(), 0, target.fileno(), 0, 100)


def test_small_files_have_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert files.read_small(tmp_path / "a", 10, "a test") == b"x" * 10
    with pytest.raises(errors.BadInput, match="too large for a test"):
        files.read_small(tmp_path / "a", 9, "a test")
    with pytest.raises(errors.NoInput):
        files.read_small(tmp_path / "missing", 9, "a test")


HOLD = "import sys, time; from pathlib import Path; from banger_tools import files\n"
HOLD += "with files.locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_held_lock_is_waited_for_and_goes_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "a"
    command = [sys.executable, "-P", "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment({"PYTHONPATH": str(ROOT)})) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(errors.Retry, match="the thing is in use"), files.locked(lock, wait=0.2, what="the thing"):
            pytest.fail("two hold the lock")
        holder.kill()
    with files.locked(lock, wait=5):
        pass


def test_same_bytes_leave_the_file_that_is_there(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("same")
    before = os.stat(target)
    with files.atomic(target, force=True, keep_same=True) as temporary:
        temporary.write_text("same")
    assert (names(tmp_path), os.stat(target)) == (["a"], before)


@pytest.mark.parametrize("change", ["bytes", "size", "mode", "symlink", "unreadable"])
def test_whatever_else_is_there_is_replaced(tmp_path: Path, change: str) -> None:
    target = tmp_path / "a"
    target.write_text({"bytes": "sane", "size": "same\n"}.get(change, "same"))
    if change == "mode":
        target.chmod(0o600)
    if change == "symlink":
        target.rename(tmp_path / "b")
        target.symlink_to("b")
    if change == "unreadable":
        target.chmod(0)
    with files.atomic(target, force=True, keep_same=True) as temporary:
        temporary.write_text("same")
        inode = temporary.stat().st_ino
    assert (target.is_symlink(), target.stat().st_ino, target.read_text()) == (False, inode, "same")


@given(
    one=st.lists(st.sampled_from("h0x"), max_size=6),
    other=st.lists(st.sampled_from("h0x"), max_size=6),
    tails=st.tuples(st.integers(0, 1), st.integers(0, 1)),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_files_are_the_same_if_their_bytes_are(
    tmp_path: Path, one: list[str], other: list[str], tails: tuple[int, int]
) -> None:
    """h: a hole, 0: zeros that are written, x: data; each of them a block."""
    block = {"0": bytes(4096), "x": b"x" * 4096}
    paths = tmp_path / "one", tmp_path / "other"
    for path, kinds, tail in zip(paths, (one, other), tails, strict=True):
        path.unlink(missing_ok=True)
        pieces = [(4096 * at, block[kind]) for at, kind in enumerate(kinds) if kind in block]
        sparse_file(path, pieces, 4096 * len(kinds) + tail)
    assert files.same_file(*paths) == (paths[0].read_bytes() == paths[1].read_bytes())
