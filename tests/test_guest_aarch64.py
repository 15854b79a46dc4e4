"""The guest program of aarch64: its agent under QEMU's user emulation, init and agent in a machine of that kind.

In the machine its vsock port is knocked at from inside, which no host's doing can stand for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import agent as agent_package
from banger_tools import errors, guest
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from banger_tools.guest import build
from banger_tools.kernel import apt, initrd, modules
from tests import guest_lab, machines, support
from tests import test_guest_exec as commands
from tests import test_guest_http as requests

ARCH, DEBIAN = "aarch64", "arm64"
BOOT_SECONDS = 240.0


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an agent of that architecture, running here."""
    with guest_lab.listening(tmp_path_factory.mktemp("agent"), ARCH) as path:
        yield path


@pytest.fixture
def agent(listener: Path) -> Agent:
    """A client of that agent."""
    return Agent(transport.unix(listener))


# The same tests as of this machine's own program; not those of memory, which is the emulator's, nor of PUT /files,
# for which that needs openat2.
test_health = requests.test_health_is_told_to_any_http_client_on_one_connection
test_ports = requests.test_ports_are_those_that_listen
test_stats = requests.test_stats_are_those_of_the_machine
test_malformed_request = requests.test_malformed_request_is_refused
test_request_byte_by_byte = requests.test_request_that_comes_byte_by_byte_is_understood
test_missing_path = requests.test_missing_path_is_named
test_odd_names = requests.test_names_that_are_no_utf8_and_hold_odd_bytes_are_reached
test_exit_status = commands.test_exit_status_arrives_verbatim
test_death_by_signal = commands.test_death_by_signal_is_128_and_its_number
test_streams = commands.test_stdin_comes_back_and_stderr_stays_apart
test_missing_command = commands.test_missing_command_is_127_and_unstartable_126
test_bad_folder_or_user = commands.test_bad_folder_or_user_is_126_with_its_name
test_environment = commands.test_folder_and_environment_are_as_asked
test_users = commands.test_users_get_the_groups_that_the_system_gives_them
test_descriptors = commands.test_no_descriptor_and_no_blocked_signal_leaks_into_a_command
test_terminal = commands.test_terminal_has_its_size_and_follows_a_resize
test_interrupt = commands.test_interrupt_key_reaches_the_foreground_of_a_terminal
test_signals = commands.test_signal_frame_reaches_the_whole_group
test_client_goes_away = commands.test_client_that_goes_away_ends_its_command
test_malformed_frame = commands.test_malformed_frame_ends_the_command
test_thirty_two = commands.test_thirty_two_commands_run_at_once


