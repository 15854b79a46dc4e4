"""How a program reads its command line and how it ends, on a small program of the tests' own."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from banger_tools import cli, docs, errors, files

DOC = """bg-toy: a toy.

Usage:
  bg-toy [options] [--env=VAR]... FROM [TO]

Options:
  -n N, --number=N  A number [default: 7].
  -a                A flag with no long name.
  --all             Another flag.
  --env=VAR         A variable. Repeatable.
  @talk
"""
NESTED = """bg-toy run: run something.

Usage:
  bg-toy run [options] [COMMAND]...

Options:
  --user=USER  As whom.
  @talk
"""


def parse(*words: str) -> dict[str, Any]:
    return cli.parse(docs.parse(DOC), words)


def refusal(*words: str) -> str:
    with pytest.raises(errors.BadUsage) as raised:
        parse(*words)
    return raised.value.message


def test_values_and_defaults() -> None:
    got = parse("-n3", "-a", "src")
    assert (got["--number"], got["-a"], got["--all"], got["FROM"], got["TO"]) == ("3", True, False, "src", None)
    assert parse("src", "dst")["--number"] == "7"


def test_v_counts() -> None:
    assert [
        parse(*words, "src")["--verbose"] for words in ([], ["-v"], ["--verbose"], ["-vv"], ["-v", "--verbose"])
    ] == [0, 1, 1, 2, 2]


def test_repeatable_option_keeps_the_order_of_its_values() -> None:
    assert parse("--env=B=1", "x", "--env", "A=2")["--env"] == ["B=1", "A=2"]


def test_words_after_two_dashes_are_no_options() -> None:
    got = parse("--", "-n", "--nonsense")
    assert (got["FROM"], got["TO"], got["--number"]) == ("-n", "--nonsense", "7")


def test_lone_dash_is_an_argument() -> None:
    assert parse("-")["FROM"] == "-"


def test_value_may_begin_with_a_dash() -> None:
    assert parse("-n", "-3", "x")["--number"] == "-3"
    assert parse("--number=-3", "x")["--number"] == "-3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--numbr=3", "x"], "unknown option '--numbr'"),
        (["--num=3", "x"], "unknown option '--num'"),
        (["-z", "x"], "unknown option '-z'"),
        (["-az", "x"], "unknown option '-z'"),
        (["--all", "--all", "x"], "option '--all' was given twice"),
        (["-n1", "--number=2", "x"], "option '--number' was given twice"),
        (["-aa", "x"], "option '-a' was given twice"),
        (["--all=yes", "x"], "option '--all' takes no value"),
        (["x", "--number"], "option '--number' needs a value: N"),
        (["x", "-n"], "option '-n' needs a value: N"),
        ([], "missing argument: FROM"),
        (["a", "b", "c"], "unexpected argument: 'c'"),
        (["a", "--", "b", "--c"], "unexpected argument: '--c'"),
    ],
)
def test_usage_errors_name_what_is_wrong(words: list[str], message: str) -> None:
    assert refusal(*words) == message


def test_options_of_a_nested_command_line_are_left_alone() -> None:
    got = cli.parse(docs.parse(NESTED), ["--user", "me", "ls", "--user", "-q", "-z"], nested=True)
    assert (got["--user"], got["COMMAND"], got["--quiet"]) == ("me", ["ls", "--user", "-q", "-z"], False)


@pytest.mark.parametrize("words", [["--", "ls", "-l"], ["ls", "-l"], ["--user=me", "--", "ls", "-l"]])
def test_two_dashes_before_a_nested_command_line_are_not_part_of_it(words: list[str]) -> None:
    assert cli.parse(docs.parse(NESTED), words, nested=True)["COMMAND"] == ["ls", "-l"]


def test_two_dashes_inside_a_nested_command_line_stay() -> None:
    for words in (["--", "a", "--", "b"], ["a", "--", "b"]):
        assert cli.parse(docs.parse(NESTED), words, nested=True)["COMMAND"] == ["a", "--", "b"]


def test_nested_command_may_be_missing() -> None:
    assert cli.parse(docs.parse(NESTED), ["-q"], nested=True)["COMMAND"] == []


def run(work: Callable[[cli.Arguments], int | None]) -> int:
    return cli.run(DOC, ["x"], work)


def raising(error: BaseException) -> Callable[[cli.Arguments], int | None]:
    def work(_: cli.Arguments) -> None:
        raise error

    return work


@pytest.mark.parametrize("kind", errors.ERRORS)
def test_every_error_has_its_status_and_its_sentence(
    kind: type[errors.BangerError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(kind("it went wrong", "do this"))) == kind.status
    assert capsys.readouterr().err == "bg-toy: error: it went wrong\nbg-toy: hint: do this\n"


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOENT, 66),
        (errno.EACCES, 77),
        (errno.EPERM, 77),
        (errno.EEXIST, 73),
        (errno.EROFS, 73),
        (errno.ENOSPC, 74),
        (errno.EIO, 74),
        (errno.ETIMEDOUT, 75),
        (errno.ECONNREFUSED, 69),
    ],
)
def test_system_errors_are_sorted(number: int, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(OSError(number, os.strerror(number), "some file"))) == status
    assert capsys.readouterr().err.startswith("bg-toy: error: cannot use 'some file': ")


def test_a_bug_shows_the_traceback_and_asks_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(ZeroDivisionError("oops"))) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a bug in banger" in said


def test_missing_python_package_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(ModuleNotFoundError("No module named 'isal'", name="isal"))) == 69
    assert "the Python package 'isal' is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("\ud800\x1b[31m\x00"), RuntimeError("x" * 10_000), KeyError()])
def test_ugly_exceptions_do_not_break_the_report(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(error)) == 70
    assert "\x1b" not in capsys.readouterr().err.split("error: ", 1)[1]


def test_status_of_the_work_is_passed_on() -> None:
    assert run(lambda _: 42) == 42
    assert run(lambda _: None) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_signal_removes_temporaries(number: int, status: int, tmp_path: Any) -> None:
    def work(_: cli.Arguments) -> None:
        files.temporary_name(tmp_path / "a").write_text("half")
        files.temporary_name(tmp_path / "b").mkdir()
        os.kill(os.getpid(), number)
        signal.pause()

    assert run(work) == status
    assert list(tmp_path.iterdir()) == []


def test_signal_waits_for_the_end_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = tmp_path / "steps"
    (tmp_path / "signalled_import.py").write_text(
        f"import os, pathlib, signal\nos.kill(os.getpid(), signal.SIGTERM)\npathlib.Path({str(steps)!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def work(_: cli.Arguments) -> None:
        importlib.import_module("signalled_import")
        signal.pause()

    assert run(work) == 143
    assert steps.exists()


def test_signal_handlers_are_as_before_afterwards() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    run(lambda _: None)
    assert [signal.getsignal(number) for number in numbers] == before


def test_signal_after_the_work_does_not_turn_success_into_failure() -> None:
    late = "import atexit, os, sys; from banger_tools import fetch; atexit.register(os.kill, os.getpid(), {}); "
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        script = late.format(int(number)) + "sys.argv[1:] = ['--version']; sys.exit(fetch.main())"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signal_that_was_ignored_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert run(lambda _: os.kill(os.getpid(), number)) == 0
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step_that_must_not_be_half_done(number: int) -> None:
    done: list[str] = []

    def work(_arguments: cli.Arguments) -> None:
        with cli.signals_later():
            os.kill(os.getpid(), number)
            done.append("step")
        done.append("more")

    assert cli.run(DOC, ["x"], work) == 128 + number
    assert done == ["step"]
