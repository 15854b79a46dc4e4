"""Every kind of image as a real machine, made by the pipe: what each is asked for, and how each ends."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import pty
import random
import struct
import subprocess
import tarfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from banger_tools import errors
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from tests import guest_lab, kinds, support, trees

pytestmark = [pytest.mark.boot, pytest.mark.slow]

SECONDS = 300.0  # emulated, and beside other work
MEBIBYTE = 1 << 20
LARGE = 100 * MEBIBYTE


class Machine(NamedTuple):
    """A running machine of a kind."""

    name: str
    kind: kinds.Kind
    folder: Path
    agent: Agent

    def sh(self, script: str) -> str:
        """Run a script that must succeed, and return what it prints."""
        result = guest_lab.execute(self.agent, *self.kind.shell, script)
        assert result.status == 0, result
        return result.stdout.decode()

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace").replace("\r", "")


@pytest.fixture(scope="module", params=list(kinds.table()))
def machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine of one kind, from nothing to an agent that answers."""
    name: str = request.param
    kind = kinds.table()[name]
    kinds.publish(name, kind, tmp_path_factory.mktemp(name))
    words = [f"--image={name}", f"--name={name}", "--work-disk=64M", f"--timeout={SECONDS:.0f}", *kind.options]
    vm = support.manifest_of(support.run_ok("bg-boot", *words, timeout=SECONDS * 2))["vm"]
    folder = Path(vm["path"])
    yield Machine(name, kind, folder, Agent(transport.serial_ports(folder)))
    support.run("banger", "vm", "delete", name, "--force")


def test_agent_is_ready_and_tells_which_boot_it_is(machine: Machine) -> None:
    health = machine.agent.health()
    assert health.ready is True and health.uptime > 0
    assert health.boot_id == machine.sh("cat /proc/sys/kernel/random/boot_id").strip()


def test_init_of_the_image_is_process_one(machine: Machine) -> None:
    assert machine.sh("cat /proc/1/comm").strip() == machine.kind.init


def test_names_network_root_and_entropy_are_there(machine: Machine) -> None:
    assert machine.sh("cat /proc/sys/kernel/hostname /etc/hostname") == f"{machine.name}\n" * 2
    assert f"127.0.1.1 {machine.name}" in machine.sh("cat /etc/hosts")
    assert machine.sh("cat /etc/resolv.conf") == "nameserver 10.0.2.3\n"
    assert "0202000A" in machine.sh("cat /proc/net/route") and "10.0.2.15" in machine.sh("cat /proc/net/fib_trie")
    mounts = {line.split()[1]: line.split()[2:4] for line in machine.sh("cat /proc/mounts").splitlines()}
    assert mounts["/"][0] == ("overlay" if machine.kind.options else "ext4") and mounts["/"][1].startswith("rw")
    assert {"/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/root"} <= set(mounts)
    assert int(machine.sh("head -c 32 /dev/random | wc -c")) == 32  # it waits where the kernel has none


def test_status_and_streams_of_a_command_are_its_own(machine: Machine) -> None:
    words = [*machine.kind.shell, "cat; echo to stderr >&2; exit 42"]
    assert guest_lab.execute(machine.agent, *words, stdin=b"from stdin\n") == (42, b"from stdin\n", b"to stderr\n")


def test_who_listens_is_listed(machine: Machine) -> None:
    def listener() -> list[str]:
        return [str(port.program) for port in machine.agent.ports() if port.port == 7777]

    machine.sh(f"{machine.kind.listen} >/dev/null 2>&1 </dev/null &")
    assert guest_lab.until(listener, SECONDS)
    assert set(listener()) <= {"perl", "nc", "busybox"}


