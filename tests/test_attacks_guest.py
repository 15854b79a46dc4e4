"""A guest that lies, and a monitor that a guest took over: the host side ends, in bounds, and shows plain text.

What the agent's client makes of single answers is in test_agent_client.py; here is what goes on for ever, and what is
shown to the user.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger_tools import cli, errors
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from banger_tools.commands import vm_health, vm_ports, vm_stats
from banger_tools.vmm import firecracker_api, qmp
from tests.test_agent_client import EXIT_0, MEMORY, SWITCH, Liar, body
from tests.test_attacks_words import ESCAPES, assert_tame

Speech = bytes | Callable[[socket.socket], None]
Lying = Callable[[Speech], Path]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
NOTHING = struct.pack(">B3xI", 1, 0)
NEWS = struct.pack(">B3xI", 77, 4) + b"news"
TAKEN = struct.pack(">B3xII", 6, 4, 2**32 - 1)


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[Lying]:
    """Make sockets of agents, or of monitors, that say what a test wants."""
    liars: list[Liar] = []

    def make(speech: Speech) -> Path:
        liars.append(Liar(tmp_path, speech if callable(speech) else lambda stream: stream.sendall(speech)))
        return liars[-1].path

    yield make
    for liar in liars:
        liar.listener.close()


def guest(path: Path) -> Agent:
    return Agent(transport.unix(path))


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    """Return a speech that never ends; whoever listens must hang up."""

    def speak(stream: socket.socket) -> None:
        stream.sendall(head)
        while True:
            stream.sendall(piece * 100)

    return speak


ENDLESS = {
    "lines of a head": (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "one line of a head": (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
    "no line at all": (b"", b"\0"),
    "trailers": (CHUNKED + b"0\r\n", b"A: b\r\n"),
    "a chunk's extension": (CHUNKED + b"1;", b"x"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_answer_without_end_is_refused(lying: Lying, kind: str) -> None:
    agent = guest(lying(endless(*ENDLESS[kind])))
    with pytest.raises(errors.BadInput):
        list(agent.get_files("/x"))


def test_frames_that_carry_nothing_do_not_add_up(lying: Lying) -> None:
    """Empty, unknown and absurd frames by the hundred thousand, then the end: it is heard, and nothing was kept."""
    agent = guest(lying(SWITCH + (NOTHING + NEWS + TAKEN) * 50_000 + EXIT_0))
    with open(os.devnull, "wb") as nowhere:
        fd = nowhere.fileno()
        assert agent.exec(["x"], stdin_fd=None, stdout_fd=fd, stderr_fd=fd) == 0


def test_what_comes_behind_the_end_of_a_command_is_not_waited_for(lying: Lying, tmp_path: Path) -> None:
    agent = guest(lying(endless(SWITCH + EXIT_0, struct.pack(">B3xI", 1, 1000) + b"x" * 1000)))
    with open(tmp_path / "out", "wb") as out:
        assert agent.exec(["x"], stdin_fd=None, stdout_fd=out.fileno(), stderr_fd=out.fileno()) == 0
    assert (tmp_path / "out").stat().st_size < 10 << 20


def test_words_of_a_guest_are_shown_without_control_characters(lying: Lying) -> None:
    text = json.dumps(ESCAPES)
    port = f'{{"ports": [{{"protocol": "tcp", "address": "::", "port": 1, "program": {text}}}]}}'
    (listening,) = guest(lying(body(port.encode()))).ports(5)
    row = vm_ports.Row("web", listening.protocol, listening.address, 1, None, listening.program, [])
    answer = f'{{"name": "banger-agent", "boot_id": {text}, "version": {text}}}'
    found = guest(lying(body(answer.encode()))).health(5)
    health = vm_health.Row("web", "ready", found.version, found.boot_id, 1.0, False)
    for shown in (vm_ports.shown([row]), vm_health.shown([health])):
        assert_tame(shown.encode())
        assert "\\x1b" in shown


@pytest.mark.parametrize("status", [b"503 x", b"503 \x1b]0;pwned\x07"])
def test_refusal_of_a_guest_is_shown_without_control_characters(
    lying: Lying, capsys: pytest.CaptureFixture[str], status: bytes
) -> None:
    """Its sentence is; what stands behind the number of its status is not shown at all."""
    refusing = guest(lying(body(json.dumps({"error": ESCAPES}).encode(), status)))
    with pytest.raises(errors.Retry) as caught:
        refusing.sync()
    assert cli.status_of(caught.value) == 75
    said = capsys.readouterr().err
    assert_tame(said.encode())
    assert "refused: \\x1b]0;pwned\\x07" in said


MOST = 2**63 - 1  # of what is counted in bytes
DISK = {"path": "/", "device": ESCAPES, "type": "", "size": 0, "free": 0, "available": 0, "inodes": 0, "inodes_free": 0}


def stats(memory: dict[str, int], disk: dict[str, int], cpus: int = 1) -> bytes:
    """Return what an agent says of its guest, with some numbers of a test's own."""
    said = {"memory": {**json.loads(MEMORY), **memory}, "load": [1e12, 0, 0], "cpus": cpus, "disks": [{**DISK, **disk}]}
    return body(json.dumps(said).encode())