def busybox(folder: Path, options: list[str]) -> Path:
    """Return busybox-static of that architecture."""
    command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *options, "busybox-static"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (package,) = folder.glob("busybox-static*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder / "busybox"], check=True)
    return folder / "busybox" / "bin" / "busybox"


def vsock_client(target: Path) -> None:
    """Compile the client that knocks from inside."""
    source = Path(__file__).with_name("guest_vsock.c")
    command = [*build.compiler(), "cc", "-target", f"{ARCH}-linux-musl", "-static", "-Os", "-s", "-o", str(target)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """The agent of a running machine, its root one static busybox, its kernel Debian's with vsock's loopback."""
    support.need("qemu-system-aarch64", "apt-get", "dpkg-deb")
    folder = tmp_path_factory.mktemp("machine")
    try:
        kernel = apt.unpack(f"linux-image-cloud-{DEBIAN}", folder)
        tools = busybox(folder, apt.foreign_lists(DEBIAN, folder / "apt"))
        vsock_client(folder / "knock")
    except errors.Unavailable as error:
        support.cannot(error.message)
    assert kernel.modules is not None
    wanted = [*modules.WANTED, "vsock_loopback"]
    with open(folder / "initrd.img", "wb") as file:
        program = guest_lab.program(ARCH).read_bytes()
        initrd.write(file, program, modules.closure(modules.Folder(kernel.modules), wanted))
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    tools.rename(tree / "bin" / "busybox")
    (folder / "knock").rename(tree / "bin" / "knock")
    (tree / "bin" / "sh").symlink_to("busybox")
    machines.mke2fs(folder / "root.ext4", tree, "48M", "-E", "root_owner=0:0")
    text = json.dumps({"schema": guest.CONFIG_SCHEMA, "hostname": "arm", "time": 1_900_000_000})
    (folder / "config.raw").write_text(text + "\n" * (-len(text) % 4096))
    process = subprocess.Popen(qemu(kernel.vmlinuz), cwd=folder, stdin=subprocess.DEVNULL)
    try:
        agent = Agent(transport.serial_ports(folder))
        agent.wait_ready(time.monotonic() + BOOT_SECONDS, lambda: process.poll() is None)
        yield agent
        agent.shutdown()
        assert process.wait(BOOT_SECONDS) == 0
        assert "banger-init: powering down" in (folder / "console.log").read_text(errors="replace")
    finally:
        process.kill()
        process.wait()


def qemu(vmlinuz: Path) -> list[str]:
    # the cortex-a72 has no pointer authentication, which costs most of the time when it is emulated
    argv = ["qemu-system-aarch64", "-M", "virt,accel=tcg", "-cpu", "cortex-a72", "-smp", "1", "-m", "384"]
    argv += ["-nodefaults", "-display", "none", "-no-reboot", "-kernel", str(vmlinuz), "-initrd", "initrd.img"]
    argv += ["-append", "console=ttyAMA0 quiet loglevel=4 panic=-1", "-serial", "file:console.log"]
    for number, disk in enumerate(("root.ext4", "config.raw,readonly=on")):
        argv += ["-drive", f"if=none,id=d{number},format=raw,file={disk}", "-device", f"virtio-blk-pci,drive=d{number}"]
    argv += ["-device", "virtio-serial-pci", "-chardev", "socket,id=c0,path=agent.0.sock,server=on,wait=off"]
    return [*argv, "-device", "virtserialport,chardev=c0,name=banger.agent.0"]


def said(agent: Agent, script: str) -> str:
    result = guest_lab.execute(agent, "/bin/sh", "-c", script)
    assert result.status == 0, result
    return result.stdout.decode()


@pytest.mark.boot
def test_machine_of_that_kind_boots_and_runs_commands(machine: Agent) -> None:
    assert said(machine, "busybox uname -m; busybox hostname") == f"{ARCH}\narm\n"
    assert guest_lab.execute(machine, "/bin/sh", "-c", "exit 42").status == 42
    assert machine.health().first_boot_pending is False
    assert machine.stats().disks[0].device == "/dev/vda"


@pytest.mark.boot
def test_files_keep_their_bytes_both_ways_on_it(machine: Agent, tmp_path: Path) -> None:
    data = os.urandom(2_000_000)
    sent = requests.archive((requests.entry("big", mode=0o4711, uid=70_000, gid=5), data))
    assert machine.put_files("/in", [sent]) == 1
    assert said(machine, "busybox sha256sum /in/big").split()[0] == hashlib.sha256(data).hexdigest()
    assert said(machine, "busybox stat -c '%a %u %g' /in/big") == "4711 70000 5\n"
    stream = b"".join(machine.get_files("/in/big"))
    subprocess.run(["tar", "-x", "--no-same-owner", "-C", tmp_path], input=stream, check=True)
    assert (tmp_path / "big").read_bytes() == data


@pytest.mark.boot
def test_clock_is_set_to_what_makes_sense(machine: Agent) -> None:
    for seconds in (1_800_000_000, 1_850_000_000.25):
        machine.set_time(seconds)
        assert 0 <= int(said(machine, "busybox date +%s")) - int(seconds) < 120
    for nonsense in (-1, 7_258_118_400, 1e18):
        with pytest.raises(errors.BadInput, match="seconds since 1970"):
            machine.set_time(nonsense)
    with pytest.raises(errors.BadInput, match="cannot set the clock"):
        machine.set_time(1)  # it would have started before 1970
    assert 0 <= int(said(machine, "busybox date +%s")) - 1_850_000_000 < 600


@pytest.mark.boot
def test_vsock_port_is_open_to_the_host_alone(machine: Agent) -> None:
    """Loopback works in this kernel, somebody listens on the port, and is silent to who is not the host."""
    listening = (
        "/bin/knock listen 5000 & for i in 1 2 3 4 5 6 7 8 9; do /bin/knock 1 5000 && break; busybox sleep 1; done"
    )
    assert "5 bytes: hello" in said(machine, listening)
    assert said(machine, "/bin/knock 1 5001; true") == "connect: Connection reset by peer\n"
    shown = said(machine, f"/bin/knock 1 {agent_package.AGENT_PORT}; true")
    assert re.fullmatch("connected\n(0 bytes: |(send|read): (Broken pipe|Connection reset by peer))\n", shown)


def test_program_is_of_that_machine() -> None:
    header = guest_lab.program(ARCH).read_bytes()[:20]
    assert struct.unpack("<H", header[18:20]) == (183,)  # EM_AARCH64
