"""Headers that another process reads ahead are those that would be read here, to the same end or error."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger_tools import ahead, beside, errors, tar
from tests import support
from tests.test_flatten_fuzz import SEEDS, mutants

Read = tuple[list[tar.Member], str]


def read(members: Iterator[tar.Member]) -> Read:
    """Return what an archive has, and what was wrong with it in the end."""
    found: list[tar.Member] = []
    try:
        found.extend(members)
    except errors.BadInput as error:
        return found, error.message
    return found, ""


def both(stack: list[bytes], *, vouched: bool) -> tuple[list[Read], list[Read]]:
    """Read archives here, and ahead; after one that is wrong no other is read, as in a merge."""
    with contextlib.ExitStack() as opened:
        tars: list[tuple[int, bool]] = []
        for data in stack:
            file = opened.enter_context(tempfile.TemporaryFile())
            file.write(data)
            file.flush()
            tars.append((file.fileno(), vouched))
        here = upto_error(tar.members(descriptor, vouched=vouched) for descriptor, vouched in tars)
        return here, upto_error(opened.enter_context(ahead.members(tars)))


def upto_error(archives: Any) -> list[Read]:
    results: list[Read] = []
    for members in archives:
        results.append(read(members))
        if results[-1][1]:
            break
    return results


@given(st.lists(st.sampled_from(SEEDS) | mutants(), min_size=1, max_size=3), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_archives_are_read_ahead_as_they_are_read_here(stack: list[bytes], vouched: bool) -> None:
    here, found = both(stack, vouched=vouched)
    assert found == here


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_size_of_batches_does_not_matter(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "BATCH", batch)
    here, found = both([*SEEDS, SEEDS[0][:3000]], vouched=False)
    assert found == here
    assert found[-1][1]


def test_heavy_headers_go_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(40):
            info = tarfile.TarInfo(f"f{number}")
            info.pax_headers = {"SCHILY.xattr.user.large": "x" * 100_000}
            archive.addfile(info)
    sizes: list[int] = []
    with tempfile.TemporaryFile() as stored:
        stored.write(file.getvalue())
        stored.flush()
        for batch in ahead._batches(tar.members(stored.fileno(), vouched=False)):
            sizes.append(len(batch))
    assert sum(sizes) == 40
    assert max(sizes) <= 3


def test_process_that_was_killed_is_no_end_of_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(_descriptor: int, *, vouched: bool) -> Iterator[tar.Member]:
        yield tar.Member(b"a", tar.DIR, 0o755, 0, 0, (0, 0), 0, b"", None, None, 0, None)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(tar, "members", dying)
    monkeypatch.setattr(ahead, "BATCH", 1)
    with ahead.members([(-1, False)]) as (members,), pytest.raises(errors.IOFailure, match="status -9"):
        list(members)


class Cut:
    """A pipe into which a process gets so many bytes before it is killed."""

    def __init__(self, out: IO[bytes], limit: int) -> None:
        self.out, self.limit = out, limit

    def write(self, data: bytes) -> int:
        self.out.write(data[: self.limit])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


@pytest.mark.parametrize("limit", [1, 3, 4, 5, 1000])
def test_process_that_was_killed_in_the_midst_of_a_batch_is_no_bug(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write: Any = ahead._write
    monkeypatch.setattr(ahead, "_write", lambda out, batch: write(Cut(out, limit), batch))
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number in range(100):
                archive.addfile(tarfile.TarInfo(f"f{number}"))
        file.flush()
        with ahead.members([(file.fileno(), False)]) as (members,):
            with pytest.raises(errors.IOFailure, match="status -9"):
                list(members)


def test_process_ends_with_the_one_that_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []
    fork = os.fork

    def noted() -> int:
        children.append(fork())
        return children[-1]

    monkeypatch.setattr(os, "fork", noted)
    path = tmp_path / "many.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(20_000):
            archive.addfile(tarfile.TarInfo(f"f{number}"))
    with open(path, "rb") as file, pytest.raises(errors.Denied), ahead.members([(file.fileno(), False)]) as (members,):
        next(members)
        raise errors.Denied("enough")
    assert len(children) == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(children[0], os.WNOHANG)


@pytest.mark.parametrize("kind", [errors.BadInput, errors.NoInput, errors.Denied, errors.IOFailure])
def test_error_of_work_beside_comes_up_here(kind: type[errors.BangerError]) -> None:
    def fail() -> None:
        raise kind("it is wrong", "mend it")

    with pytest.raises(kind, match="it is wrong") as caught, beside.running(fail) as wait:
        wait()
    assert caught.value.hint == "mend it"


def test_large_tar_from_the_cache_that_is_corrupt_inside_is_refused(banger_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w") as archive:
        large = tarfile.TarInfo("zeros")
        large.size = 17 << 20
        archive.addfile(large, io.BytesIO(bytes(large.size)))
        archive.addfile(tarfile.TarInfo("last"))
    fetched = support.run_ok("bg-fetch", f"rootfs:{path}")
    tree = support.manifest_of(support.run_ok("bg-flatten", "-C", tmp_path, stdin=fetched))["tree"]
    assert tree["entries"] == 3

    data = bytearray(path.read_bytes())
    at = data.index(b"last\0")
    data[at] ^= 1
    path.write_bytes(data)
    fetched = support.run_ok("bg-fetch", f"rootfs:{path}")
    done = support.run("bg-flatten", "-C", tmp_path, "--force", stdin=fetched)
    assert done.returncode == 65
    assert f"layers[0]: corrupt tar header at byte {at}" in done.stderr.decode()


def test_error_that_is_longer_than_a_pipe_holds_comes_up(banger_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        large = tarfile.TarInfo("zeros")
        large.size = 17 << 20
        archive.addfile(large, io.BytesIO(bytes(large.size)))
        odd = tarfile.TarInfo("odd")
        odd.pax_headers = {"SCHILY.acl.access": "nonsense" * 50_000}
        archive.addfile(odd)
    fetched = support.run_ok("bg-fetch", f"rootfs:{path}")
    done = support.run("bg-flatten", "-C", tmp_path, stdin=fetched, timeout=120)
    assert done.returncode == 65
    assert b"is malformed" in done.stderr
