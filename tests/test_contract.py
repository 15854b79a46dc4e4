"""The contract of every program, tried on all nine through their launchers: nothing here knows how they do it."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import __version__, docs, errors
from tests.support import BIN, PROGRAMS, ROOT, cannot, environment, leftovers, run

COMMANDS = tuple(docs.commands(docs.parse(importlib.import_module("banger_tools.banger").__doc__ or "")))
MODULES = [*(name.removeprefix("bg-") for name in PROGRAMS), *map(docs.command_module, COMMANDS)]
DOCOPT_062 = ROOT / ".venv" / "docopt-0.6.2"
# What makes each program read a manifest from stdin; bg-fetch makes the first one and reads none.
READERS = {
    "bg-flatten": [],
    "bg-mkext4": [],
    "bg-chown": [],
    "bg-inject": [],
    "bg-seed": [],
    "bg-publish": [],
    "bg-boot": [],
    "banger": ["build", "--from=flatten", "--to=mkext4"],
}
TALK = ("-q", "-v", "--progress", "-h", "--version")
STAGE = ("-C", "-o", "-f", "--path")

every_program = pytest.mark.parametrize("program", PROGRAMS)
every_reader = pytest.mark.parametrize("program", READERS)
every_module = pytest.mark.parametrize("module", MODULES)


def manual(module: str) -> docs.Manual:
    return docs.parse(importlib.import_module(f"banger_tools.{module}").__doc__ or "")


def module_of(program: str) -> str:
    return program.removeprefix("bg-")


@pytest.fixture(params=["docopt-ng", "docopt 0.6.2"])
def docopt(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment in which one of the two docopts is found."""
    if request.param == "docopt-ng":
        return {}
    if not DOCOPT_062.is_dir():
        cannot(f"docopt 0.6.2 is not in '{DOCOPT_062}': make test puts it there")
    return {"PYTHONPATH": str(DOCOPT_062)}


@every_program
def test_help_goes_to_stdout_and_shows_the_whole_manual(program: str, docopt: dict[str, str]) -> None:
    done = run(program, "--help", env=docopt)
    assert (done.returncode, done.stderr) == (0, b"")
    for option in manual(module_of(program)).options:
        assert option.spelling in done.stdout.decode()
    assert done.stdout.startswith(f"{program}: ".encode())
    assert run(program, "-h", env=docopt).stdout == done.stdout


@every_program
def test_help_wins_over_what_else_is_wrong(program: str, docopt: dict[str, str]) -> None:
    done = run(program, "--help", "too", "many", "arguments", env=docopt)
    assert (done.returncode, done.stderr) == (0, b"")


@every_program
def test_version_is_one_line(program: str, docopt: dict[str, str]) -> None:
    done = run(program, "--version", env=docopt)
    assert (done.returncode, done.stdout.decode()) == (0, f"{program} {__version__}\n")


@every_program
def test_unknown_option_is_named_and_the_nearest_suggested(program: str, docopt: dict[str, str]) -> None:
    done = run(program, "--progres=never", env=docopt)
    assert (done.returncode, done.stdout) == (64, b"")
    assert f"{program}: error: unknown option '--progres'" in done.stderr.decode()
    assert "did you mean '--progress'?" in done.stderr.decode()


@every_program
def test_abbreviated_option_is_refused(program: str, docopt: dict[str, str]) -> None:
    for words in (["--vers"], ["--prog", "never"], ["--qui"]):
        done = run(program, *words, env=docopt)
        assert done.returncode == 64
        assert f"unknown option '{words[0]}'" in done.stderr.decode()


@every_program
def test_option_given_twice_is_refused(program: str, docopt: dict[str, str]) -> None:
    for words in (["--progress=never", "--progress=never"], ["-q", "--quiet"], ["-qq"]):
        done = run(program, *words, env=docopt)
        assert done.returncode == 64
        assert "was given twice" in done.stderr.decode()


@every_program
def test_option_without_its_value_is_named(program: str, docopt: dict[str, str]) -> None:
    done = run(program, "--progress", env=docopt)
    assert done.returncode == 64
    assert "option '--progress' needs a value: WHEN" in done.stderr.decode()


@every_program
def test_value_for_a_flag_is_refused(program: str) -> None:
    done = run(program, "--quiet=yes")
    assert done.returncode == 64
    assert "option '--quiet' takes no value" in done.stderr.decode()


@every_program
def test_unknown_progress_word_is_refused(program: str) -> None:
    words = {"bg-fetch": ["x"], "banger": ["doctor"]}.get(program, [])
    done = run(program, "--progress=sometimes", *words)
    assert done.returncode == 64
    assert "--progress: 'sometimes' is none of auto, always, never, json" in done.stderr.decode()