@pytest.mark.parametrize(
    ("memory", "disk", "cells"),
    [
        ({"total": MOST, "available": 0}, {"size": MOST}, ["8388608.0T of 8388608.0T", "8388608.0T of 8388608.0T"]),
        ({"total": 4, "available": MOST}, {"free": MOST}, ["0 of 4", "0 of 0"]),  # more is free than there is
    ],
)
def test_absurd_numbers_of_a_guest_are_shown_as_numbers(
    lying: Lying, memory: dict[str, int], disk: dict[str, int], cells: list[str]
) -> None:
    found = guest(lying(stats(memory, disk))).stats(5)
    shown = vm_stats.shown([vm_stats.Row("web", vm_stats.Host(None, None, None, 0, None), found)])
    assert_tame(shown.encode())
    assert re.split(" {2,}", shown.splitlines()[1])[5:] == ["1000000000000.00", *cells]


@pytest.mark.parametrize(("memory", "disk"), [({"total": 10**30}, {}), ({"free": -1}, {}), ({}, {"size": 10**30})])
def test_sizes_that_nothing_has_are_refused(lying: Lying, memory: dict[str, int], disk: dict[str, int]) -> None:
    with pytest.raises(errors.BadInput, match="makes no sense"):
        guest(lying(stats(memory, disk))).stats(5)


def test_counts_of_any_length_stay_the_numbers_that_they_are(lying: Lying) -> None:
    found = guest(lying(stats({}, {"inodes": 10**30}, cpus=10**30))).stats(5)
    assert (found.cpus, found.disks[0].inodes) == (10**30, 10**30)


# Monitors


def talking(path: Path, lines: bytes, forever: bytes = b"") -> threading.Thread:
    """Speak as QEMU does, which begins: a greeting, an answer to the first command, then what a test wants."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        stream = listener.accept()[0]
        with listener, stream:
            try:
                stream.sendall(b'{"QMP": {}}\n{"return": {}}\n' + lines)
                while forever:
                    stream.sendall(forever * 100)
                while stream.recv(4096):
                    pass
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


QMP: dict[str, tuple[bytes, bytes]] = {
    "no JSON": (b"nonsense\n", b""),
    "no object": (b"7\n", b""),
    "deep JSON": (b"[" * 100_000 + b"\n", b""),
    "an error that is none": (b'{"error": 7}\n', b""),
    "an error with escapes": (b'{"error": {"desc": "\\u001b[2J"}}\n', b""),
    "events for ever": (b"", b'{"event": "RESET"}\n'),
    "a line for ever": (b"", b"x"),
    "silence": (b"", b""),
}


@pytest.mark.parametrize("kind", QMP)
def test_monitor_that_lies_is_given_up(kind: str, tmp_path: Path) -> None:
    thread = talking(tmp_path / "qmp.sock", *QMP[kind])
    with pytest.raises((errors.BangerError, OSError)):
        with qmp.Connection(tmp_path / "qmp.sock", time.monotonic() + 2) as connection:
            connection.execute("query-status")
    thread.join(10)
    assert not thread.is_alive(), "we still listen"


@pytest.mark.parametrize("text", [b"nonsense", b"[" * 100_000, b"\xff\xfe", b'"\\ud800'])
def test_firecracker_that_lies_is_an_error(lying: Lying, text: bytes) -> None:
    path = lying(body(text))
    with pytest.raises(errors.IOFailure, match="makes no sense"):
        firecracker_api.ask(path, "GET", "/")
