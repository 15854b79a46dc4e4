"""banger vm logs: the console to its end, its last lines, and nothing that drives a terminal."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger_tools.vmm import logs, recorder
from tests import support
from tests.boots import delete, said, show
from tests.terminals import Terminal

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]


def console(name: str) -> bytes:
    return Path(show(name)["console"]).read_bytes()


def test_console_is_printed_as_it_is(visited: str) -> None:
    said(visited, r"printf 'caf\351 \033[31mred\n' > /dev/console")
    shown = support.run_ok("banger", "vm", "logs", visited)
    assert b"caf\xe9 \x1b[31mred\r\n" in shown
    assert console(visited).startswith(shown[:1000])


def test_last_lines_alone_are_printed(visited: str) -> None:
    said(visited, "for n in 1 2 3 4 5; do echo line $n; done > /dev/console")
    assert support.run_ok("banger", "vm", "logs", "-n", "2", visited) == b"line 4\r\nline 5\r\n"
    assert support.run_ok("banger", "vm", "logs", "--lines=0", visited) == b""


def test_terminal_is_not_driven_by_the_guest(visited: str) -> None:
    said(visited, r"printf '\033]0;evil\007 \033[2J\t\302\233x end-of-it\n' > /dev/console")
    with Terminal(columns=200) as terminal:
        terminal.start("banger", "vm", "logs", "-n", "1", visited)
        shown = terminal.wait_for(b"end-of-it")
        assert terminal.wait_ended() == 0
    assert shown == rb"\x1b]0;evil\x07 \x1b[2J    \x9bx end-of-it"


def test_monitor_has_a_log_of_its_own(visited: str) -> None:
    assert (
        support.run_ok("banger", "vm", "logs", "--vmm", visited) == Path(show(visited)["path"], "vmm.log").read_bytes()
    )


def test_wrong_number_and_machine_are_refused_by_name(visited: str) -> None:
    for words, status, message in ((["-n", "x", visited], 64, b"--lines"), (["nosuch"], 66, b"'nosuch'")):
        done = support.run("banger", "vm", "logs", *words)
        assert (done.returncode, message in done.stderr) == (status, True)


def test_machine_that_was_never_started_has_none() -> None:
    support.run_ok("bg-boot", "--image=tiny", "--name=unborn", "--no-start")
    try:
        done = support.run("banger", "vm", "logs", "-f", "unborn")
        assert (done.returncode, b"banger vm start unborn" in done.stderr) == (66, True)
    finally:
        delete("unborn")


def test_following_shows_what_comes_and_ends_with_the_machine() -> None:
    support.run_ok("banger", "vm", "run", "-d", "--image=tiny", "--name=talks", "--", "sh", "-c", WORDS)
    try:
        follower = subprocess.Popen(
            support.argv("banger", "vm", "logs", "--follow", "talks"),
            stdout=subprocess.PIPE,
            env=support.environment(),
        )
        assert follower.stdout is not None
        while b"first word" not in follower.stdout.readline():
            assert follower.poll() is None
        assert show("talks")["state"] == "running"
        said("talks", "touch /go")
        rest = follower.communicate(timeout=300)[0]
        assert follower.returncode == 0
        assert b"last word" in rest
        assert show("talks")["state"] != "running"
    finally:
        delete("talks")


WORDS = "echo first word; until [ -e /go ]; do sleep 0.1; done; echo last word"


def test_interrupted_follower_leaves_the_machine_running(visited: str) -> None:
    follower = subprocess.Popen(
        support.argv("banger", "vm", "logs", "-f", visited), stdout=subprocess.PIPE, env=support.environment()
    )
    assert follower.stdout is not None
    assert follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert show(visited)["state"] == "running"


LINES = st.lists(st.sampled_from([b"", b"a", b"long line" * 3]), max_size=20)


@given(LINES, st.booleans(), st.integers(0, 25), st.integers(0, 100))
def test_last_lines_are_those_that_tail_prints(lines: list[bytes], ended: bool, number: int, split: int) -> None:
    data = b"\n".join(lines) + b"\n" * ended
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(logs, "_CHUNK", 7)
        path = Path(folder, "log")
        path.write_bytes(data[split:])
        Path(recorder.older(str(path))).write_bytes(data[:split])
        with contextlib.closing(logs.Log(path)) as log:
            log.skip(logs._start_of_last(log, number))
            shown = b"".join(iter(log.read, b""))
    assert shown == b"".join(data.splitlines(keepends=True)[-number:] if number else [])
