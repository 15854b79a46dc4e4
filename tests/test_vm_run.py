"""banger vm run and create: machines made for a command, left running, removed again, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from banger_tools import cli, docs
from banger_tools.commands import machine
from banger_tools.manuals import manual_of
from tests import support
from tests.boots import delete, fsck, processes, said, show, vm_folders
from tests.terminals import Terminal

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]

RUN = ("banger", "vm", "run", "--image=tiny")


def test_terminal_window_and_interrupt_are_the_commands(home: Path) -> None:
    before = vm_folders(home), processes(home)
    script = 'trap "echo caught; exit 7" INT; echo size $(busybox stty size); while :; do sleep 0.1; done'
    with Terminal(31, 97) as terminal:
        terminal.start(*RUN, "--rm", "--", "sh", "-c", script)
        terminal.wait_for(b"size 31 97")
        assert terminal.is_raw
        terminal.type(b"\x03")
        terminal.wait_for(b"caught")
        assert terminal.wait_ended() == 7
        assert terminal.is_as_before
    assert (vm_folders(home), processes(home)) == before


def test_hangup_and_termination_put_the_terminal_back_and_remove_the_machine(home: Path) -> None:
    before = vm_folders(home), processes(home)
    with Terminal() as terminal:
        process = terminal.start(*RUN, "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
        terminal.wait_for(b"ready")
        assert terminal.is_raw
        process.send_signal(signal.SIGTERM)
        assert terminal.wait_ended() == 143
        assert terminal.is_as_before
    assert (vm_folders(home), processes(home)) == before


STAGES = (b"image", b"kernel", b"disks", b"network", b"boot", b"agent")


def test_terminal_shows_what_is_being_done(visited: str) -> None:
    with Terminal() as terminal:
        terminal.start(*RUN, "--rm", "--", "echo", "it", "ran")
        shown = terminal.wait_for(b"it ran")
        assert terminal.wait_ended() == 0
    places = [shown.find(b"bg-boot: %s ..." % stage) for stage in STAGES]
    assert -1 not in places
    assert places == sorted(places)
    assert shown.rpartition(b"\r\x1b[K")[2] == b"it ran"  # nothing of it stays


def test_steps_and_their_times_are_told(home: Path) -> None:
    done = support.run("banger", "-v", "vm", "run", "--rm", "--image=tiny", "--", "echo")
    said_so = done.stderr.decode()
    assert done.returncode == 0
    for step in ("image found", "kernel found", "disks made", "network 'user' ready", "started with qemu", "answered"):
        assert step in said_so
    assert said_so.count(" s)") >= 6
    assert "the monitor is qemu, since firecracker: " in said_so


def test_guest_that_dies_is_an_error_and_removed(home: Path) -> None:
    before = vm_folders(home), processes(home)
    done = support.run(*RUN, "--rm", "--", "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 1000")
    assert done.returncode == 75, done.stderr
    assert b"went away" in done.stderr
    assert b"runs on" not in done.stderr
    assert (vm_folders(home), processes(home)) == before


def test_start_that_fails_leaves_nothing(home: Path) -> None:
    before = vm_folders(home), processes(home)
    done = support.run(*RUN, "--rm", "--name=failing", "--append=rdinit=/nothing root=/dev/nothing", "--", "true")
    assert done.returncode == 69, done.stderr
    assert (vm_folders(home), processes(home)) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_interrupted_at_any_moment_leaves_nothing(home: Path, number: int) -> None:
    before = vm_folders(home), processes(home)
    for seconds in (0.0, 0.1, 0.5, 2.0, 6.0):
        argv = support.argv(*RUN, "--rm", "--", "sleep", "1000")
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=support.environment(), start_new_session=True
        )
        deadline = time.monotonic() + 60
        while vm_folders(home) == before[0] and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(process.pid, number)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 128 + number, stderr.decode()
        assert (vm_folders(home), processes(home)) == before


def test_detached_machine_runs_on_and_its_name_is_printed(home: Path) -> None:
    done = support.run(*RUN, "--detach", "--name=left", "--env=TOLD=yes")
    try:
        assert (done.returncode, done.stdout) == (0, b"left\n"), done.stderr.decode()
        assert said("left", "echo $TOLD") == "yes\n"
    finally:
        delete("left")


def test_detached_command_is_the_machines_own_and_ends_it(home: Path) -> None:
    script = 'echo "$0 $TOLD $(id -u) $(pwd)" > /root/said; sync; echo "it said so"'
    words = ["--name=own", "--env=TOLD=yes", "--user=0:0", "--cwd=/bin", "--", "sh", "-c", script, "a 'b\" $c"]
    done = support.run(*RUN, "-d", *words)
    try:
        assert (done.returncode, done.stdout) == (0, b"own\n"), done.stderr.decode()
        assert b"it said so" in support.run_ok("banger", "vm", "logs", "--follow", "own")
        support.run_ok("banger", "vm", "start", "own", "--wait=none")
        support.run_ok("banger", "vm", "logs", "--follow", "own")
        read = ["debugfs", "-R", "cat /said", str(Path(show("own")["path"], "work.ext4"))]
        printed = subprocess.run(read, capture_output=True, env=support.environment(), check=True).stdout
        assert printed == b"a 'b\" $c yes 0 /bin\n"
    finally:
        delete("own")


WRONG = [
    (["--rm", "-d"], "--rm"),
    (["--run"], "--run"),
    (["--wait=none"], "--wait"),
    (["-d", "-t"], "--tty"),
    (["-t", "-T"], "--tty"),
    (["-d", "--user=x"], "--user"),
    (["--pull=often"], "--pull"),
    (["--cpus=0"], "--cpus"),
    (["--memory=0"], "--memory"),
    (["--env=x"], "--env"),
    (["--net=none", "--publish=1:1"], "--publish"),
]


@pytest.mark.parametrize(("words", "option"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_words_are_refused_by_name_and_nothing_is_made(home: Path, words: list[str], option: str) -> None:
    before = vm_folders(home)
    done = support.run(*RUN, *words)
    assert (done.returncode, done.stdout) == (64, b""), done.stderr
    assert option in done.stderr.decode()
    assert vm_folders(home) == before


def test_every_option_of_a_machine_reaches_bg_boot_as_it_was_given() -> None:
    ours, theirs = manual_of("commands.vm_create"), manual_of("boot")
    for option in docs.group("@machine"):
        given = cli.parse(ours, [option.spelling if option.value is None else f"{option.spelling}=-x y"])
        arrived = cli.parse(theirs, list(machine.passed_on(given)))
        for name in (one.spelling for one in docs.group("@machine")):
            assert arrived[name] == given[name], name


# banger vm create


def test_created_machine_answers_and_its_name_is_printed(home: Path) -> None:
    name = support.run_ok("banger", "vm", "create", "--image=tiny").decode()
    try:
        assert name.startswith("tiny-")
        assert name.endswith("\n")
        assert said(name.strip(), "hostname") == name
    finally:
        delete(name.strip())


def test_machine_can_be_made_without_a_start(home: Path) -> None:
    printed = support.run_ok("banger", "vm", "create", "--image=tiny", "--name=later", "--no-start", "--cpus=1")
    try:
        assert printed == b"later\n"
        assert show("later")["state"] == "stopped"
        assert fsck(Path(show("later")["path"], "root.ext4")) == 0
        support.run_ok("banger", "vm", "start", "later")
        assert said("later", "echo up") == "up\n"
    finally:
        delete("later")
