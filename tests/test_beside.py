"""Work in another process: what it met comes up here as what it is, and signals find each process where it stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools import beside, cli, errors
from tests import support

DOC = """bg-toy: a toy.

Usage:
  bg-toy [options]

Options:
  @talk
"""


def status_of(work: Callable[[], object]) -> int:
    """Return how a program ends whose work beside it ends so."""

    def run(_: cli.Arguments) -> None:
        with beside.running(work) as wait:
            wait()

    return cli.run(DOC, [], run)


def stumble() -> None:
    {}["no such key"]


def test_bug_of_the_work_is_told_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert status_of(stumble) == 70
    said = capfd.readouterr().err
    assert "in stumble" in said and "KeyError: 'no such key'" in said and "a bug in banger" in said


def test_work_without_memory_is_a_matter_for_later(capfd: pytest.CaptureFixture[str]) -> None:
    assert status_of(lambda: bytearray(1 << 62)) == 75
    assert "out of memory" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_the_work_unless_they_are_ignored_as_under_nohup(number: signal.Signals) -> None:
    def work() -> None:
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.default_int_handler)
        with pytest.raises(errors.IOFailure, match=f"status -{number}"), beside.running(work) as wait:
            wait()
        signal.signal(number, signal.SIG_IGN)
        with beside.running(work) as wait:
            wait()
    finally:
        signal.signal(number, before)


STOPPED_AT_THE_FORK = """
import os, signal, sys, time
from pathlib import Path
from banger_tools import beside, errors, files

number, who, target = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
fork = os.fork

def hit():
    child = fork()
    if who == ("child" if child == 0 else "parent"):
        os.kill(os.getpid(), number)
    return child

def stop(_number, _frame):
    raise KeyboardInterrupt

os.fork = hit
signal.signal(number, stop)
with files.atomic(target) as temporary:
    temporary.write_text("whole")
    try:
        with beside.running(lambda: time.sleep(20)) as wait:
            wait()
    except (errors.IOFailure, KeyboardInterrupt) as error:
        print(os.getpid(), type(error).__name__, error)
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("nobody is left,", len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), "signals are blocked")
"""


def stopped(number: signal.Signals, who: str, target: Path) -> list[str]:
    """Run a program that writes a file, of which one process gets a signal as soon as there are two."""
    words = [sys.executable, "-P", "-c", STOPPED_AT_THE_FORK, str(int(number)), who, str(target)]
    env = {**support.environment(), "PYTHONPATH": str(support.ROOT)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as running:
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 0
    return said.replace(f"{running.pid} ", "").splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_at_the_fork_ends_the_child_and_leaves_our_files_alone(number: signal.Signals, tmp_path: Path) -> None:
    said = stopped(number, "child", tmp_path / "file")
    assert said[0] == f"IOFailure a process beside this one ended with status -{int(number)}"
    assert said[1:] == ["nobody is left, 0 signals are blocked"]
    assert (tmp_path / "file").read_text() == "whole"
    assert os.listdir(tmp_path) == ["file"]


def test_signal_at_the_fork_interrupts_us_and_leaves_no_child(tmp_path: Path) -> None:
    assert stopped(signal.SIGTERM, "parent", tmp_path / "file") == [
        "KeyboardInterrupt ",
        "nobody is left, 0 signals are blocked",
    ]
