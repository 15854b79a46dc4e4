"""bg-boot: real machines, from the command line to the guest and back."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import machines, support
from tests.boots import boot, delete, fsck, guest, monitors, said, show, vm_folders

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]


@pytest.fixture(scope="module")
def shared(bootable_home: Path) -> Iterator[str]:
    """The name of a machine that several tests only look at."""
    env = {"BANGER_HOME": str(bootable_home)}
    done = support.run("bg-boot", "--image=tiny", "--name=shared", "--env=ASKED=too", "--env=FROM_IMAGE=no", env=env)
    assert done.returncode == 0, done.stderr.decode()
    yield "shared"
    support.run("banger", "vm", "delete", "shared", "--force", env=env)


def test_booted_machine_is_described(shared: str, home: Path) -> None:
    vm = show(shared)
    assert (vm["state"], vm["name"], vm["vmm"]) == ("running", shared, "qemu")
    assert vm["pid"] in monitors(home)
    assert 0 < vm["boot_seconds"] < 120
    assert Path(vm["path"]).stat().st_mode & 0o777 == 0o700


def test_streams_are_kept_apart_and_the_status_is_verbatim(shared: str) -> None:
    done = guest(shared, "cat; echo err >&2; exit 42", stdin=b"through\n" * 10_000)
    assert done.returncode == 42
    assert done.stdout == b"through\n" * 10_000
    assert done.stderr == b"err\n"


def test_command_killed_by_a_signal_ends_with_128_and_its_number(shared: str) -> None:
    assert guest(shared, "kill -9 $$").returncode == 128 + 9


def test_command_that_is_not_there_ends_with_127(shared: str) -> None:
    done = support.run("banger", "vm", "exec", shared, "no-such-program")
    assert done.returncode == 127
    assert b"no-such-program" in done.stderr


def test_arguments_arrive_as_they_are(shared: str) -> None:
    words = ["a b", "$HOME", "'", '"', "\\", "", "é", "-x", "--"]
    done = support.run("banger", "vm", "exec", shared, "sh", "-c", 'printf "%s\\n" "$@"', "sh", *words)
    assert done.stdout.decode() == "".join(f"{word}\n" for word in words)


def test_environment_is_the_images_overlaid_by_what_was_asked(shared: str) -> None:
    lines = said(shared, "env").splitlines()
    assert {"FROM_IMAGE=no", "ASKED=too", "PATH=/bin"} <= set(lines)
    done = support.run("banger", "vm", "exec", "--env=ASKED=now", "--env=MORE=1", shared, "env")
    assert {"FROM_IMAGE=no", "ASKED=now", "MORE=1"} <= set(done.stdout.decode().splitlines())


def test_user_and_folder_are_those_asked_for(shared: str) -> None:
    done = support.run("banger", "vm", "exec", "--user=1000:100", "--cwd=/bin", shared, "sh", "-c", "id; pwd")
    assert done.stdout.decode() == "uid=1000 gid=100 groups=100\n/bin\n"


def test_host_name_is_the_machines(shared: str) -> None:
    assert said(shared, "hostname") == f"{shared}\n"


def test_work_disk_has_the_seed_and_room(shared: str) -> None:
    assert said(shared, "cat /root/.profile") == "greeting=hello\n"
    assert said(shared, "stat -c '%a %u:%g' /root").split()[1] == "0:0"
    assert int(said(shared, "df -m /root").splitlines()[-1].split()[1]) > 900


def test_command_gets_a_terminal_if_we_have_one(shared: str) -> None:
    argv = support.argv("banger", "vm", "exec", shared, "sh", "-c", "test -t 0 && test -t 1 && busybox stty size")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(argv[0], argv, support.environment())
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    printed = b""
    with contextlib.suppress(OSError):  # the terminal ends with its program
        while data := os.read(terminal, 4096):
            printed += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, printed
    assert printed.split() == [b"33", b"99"]


def test_command_without_any_stdin_runs(shared: str) -> None:
    argv = support.argv("banger", "vm", "exec", shared, "echo", "ran")
    script = ["sh", "-c", 'exec "$@" <&-', "sh", *argv]
    done = subprocess.run(script, capture_output=True, env=support.environment(), timeout=60)
    assert (done.returncode, done.stdout) == (0, b"ran\n"), done.stderr.decode()


def test_machines_start_side_by_side(home: Path) -> None:
    names = [f"side-{number}" for number in range(5)]
    began = time.monotonic()
    running = [
        subprocess.Popen(support.argv("bg-boot", "--image=tiny", f"--name={name}"), env=support.environment())
        for name in names
    ]
    try:
        assert [process.wait(200) for process in running] == [0] * 5, time.monotonic() - began
        assert [said(name, "hostname") for name in names] == [f"{name}\n" for name in names]
    finally:
        for name in names:
            delete(name)


def test_many_commands_at_once_are_served(shared: str) -> None:
    argv = support.argv("banger", "vm", "exec", shared, "sh", "-c", "sleep 1; echo $0 done")
    running = [subprocess.Popen([*argv, str(n)], stdout=subprocess.PIPE, env=support.environment()) for n in range(12)]
    assert [process.communicate(timeout=100)[0].decode() for process in running] == [f"{n} done\n" for n in range(12)]


def test_taken_name_is_refused_and_the_machine_kept(shared: str, home: Path) -> None:
    before = vm_folders(home)
    done = support.run("bg-boot", "--image=tiny", f"--name={shared}")
    assert done.returncode == 73
    assert b"the VM 'shared' exists already" in done.stderr
    assert vm_folders(home) == before
    assert show(shared)["state"] == "running"


def test_running_machine_is_not_deleted_nor_started_again(shared: str) -> None:
    for word in ("delete", "start"):
        done = support.run("banger", "vm", word, shared)
        assert done.returncode == 73, done.stderr
        assert b"is running" in done.stderr
    assert show(shared)["state"] == "running"


def test_machine_keeps_its_data_over_stop_and_start(home: Path) -> None:
    vm = boot("--name=keeps")
    try:
        said("keeps", "echo data > /kept; echo work > /root/kept")
        support.run_ok("banger", "vm", "stop", "keeps")
        assert show("keeps")["state"] == "stopped"
        assert vm["pid"] not in monitors(home)
        console = Path(vm["console"]).read_text(errors="replace")
        assert "Power down" in console
        for disk in ("root.ext4", "work.ext4"):
            assert fsck(Path(vm["path"], disk)) == 0
        done = support.run("banger", "vm", "exec", "keeps", "true")
        assert (done.returncode, b"banger vm start keeps" in done.stderr) == (73, True)
        support.run_ok("banger", "vm", "start", "keeps")
        assert said("keeps", "cat /kept /root/kept") == "data\nwork\n"
    finally:
        delete("keeps")
    assert "keeps" not in vm_folders(home)
    assert support.run("banger", "vm", "show", "keeps").returncode == 66


def test_machine_whose_monitor_was_killed_is_seen_as_ended_and_starts_again(home: Path) -> None:
    vm = boot("--name=killed")
    try:
        said("killed", "echo data > /kept; sync")
        os.kill(vm["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while show("killed")["state"] == "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert show("killed")["state"] == "ended"
        support.run_ok("banger", "vm", "start", "killed")
        assert said("killed", "cat /kept") == "data\n"
        support.run_ok("banger", "vm", "stop", "killed")
        assert fsck(Path(vm["path"], "root.ext4")) == 0
    finally:
        delete("killed")


def test_machine_that_hangs_is_ended_within_bounds(home: Path) -> None:
    vm = boot("--name=hangs")
    try:
        os.kill(vm["pid"], signal.SIGSTOP)
        began = time.monotonic()
        done = support.run("banger", "vm", "stop", "hangs", "--timeout=1")
        assert (done.returncode, b"did not power off" in done.stderr) == (0, True)
        assert time.monotonic() - began < 30
        assert vm["pid"] not in monitors(home)
    finally:
        delete("hangs")


def test_read_only_root_is_not_changed(home: Path) -> None:
    vm = boot("--name=frozen", "--read-only")
    try:
        assert said("frozen", "echo x > /new; cat /new") == "x\n"
        support.run_ok("banger", "vm", "stop", "frozen")
        source = home / "state" / "images" / "tiny" / "rootfs.ext4"
        assert Path(vm["path"], "root.ext4").read_bytes() == source.read_bytes()
    finally:
        delete("frozen")


def line_from(port: int) -> bytes:
    """Return the first line that a port of this host sends; the monitor accepts long before the guest listens."""
    deadline = time.monotonic() + 10
    line = b""
    while not line and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as connection:
            line = connection.makefile("rb").readline()
    return line


def test_published_port_leads_to_the_guest() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    boot("--name=ports", f"--publish={port}:7")
    try:
        said("ports", "busybox nc -ll -p 7 -e echo served < /dev/null > /dev/null 2>&1 &")
        assert line_from(port) == b"served\n"
        done = support.run("bg-boot", "--image=tiny", "--name=second", f"--publish={port}:7")
        assert (done.returncode, b"in use" in done.stderr) == (73, True)
    finally:
        delete("ports")


def test_images_own_command_runs_and_ends_the_machine(home: Path) -> None:
    vm = boot("--name=main", "--run", "--wait=none")
    try:
        deadline = time.monotonic() + 300
        while show("main")["state"] == "running" and time.monotonic() < deadline:
            time.sleep(0.2)
        assert show("main")["state"] == "ended"
        assert "main ran" in Path(vm["console"]).read_text(errors="replace")
    finally:
        delete("main")


def test_home_so_deep_that_sockets_have_no_room_for_their_paths(home: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / "home"
    deep.parent.mkdir()
    shutil.copytree(home / "state" / "images", deep / "state" / "images", copy_function=os.link)
    shutil.copytree(home / "cache", deep / "cache", ignore=shutil.ignore_patterns("*.lock"))
    env = {"BANGER_HOME": str(deep)}
    done = support.run("bg-boot", "--image=tiny", "--name=deep", env=env)
    try:
        assert done.returncode == 0, done.stderr.decode()
        assert support.run("banger", "vm", "exec", "deep", "echo", "reached", env=env).stdout == b"reached\n"
        assert support.run("banger", "vm", "stop", "deep", env=env).returncode == 0
    finally:
        support.run("banger", "vm", "delete", "deep", "--force", env=env)


def test_bare_ext4_file_boots_with_a_kernel_of_the_store(home: Path, tmp_path: Path) -> None:
    disk = tmp_path / "bare.ext4"
    shutil.copy(home / "state" / "images" / "tiny" / "rootfs.ext4", disk)
    before = disk.read_bytes()
    done = support.run("bg-boot", "--kernel-ref=cloud-amd64", "--name=bare", disk)
    try:
        assert done.returncode == 0, done.stderr.decode()
        assert said("bare", "echo x > /new; cat /new") == "x\n"
        assert disk.read_bytes() == before
    finally:
        delete("bare")


def test_kernel_taken_out_of_its_bzimage_boots_by_itself(home: Path) -> None:
    """QEMU starts the ELF file at its PVH entry: what we unpacked is the kernel, whole."""
    kernel = home / "state" / "kernels" / machines.KERNEL
    boot("--name=elf", f"--kernel={kernel / 'vmlinux'}", f"--initrd={kernel / 'initrd.img'}")
    try:
        version = json.loads((kernel / "kernel.json").read_text())["version"]
        assert said("elf", "busybox uname -r") == f"{version}\n"
    finally:
        delete("elf")


def test_initrd_is_small(home: Path) -> None:
    initrd = home / "state" / "kernels" / machines.KERNEL / "initrd.img"
    assert initrd.stat().st_size < 3 << 20


def test_of_two_programs_that_miss_a_kernel_one_fetches_it(home: Path, tmp_path: Path) -> None:
    disk = home / "state" / "images" / "tiny" / "rootfs.ext4"
    env = support.environment({"BANGER_HOME": str(tmp_path / "fresh")})
    running = [
        subprocess.Popen(
            support.argv("bg-publish", f"--name=image-{number}", disk),
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for number in range(2)
    ]
    messages = b"".join(process.communicate(timeout=200)[1] for process in running)
    assert [process.returncode for process in running] == [0, 0], messages
    assert messages.count(b"fetching the kernel package") == 1


@pytest.mark.root
def test_ordinary_user_publishes_and_boots(home: Path, user: support.OrdinaryUser) -> None:
    disk = user.home / "user.ext4"
    shutil.copy(home / "state" / "images" / "tiny" / "rootfs.ext4", disk)
    shutil.chown(disk, user.name)
    published = user.run("bg-publish", "--name=own", disk)
    assert published.returncode == 0, published.stderr.decode()
    booted = user.run("bg-boot", "--image=own", "--name=own")
    try:
        assert booted.returncode == 0, booted.stderr.decode()
        assert user.run("banger", "vm", "exec", "own", "id", "-u").stdout == b"0\n"
        pid = json.loads(booted.stdout)["vm"]["pid"]
        assert re.search(r"^Uid:\s+0\s", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is None
    finally:
        deleted = user.run("banger", "vm", "delete", "own", "--force")
    assert deleted.returncode == 0, deleted.stderr.decode()
