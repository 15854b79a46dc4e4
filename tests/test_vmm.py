"""Machines without booting one: specs, the guest config, the process that holds a lock, QEMU's protocol."""

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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from banger_tools import errors
from banger_tools.store import vms
from banger_tools.vmm import guest_config, holder, life, probe, qmp
from banger_tools.vmm import spec as specs
from tests import support
from tests.test_inject import KEY

SPEC = specs.Spec(
    "id",
    "web",
    "tiny",
    "amd64",
    "qemu",
    2,
    512 << 20,
    "user",
    specs.Boot("/k/vmlinux", None, "/k/initrd.img"),
    specs.Guest(),
)


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("8080:80", specs.Forward(8080, 80)),
        ("0.0.0.0:53:53/udp", specs.Forward(53, 53, "0.0.0.0", "udp")),
        ("1:65535/tcp", specs.Forward(1, 65535)),
    ],
)
def test_port_forwards_are_read(text: str, forward: specs.Forward) -> None:
    assert specs.parse_forward(text) == forward


@pytest.mark.parametrize(
    "text", ["", "80", "0:80", "80:0", "80:65536", "a:b", "1.2.3:1:1", "1.2.3.256:1:1", "1:1/sctp"]
)
def test_bad_port_forwards_are_refused(text: str) -> None:
    with pytest.raises(errors.BadUsage, match="--publish"):
        specs.parse_forward(text)


@pytest.mark.parametrize("text", ["0", "-1", "256", "99999", "two", "1.5", ""])
def test_bad_numbers_of_cpus_are_refused(text: str) -> None:
    with pytest.raises(errors.BadUsage, match="--cpus"):
        specs.parse_cpus(text)


@pytest.mark.parametrize("text", ["0", "-1", "1M", "lots", "900T"])
def test_bad_sizes_of_memory_are_refused(text: str) -> None:
    with pytest.raises(errors.BadUsage, match="--memory"):
        specs.parse_memory(text)


@pytest.mark.parametrize("text", ["A", "=x", ""])
def test_bad_environment_is_refused(text: str) -> None:
    with pytest.raises(errors.BadUsage, match="--env"):
        specs.parse_environment([text])


def test_taken_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(errors.CannotCreate, match="in use"):
            specs.refuse_taken_ports([specs.Forward(taken.getsockname()[1], 80)])


def test_private_key_is_refused_with_the_public_one_named(tmp_path: Path) -> None:
    key = tmp_path / "id"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(errors.BadInput, match="private key") as caught:
        specs.read_ssh_key(key)
    assert f"{key}.pub" in (caught.value.hint or "")


def test_public_keys_are_read_without_comments(tmp_path: Path) -> None:
    key = tmp_path / "keys"
    words = KEY.split()
    key.write_bytes(f"# mine\n{KEY}\n\n{words[0]}\t{words[1]} ".encode() + b"caf\xe9\n")
    assert specs.read_ssh_key(key) == [KEY, f"{words[0]}\t{words[1]} caf\ufffd"]


@given(st.text(max_size=300), st.lists(st.text(), max_size=20))
def test_config_disk_is_json_that_begins_with_its_schema_in_whole_blocks(cwd: str, argv: list[str]) -> None:
    spec = structs.replace(SPEC, guest=specs.Guest(cwd=cwd, argv=argv))
    config = guest_config.build(spec, None, work_disk=True, power="off", now=5)
    encodable = "".join(config["argv"] + [cwd]).encode("utf-8", "replace")
    if b"?" in encodable and "?" not in "".join([*argv, cwd]):
        return  # lone surrogates other than those of undecodable bytes
    disk = guest_config.encode(config)
    assert len(disk) % 4096 == 0
    assert disk.startswith(b'{"schema": "banger-guest/1"')
    assert json.loads(disk.decode("utf-8", "surrogateescape")) == config


def test_config_tells_work_disk_network_and_power() -> None:
    config = guest_config.build(SPEC, None, work_disk=True, power="reboot", now=5)
    assert config["disks"]["work"] == "/dev/vdb"
    assert (config["power"], config["time"], config["hostname"]) == ("reboot", 5, "web")
    assert config["network"]["address"] == "10.0.2.15/24"
    plain = guest_config.build(structs.replace(SPEC, net="none"), None, work_disk=False, power="off", now=5)
    assert "work" not in plain["disks"]
    assert "network" not in plain