def large() -> Iterator[bytes]:
    """Yield a file that has no pattern, a piece at a time."""
    source = random.Random(1)
    for _ in range(LARGE // MEBIBYTE):
        yield source.randbytes(MEBIBYTE)


def archive() -> Iterator[bytes]:
    """Yield a tar of that file."""
    entry = tarfile.TarInfo("large")
    entry.size = LARGE
    yield entry.tobuf()
    yield from large()
    yield bytes(2 * tarfile.BLOCKSIZE)


def digest(pieces: Iterator[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def received(agent: Agent, path: str) -> Iterator[bytes]:
    """Yield the content of the one file in a folder of the guest."""
    with open_pipe(agent.get_files(path)) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            while file and (piece := file.read(MEBIBYTE)):
                yield piece


@contextlib.contextmanager
def open_pipe(pieces: Iterator[bytes]) -> Iterator[io.BufferedReader]:
    """Give pieces as a file."""
    reading, writing = os.pipe()

    def pump() -> None:
        with open(writing, "wb") as target, contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                target.write(piece)

    thread = threading.Thread(target=pump)
    thread.start()
    with open(reading, "rb") as source:
        yield source
        source.read()
    thread.join()


def test_hundred_megabytes_go_in_and_come_out_the_same(machine: Machine) -> None:
    assert machine.agent.put_files("/srv/transfer", archive()) == 1
    assert digest(received(machine.agent, "/srv/transfer")) == digest(large())
    machine.sh("rm -r /srv/transfer")


def read_until(terminal: int, mark: bytes) -> bytes:
    """Return what a terminal shows, up to a mark or its end."""
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal ends
        while mark not in shown and (data := os.read(terminal, 4096)):
            shown += data
    return shown


def set_size(terminal: int, rows: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def test_terminal_of_the_guest_follows_the_size_of_ours(machine: Machine) -> None:
    script = 'echo begun; until [ "$(stty size)" = "33 101" ]; do sleep 0.2; done; echo resized'
    argv = support.argv("banger", "vm", "exec", machine.name, *machine.kind.shell, script)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, support.environment())
    try:
        assert b"begun" in read_until(terminal, b"begun")
        set_size(terminal, 33, 101)
        assert b"resized" in read_until(terminal, b"resized")
        read_until(terminal, b"nothing more")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(terminal)


def test_thirty_two_commands_run_at_once(machine: Machine) -> None:
    statuses: list[int] = []

    def one(number: int) -> None:
        statuses.append(guest_lab.execute(machine.agent, *machine.kind.shell, f"exit {number}").status)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == list(range(32))


def agents(machine: Machine) -> set[int]:
    """Return the guest's processes of the agent."""
    found = machine.sh("cd /proc; for p in [0-9]*; do read name <$p/comm && echo $p $name; done 2>/dev/null; true")
    return {int(line.split()[0]) for line in found.splitlines() if line.endswith(" banger-agent")}


def answers(machine: Machine) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return machine.agent.health(5.0).ready
        except errors.BangerError:
            return False

    return ask


def test_agent_comes_back_when_it_dies(machine: Machine) -> None:
    before = agents(machine)
    assert before
    with contextlib.suppress(errors.BangerError):  # it cannot report the end of what ended it
        machine.sh(f"kill -9 {' '.join(map(str, before))}")
    assert guest_lab.until(answers(machine), SECONDS)
    assert agents(machine) - before


def test_getty_without_a_terminal_does_not_fill_the_console(machine: Machine) -> None:
    assert guest_lab.until(lambda: machine.kind.settled in machine.console(), SECONDS)
    uptime = machine.agent.health().uptime
    assert len(machine.console().splitlines()) < 60 + 2 * uptime, machine.console()


def is_gone(machine: Machine) -> Callable[[], bool]:
    def look() -> bool:
        shown = support.manifest_of(support.run_ok("banger", "vm", "show", machine.name))
        return bool(shown["vm"]["state"] == "ended")

    return look


def on_disk(machine: Machine, disk: str, path: str) -> bytes:
    argv = ["debugfs", "-R", f"cat {path}", str(machine.folder / disk)]
    return subprocess.run(argv, capture_output=True, env=support.environment(), check=True).stdout


def check_disks(machine: Machine, kept: bytes) -> None:
    """Both disks are clean and hold what was written, but for the root disk that nothing may be written to."""
    for disk in ("root.ext4", "work.ext4"):
        trees.fsck(machine.folder / disk)
    assert on_disk(machine, "work.ext4", "/kept") == kept
    assert on_disk(machine, "root.ext4", "/kept") == (b"" if machine.kind.options else kept)


def test_shutdown_by_the_agent_is_the_image_s_own_and_keeps_the_data(machine: Machine) -> None:
    machine.sh("echo once > /kept; echo once > /root/kept")
    support.run_ok("banger", "vm", "stop", machine.name, f"--timeout={SECONDS:.0f}", timeout=SECONDS * 2)
    assert machine.kind.farewell in machine.console()
    check_disks(machine, b"once\n")


def test_machine_starts_again_with_its_data_and_poweroff_in_it_ends_it(machine: Machine) -> None:
    support.run_ok("banger", "vm", "start", machine.name, f"--timeout={SECONDS:.0f}", timeout=SECONDS * 2)
    assert machine.sh("cat /root/kept") == "once\n"
    assert guest_lab.until(lambda: machine.kind.settled in machine.console(), SECONDS)
    machine.sh("echo twice > /kept; echo twice > /root/kept")
    began = time.monotonic()
    with contextlib.suppress(errors.BangerError):  # the machine may be gone before the status is
        machine.sh("poweroff")
    assert guest_lab.until(is_gone(machine), SECONDS), time.monotonic() - began
    assert machine.kind.farewell in machine.console()
    check_disks(machine, b"twice\n")
