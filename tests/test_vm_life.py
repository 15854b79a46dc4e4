"""Machines that end, or do not start, in all the ways that they can: seen for what they are, and mended."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import logins, support
from tests.boots import NO_END, boot, delete, monitors, processes, show, vm_folders

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]

QUICK = ("--memory=96M", "--wait=none")  # for tests that do not need a guest that answers


def vm(*words: str, path: str | None = None) -> subprocess.CompletedProcess[bytes]:
    return support.run("banger", "vm", *words, env={"PATH": path} if path else None)


def listed(name: str) -> tuple[str, str | None]:
    """Return the state of a machine in the list, and the reason for it."""
    rows = json.loads(support.run_ok("banger", "vm", "list", "--json"))
    return next((row["state"], row["reason"]) for row in rows if row["name"] == name)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def port() -> int:
    return logins.free_port()


@pytest.fixture
def made(home: Path, port: int) -> Iterator[Path]:
    """The folder of a machine that was made and not started, with a port that leads to it."""
    support.run_ok("bg-boot", "--image=tiny", "--name=it", "--no-start", "--memory=96M", f"--publish={port}:80")
    yield home / "state" / "vms" / "it"
    delete("it")


@pytest.fixture
def started(made: Path) -> Path:
    """The folder of that machine, whose monitor runs."""
    support.run_ok("banger", "vm", "start", "--wait=none", "it")
    return made


@pytest.fixture
def waiting(home: Path) -> Iterator[Path]:
    """The folder of a machine that was not started, and whose guest would wait for a disk for ever."""
    support.run_ok("bg-boot", "--image=tiny", "--name=waiting", "--no-start", "--memory=96M", f"--append={NO_END}")
    yield home / "state" / "vms" / "waiting"
    delete("waiting")


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "vm.json").read_text()))


def rewrite(folder: Path, **process: object) -> None:
    """Change what is written of a machine's process."""
    whole = record(folder)
    whole["process"] |= process
    (folder / "vm.json").write_text(json.dumps(whole))


def pid_of(folder: Path) -> int:
    return int(record(folder)["process"]["pid"])


def ended(folder: Path, number: int) -> None:
    """End a machine's monitor from outside, and wait until it is gone."""
    pid = pid_of(folder)
    os.kill(pid, number)
    until(lambda: pid not in monitors(folder.parents[2]))


def fake_qemu(folder: Path, script: str) -> str:
    """Return a PATH whose QEMU runs a script before the real one does, other than for questions about itself."""
    real = shutil.which("qemu-system-x86_64", path=support.search_path())
    program = folder / "bin" / "qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncase $* in *-qmp*|*mode=control*) {script} ;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{support.search_path()}"


def is_at_rest(folder: Path) -> bool:
    """Tell whether nothing is left of a run: no process, no socket, no word of it in the record."""
    home = folder.parents[2]
    return (processes(home), list(folder.glob("*.sock")), record(folder)["process"]) == ([], [], None)


# How it ended


def test_machine_that_was_killed_is_listed_as_such(started: Path) -> None:
    ended(started, signal.SIGKILL)
    assert listed("it") == ("ended", "its monitor was killed")


def test_words_of_a_monitor_that_was_told_to_end_are_listed(started: Path) -> None:
    ended(started, signal.SIGTERM)
    state, reason = listed("it")
    assert state == "ended"
    assert "terminating on signal 15" in str(reason)


def test_guest_that_panicked_is_told_from_one_that_powered_off() -> None:
    boot("--name=panics", *QUICK, "--append=rdinit=/nothing root=/dev/nothing")
    boot("--name=done", *QUICK, "--run")
    try:
        until(lambda: listed("panics")[0] == "ended" and listed("done")[0] == "ended")
        assert listed("panics") == ("ended", "its guest's kernel panicked")
        assert listed("done") == ("ended", "its guest powered off")
    finally:
        support.run("banger", "vm", "delete", "--force", "panics", "done")


def test_restart_of_the_host_is_seen_and_mended_by_the_next_start(started: Path) -> None:
    ended(started, signal.SIGKILL)
    rewrite(started, boot_id="11111111-2222-3333-4444-555555555555")
    assert listed("it") == ("ended", "the host was restarted since")
    assert vm("start", "--wait=none", "it").returncode == 0
    assert listed("it")[0] == "running"


def test_machine_that_is_paused_is_listed_as_such(started: Path) -> None:
    words = '{"execute":"qmp_capabilities"}\n{"execute":"stop"}\n'
    with contextlib.chdir(started), socket.socket(socket.AF_UNIX) as qmp:
        qmp.connect("qmp.sock")
        qmp.sendall(words.encode())
        until(lambda: b'"STOP"' in qmp.recv(65536))
    assert listed("it")[0] == "paused"


def test_monitor_that_hangs_is_listed_as_such_and_killed(started: Path) -> None:
    os.kill(pid_of(started), signal.SIGSTOP)
    assert listed("it") == ("running", "its monitor does not answer")
    assert vm("kill", "it").returncode == 0
    assert is_at_rest(started)


