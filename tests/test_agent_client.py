"""The client of the agent against guests that lie, stall and vanish, and against a real terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banger_tools import errors
from banger_tools.agent import client, serial, session, transport
from banger_tools.agent.client import Agent
from tests import guest_lab, support

EXIT_0 = struct.pack(">B3xI", 3, 13) + b'{"status": 0}'
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


class Liar:
    """A guest that answers each connection with what it was given, and never reads more than a request."""

    def __init__(self, folder: Path, speak: Callable[[socket.socket], None]) -> None:
        self.path = folder / f"liar.{id(self)}.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(4)
        self.speak = speak
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                stream = self.listener.accept()[0]
            except OSError:
                return
            with stream:
                try:
                    stream.recv(65536)
                    self.speak(stream)
                except OSError:
                    pass


@pytest.fixture
def lying(tmp_path: Path) -> Iterator[Callable[[bytes | Callable[[socket.socket], None]], Agent]]:
    """Make clients of guests that say what a test wants."""
    liars: list[Liar] = []

    def make(speech: bytes | Callable[[socket.socket], None]) -> Agent:
        liar = Liar(tmp_path, speech if callable(speech) else lambda stream: stream.sendall(speech))
        liars.append(liar)
        return Agent(transport.unix(liar.path))

    yield make
    for liar in liars:
        liar.listener.close()


def body(text: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(text), text)


LIES = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n{}",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n",
    "line without end": b"HTTP/1.1 200 OK" + b"x" * 100_000,
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "field without colon": b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n",
    "no JSON": body(b"{"),
    "JSON of a list": body(b"[]"),
    "deep JSON": body(b"[" * 100_000),
    "another program": body(b'{"name": "nginx"}'),
    "body cut": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
}


@pytest.mark.parametrize("lie", LIES)
def test_answer_that_makes_no_sense_is_bad_input(lying: Callable[[bytes], Agent], lie: str) -> None:
    with pytest.raises(errors.BadInput):
        lying(LIES[lie]).health(5)


MEMORY = '{"total": 4, "free": 1, "available": 2, "swap_total": 0, "swap_free": 0}'
ODD = [
    ("health", '{"name": "banger-agent", "uptime": "x"}'),
    ("health", '{"name": "banger-agent", "uptime": NaN}'),
    ("health", '{"name": "banger-agent", "boot_id": ["x"]}'),
    ("health", '{"name": "banger-agent", "\\udcff": 1}'),
    ("stats", "{}"),
    ("stats", f'{{"memory": {MEMORY}, "load": [], "cpus": 1, "disks": []}}'),
    ("stats", f'{{"memory": {MEMORY}, "load": [0, 0, 1e999], "cpus": 1, "disks": []}}'),
    ("stats", f'{{"memory": {MEMORY.replace("4", "1" + "0" * 400)}, "load": [0, 0, 0], "cpus": 1, "disks": []}}'),
    ("stats", f'{{"memory": {MEMORY}, "load": [0, 0, 0], "cpus": 1, "disks": [{{"path": "/"}}]}}'),
    ("ports", "{}"),
    ("ports", '{"ports": [{}]}'),
    ("ports", '{"ports": [{"protocol": "tcp", "address": "nowhere", "port": 1}]}'),
    ("ports", '{"ports": [{"protocol": "icmp", "address": "::", "port": 1}]}'),
    ("ports", '{"ports": [{"protocol": "tcp", "address": "::", "port": 70000}]}'),
]


@pytest.mark.parametrize(("question", "answer"), ODD)
def test_odd_answer_is_bad_input(lying: Callable[[bytes], Agent], question: str, answer: str) -> None:
    with pytest.raises(errors.BadInput):
        getattr(lying(body(answer.encode())), question)(5)


PATIENCE = 30.0  # seconds: more than a busy host takes, and less than the guest below goes on


def test_silent_guest_is_given_up_at_the_deadline(lying: Callable[[Callable[[socket.socket], None]], Agent]) -> None:
    def listen(stream: socket.socket) -> None:
        stream.settimeout(2 * PATIENCE)
        stream.recv(1)  # until the client hangs up

    began = time.monotonic()
    with pytest.raises(errors.Retry):
        lying(listen).health(0.5)
    assert time.monotonic() - began < PATIENCE


def test_guest_that_dribbles_for_ever_is_given_up_at_the_deadline(
    lying: Callable[[Callable[[socket.socket], None]], Agent],
) -> None:
    def dribble(stream: socket.socket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\n")
        end = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < end:
            stream.sendall(b"A")
            time.sleep(0.02)

    began = time.monotonic()
    with pytest.raises(errors.Retry):
        lying(dribble).health(0.5)
    assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("status", "kind"),
    [(b"400 x", errors.BadInput), (b"403 x", errors.Denied), (b"404 x", errors.NoInput), (b"503 x", errors.Retry)],
)
def test_refusal_keeps_its_sentence(
    lying: Callable[[bytes], Agent], status: bytes, kind: type[errors.BangerError]
) -> None:
    with pytest.raises(kind, match="because of this"):
        lying(body(b'{"error": "because of this"}', status)).sync()


EXEC_LIES = {
    "frame too long": struct.pack(">B3xI", 1, 65537),
    "head not zero": b"\x01\x00\x01\x00\x00\x00\x00\x00",
    "status no JSON": struct.pack(">B3xI", 3, 1) + b"x",
    "status missing": struct.pack(">B3xI", 3, 2) + b"{}",
    "status no object": struct.pack(">B3xI", 3, 1) + b"7",
    "status out of range": struct.pack(">B3xI", 3, 15) + b'{"status": 256}',
    "status text": struct.pack(">B3xI", 3, 15) + b'{"status": "0"}',
}


@pytest.mark.parametrize("lie", EXEC_LIES)
def test_frames_that_make_no_sense_are_bad_input(lying: Callable[[bytes], Agent], lie: str) -> None:
    with pytest.raises(errors.BadInput):
        guest_lab.execute(lying(SWITCH + EXEC_LIES[lie]), "true")


def test_guest_that_vanishes_during_a_command_is_an_error_and_no_status(lying: Callable[[bytes], Agent]) -> None:
    with pytest.raises(errors.Retry, match="went away"):
        guest_lab.execute(lying(SWITCH + struct.pack(">B3xI", 1, 3) + b"abc"), "true")


def test_answer_frames_and_status_in_one_piece_are_enough(lying: Callable[[bytes], Agent]) -> None:
    result = guest_lab.execute(lying(SWITCH + struct.pack(">B3xI", 1, 3) + b"abc" + EXIT_0), "true")
    assert result == guest_lab.Result(0, b"abc", b"")


def test_frames_of_later_versions_are_passed_over(lying: Callable[[bytes], Agent]) -> None:
    later = struct.pack(">B3xI", 99, 4) + b"news"
    assert guest_lab.execute(lying(SWITCH + later + EXIT_0), "true").status == 0


def test_endless_chunk_sizes_and_ends_are_refused(lying: Callable[[bytes], Agent]) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for lie in (b"fffffffff\r\n", b"2000000\r\n", b"xyz\r\n", b"-1\r\n", b"3\r\nabcd\r\n0\r\n\r\n"):
        with pytest.raises(errors.BadInput):
            list(lying(head + lie).get_files("/x"))


def test_wait_ready_ends_as_soon_as_the_machine_is_dead(tmp_path: Path) -> None:
    agent = Agent(transport.serial_ports(tmp_path))
    began = time.monotonic()
    with pytest.raises(errors.Unavailable, match="ended before"):
        agent.wait_ready(began + 60, lambda: False)
    assert time.monotonic() - began < 5


def test_wait_ready_gives_up_at_the_deadline(tmp_path: Path) -> None:
    agent = Agent(transport.serial_ports(tmp_path))
    with pytest.raises(errors.Retry):
        agent.wait_ready(time.monotonic() + 0.3, lambda: True)


def test_firecracker_socket_is_asked_for_the_port(tmp_path: Path) -> None:
    """A listener that does as Firecracker does: refuses the first (lost after a restore), then leads on."""
    with guest_lab.listening(tmp_path) as agent_path:
        seen: list[bytes] = []

        def serve(listener: socket.socket) -> None:
            for number in range(2):
                stream = listener.accept()[0]
                seen.append(stream.recv(64))
                if number == 0:
                    stream.close()
                    continue
                stream.sendall(b"OK 1073741824\n")
                with socket.socket(socket.AF_UNIX) as onward:
                    onward.connect(str(agent_path))
                    onward.sendall(stream.recv(65536))
                    answer = b""
                    while not answer.endswith(b"}\n"):
                        answer += onward.recv(65536)
                    stream.sendall(answer)
                stream.close()

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "v.sock"))
            listener.listen(2)
            threading.Thread(target=serve, args=(listener,), daemon=True).start()
            assert Agent(transport.firecracker(tmp_path / "v.sock")).health(5).name == "banger-agent"
        assert seen == [b"CONNECT 10240\n"] * 2


def test_host_that_is_always_slow_is_given_more_time_with_each_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection to this Firecracker is answered within the time of the first attempt."""
    monkeypatch.setattr(client, "_ATTEMPT_SECONDS", 0.2)
    monkeypatch.setattr(transport, "_FIRST_ANSWER", 0.2)
    refused: list[OSError] = []
    body = b'{"name": "banger-agent", "ready": true}'

    def serve(stream: socket.socket) -> None:
        time.sleep(0.25)
        try:
            stream.recv(64)
            stream.sendall(b"OK 1\n")
            stream.recv(1024)
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except OSError as error:  # given up
            refused.append(error)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "v.sock"))
        listener.listen(8)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        agent = Agent(transport.firecracker(tmp_path / "v.sock"))
        agent.wait_ready(time.monotonic() + guest_lab.SECONDS, lambda: True)
    assert refused


