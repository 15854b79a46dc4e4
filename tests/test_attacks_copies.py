"""Copies out of guests that lie: archives without end, of absurd sizes, numbers and names; nothing of them stays."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger_tools import cli, errors
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from banger_tools.vmm import transfer
from tests import support
from tests.test_agent_client import Liar
from tests.test_attacks_words import ESCAPES, assert_tame

Speech = Callable[[socket.socket], None]
Copy = Callable[[Speech, Path], None]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = 1 << 16


@pytest.fixture
def copy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copy]:
    """Copy `web:/x` from a guest that says what a test wants."""
    liars: list[Liar] = []

    def from_liar(speech: Speech, target: Path) -> None:
        trouble: list[OSError] = []

        def speak(stream: socket.socket) -> None:
            try:
                speech(stream)
            except OSError as error:
                trouble.append(error)

        liars.append(Liar(tmp_path_factory.mktemp("liar"), speak))
        monkeypatch.setattr(transfer, "_agent", lambda _: Agent(transport.unix(liars[-1].path)))
        try:
            transfer.copy([transfer.place("web:/x")], transfer.place(str(target)), archive=False)
        except errors.Retry as error:
            raise AssertionError(f"the guest could not say all that it wanted: {trouble}") from error

    yield from_liar
    for liar in liars:
        liar.listener.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(data: bytes) -> Speech:
    return lambda stream: stream.sendall(HEAD + chunk(data) + b"0\r\n\r\n")


def member(name: str, size: int = 0, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **pax: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


END = bytes(1024)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 16 MiB and 800 files."""
    with support.tmpfs(tmp_path, "size=16m,nr_inodes=800") as disk:
        yield disk


def assert_nothing(folder: Path) -> None:
    assert list(folder.iterdir()) == []


@pytest.mark.root
def test_archive_without_end_leaves_room_for_others_and_nothing_of_itself(disk: Path, copy: Copy) -> None:
    free: list[int] = []

    def speak(stream: socket.socket) -> None:
        stream.sendall(HEAD + chunk(member("x", 1 << 40)))
        while True:
            stream.sendall(chunk(bytes(CHUNK)))
            free.append(os.statvfs(disk).f_bavail * 4096)

    with pytest.raises(errors.IOFailure, match="'web:/x' is too large for the disk here") as caught:
        copy(speak, disk)
    assert "banger vm cp web:/x - | tar -x" in str(caught.value.hint)
    assert (16 << 20) // 20 - CHUNK <= min(free) < 2 << 20  # it was let in until there was little left
    assert_nothing(disk)


