"""The driver's pipe, with small shell commands in place of the stages."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from banger_tools import errors, pipeline
from banger_tools.pipeline import Command
from tests.support import ROOT, environment

NULL = subprocess.DEVNULL


def sh(script: str) -> Command:
    return Command("sh", ("-c", script))


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_output_of_the_last_program_is_returned() -> None:
    assert pipeline.run([sh("echo one two"), Command("tr", ("a-z", "A-Z")), Command("cat")], stdin=NULL) == b"ONE TWO\n"


def test_a_megabyte_passes_through() -> None:
    made = [Command("head", ("-c", "1000000", "/dev/zero")), Command("cat"), Command("cat")]
    assert pipeline.run(made, stdin=NULL) == bytes(1_000_000)


def test_all_programs_run_at_once() -> None:
    began = time.monotonic()
    pipeline.run([sh("sleep 2")] * 4, stdin=NULL)
    assert time.monotonic() - began < 6


def test_status_of_the_failed_program_is_ours_and_it_is_named() -> None:
    with pytest.raises(pipeline.Failed, match="'sh' failed with status 66") as raised:
        pipeline.run([Command("true"), sh("exit 66"), Command("cat")], stdin=NULL)
    assert raised.value.status == 66


def test_program_after_a_failed_one_never_sees_the_end_of_its_input(tmp_path: Path) -> None:
    complaint = tmp_path / "complaint"
    with pytest.raises(pipeline.Failed, match="status 7"):
        pipeline.run([sh("echo half; exit 7"), sh(f"cat >/dev/null; echo ended >{complaint}; exit 65")], stdin=NULL)
    assert not complaint.exists()


def test_program_that_fails_because_it_was_stopped_is_not_blamed() -> None:
    with pytest.raises(pipeline.Failed) as raised:
        pipeline.run([sh("trap 'exit 3' TERM; echo; while :; do sleep 0.1; done"), sh("read line; exit 4")], stdin=NULL)
    assert raised.value.status == 4


def test_program_that_missed_its_signal_is_woken_by_the_end_of_its_input() -> None:
    began = time.monotonic()
    with pytest.raises(pipeline.Failed) as raised:
        pipeline.run([sh("sleep 1; exit 4"), sh("trap '' TERM; cat; exit 3")], stdin=NULL)
    assert raised.value.status == 4
    assert time.monotonic() - began < pipeline.GRACE


def test_failure_of_a_late_program_stops_the_early_ones() -> None:
    began = time.monotonic()
    with pytest.raises(pipeline.Failed, match="status 5"):
        pipeline.run([Command("sleep", ("30",)), Command("cat"), sh("exit 5")], stdin=NULL)
    assert time.monotonic() - began < 20


def test_program_that_was_killed_is_named_with_its_signal() -> None:
    with pytest.raises(pipeline.Failed, match="was killed by SIGKILL") as raised:
        pipeline.run([sh("kill -9 $$"), Command("cat")], stdin=NULL)
    assert raised.value.status == 137


def test_missing_program_is_named_and_the_others_end() -> None:
    with pytest.raises(errors.NoInput, match="cannot run 'no-such-program'"):
        pipeline.run([Command("sleep", ("30",)), Command("no-such-program"), Command("cat")], stdin=NULL)


@pytest.mark.parametrize("last", ["true", "exit 9", "cat; exit 1"])
def test_no_descriptor_is_left_open(last: str) -> None:
    before = open_descriptors()
    with contextlib.suppress(pipeline.Failed):
        pipeline.run([sh("echo x"), Command("cat"), sh(last)], stdin=NULL)
    assert open_descriptors() == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_pipe_lets_every_program_clean_up(tmp_path: Path, number: int, status: int) -> None:
    script = tmp_path / "driver.py"
    worker = (
        f"trap 'echo cleaned >>{tmp_path}/log; exit 1' TERM; touch {tmp_path}/ready-$$; while :; do sleep 0.05; done"
    )
    script.write_text(
        "from banger_tools import cli, pipeline\n"
        f"commands = [pipeline.Command('sh', ('-c', {worker!r}))] * 3\n"
        "doc = 'x: x\\n\\nUsage:\\n  x\\n'\n"
        "raise SystemExit(cli.run(doc, [], lambda _: bool(pipeline.run(commands))))\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-P", script], env=environment({"PYTHONPATH": str(ROOT)}), stdin=NULL, stderr=subprocess.PIPE
    )
    with driver:
        deadline = time.monotonic() + 20
        while len(list(tmp_path.glob("ready-*"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.send_signal(number)
        _, said = driver.communicate(timeout=30)
    assert driver.returncode == status, said
    assert (tmp_path / "log").read_text() == "cleaned\n" * 3


def test_stages_are_run_by_this_python_and_shown_by_their_names() -> None:
    command = Command("bg-flatten", ("-C", "my folder"))
    assert command.argv[:4] == [sys.executable, "-P", "-m", "banger_tools.flatten"]
    assert str(command) == "bg-flatten -C 'my folder'"


def test_option_for_a_stage_that_is_not_run_is_refused() -> None:
    with pytest.raises(errors.BadUsage, match="--size is for the stage 'mkext4'"):
        pipeline.Settings.from_arguments({"--size": "4G"}, Path(), ["fetch", "flatten"])


def test_options_reach_their_stage_and_the_folder_those_that_make_something() -> None:
    settings = pipeline.Settings.from_arguments(
        {"--size": "4G", "--offline": True, "--name": None, "--force": True}, Path("work"), ["fetch", "mkext4", "chown"]
    )
    shown = [str(command) for command in pipeline.stages(["fetch", "mkext4", "chown"], "apt:bookworm", settings)]
    assert shown == [
        "bg-fetch --offline -- apt:bookworm",
        "bg-mkext4 --directory=work --force --size=4G",
        "bg-chown",
    ]


def test_manifests_are_kept_by_tee_behind_each_stage(tmp_path: Path) -> None:
    woven = pipeline.with_manifests([sh("echo one"), Command("tr", ("a-z", "A-Z"))], tmp_path)
    assert pipeline.run(woven, stdin=NULL) == b"ONE\n"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"1-sh.json": "one\n", "2-tr.json": "ONE\n"}


def test_interruption_just_after_an_end_was_closed_closes_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is closed twice may by then be a descriptor of somebody else."""
    close = os.close

    def interrupted(self: pipeline._Pipe, index: int) -> None:
        def once(descriptor: int) -> None:
            close(descriptor)
            monkeypatch.setattr(os, "close", close)
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "close", once)
        succeeded(self, index)

    succeeded = pipeline._Pipe._succeeded
    monkeypatch.setattr(pipeline._Pipe, "_succeeded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run([sh("exit 0"), sh("cat")], stdin=NULL)


def test_program_that_has_just_begun_when_we_are_interrupted_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupting(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupting)
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run([Command("sleep", ("600",))], stdin=NULL)
        assert [process.poll() for process in started] == [-signal.SIGTERM]
    finally:
        signal.signal(signal.SIGINT, previous)
        started[0].kill()