@given(st.binary(max_size=300), st.lists(st.integers(1, 20), max_size=100))
@settings(max_examples=200, deadline=None)
def test_any_bytes_survive_the_port_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    stream = b"old noise~A" + b"~A" + b"0" * 32 + b"~" + serial.encode(data) + serial.END
    assert data.count(b"~") + data.count(b"}") == len(serial.encode(data)) - len(data)
    decoder, got, at = serial.Decoder("0" * 32), b"", 0
    for size in [*cuts, len(stream)]:
        got += decoder.feed(stream[at : at + size])
        at += size
    assert got == data and decoder.ended


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_noise_before_the_answer_is_dropped_within_bounds(noise: bytes) -> None:
    decoder = serial.Decoder("0" * 32)
    for _ in range(50):
        assert decoder.feed(noise) == b"" or decoder.open
    assert len(decoder._rest) <= 64


@given(st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=50)), max_size=8), st.integers(1, 30))
def test_frames_are_found_however_they_are_cut(frames: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(struct.pack(">B3xI", kind, len(payload)) + payload for kind, payload in frames)
    reader = session.Frames()
    found = [frame for at in range(0, len(stream), step) for frame in reader.feed(stream[at : at + step])]
    assert [(frame.kind, frame.payload) for frame in found] == frames


DRIVER = """
import sys; from pathlib import Path
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
agent = Agent(transport.unix(Path(sys.argv[1])))
sys.exit(agent.exec(sys.argv[2:], tty=True))
"""


class Terminal:
    """Our client as the program of a real terminal."""

    def __init__(self, path: Path, *argv: str) -> None:
        self.near, far = pty.openpty()
        termios.tcsetwinsize(self.near, (21, 43))
        self.before = termios.tcgetattr(self.near)
        command = [sys.executable, "-c", DRIVER, str(path), *argv]
        self.process = subprocess.Popen(
            command, stdin=far, stdout=far, stderr=far, start_new_session=True, cwd=support.ROOT, close_fds=True
        )
        self.far = far
        self.shown = b""

    def expect(self, pattern: bytes) -> re.Match[bytes]:
        deadline = time.monotonic() + guest_lab.SECONDS
        while not (match := re.search(pattern, self.shown)):
            assert select.select([self.near], [], [], deadline - time.monotonic())[0], self.shown
            self.shown += os.read(self.near, 4096)
        return match

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.near)
        os.close(self.far)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a running agent."""
    with guest_lab.listening(tmp_path_factory.mktemp("agent")) as path:
        yield path


def test_terminal_is_raw_while_the_command_runs_and_as_before_afterwards(listener: Path) -> None:
    terminal = Terminal(listener, "sh", "-c", "stty size; echo ready; read x; echo got $x; exit 9")
    terminal.expect(rb"21 43\r\n")
    terminal.expect(rb"ready")
    assert not termios.tcgetattr(terminal.near)[3] & termios.ICANON
    os.write(terminal.near, b"word\r")
    terminal.expect(rb"got word")
    assert terminal.process.wait(guest_lab.SECONDS) == 9
    assert termios.tcgetattr(terminal.near) == terminal.before
    terminal.close()


def test_window_size_follows_ours(listener: Path) -> None:
    terminal = Terminal(listener, "sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done")
    terminal.expect(rb"ready")
    termios.tcsetwinsize(terminal.near, (33, 77))
    terminal.process.send_signal(signal.SIGWINCH)  # the terminal is not the controlling one of its session
    terminal.expect(rb"33 77")
    terminal.close()


def test_terminal_is_restored_when_the_guest_dies(tmp_path: Path) -> None:
    with guest_lab.listening(tmp_path) as path:
        terminal = Terminal(path, "sh", "-c", "echo ready $PPID; sleep 60")
        server = int(terminal.expect(rb"ready (\d+)")[1])
        os.kill(server, signal.SIGKILL)
        assert terminal.process.wait(guest_lab.SECONDS) != 0
        assert termios.tcgetattr(terminal.near) == terminal.before
        terminal.close()


def test_signals_and_handlers_are_as_before_afterwards(listener: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    guest_lab.execute(Agent(transport.unix(listener)), "true")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_closed_output_ends_the_command_and_raises(listener: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        Agent(transport.unix(listener)).exec(["yes"], stdin_fd=None, stdout_fd=writer)
    os.close(writer)


def test_slow_reader_of_our_output_gets_all_of_it(listener: Path) -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []

    def read_slowly() -> None:
        while data := os.read(reader, 30_000):
            got.append(data)
            time.sleep(0.001)

    thread = threading.Thread(target=read_slowly)
    thread.start()
    status = Agent(transport.unix(listener)).exec(
        ["head", "-c", "3000000", "/dev/zero"], stdin_fd=None, stdout_fd=writer
    )
    os.close(writer)
    thread.join()
    os.close(reader)
    assert (status, sum(map(len, got))) == (0, 3_000_000)


def test_no_descriptor_is_left_open(listener: Path) -> None:
    agent = Agent(transport.unix(listener))
    agent.health()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        agent.health()
        guest_lab.execute(agent, "true")
        with pytest.raises(errors.NoInput):
            list(agent.get_files("/no/such/path"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_environment_may_be_pairs_or_words(listener: Path) -> None:
    agent = Agent(transport.unix(listener))
    assert guest_lab.execute(agent, "printenv", "A", env={"A": "1=2"}).stdout == b"1=2\n"
    assert guest_lab.execute(agent, "printenv", "A", env=["A=1=2"]).stdout == b"1=2\n"


def test_requests_are_plain_ascii_json() -> None:
    assert client._quoted("/a b/\udcff") == "/a%20b/%FF"
    assert json.dumps("\udcff") == '"\\udcff"'