@pytest.mark.parametrize(("program", "argument"), [("bg-fetch", "REF"), ("banger", "COMMAND")])
def test_missing_argument_is_named(program: str, argument: str, docopt: dict[str, str]) -> None:
    done = run(program, env=docopt)
    assert done.returncode == 64
    assert f"missing argument: {argument}" in done.stderr.decode()


@every_program
def test_extra_argument_is_named(program: str, docopt: dict[str, str]) -> None:
    words = ["doctor"] if program == "banger" else ["one"]
    done = run(program, *words, "extra", "more", env=docopt)
    assert done.returncode == 64
    assert "unexpected argument: 'extra'" in done.stderr.decode()


@every_program
def test_usage_error_shows_the_usage_as_a_hint_and_quiet_drops_it(program: str) -> None:
    loud = run(program, "--nonsense").stderr.decode()
    assert f"usage: {program} " in loud
    assert all(line.startswith((f"{program}: ", "usage: ")) for line in loud.splitlines())
    if program != "banger":
        return
    quiet = run(program, "-q", "nonsense").stderr.decode()
    assert quiet.splitlines() == ["banger: error: unknown command 'nonsense'"]


@every_reader
def test_terminal_as_stdin_is_a_usage_error_and_never_a_wait(program: str) -> None:
    leader, follower = pty.openpty()
    try:
        done = subprocess.run(
            [BIN / program, *READERS[program]], stdin=follower, capture_output=True, env=environment(), timeout=20
        )
    finally:
        os.close(leader)
        os.close(follower)
    assert (done.returncode, done.stdout) == (64, b"")
    assert b"stdin is a terminal" in done.stderr


@every_reader
@pytest.mark.parametrize("nothing", [b"", b" \n"])
def test_empty_stdin_is_bad_input(program: str, nothing: bytes) -> None:
    done = run(program, *READERS[program], stdin=nothing)
    assert (done.returncode, done.stdout) == (65, b"")
    assert b"stdin is empty: no manifest came" in done.stderr


@every_reader
def test_manifest_of_another_schema_is_refused_naming_both(program: str) -> None:
    done = run(program, *READERS[program], stdin=json.dumps({"schema": "banger-manifest/99"}))
    assert (done.returncode, done.stdout) == (65, b"")
    assert b"'banger-manifest/99'" in done.stderr
    assert b"'banger-manifest/1'" in done.stderr


@every_reader
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "is not a manifest"),
        ("[1]", "it has no 'schema' key"),
        ('{"schema": "banger-manifest/1", "tree": {"path": 7}}', "manifest: tree.path: "),
        ('{"schema": "banger-manifest/1", "layers": [{"diff_id": "md5:x"}]}', "manifest: layers[0].diff_id: must be"),
        ("[" * 100_000, "is not a manifest"),
    ],
)
def test_broken_manifest_is_bad_input_and_the_place_is_named(program: str, text: str, said: str) -> None:
    done = run(program, *READERS[program], stdin=text)
    assert (done.returncode, done.stdout) == (65, b"")
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr


@every_reader
def test_missing_section_names_the_program_that_makes_it(program: str) -> None:
    done = run(program, *READERS[program], stdin='{"schema": "banger-manifest/1"}')
    assert (done.returncode, done.stdout) == (65, b"")
    assert re.search(rb"the manifest has no '\w+' section", done.stderr)
    assert re.search(rb"run bg-\w+ before", done.stderr)


@every_reader
def test_input_that_is_not_there_is_named(program: str, tmp_path: Path) -> None:
    done = run(program, *READERS[program], tmp_path / "missing")
    assert (done.returncode, done.stdout) == (66, b"")
    assert f"'{tmp_path / 'missing'}'" in done.stderr.decode()
    assert b"no such file or directory" in done.stderr


