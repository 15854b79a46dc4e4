"""The guest program in real machines: each kind of root that an image can be, under a real kernel in QEMU."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from banger_tools import errors, guest
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from banger_tools.kernel import apt, initrd, modules
from tests import guest_lab, machines, support

pytestmark = pytest.mark.boot

BOOT_SECONDS = 90.0
PORTS = 2
NETWORK = {"address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": ["10.0.2.3"]}


class Kernel(NamedTuple):
    """A kernel and the initrd that carries the guest program."""

    vmlinuz: Path
    initrd: Path


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """Debian's cloud kernel, from this machine's own apt."""
    support.need("apt-get", "dpkg-deb")
    if os.uname().machine != "x86_64":
        support.cannot("the test's kernel is for x86_64")
    folder = tmp_path_factory.mktemp("kernel")
    try:
        unpacked = apt.unpack("linux-image-cloud-amd64", folder)
    except errors.Unavailable as error:
        support.cannot(error.message)
    assert unpacked.modules is not None
    with open(folder / "initrd.img", "wb") as file:
        initrd.write(file, guest_lab.program().read_bytes(), modules.closure(modules.Folder(unpacked.modules)))
    return Kernel(unpacked.vmlinuz, folder / "initrd.img")


class Machine:
    """A running QEMU and a client of its agent."""

    def __init__(self, folder: Path, kernel: Kernel, drives: list[str], **config: object) -> None:
        self.folder = folder
        self.console = folder / "console.log"
        text = json.dumps({"schema": guest.CONFIG_SCHEMA, **config}) + "\n"
        (folder / "config.raw").write_text(text + "\n" * (-len(text) % 4096))
        argv = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", "384", "-nodefaults"]
        argv += ["-display", "none", "-no-reboot", "-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initrd)]
        argv += ["-append", "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t", "-serial", f"file:{self.console}"]
        for number, disk in enumerate([*drives, "file=config.raw,readonly=on"]):
            argv += ["-drive", f"if=none,id=d{number},format=raw,{disk}", "-device", f"virtio-blk-pci,drive=d{number}"]
        argv += ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="]
        argv += ["-device", "virtio-serial-pci"]
        for number in range(PORTS):
            argv += ["-chardev", f"socket,id=c{number},path=agent.{number}.sock,server=on,wait=off"]
            argv += ["-device", f"virtserialport,chardev=c{number},name=banger.agent.{number}"]
        self.process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL)
        self.agent = Agent(transport.serial_ports(folder))

    def ready(self) -> Machine:
        try:
            self.agent.wait_ready(time.monotonic() + BOOT_SECONDS, lambda: self.process.poll() is None)
        except errors.BangerError as error:
            raise AssertionError(self.said()) from error
        return self

    def sh(self, script: str) -> str:
        result = guest_lab.execute(self.agent, "/bin/busybox", "sh", "-c", script)
        assert result.status == 0, result
        return result.stdout.decode()

    def ended(self) -> str:
        """Wait until the machine has ended by itself, and return what its console said."""
        assert self.process.wait(BOOT_SECONDS) == 0
        return self.said()

    def said(self) -> str:
        return self.console.read_text(errors="replace").replace("\r", "")


@contextlib.contextmanager
def machine(folder: Path, kernel: Kernel, drives: list[str], **config: object) -> Iterator[Machine]:
    """Start a machine, and make sure that it is gone afterwards."""
    folder.mkdir(exist_ok=True)
    made = Machine(folder, kernel, drives, **config)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def disk(folder: Path, content: Path | None, name: str = "root.ext4") -> Path:
    return machines.mke2fs(folder / name, content, "48M", "-E", "root_owner=0:0")


def is_clean(image: Path) -> bool:
    return subprocess.run(["e2fsck", "-fn", image], capture_output=True, check=False).returncode == 0


def test_image_of_one_program_boots_and_answers_everything(tmp_path: Path, kernel: Kernel) -> None:
    root, work = disk(tmp_path, machines.busybox_root(tmp_path / "tree")), disk(tmp_path, None, "work.ext4")
    config = {
        "hostname": "web",
        "network": NETWORK,
        "disks": {"work": "/dev/vdb"},
        "time": int(time.time()) + 86400 * 365,
        "ssh_keys": ["ssh-ed25519 AAAA me"],
        "env": ["FROM=image"],
    }
    with machine(tmp_path / "vm", kernel, [f"file={root}", f"file={work}"], **config) as vm:
        agent = vm.ready().agent
        assert vm.sh("exit 0") == ""
        assert guest_lab.execute(agent, "sh", "-c", "exit 42").status == 42
        assert vm.sh("hostname; echo $FROM; busybox cat /etc/resolv.conf") == "web\nimage\nnameserver 10.0.2.3\n"
        assert "10.0.2.15" in vm.sh("busybox ifconfig eth0") and "10.0.2.2" in vm.sh("busybox route -n")
        assert abs(int(vm.sh("busybox date +%s")) - config["time"]) < 120  # type: ignore[operator]
        mounts = vm.sh("cat /proc/mounts")
        assert "/dev/vda / ext4 rw" in mounts and "/dev/vdb /root ext4 rw" in mounts
        keys = "busybox stat -c '%a %u:%g' /root/.ssh /root/.ssh/authorized_keys"
        assert vm.sh(keys) == "700 0:0\n600 0:0\n"
        assert agent.stats().disks[0].device == "/dev/vda"
        agent.set_time(1_900_000_000)
        assert 0 <= int(vm.sh("busybox date +%s")) - 1_900_000_000 < 60
        transfer(agent)
        sixteen_at_once(agent)
        vm.sh("echo kept > /root/kept; echo kept > /kept")
        agent.shutdown("graceful")
        assert "banger-init: powering down" in vm.ended()
    assert is_clean(root) and is_clean(work)
    for image, path in ((root, "/kept"), (work, "/kept")):
        shown = subprocess.run(["debugfs", "-R", f"cat {path}", image], capture_output=True, check=True)
        assert shown.stdout == b"kept\n"


def transfer(agent: Agent) -> None:
    """Send a file and get it back."""
    data = os.urandom(4_000_000)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("big")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    agent.put_files("/somewhere/new", [stream.getvalue()])
    summed = guest_lab.execute(agent, "/bin/busybox", "sha256sum", "/somewhere/new/big").stdout.split()[0]
    assert summed.decode() == hashlib.sha256(data).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(b"".join(agent.get_files("/somewhere/new")))) as tar:
        file = tar.extractfile("new/big")
        assert file is not None and file.read() == data


def sixteen_at_once(agent: Agent) -> None:
    """More clients than there are ports: each gets its turn and its own status."""
    statuses: list[int] = []

    def one(number: int) -> None:
        statuses.append(guest_lab.execute(agent, "sh", "-c", f"exit {number}").status)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == list(range(16))


def test_read_only_root_gets_a_layer_that_takes_writes(tmp_path: Path, kernel: Kernel) -> None:
    root = disk(tmp_path, machines.busybox_root(tmp_path / "tree"))
    before = hashlib.sha256(root.read_bytes()).hexdigest()
    with machine(tmp_path / "vm", kernel, [f"file={root},readonly=on"], disks={"read_only": True}) as vm:
        vm.ready()
        assert (
            vm.sh("echo new > /bin/new; cat /bin/new; grep ' / ' /proc/mounts | busybox cut -d' ' -f3")
            == "new\noverlay\n"
        )
        vm.agent.shutdown("now")
        vm.ended()
    assert hashlib.sha256(root.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("power", ["off", "reboot"])
def test_command_of_the_image_runs_and_its_status_is_on_the_console(tmp_path: Path, kernel: Kernel, power: str) -> None:
    root = disk(tmp_path, machines.busybox_root(tmp_path / "tree"))
    script = "echo I am $(id -u) in $PWD; exit 42"
    process = {"run": True, "argv": ["sh", "-c", script], "user": "1000:1000", "cwd": "/srv", "power": power}
    with machine(tmp_path / "vm", kernel, [f"file={root}"], **process) as vm:
        said = vm.ended()
    assert "I am 1000 in /srv\n" in said
    assert "banger-init: command ended with status 42\n" in said
    assert is_clean(root)


def test_busybox_init_of_the_image_takes_over_and_powers_off_its_own_way(tmp_path: Path, kernel: Kernel) -> None:
    tree = machines.busybox_root(tmp_path / "tree")
    (tree / "sbin").mkdir()
    for name in ("init", "poweroff"):
        (tree / "sbin" / name).symlink_to("/bin/busybox")
    (tree / "etc").mkdir()
    (tree / "etc" / "inittab").write_text("::sysinit:/bin/echo inittab was read\n::shutdown:/bin/echo going down\n")
    root = disk(tmp_path, tree)
    with machine(tmp_path / "vm", kernel, [f"file={root}"]) as vm:
        vm.ready()
        assert vm.sh("cat /proc/1/comm") == "init\n"
        vm.agent.shutdown("graceful")
        said = vm.ended()
    assert "inittab was read" in said and "going down" in said
    assert is_clean(root)


def test_root_that_never_appears_ends_with_a_message(tmp_path: Path, kernel: Kernel) -> None:
    root = disk(tmp_path, None)
    with machine(tmp_path / "vm", kernel, [f"file={root}"], disks={"root": "/dev/vdz"}) as vm:
        said = vm.ended()
    assert "disk '/dev/vdz' did not appear within 10 s" in said
    assert "banger-init: fatal: no root filesystem" in said


def test_disk_that_is_no_filesystem_ends_with_a_message(tmp_path: Path, kernel: Kernel) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(1 << 20))
    with machine(tmp_path / "vm", kernel, [f"file={tmp_path / 'noise'}"]) as vm:
        said = vm.ended()
    assert "cannot mount '/dev/vda' (ext4) as root" in said
