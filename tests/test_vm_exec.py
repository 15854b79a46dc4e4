"""banger vm exec: on a terminal and without one."""

from __future__ import annotations

import signal

import pytest

from tests import support
from tests.terminals import Terminal

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]

LOOKS = "test -t 0 && echo in; test -t 1 && echo out; echo $TERM"
WAITS = 'trap "echo caught; exit 7" INT; echo ready; while :; do sleep 0.1; done'


def test_terminal_can_be_asked_for_where_there_is_none(visited: str) -> None:
    assert support.run_ok("banger", "vm", "exec", visited, "sh", "-c", LOOKS).split()[:1] != [b"in"]
    shown = support.run_ok("banger", "vm", "exec", "--tty", visited, "sh", "-c", LOOKS)
    assert shown.split()[:2] == [b"in", b"out"]


def test_terminal_can_be_refused_where_there_is_one(visited: str) -> None:
    with Terminal() as terminal:
        terminal.start("banger", "vm", "exec", "-T", visited, "sh", "-c", f"{LOOKS}; echo done")
        shown = terminal.wait_for(b"done")
        assert b"in" not in shown.split()
        assert b"out" not in shown.split()
        assert terminal.wait_ended() == 0


def test_both_at_once_are_refused(visited: str) -> None:
    done = support.run("banger", "vm", "exec", "-t", "-T", visited, "true")
    assert (done.returncode, b"--tty and --no-tty" in done.stderr) == (64, True)


def test_guest_knows_what_kind_of_terminal_it_has(visited: str) -> None:
    with Terminal() as terminal:
        terminal.start("banger", "vm", "exec", visited, "sh", "-c", "echo kind=$TERM.")
        terminal.wait_for(b"kind=vt220.")
        assert terminal.wait_ended() == 0


def test_interrupt_is_the_guests_and_the_terminal_is_as_before(visited: str) -> None:
    with Terminal() as terminal:
        terminal.start("banger", "vm", "exec", visited, "sh", "-c", WAITS)
        terminal.wait_for(b"ready")
        assert terminal.is_raw
        terminal.type(b"\x03")
        terminal.wait_for(b"caught")
        assert terminal.wait_ended() == 7
        assert terminal.is_as_before


def test_window_is_followed(visited: str) -> None:
    with Terminal(33, 99) as terminal:
        script = 'trap "busybox stty size" WINCH; busybox stty size; while :; do sleep 0.1; done'
        terminal.start("banger", "vm", "exec", visited, "sh", "-c", script)
        terminal.wait_for(b"33 99")
        terminal.resize(44, 111)
        terminal.wait_for(b"44 111")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_terminal_is_as_before_when_we_are_ended(visited: str, number: int) -> None:
    with Terminal() as terminal:
        process = terminal.start("banger", "vm", "exec", visited, "sh", "-c", "echo ready; exec sleep 1000")
        terminal.wait_for(b"ready")
        assert terminal.is_raw
        process.send_signal(number)
        assert terminal.wait_ended() == 128 + number
        assert terminal.is_as_before


def test_without_a_command_there_is_a_shell(visited: str) -> None:
    done = support.run("banger", "vm", "exec", visited, stdin=b"echo $((6 * 7))\nexit 3\n")
    assert (done.returncode, done.stdout) == (3, b"42\n")