@every_reader
def test_input_of_no_known_kind_is_refused(program: str, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"\x01noise" * 1000)
    done = run(program, *READERS[program], tmp_path / "noise", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (65, b"")
    assert b"is of no known format, and " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise"]


@every_program
def test_closed_stdout_ends_the_program_silently(program: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([BIN / program, "--help"], stdout=writer, stderr=subprocess.PIPE, env=environment())
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@every_program
def test_full_disk_on_stdout_is_said(program: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([BIN / program, "--help"], stdout=full, stderr=subprocess.PIPE, env=environment())
    assert done.returncode == 74
    assert b"no space left on device" in done.stderr


def stderr_on_a_terminal(program: str, env: dict[str, str]) -> bytes:
    leader, follower = pty.openpty()
    try:
        subprocess.run([BIN / program, "--nonsense"], stderr=follower, env={**environment(), "TERM": "xterm", **env})
        return os.read(leader, 1 << 16)
    finally:
        os.close(follower)
        os.close(leader)


@every_program
def test_colours_only_on_a_terminal_and_not_with_no_color(program: str) -> None:
    assert b"\x1b[" in stderr_on_a_terminal(program, {})
    assert b"\x1b[" not in stderr_on_a_terminal(program, {"NO_COLOR": "1"})
    assert b"\x1b[" not in run(program, "--nonsense").stderr


def blocked_command(program: str, silent: socket.socket) -> list[str]:
    """Return a command line that waits for ever: for its manifest, or for a registry that never answers."""
    port = silent.getsockname()[1]
    words = READERS.get(program, [f"127.0.0.1:{port}/name:tag"])
    return [str(BIN / program), *words]


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listening socket that accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def reads_stdin(pid: int) -> bool:
    """Tell whether a process, or a child of it, waits in read(0) by /proc."""
    for task in [pid, *children(pid)]:
        try:
            fields = Path(f"/proc/{task}/syscall").read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # one that the launcher ran has just ended
            continue
        if len(fields) > 1 and fields[0] in ("0", "63") and fields[1] == "0x0":
            return True
    return False


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_blocked(process: subprocess.Popen[bytes], program: str, silent: socket.socket) -> None:
    if program == "bg-fetch":
        silent.settimeout(20)
        silent.accept()[0].detach()  # the connection stays open, and nobody answers
        return
    deadline = time.monotonic() + 20
    while not reads_stdin(process.pid):
        assert process.poll() is None
        assert time.monotonic() < deadline, f"{program} never came to read its stdin"
        time.sleep(0.02)


@every_program
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_interrupted_program_leaves_nothing(
    program: str, number: int, status: int, silent: socket.socket, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        blocked_command(program, silent),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"BANGER_HOME": str(tmp_path / "home")}),
        cwd=tmp_path,
    )
    with process:
        wait_until_blocked(process, program, silent)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (status, b"")
    assert b"Traceback" not in err
    assert leftovers(tmp_path) == []


@every_module
def test_every_option_of_the_manual_reaches_the_program(module: str, docopt: dict[str, str]) -> None:
    script = [sys.executable, "-P", "-m", "tests.every_option", module]
    path = os.pathsep.join([str(ROOT), *docopt.values()])
    done = subprocess.run(script, capture_output=True, env=environment({"PYTHONPATH": path}), cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    assert (b"docopt-0.6.2" in done.stdout) == bool(docopt)


@every_module
def test_shared_options_are_the_same_in_every_program(module: str) -> None:
    shared = docs.parse("x: x\n\nUsage:\n  x\n\nOptions:\n  @stage\n  @talk\n").options
    own = {option.spelling: option for option in manual(module).options}
    for option in shared:
        name = option.short or option.spelling
        if name in TALK:
            assert own[option.spelling] == option
        elif option.spelling in own:
            assert own[option.spelling][:3] == option[:3]


def test_one_letter_means_one_thing_in_the_whole_suite() -> None:
    meanings: dict[str, set[str | None]] = {}
    for module in MODULES:
        for option in manual(module).options:
            if option.short:
                meanings.setdefault(option.short, set()).add(option.long)
    assert meanings["-f"] - {"--force"} == {"--follow"}  # of logs: that letter belongs to it wherever there are logs
    meanings["-f"].discard("--follow")
    assert {letter: words for letter, words in meanings.items() if len(words) > 1} == {}


@every_module
def test_exit_statuses_of_the_manual_are_those_of_the_table(module: str) -> None:
    table = {0, errors.BUG, errors.INTERRUPTED, errors.CLOSED_PIPE, errors.TERMINATED}
    table |= {error.status for error in errors.ERRORS}
    listed = re.findall(r"^  (\d+) ", manual(module).sections["Exit status"], re.MULTILINE)
    assert {"0", "64"} <= set(listed)
    assert {int(status) for status in listed} <= table


@every_module
def test_manual_has_every_section_and_reads_as_documented(module: str) -> None:
    found = manual(module)
    assert found.name in (f"bg-{module}", module) or docs.command_module(found.name.removeprefix("banger ")) == module
    assert {"Usage", "Options", "Description", "Examples", "Exit status", "See also"} <= set(found.sections)
    assert all(line.startswith(found.name) for line in found.synopsis)
    assert all(option.text for option in found.options)
    assert all(len(line) <= 120 for body in found.sections.values() for line in body.splitlines())


def test_programs_are_found_through_a_chain_of_links(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "first").symlink_to(BIN / "bg-fetch")
    (tmp_path / "second").symlink_to("deep/first")
    done = subprocess.run([tmp_path / "second", "--version"], capture_output=True, cwd="/", env=environment())
    assert done.stdout.decode() == f"bg-fetch {__version__}\n"


def test_programs_do_not_import_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("json.py", "docopt.py", "banger_tools.py", "errno.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the current folder')")
    assert run("bg-flatten", "--version", cwd=tmp_path).returncode == 0
    assert run("bg-flatten", cwd=tmp_path).returncode == 65
