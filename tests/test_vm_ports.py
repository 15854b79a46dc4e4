"""Ports of this host that are asked for, and that something has already."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from banger_tools import errors
from banger_tools.net.attachment import Attachment
from banger_tools.store import vms
from banger_tools.vmm import fit, holder
from banger_tools.vmm import spec as specs
from tests import logins, machines, support
from tests.test_vmm import SPEC


def stored(name: str, forwards: list[specs.Forward], process: specs.Process | None = None) -> Path:
    """Put a machine into the store, and return its folder."""
    folder = vms.folder(name)
    folder.mkdir(parents=True)
    vms.save(specs.Record(specs.SCHEMA, structs.replace(SPEC, name=name, forwards=forwards), process))
    return folder


@pytest.fixture
def led(banger_home: Path) -> Iterator[tuple[int, int]]:
    """A port that leads to a machine at a tap, on which nobody listens; and the machine's process."""
    port = logins.free_port()
    # a link that is always there in place of the tap
    network = Attachment("lo", "06:00:ac:10:00:05", "172.16.0.5/16", "172.16.0.1", [], False)
    process = specs.Process(0, 0, "", "kvm", "q35", network=network)
    folder = stored("first", [specs.Forward(port, 80, "0.0.0.0")], process)
    pid = holder.start(["sleep", "600"], folder)
    yield port, pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_port_that_leads_to_a_running_machine_is_refused_at_every_start(led: tuple[int, int], tmp_path: Path) -> None:
    port, _ = led
    disk = machines.mke2fs(tmp_path / "disk.ext4", size="4M")
    made = support.run("bg-boot", disk, "--name=second", f"--publish={port}:22")
    assert (made.returncode, b"'first'" in made.stderr) == (73, True)
    assert vms.listed() == ["first"]
    stored("second", [specs.Forward(port, 22)])
    started = support.run("banger", "vm", "start", "second")
    assert (started.returncode, b"'first'" in started.stderr) == (73, True)


def test_port_of_a_machine_that_ended_or_has_its_tap_elsewhere_is_free(led: tuple[int, int]) -> None:
    port, pid = led
    spec = structs.replace(SPEC, name="second", forwards=[specs.Forward(port, 22)])
    with pytest.raises(errors.CannotCreate, match="'first'"):
        fit.refuse_taken_ports(spec)
    fit.refuse_taken_ports(structs.replace(spec, forwards=[specs.Forward(port, 22, protocol="udp")]))
    fit.refuse_taken_ports(structs.replace(spec, name="first"))
    record = vms.load("first")
    assert record.process and record.process.network
    gone = structs.replace(record.process, network=structs.replace(record.process.network, tap="nosuch"))
    vms.save(structs.replace(record, process=gone))
    fit.refuse_taken_ports(spec)
    vms.save(record)
    os.kill(pid, signal.SIGKILL)
    assert holder.wait_gone(vms.folder("first"), 60)
    fit.refuse_taken_ports(spec)


def test_port_of_udp_is_not_shared_with_one_who_would_share_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(errors.CannotCreate, match="in use"):
            specs.refuse_taken_ports([specs.Forward(taken.getsockname()[1], 53, protocol="udp")])


def test_port_of_a_connection_that_lingers_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
            assert client.recv(1) == b""
    specs.refuse_taken_ports([specs.Forward(port, 80)])
