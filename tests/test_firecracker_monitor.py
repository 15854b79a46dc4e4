"""Firecracker as a monitor, without a guest that runs: what it is told, what is refused, its API, and its jail.

Firecracker itself reads each configuration here, wherever /dev/kvm can be opened, working or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from banger_tools import errors, process
from banger_tools.net.attachment import Attachment
from banger_tools.store import vms
from banger_tools.vmm import firecracker, firecracker_api, holder, interface, jailer, probe
from banger_tools.vmm import spec as specs
from tests import firecracker_lab, guest_lab, support

SPEC = specs.Spec(
    "8cf57cc4-6270-41e3-94ea-bf81eeba4e0a",
    "web",
    "tiny",
    "amd64",
    "firecracker",
    2,
    128 << 20,
    "none",
    specs.Boot("/k/vmlinux", None, "/k/initrd.img"),
    specs.Guest(),
)
NETWORK = Attachment("bg-ac100005", "02:00:00:00:00:05", "172.16.0.5/16", "172.16.0.1", [], nat=False)


@pytest.fixture
def folder(banger_home: Path) -> Path:
    """The folder of a machine with three disks."""
    folder = vms.folder(SPEC.name)
    folder.mkdir(mode=0o700, parents=True)
    for name in (specs.ROOT_DISK, specs.WORK_DISK, specs.CONFIG_DISK):
        (folder / name).write_bytes(bytes(4096))
        (folder / name).chmod(0o600)
    return folder


def configuration(spec: specs.Spec, folder: Path, network: Attachment | None = None) -> dict[str, object]:
    return firecracker.configuration(interface.Run(spec, folder, "kvm", network), "vmlinux", "initrd.img")


def test_disks_are_in_order_and_those_to_be_read_only_are(folder: Path) -> None:
    spec = structs.replace(SPEC, guest=specs.Guest(read_only=True))
    drives = configuration(spec, folder)["drives"]
    assert [(drive["path_on_host"], drive["is_read_only"]) for drive in drives] == [  # type: ignore[attr-defined]
        ("root.ext4", True),
        ("work.ext4", False),
        ("config.img", True),
    ]


def test_limits_are_rate_limiters_of_each_disk_and_way(folder: Path) -> None:
    spec = structs.replace(SPEC, limits=specs.Limits(1 << 20, 500, 1 << 16))
    config = configuration(spec, folder, NETWORK)
    limiter = {"bandwidth": {"size": 1 << 20, "refill_time": 1000}, "ops": {"size": 500, "refill_time": 1000}}
    assert [drive["rate_limiter"] for drive in config["drives"]] == [limiter] * 3  # type: ignore[attr-defined]
    (card,) = config["network-interfaces"]  # type: ignore[misc]
    assert (card["host_dev_name"], card["guest_mac"]) == (NETWORK.tap, NETWORK.mac)
    assert card["rx_rate_limiter"] == card["tx_rate_limiter"] == {"bandwidth": {"size": 1 << 16, "refill_time": 1000}}
    assert "rate_limiter" not in json.dumps(configuration(SPEC, folder, NETWORK))


def test_guest_is_told_to_end_by_a_reset(folder: Path) -> None:
    assert "reboot=k" in str(configuration(SPEC, folder)["boot-source"]).split()


# What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"net": "user"}, errors.BadUsage, "no network of the kind 'user'"),
        ({"cpus": 33}, errors.BadUsage, "32 at most"),
        ({"architecture": "riscv64"}, errors.Unavailable, "riscv64"),
    ],
)
def test_what_firecracker_never_does_is_refused_with_qemu_for_a_hint(
    changes: dict[str, object], kind: type[errors.BangerError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firecracker, "_HOSTS", {os.uname().machine: SPEC.architecture})
    with pytest.raises(kind, match=said) as caught:
        firecracker.check(structs.replace(SPEC, **changes))
    assert caught.value.hint and "--vmm qemu" in caught.value.hint


@pytest.fixture
def fake(tmp_path: Path, banger_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first in PATH for programs in Firecracker's place, on a host whose /dev/kvm opens."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(firecracker, "_HOSTS", {os.uname().machine: SPEC.architecture})
    monkeypatch.setattr(probe, "DEVICE", Path("/dev/null"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "vmlinux").write_bytes(b"kernel")
    firecracker.version.cache_clear()
    yield tmp_path / "bin"
    firecracker.version.cache_clear()


def program(path: Path, version: str, then: str = "exit 1") -> None:
    script = f'case $1 in --version) echo "Firecracker v{version}"; exit 0 ;; esac\n{then}\n'
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)


def spec_of(fake: Path) -> specs.Spec:
    return structs.replace(SPEC, boot=specs.Boot(str(fake.parent / "vmlinux")))


def test_missing_firecracker_is_told_with_where_it_comes_from(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/bin")
    with pytest.raises(errors.Unavailable, match="'firecracker' is not installed") as caught:
        firecracker.check(spec_of(fake))
    assert "releases" in str(caught.value.hint)


def test_old_firecracker_is_refused_with_its_version(fake: Path) -> None:
    program(fake / "firecracker", "1.4.1")
    with pytest.raises(errors.Unavailable, match=r"Firecracker 1\.4\.1 is too old") as caught:
        firecracker.check(spec_of(fake))
    assert "1.5" in str(caught.value.hint)


def test_kernel_that_comes_to_its_end_in_firecracker_proves_it(fake: Path) -> None:
    panic = 'test "$1" = --no-api && grep -q vmlinux "$3" && echo "Kernel panic - not syncing: VFS: Unable"'
    program(fake / "firecracker", "1.10.0", f"{panic}; exec sleep 99")  # a child of the shell's would outlive it
    firecracker.check(spec_of(fake))
    program(fake / "firecracker", "1.10.0")  # not tried again
    firecracker.check(spec_of(fake))


def test_firecracker_in_which_no_kernel_boots_is_refused_with_its_words(fake: Path) -> None:
    program(fake / "firecracker", "1.12.1", "echo 'Error: no KVM for you' >&2; exit 1")
    with pytest.raises(errors.Unavailable, match="no KVM for you") as caught:
        firecracker.check(spec_of(fake))
    assert "--vmm qemu" in str(caught.value.hint)


def test_firecracker_in_which_a_kernel_hangs_is_given_up(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "FIRECRACKER_DEADLINE", 0.5)
    program(fake / "firecracker", "1.12.1", "echo booting; exec sleep 99")
    with pytest.raises(errors.Unavailable, match="nothing came of it"):
        firecracker.check(spec_of(fake))


def test_jail_without_root_is_refused(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("firecracker", "jailer"):
        program(fake / name, "1.12.1")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.Denied, match="only root"):
        firecracker.check(structs.replace(spec_of(fake), jail=True))


def test_jail_without_its_program_is_refused(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(fake / "firecracker", "1.12.1")
    monkeypatch.setattr(process, "search_path", lambda: f"{fake}:/bin")
    with pytest.raises(errors.Unavailable, match="'jailer' is not installed"):
        firecracker.check(structs.replace(spec_of(fake), jail=True))


def test_overlay_is_no_disk_for_firecracker(folder: Path) -> None:
    (folder / specs.ROOT_DISK).rename(folder / specs.OVERLAY)
    with pytest.raises(errors.Unavailable, match=r"root\.qcow2.*qcow2"):
        firecracker.prepare(interface.Run(SPEC, folder, "kvm", None))


# The API ----------------------------------------------------------------------------


@contextlib.contextmanager
def server(path: Path, answer: bytes) -> Iterator[list[bytes]]:
    """Answer one request on a Unix socket, and tell what it was."""
    seen: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            with listener.accept()[0] as stream:
                seen.append(stream.recv(65536))
                stream.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield seen
        thread.join(60)


def test_fault_of_the_api_is_told_in_its_words(tmp_path: Path) -> None:
    body = b'{"fault_message": "not now"}'
    answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with server(tmp_path / "s", answer) as seen:
        with pytest.raises(errors.IOFailure, match="refused 'PUT /actions': not now"):
            firecracker_api.ask(tmp_path / "s", "PUT", "/actions", {"action_type": "x"})
    assert seen[0].startswith(b"PUT /actions HTTP/1.1\r\n") and seen[0].endswith(b'{"action_type": "x"}')


def test_machine_without_an_api_has_an_unknown_state(folder: Path) -> None:
    record = specs.Record(specs.SCHEMA, SPEC)
    assert firecracker.status(record) == "unknown"
    (folder / "api.sock").touch()
    assert firecracker.status(record) == "unknown"


# The real Firecracker ----------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel(bootable_home: Path) -> Path:
    return bootable_home / "state" / "kernels" / "cloud-amd64"


@pytest.fixture
def real(pytestconfig: pytest.Config, kernel: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> specs.Spec:
    """A machine of the real Firecracker, whose guest need not get anywhere."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        support.cannot("/dev/kvm cannot be opened")
    assert pytestconfig.cache
    binaries = firecracker_lab.programs(pytestconfig.cache.mkdir("firecracker-1.12.1"))
    monkeypatch.setenv("PATH", str(binaries), prepend=os.pathsep)
    boot = specs.Boot(str(kernel / "vmlinux"), None, str(kernel / "initrd.img"))
    return structs.replace(SPEC, boot=boot, limits=specs.Limits(1 << 20, 500))