@pytest.mark.root
def test_archive_that_there_is_no_room_to_unpack_is_not_begun(disk: Path, copy: Copy) -> None:
    size = 10 << 20
    body = member("x", size)

    def speak(stream: socket.socket) -> None:
        stream.sendall(HEAD + chunk(body))
        for _ in range(size // CHUNK):
            stream.sendall(chunk(bytes(CHUNK)))
        stream.sendall(chunk(END) + b"0\r\n\r\n")

    with pytest.raises(errors.IOFailure, match="too large"):
        copy(speak, disk)
    assert_nothing(disk)


@pytest.mark.root
def test_more_files_than_the_disk_has_are_not_begun(disk: Path, copy: Copy) -> None:
    names = (member(f"x/{number}") for number in range(770))
    with pytest.raises(errors.IOFailure, match="too large"):
        copy(saying(member("x", kind=tarfile.DIRTYPE) + b"".join(names) + END), disk)
    assert_nothing(disk)


def test_archive_of_too_many_files_is_refused(tmp_path: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_ENTRIES", 1000)
    names = (member(f"x/{number}") for number in range(1000))
    with pytest.raises(errors.BadInput, match="more than 1000 entries"):
        copy(saying(member("x", kind=tarfile.DIRTYPE) + b"".join(names) + END), tmp_path)
    assert_nothing(tmp_path)


def changed(place: int, data: bytes, whole: bytes) -> bytes:
    """Return a member whose header has other bytes at a place, and a checksum that is right for them."""
    raw = bytearray(whole)
    raw[place : place + len(data)] = data
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


def deep() -> bytes:
    return b"".join(member("/".join(["x"] * depth), kind=tarfile.DIRTYPE) for depth in range(1, 1200))


def link(name: str, target: str, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info.tobuf(tarfile.PAX_FORMAT)


def sparse(size: int) -> bytes:
    """A file with a hole, as GNU tar writes it (GNU.sparse 1.0), and nothing else."""
    numbers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}
    table = b"1\n%d\n0\n" % size
    return member("x", 512, table.ljust(512, b"\0"), **{**numbers, "GNU.sparse.realsize": str(size)})


LIES = {  # what comes, and the words that it is refused with
    "a file of a petabyte": (member("x", 1 << 50) + bytes(10_000), f"needs {1 << 50} bytes of data"),
    "a file of less than nothing": (changed(124, b"-0000000001\0", member("x")), "size -1 of the entry at byte 0"),
    "a hole that no number has": (sparse(1 << 63), f"size {1 << 63} of the sparse entry"),
    "a name of a megabyte": (member("x" * (1 << 20)), "the extension header at byte 0 is too large"),
    "folders in folders": (deep(), "is more than 1000 folders deep"),
    "names that climb": (member("x/../../../" + ESCAPES, 1, b"x"), "has a '..' component"),
    "names that drive the terminal": (member(f"../{ESCAPES}", 1, b"x"), "'../\\x1b]0;pwned"),
    "hard links to what is outside": (link("x", "/etc/passwd", tarfile.LNKTYPE), "'/etc/passwd', which is not there"),
    "hard links through a symlink": (
        member("x", kind=tarfile.DIRTYPE)
        + link("x/etc", "/etc", tarfile.SYMTYPE)
        + link("x/passwd", "x/etc/passwd", tarfile.LNKTYPE),
        "'x/etc/passwd', which is not there",
    ),
    "no archive at all": (b"no archive" * 500, "the checksum does not match"),
    "another file than was asked for": (member("y", 1, b"y"), "is nothing that can be copied"),
    "nothing": (b"", "the archive is cut at byte 0"),
}


@pytest.mark.parametrize("lie", LIES)
def test_archive_that_lies_is_refused_and_leaves_nothing(
    lie: str, tmp_path: Path, copy: Copy, capfd: pytest.CaptureFixture[str]
) -> None:
    data, words = LIES[lie]
    speech = saying(data + END) if data else lambda stream: stream.sendall(HEAD + b"0\r\n\r\n")
    with pytest.raises(errors.BadInput) as caught:
        copy(speech, tmp_path)
    assert cli.status_of(caught.value) == 65
    said = capfd.readouterr().err
    assert "'web:/x'" in said and words in said
    assert_tame(said.encode())
    assert_nothing(tmp_path)


def test_guest_that_answers_nothing_is_no_crash(tmp_path: Path, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a target in the guest is, is found out by asking for it."""
    liar = Liar(tmp_path, lambda stream: stream.sendall(HEAD + b"0\r\n\r\n"))
    monkeypatch.setattr(transfer, "_agent", lambda _: Agent(transport.unix(liar.path)))
    assert transfer._kind(transfer.place("web:/x")) == transfer.FOLDER
    liar.listener.close()


@pytest.mark.root
def test_disk_that_is_nearly_full_takes_little(disk: Path, copy: Copy) -> None:
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 15 << 20)
    copy(saying(member("x", 3, b"abc") + END), disk)
    assert (disk / "x").read_bytes() == b"abc"
    with pytest.raises(errors.IOFailure, match="too large"):
        copy(saying(member("x", 700_000, bytes(700_000)) + END), disk)
    assert {path.name for path in disk.iterdir()} == {"ballast", "x"}


def test_honest_archive_is_copied(tmp_path: Path, copy: Copy) -> None:
    """So what is refused above is refused for what it is."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        info = tarfile.TarInfo("x")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    copy(saying(packed.getvalue()), tmp_path)
    assert (tmp_path / "x").read_bytes() == b"abc" and support.leftovers(tmp_path) == []