def test_images_own_command_and_environment_are_passed_on() -> None:
    config = {"Entrypoint": ["/e"], "Cmd": ["a"], "Env": ["A=1", "B=2"], "User": "web", "WorkingDir": "/srv"}
    process = guest_config.process_of(config, ["B=3", "C=4"], run=True)
    expected = {"argv": ["/e", "a"], "env": ["A=1", "B=3", "C=4"], "user": "web", "cwd": "/srv", "run": True}
    assert process == expected
    empty = guest_config.process_of({"Cmd": None, "Env": None, "User": None}, [], run=False)
    assert empty == {"argv": [], "env": [], "user": "", "cwd": "/", "run": False}


def sleeper(folder: Path) -> int:
    return holder.start(["sleep", "60"], folder)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    pid = sleeper(tmp_path)
    yield tmp_path, pid
    os.kill(pid, signal.SIGKILL)  # it stays a zombie, and its id ours, until it is waited for
    os.waitpid(pid, 0)


def test_process_is_alive_as_long_as_it_lives(tmp_path: Path) -> None:
    assert not holder.is_alive(tmp_path)
    pid = sleeper(tmp_path)
    assert holder.is_alive(tmp_path)
    assert not holder.wait_gone(tmp_path, 0.05)
    holder.kill(tmp_path)
    assert holder.wait_gone(tmp_path, 5)
    os.waitpid(pid, 0)
    assert not holder.is_alive(tmp_path)


def test_second_process_is_refused_while_the_first_lives(running: tuple[Path, int]) -> None:
    with pytest.raises(errors.CannotCreate, match="running already"):
        sleeper(running[0])


def test_process_that_only_reads_the_lock_is_not_killed(running: tuple[Path, int]) -> None:
    folder, pid = running
    with open(folder / holder.LOCK, "rb+") as lock:
        reader = subprocess.Popen(["sleep", "60"], stdin=lock)
    try:
        assert holder.holders(folder) == [pid]
        holder.kill(folder)
        assert holder.wait_gone(folder, 5)
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()


def test_process_of_another_folder_is_not_killed(running: tuple[Path, int], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    holder.kill(other)
    assert not holder.wait_gone(running[0], 0.2)


def test_process_has_a_session_of_its_own_and_outlives_its_starter(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from banger_tools.vmm import holder; "
        "f = Path(sys.argv[1]); print(holder.start(['sleep', '60'], f))"
    )
    env = support.environment({"PYTHONPATH": str(support.ROOT)})
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, check=True)
    pid = int(done.stdout)
    try:
        assert holder.is_alive(tmp_path)
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/fd/0") == str(tmp_path / holder.LOCK)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        assert (tmp_path / holder.LOCK).stat().st_size == 0
    finally:
        holder.kill(tmp_path)
    assert holder.wait_gone(tmp_path, 5)


def test_monitor_that_cannot_be_asked_to_end_is_killed_without_waiting_for_that(
    banger_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "_KILL_SECONDS", 3600.0)
    folder = vms.folder("web")
    folder.mkdir(parents=True)
    record = specs.Record(specs.SCHEMA, structs.replace(SPEC, vmm="firecracker", net="none"))
    vms.save(record)
    pid = sleeper(folder)
    assert life.stop(record, 0.1) == "kill"
    os.waitpid(pid, 0)


class FakeQemu:
    """A server that speaks as a script says: bytes to send for each line that it reads."""

    def __init__(self, path: Path, answers: list[bytes]) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        with qmp.short_folder(path.parent) as folder:
            self.listener.bind(str(folder / path.name))
        self.listener.listen()
        self.heard: list[bytes] = []
        self.thread = threading.Thread(target=self.serve, args=(answers,), daemon=True)
        self.thread.start()

    def serve(self, answers: list[bytes]) -> None:
        connection, _ = self.listener.accept()
        with contextlib.suppress(BrokenPipeError), connection, connection.makefile("rb") as lines:
            for answer in answers:
                connection.sendall(answer)
                self.heard.append(lines.readline())
        self.listener.close()


GREETING = b'{"QMP": {}}\n'


def test_qmp_passes_events_over_and_returns_the_answer(tmp_path: Path) -> None:
    event = b'{"event": "RESUME"}\n'
    fake = FakeQemu(tmp_path / "q", [GREETING, event + b'{"return": {}}\n', event + b'{"return": {"running": true}}\n'])
    with qmp.Connection(tmp_path / "q", time.monotonic() + 5) as connection:
        assert connection.execute("query-status") == {"running": True}
    assert b"qmp_capabilities" in fake.heard[0]


