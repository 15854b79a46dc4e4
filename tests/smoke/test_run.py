"""A machine for one command: `banger vm run`."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests import support
from tests.smoke.user import TINY, banger, inside, listed, machines, refused, shown, typed, until


def test_bare_run_prints_what_the_command_prints_and_leaves_nothing(home: Path) -> None:
    before = machines(home)
    assert banger(*TINY, "--", "echo", "hello") == "hello\n"
    assert machines(home) == before


def test_status_and_both_streams_are_the_commands_own() -> None:
    done = support.run("banger", *TINY, "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"out\n", b"err\n")


def test_stdin_reaches_the_command_to_the_last_byte() -> None:
    data = random.Random(7).randbytes(3_000_001)
    done = support.run("banger", *TINY, "--", "cat", stdin=data)
    assert (done.returncode, done.stdout == data) == (0, True)


def test_machine_is_one_program_of_a_pipe(home: Path) -> None:
    done = typed("printf 'b\\nc\\na\\n' | banger vm run --rm --image tiny -- busybox sort | head -n 1")
    assert (done.stdout, done.returncode) == ("a\n", 0), done.stderr


def test_makefile_makes_its_target_in_a_machine_and_stops_at_its_failure(tmp_path: Path) -> None:
    run = "banger -q vm run --rm --image tiny -- sh -c"
    (tmp_path / "Makefile").write_text(f"upper: lower\n\t{run} 'busybox tr a-z A-Z' <$< >$@\nbad:\n\t{run} 'exit 3'\n")
    (tmp_path / "lower").write_text("made\n")
    assert typed(f"make -C '{tmp_path}' upper").returncode == 0
    assert (tmp_path / "upper").read_text() == "MADE\n"
    failed = typed(f"make -C '{tmp_path}' bad")
    assert failed.returncode == 2
    assert "Error 3" in failed.stderr


def test_shell_at_a_terminal_is_typed_into_and_left_by_exit() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        argv = support.argv("banger", *TINY)
        os.execvpe(argv[0], argv, support.environment())
    os.write(terminal, b"test -t 0 && echo a-$((40 + 2))-terminal; exit 7\n")
    printed = b""
    with contextlib.suppress(OSError):  # the terminal ends with its program
        while data := os.read(terminal, 4096):
            printed += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7, printed
    assert b"a-42-terminal" in printed


def test_three_runs_at_once_do_not_disturb_each_other(home: Path) -> None:
    before = machines(home)
    running = [
        subprocess.Popen(
            support.argv("banger", *TINY, "--", "sh", "-c", f"echo {number} >/file; sleep 1; cat /file; exit {number}"),
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=support.environment(),
        )
        for number in (1, 2, 3)
    ]
    assert [process.communicate(timeout=600)[0] for process in running] == [b"1\n", b"2\n", b"3\n"]
    assert [process.returncode for process in running] == [1, 2, 3]
    assert machines(home) == before


def test_run_that_is_interrupted_takes_its_machine_along(home: Path) -> None:
    before = machines(home)
    argv = support.argv("banger", *TINY, "--", "sh", "-c", "echo up; sleep 1000")
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=support.environment())
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 143
    assert machines(home) == before


def test_image_without_init_runs_its_own_command_and_powers_off() -> None:
    name = banger("vm", "run", "--detach", "--run", "--wait=none", "--image=tiny").strip()
    try:
        until(lambda: shown(name)["state"] != "running", "its command has ended")
        assert "main ran" in banger("vm", "logs", name)
    finally:
        banger("vm", "delete", "--force", name)


def test_detached_run_prints_its_name_and_runs_on() -> None:
    name = banger("vm", "run", "-d", "--image=tiny", "--", "sh", "-c", "echo begun; sleep 1000").strip()
    try:
        assert inside(name, "hostname") == f"{name}\n"
        until(lambda: "begun" in banger("vm", "logs", name), "its own command prints to the console")
        assert listed()[name]["state"] == "running"
    finally:
        banger("vm", "delete", "--force", name)


def test_read_only_machine_writes_to_memory_only(home: Path) -> None:
    script = "echo lost >/file && cat /file && echo kept >/root/file && cat /root/file"
    before = (home / "state" / "images" / "tiny" / "rootfs.ext4").read_bytes()
    assert banger(*TINY, "--read-only", "--", "sh", "-c", script) == "lost\nkept\n"
    assert (home / "state" / "images" / "tiny" / "rootfs.ext4").read_bytes() == before


@pytest.mark.root
def test_second_run_needs_no_network_at_all() -> None:
    """In a network namespace that has not even a loopback: image and kernel are here."""
    support.need("unshare")
    done = support.run("unshare", "--net", *support.argv("banger", *TINY, "--", "echo", "offline"), timeout=900)
    assert (done.returncode, done.stdout) == (0, b"offline\n"), done.stderr.decode()


def test_wrong_values_are_refused_and_nothing_is_made(home: Path) -> None:
    before = machines(home)
    wrong = {
        "--cpus=0": 64,
        "--memory=0": 64,
        "--memory=900T": 64,
        "--disk=1M": 64,
        "--net=wifi": 64,
        "--publish=0:80": 64,
        "--name=UPPER": 64,
        "--vmm=bhyve": 64,
        "--kernel-ref=no-such-kernel": 66,
    }
    for option, status in wrong.items():
        said = refused(status, *TINY, option, "--", "true")
        assert any(word in said for word in option.split("=")), said
        assert machines(home) == before, option
    assert "no-such-image" in refused(66, "vm", "run", "--rm", "--image=no-such-image", "--pull=never", "--", "true")


def test_sizes_are_written_as_people_do() -> None:
    script = (
        "busybox nproc; busybox awk '/MemTotal/ {print ($2 > 250000)}' /proc/meminfo; df -m /root | busybox tail -1"
    )
    words = ("--cpus=2", "--memory=0.375GiB", "--work-disk=2GiB")
    cpus, enough, disk = banger(*TINY, *words, "--", "sh", "-c", script).splitlines()
    assert (cpus, enough) == ("2", "1")
    assert int(disk.split()[1]) > 1900