# Records that are wrong


@pytest.mark.parametrize("command", [("start", "--wait=none"), ("stop",), ("kill",), ("delete",)])
def test_process_that_got_the_id_of_a_monitor_is_left_alone(started: Path, command: tuple[str, ...]) -> None:
    ended(started, signal.SIGKILL)
    other = subprocess.Popen(["sleep", "600"], cwd=started)  # what cannot be told from it by its folder either
    try:
        ticks = int(Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19])
        rewrite(started, pid=other.pid, start_time=ticks)
        assert listed("it")[0] == "ended"
        assert vm(*command, "it").returncode == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_machine_whose_starter_died_before_it_wrote_anything_down_is_seen_and_ended(started: Path, home: Path) -> None:
    whole = record(started)
    (started / "vm.json").write_text(json.dumps({**whole, "process": None}))
    assert listed("it")[0] == "running"
    assert vm("start", "it").returncode == 73
    assert vm("stop", "--timeout=1", "it").returncode == 0
    assert is_at_rest(started)


@pytest.mark.parametrize("name", ["vm.json", "image.json"])
def test_machine_with_a_broken_record_is_listed_and_deleted(started: Path, home: Path, name: str) -> None:
    (started / name).write_text("{")
    state, reason = listed("it")
    assert (state, name in str(reason)) == ("running", True)
    assert vm("delete", "it").returncode == 73
    assert vm("kill", "it").returncode == 0
    assert listed("it")[0] == "broken"
    assert vm("show", "it").returncode == 65
    assert vm("delete", "it").returncode == 0
    assert (vm_folders(home), processes(home)) == ([], [])


def test_broken_machine_that_runs_is_deleted_by_force_and_no_other(started: Path, home: Path) -> None:
    boot("--name=other", *QUICK)
    try:
        (started / "vm.json").unlink()
        assert vm("delete", "--force", "it").returncode == 0
        assert monitors(home) == [show("other")["pid"]]
        assert vm_folders(home) == ["other"]
    finally:
        delete("other")


def test_record_of_another_machine_is_no_record(made: Path, home: Path) -> None:
    copy = made.with_name("copy")
    copy.mkdir()
    for name in ("vm.json", "image.json"):
        shutil.copy(made / name, copy)
    try:
        assert listed("copy")[0] == "broken"
        assert (listed("it"), vm("start", "copy").returncode) == (("stopped", None), 65)
    finally:
        delete("copy")
    assert vm_folders(home) == ["it"]


# Starts that fail


def test_start_is_refused_while_its_port_is_taken(made: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        done = vm("start", "it")
    assert (done.returncode, str(port).encode() in done.stderr) == (73, True)
    assert is_at_rest(made)


def test_port_that_is_taken_after_it_was_looked_at_undoes_the_start(made: Path, port: int, tmp_path: Path) -> None:
    # not in the machine's folder: it must not be taken for what is left there
    listener = f"socat TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr PIPE"
    path = fake_qemu(tmp_path, f"(cd / && exec {listener} < /dev/null > /dev/null 2>&1) & sleep 2")
    done = vm("start", "it", path=path)
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        pass  # it ends
    assert (done.returncode, b"host forwarding" in done.stderr) == (69, True), done.stderr.decode()
    assert is_at_rest(made)
    assert vm("start", "--wait=none", "it").returncode == 0


def test_monitor_that_exits_undoes_the_start(made: Path, tmp_path: Path) -> None:
    done = vm("start", "it", path=fake_qemu(tmp_path, "echo no room for a guest >&2; exit 1"))
    assert (done.returncode, b"no room for a guest" in done.stderr) == (69, True)
    assert is_at_rest(made)
    assert listed("it") == ("stopped", None)


def test_agent_that_does_not_answer_undoes_the_start(waiting: Path) -> None:
    done = vm("start", "--timeout=0.5", waiting.name)
    assert (done.returncode, b"did not answer within" in done.stderr) == (75, True)
    assert is_at_rest(waiting)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_start_that_is_interrupted_at_any_moment_is_undone(waiting: Path, number: int, status: int) -> None:
    argv = support.argv("banger", "vm", "start", waiting.name)
    for moment in range(6):
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, env=support.environment())
        wait_for_start(process.pid, waiting)
        time.sleep(moment / 8)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == status, stderr.decode()
        assert is_at_rest(waiting), moment


def wait_for_start(pid: int, folder: Path) -> None:
    """Wait until a process has locked a machine's folder, as the first thing of a start."""
    until(lambda: _holds_a_lock(pid, folder))


def _holds_a_lock(pid: int, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(os.readlink(link) == str(folder) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_machine_outlives_the_terminal_that_it_was_started_from(made: Path, home: Path) -> None:
    start = " ".join(support.argv("banger", "vm", "start", "--wait=none", "it"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe("sh", ["sh", "-c", f"{start} && echo it runs; sleep 600"], support.environment())
    printed = b""
    while b"it runs" not in printed:
        printed += os.read(terminal, 4096)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    assert monitors(home) == [pid_of(made)]
    assert listed("it")[0] == "running"