@contextlib.contextmanager
def started(spec: specs.Spec, folder: Path) -> Iterator[int]:
    """Start Firecracker, tell its process id, and kill it."""
    launch = firecracker.prepare(interface.Run(spec, folder, "kvm", None))
    pid = holder.start(launch.argv, folder, launch.pipes)
    try:
        answers = firecracker.wait_started(specs.Record(specs.SCHEMA, spec), time.monotonic() + 120)
        assert answers, (folder / holder.LOG).read_text() + (folder / firecracker.LOG).read_text()
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert holder.wait_gone(folder, 60)
        firecracker.clear(folder)


def threads_with_seccomp(pid: int) -> set[str]:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Seccomp:")}


@pytest.mark.firecracker
def test_firecracker_takes_the_machine_and_leaves_no_socket(real: specs.Spec, folder: Path) -> None:
    record = specs.Record(specs.SCHEMA, real)
    with started(real, folder) as pid:
        assert firecracker.status(record) == "running"
        assert threads_with_seccomp(pid) == {"2"}  # a filter, in each of them
        assert {path.name for path in folder.glob("*.sock")} == {"api.sock", "v.sock"}
        assert [oct(path.stat().st_mode & 0o77) for path in folder.iterdir()] == ["0o0"] * len(list(folder.iterdir()))
        metrics = folder / firecracker.METRICS
        assert guest_lab.until(lambda: "\n" in metrics.read_text())
        assert json.loads(metrics.read_text().splitlines()[0])["balloon"]
    assert firecracker.status(record) == "unknown"
    assert list(folder.glob("*.sock")) == []
    assert b"Running Firecracker" not in (folder / specs.CONSOLE).read_bytes()
    assert "Running Firecracker" in (folder / firecracker.LOG).read_text()