def test_qmp_socket_in_a_deep_folder_is_reached(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    FakeQemu(deep / "qmp.sock", [GREETING, b'{"return": {}}\n'])
    qmp.Connection(deep / "qmp.sock", time.monotonic() + 5).close()


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([b""], TimeoutError),
        ([b"no json\n" * 2], ConnectionError),
        ([b"x" * (2 << 20)], errors.BadInput),
        ([GREETING, b'{"error": {"desc": "no"}}\n'], errors.IOFailure),
    ],
)
def test_lying_qmp_ends_with_an_error(tmp_path: Path, answers: list[bytes], error: type[Exception]) -> None:
    FakeQemu(tmp_path / "q", answers)
    began = time.monotonic()
    with pytest.raises(error):
        qmp.Connection(tmp_path / "q", began + 0.3)
    assert time.monotonic() - began < 3


Script = Callable[[str], str]


@pytest.fixture
def fake_qemu(tmp_path: Path, banger_home: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """A program in QEMU's place that does what a shell script says and counts how often it was run."""
    monkeypatch.setattr(probe, "DEVICE", Path("/dev/null"))
    monkeypatch.setattr(probe, "DEADLINE", 60.0)

    def make(script: str) -> str:
        program = tmp_path / "fake-qemu"
        program.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\n{script}\n")
        program.chmod(0o755)
        return str(program)

    return make


REACHED = 'echo "Kernel panic - not syncing: VFS: Unable to mount root fs"'


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    (tmp_path / "kernel").write_bytes(b"one")
    return tmp_path / "kernel"


def test_kvm_that_boots_a_kernel_is_usable(fake_qemu: Script, kernel: Path) -> None:
    assert probe.kvm(fake_qemu(REACHED), "1", kernel).usable


def test_kvm_in_which_a_kernel_hangs_is_not_usable_and_found_out_in_time(
    fake_qemu: Script, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, began = fake_qemu("echo Probing EDD; exec sleep 600"), time.monotonic()
    monkeypatch.setattr(probe, "DEADLINE", 0.5)
    answer = probe.kvm(program, "1", kernel)
    assert not answer.usable
    assert "does not boot with KVM" in answer.reason
    assert time.monotonic() - began < 300


def test_kvm_that_is_refused_tells_qemus_reason(fake_qemu: Script, kernel: Path) -> None:
    answer = probe.kvm(fake_qemu("echo 'failed to initialize kvm: no' >&2; exit 1"), "1", kernel)
    assert (answer.usable, "failed to initialize kvm: no" in answer.reason) == (False, True)


def test_kvm_is_tried_once_for_each_version(fake_qemu: Script, kernel: Path, tmp_path: Path) -> None:
    program = fake_qemu(REACHED)
    for version in ("1", "1", "2", "2"):
        assert probe.kvm(program, version, kernel).usable
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


def test_kernel_that_does_not_boot_says_nothing_of_another_one(fake_qemu: Script, kernel: Path, tmp_path: Path) -> None:
    assert not probe.kvm(fake_qemu("exit 1"), "1", kernel).usable
    assert not probe.kvm(fake_qemu(REACHED), "1", kernel).usable  # remembered
    kernel.write_bytes(b"two")
    assert probe.kvm(fake_qemu(REACHED), "1", kernel).usable
    kernel.write_bytes(b"one")
    assert probe.kvm(fake_qemu("exit 1"), "1", kernel).usable  # proved by the other
    assert (tmp_path / "runs").read_text() == "run\nrun\n"


def test_kernel_that_did_not_boot_is_tried_again_after_ten_minutes(
    fake_qemu: Script, kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, read = [1000.0], time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now[0] if clock == time.CLOCK_BOOTTIME else read(clock))
    for then, script, usable, runs in (
        (1000.0, "exit 1", False, 1),
        (1599.0, REACHED, False, 1),
        (1600.0, "exit 1", False, 2),
        (2100.0, REACHED, False, 2),
        (2200.0, REACHED, True, 3),
        (99999.0, "exit 1", True, 3),
    ):
        now[0] = then
        assert probe.kvm(fake_qemu(script), "1", kernel).usable == usable
        assert (tmp_path / "runs").read_text() == "run\n" * runs


def test_kvm_that_cannot_be_opened_is_not_tried(
    fake_qemu: Script, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "DEVICE", Path("/no/such/device"))
    answer = probe.kvm(fake_qemu(REACHED), "1", kernel)
    assert (answer.usable, "no such file" in answer.reason) == (False, True)
