"""Connections over a port whose stream is never reset, as virtio-serial's is not."""

from __future__ import annotations

import os
import pty
import socket
import struct
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.agent import serial, transport
from banger_tools.agent.client import Agent
from tests import guest_lab

TOKEN = "0123456789abcdef" * 2
OTHER = "f" * 32
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[socket.socket]:
    """Our end of a port that an agent speaks on, bare."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "port"))
    listener.listen(1)
    with guest_lab.running("agent", "--serial", tmp_path / "port"), listener:
        stream = listener.accept()[0]
        stream.settimeout(guest_lab.SECONDS)
        with stream:
            yield stream


def read_until(stream: socket.socket, mark: bytes) -> bytes:
    """Return what comes up to and with a mark."""
    data = b""
    while mark not in data:
        piece = stream.recv(4096)
        assert piece, f"the port ended; it said {data!r}"
        data += piece
    return data


def answer(token: str) -> bytes:
    return b"~A" + token.encode() + b"~"


def test_hello_is_answered_with_its_token(wire: socket.socket) -> None:
    wire.sendall(serial.hello(TOKEN))
    assert read_until(wire, answer(TOKEN)) == answer(TOKEN)


def test_repeated_hello_is_the_same_connection(wire: socket.socket) -> None:
    wire.sendall(serial.hello(TOKEN) * 5)
    wire.sendall(HEALTH)
    data = read_until(wire, b"banger-agent")
    assert data.startswith(answer(TOKEN))
    assert data.count(b"200 OK") == 1


@pytest.mark.parametrize(
    "before",
    [
        b"~",
        b"~~",
        b"~~~",
        b"~H",
        b"~H0123",
        b"~E",
        b"~E~",
        b"}",
        b"}~",
        b"noise",
        b"~A~",
        b"~" + b"x" * 500,
        b"~H" + b"g" * 32 + b"~",
    ],
    ids=repr,
)
def test_hello_is_found_behind_what_a_cut_stream_left(wire: socket.socket, before: bytes) -> None:
    wire.sendall(before)
    time.sleep(0.05)
    wire.sendall(serial.hello(TOKEN))
    wire.sendall(serial.hello(TOKEN))  # a client repeats it, and one repetition must be enough
    assert answer(TOKEN) in read_until(wire, answer(TOKEN))
    wire.sendall(HEALTH)
    assert b"200 OK" in read_until(wire, b"banger-agent")


def test_new_hello_ends_the_command_of_the_old_connection(wire: socket.socket) -> None:
    body = b'{"argv": ["sh", "-c", "echo pid $$ known; exec sleep 60"], "stdin": true}'
    wire.sendall(serial.hello(TOKEN))
    wire.sendall(serial.encode(b"POST /exec HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    pid = int(read_until(wire, b" known").partition(b"pid ")[2].split()[0])
    assert Path(f"/proc/{pid}").exists()
    wire.sendall(serial.hello(OTHER))
    read_until(wire, answer(OTHER))
    assert guest_lab.until(lambda: not Path(f"/proc/{pid}").exists())


def test_old_output_never_follows_the_answer_to_a_new_hello(wire: socket.socket) -> None:
    body = b'{"argv": ["yes", "old"]}'
    wire.sendall(serial.hello(TOKEN))
    wire.sendall(serial.encode(b"POST /exec HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    read_until(wire, b"old\nold\n")
    wire.sendall(serial.hello(OTHER))
    wire.sendall(HEALTH)
    data = read_until(wire, b"banger-agent").partition(answer(OTHER))[2]
    assert b"banger-agent" in data
    assert b"old" not in data


def test_end_of_the_stream_is_told_both_ways(wire: socket.socket) -> None:
    wire.sendall(serial.hello(TOKEN) + HEALTH + serial.END)
    data = read_until(wire, serial.END)
    assert b"200 OK" in data


def test_flags_and_escapes_in_the_data_arrive(tmp_path: Path) -> None:
    data = bytes(range(256)) * 512 + b"~}" * 40_000 + b"}]}^~" * 40_000
    with guest_lab.port(tmp_path):
        agent = Agent(transport.serial_ports(tmp_path))
        result = guest_lab.execute(agent, "cat", stdin=data)
    assert result.stdout == data


def test_many_clients_one_after_the_other_share_a_port(tmp_path: Path) -> None:
    with guest_lab.port(tmp_path):
        agent = Agent(transport.serial_ports(tmp_path))
        for status in range(30):
            assert guest_lab.execute(agent, "sh", "-c", f"exit {status}").status == status


def test_client_that_left_in_the_middle_of_output_does_not_disturb_the_next(tmp_path: Path) -> None:
    with guest_lab.port(tmp_path):
        agent = Agent(transport.serial_ports(tmp_path))
        for _ in range(3):
            with transport.serial_ports(tmp_path)(time.monotonic() + 5) as connection:
                body = b'{"argv": ["yes", "old"]}'
                head = b"POST /exec HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.send(head + body, time.monotonic() + 5)
                assert connection.receive(time.monotonic() + 5)
            assert agent.health(10).name == "banger-agent"


def test_busy_port_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    with guest_lab.port(tmp_path):
        connect = transport.serial_ports(tmp_path)
        with connect(time.monotonic() + 5):
            began = time.monotonic()
            with pytest.raises(errors.Retry):
                connect(began + 0.5)
            assert time.monotonic() - began < 3
        connect(time.monotonic() + 5).close()


def test_silent_port_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "agent.0.sock"))
    listener.listen(1)
    with listener, pytest.raises(errors.Retry, match="does not answer"):
        transport.serial_ports(tmp_path)(time.monotonic() + 0.5)


def test_socket_is_reached_in_a_folder_whose_path_is_longer_than_a_socket_name_may_be(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    here = os.getcwd()
    os.chdir(deep)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("agent.0.sock")
    finally:
        os.chdir(here)
    listener.listen(1)
    with listener, transport.connect_unix(deep / "agent.0.sock"):
        listener.accept()[0].close()


def test_terminal_serves_as_a_port() -> None:
    near, far = pty.openpty()
    tty.setraw(near)
    with guest_lab.running("agent", "--serial", os.ttyname(far)):
        time.sleep(0.2)
        os.write(near, serial.hello(TOKEN))
        assert os.read(near, 100) == answer(TOKEN)
    os.close(near)
    os.close(far)


def test_port_that_nobody_is_on_costs_no_processor_time() -> None:
    near, far = pty.openpty()
    name = os.ttyname(far)
    with guest_lab.running("agent", "--serial", name) as process:
        time.sleep(0.3)
        os.close(far)
        os.close(near)  # from now on the guest's poll says that the host hung up, at once and always
        time.sleep(1.0)
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        assert ticks < 10  # of 100 a second


def test_hello_of_another_protocol_version_is_no_connection(wire: socket.socket) -> None:
    wire.sendall(b"~H" + b"A" * 32 + b"~" + HEALTH)
    wire.settimeout(0.5)
    with pytest.raises(TimeoutError):
        wire.recv(100)
    wire.settimeout(guest_lab.SECONDS)
    wire.sendall(struct.pack("1s", b"~") + serial.hello(TOKEN))
    assert answer(TOKEN) in read_until(wire, answer(TOKEN))