@pytest.fixture
def jailed(real: specs.Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> specs.Spec:
    if os.geteuid() != 0:
        support.cannot("only root can use the jailer")
    monkeypatch.setattr(jailer, "RESERVED", tmp_path / "reserved")
    return structs.replace(real, jail=True)


LOOK = """
import os, sys
os.chroot(sys.argv[1]); os.chdir("/")
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
for folder, _, names in os.walk("."):
    for name in names:
        path = os.path.join(folder, name)
        print(os.path.normpath(path), *(word for word, how in (("r", os.R_OK), ("w", os.W_OK)) if os.access(path, how)))
"""


@pytest.mark.firecracker
def test_jail_lets_firecracker_write_its_disks_and_no_other_file_of_ours(jailed: specs.Spec, folder: Path) -> None:
    (folder / "jail" / "half").mkdir(parents=True)  # as after a start that was killed
    with started(jailed, folder) as pid:
        user = os.stat(f"/proc/{pid}").st_uid
        assert user in jailer.USERS and threads_with_seccomp(pid) == {"2"}
        assert os.path.samefile(f"/proc/{pid}/root", jailer.root(folder))
        argv = [sys.executable, "-c", LOOK, str(jailer.root(folder)), str(user)]
        seen = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        rights = {name: " ".join(words) for name, *words in map(str.split, seen.splitlines())}
    ours = {name: rights[name] for name in rights if not name.startswith("dev/") and not name.endswith(".sock")}
    written = {specs.ROOT_DISK, specs.WORK_DISK, *firecracker.PIPES}
    assert {name for name, words in ours.items() if "w" in words} == written
    assert set(ours) - written >= {specs.CONFIG_DISK, firecracker.CONFIG, jailer.KERNEL, jailer.INITRD}


@pytest.mark.firecracker
def test_jail_that_has_ended_leaves_nothing_and_the_files_are_ours_again(jailed: specs.Spec, folder: Path) -> None:
    with started(jailed, folder):
        assert os.readlink(jailer.RESERVED / str(jailer.USERS[0])) == str(folder)
        groups = Path(f"/proc/{next(iter(holders(folder)))}/cgroup").read_text()
        assert (jailer.cgroups() is None) == (jailed.id not in groups)
    assert not (folder / jailer.FOLDER).exists()
    assert {(path.stat().st_uid, path.stat().st_nlink) for path in folder.iterdir()} == {(os.geteuid(), 1)}
    assert [name for name in os.listdir(jailer.RESERVED) if name != ".lock"] == []
    assert not any(jailed.id in str(path) for path in Path("/sys/fs/cgroup").glob("**/banger-*"))
    assert jailed.id not in Path("/proc/mounts").read_text()


def holders(folder: Path) -> list[int]:
    """Return the processes whose stdin is a machine's lock."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/0"):
        with contextlib.suppress(OSError):
            found += [int(path.parts[2])] if path.samefile(folder / holder.LOCK) else []
    return found


def test_jails_at_once_have_users_of_their_own_and_those_of_lost_ones_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jailer, "RESERVED", tmp_path / "reserved")
    machines = [tmp_path / name for name in ("one", "two", "three")]
    for machine in machines:
        (machine / jailer.FOLDER).mkdir(parents=True)
    first, second = jailer.USERS[:2]
    assert [jailer.reserve(machine) for machine in machines[:2]] == [first, second]
    (machines[0] / jailer.FOLDER).rmdir()  # as when somebody removed the machine by hand
    assert jailer.reserve(machines[2]) == first
    jailer.clear(machines[1])
    assert jailer.reserve(machines[1]) == second


@pytest.mark.firecracker
def test_kernel_that_only_root_may_read_is_copied_into_the_jail(jailed: specs.Spec, folder: Path) -> None:
    private = folder / "private"
    private.write_bytes(Path(jailed.boot.kernel).read_bytes())
    private.chmod(0o600)
    boot = structs.replace(jailed.boot, kernel=str(private))
    with started(structs.replace(jailed, boot=boot), folder):
        assert not os.path.samefile(private, jailer.root(folder) / jailer.KERNEL)
    assert private.stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_tap_of_a_jail_is_its_users_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        support.cannot("only root can make taps")
    name = f"bgt{os.getpid()}"
    made = subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], capture_output=True, text=True)
    if made.returncode != 0:
        support.cannot(f"no tap can be made: {made.stderr}")
    try:
        jailer.give_tap(name, jailer.USERS[0])
        assert Path(f"/sys/class/net/{name}/owner").read_text() == f"{jailer.USERS[0]}\n"
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


@pytest.mark.parametrize(
    ("mounts", "controllers", "found"),
    [
        ("cgroup2 {} cgroup2 rw 0 0", "cpu memory pids", (2, "memory.max")),
        ("cgroup2 {} cgroup2 rw 0 0", "", None),
        ("cgroup {} cgroup rw,memory 0 0\ncgroup {} cgroup rw,pids 0 0", "", (1, "memory.limit_in_bytes")),
        ("cgroup {} cgroup rw,memory 0 0", "", None),
        ("cgroup2 /no/such/place cgroup2 rw 0 0", "", None),
        ("tmpfs /tmp tmpfs rw 0 0", "", None),
    ],
)
def test_cgroups_are_those_that_can_limit_memory_and_processes(
    mounts: str,
    controllers: str,
    found: tuple[int, str] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mounts").write_text(mounts.replace("{}", str(tmp_path)) + "\n")
    (tmp_path / "cgroup.controllers").write_text(f"{controllers}\n")
    monkeypatch.setattr(jailer, "_MOUNTS", tmp_path / "mounts")
    groups = jailer.cgroups()
    assert (groups and (groups.version, groups.memory)) == found
