"""What a machine prints is written down by a process of its own, within a bound, and to the last word."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.vmm import holder, life, logs, recorder
from tests import support

SMALL = 64 << 10
SECONDS = 120


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let logs be small."""
    monkeypatch.setattr(recorder, "LIMITS", {holder.CONSOLE: SMALL, holder.LOG: SMALL, "other.log": SMALL})


def run(folder: Path, script: str, **pipes: str) -> None:
    """Run a shell script as a monitor to its end, and that of who writes down what it says."""
    assert os.waitpid(holder.start(["sh", "-c", script], folder, pipes), 0)[1] == 0
    assert holder.wait_gone(folder, SECONDS)


def kept(folder: Path, name: str = holder.CONSOLE) -> bytes:
    older = Path(recorder.older(str(folder / name)))
    return (older.read_bytes() if older.exists() else b"") + (folder / name).read_bytes()


def numbers(most: int) -> bytes:
    return "".join(f"{number}\n" for number in range(1, most + 1)).encode()


def test_little_is_all_kept_in_one_file(tmp_path: Path) -> None:
    run(tmp_path, "echo console; echo monitor >&2; printf unfinished")
    assert kept(tmp_path) == b"console\nunfinished" and kept(tmp_path, holder.LOG) == b"monitor\n"
    assert {path.name for path in tmp_path.iterdir()} == {holder.LOCK, holder.CONSOLE, holder.LOG}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.usefixtures("small")
def test_of_what_never_ends_the_end_is_kept(tmp_path: Path) -> None:
    run(tmp_path, "seq 100000; seq 100000 >&2")
    for name in (holder.CONSOLE, holder.LOG):
        found = kept(tmp_path, name)
        assert numbers(100_000).endswith(found)
        assert SMALL <= len(found) <= 2 * SMALL
    assert life._tail(tmp_path / holder.CONSOLE) == numbers(100_000)[-life._LOG_BYTES :].decode()


def test_console_that_never_ends_takes_32_mebibytes_at_most(tmp_path: Path) -> None:
    run(tmp_path, "yes 'a guest that prints for ever' | head -c 34M; echo the end")
    sizes = [path.stat().st_size for path in tmp_path.glob("console.log*")]
    assert len(sizes) == 2 and 16 << 20 <= sum(sizes) <= 32 << 20
    assert kept(tmp_path).endswith(b"the end\n")


def test_other_logs_take_2_mebibytes_at_most(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    script = "exec 3<>pipe; yes 'for ever' | head -c 3M | tee pipe >&2; echo the end | tee pipe >&2"
    run(tmp_path, script, pipe="other.log")
    for name in (holder.LOG, "other.log"):
        sizes = [path.stat().st_size for path in tmp_path.glob(f"{name}*")]
        assert len(sizes) == 2 and 1 << 20 <= sum(sizes) <= 2 << 20
        assert kept(tmp_path, name).endswith(b"the end\n")


@pytest.mark.usefixtures("small")
def test_logs_begin_anew_with_each_start(tmp_path: Path) -> None:
    run(tmp_path, "seq 100000")
    run(tmp_path, "echo again")
    assert kept(tmp_path) == b"again\n" and not list(tmp_path.glob("*.1"))


@pytest.mark.usefixtures("small")
def test_named_pipes_are_written_down_within_bounds_too(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    run(tmp_path, "exec 3<>pipe; echo on the console; seq 100000 >&3; echo last >&3", pipe="other.log")
    found = kept(tmp_path, "other.log")
    assert (numbers(100_000) + b"last\n").endswith(found) and SMALL <= len(found) <= 2 * SMALL
    assert kept(tmp_path) == b"on the console\n"


def test_named_pipe_that_nobody_writes_to_keeps_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    run(tmp_path, "true", pipe="other.log")
    assert kept(tmp_path, "other.log") == b""


def test_all_that_a_killed_monitor_said_is_written_when_it_is_gone(tmp_path: Path) -> None:
    pid = holder.start(["sh", "-c", "seq 10000; echo ready >&2; kill -STOP $$; sleep 600"], tmp_path)
    assert os.waitpid(pid, os.WUNTRACED)[1] & 0xFF == 0x7F
    assert holder.is_alive(tmp_path) and holder.holders(tmp_path) == [pid]
    holder.kill(tmp_path)
    assert holder.wait_gone(tmp_path, SECONDS)
    assert kept(tmp_path) == numbers(10_000) and kept(tmp_path, holder.LOG) == b"ready\n"
    os.waitpid(pid, 0)


def test_nobody_who_reads_our_output_waits_for_the_machine(tmp_path: Path) -> None:
    """As in `out=$(banger vm start web 2>&1)`: who writes down a machine's words has none of our descriptors."""
    code = "from pathlib import Path; from banger_tools.vmm import holder; holder.start(['sleep', '600'], Path.cwd())"
    env = support.environment({"PYTHONPATH": str(support.ROOT)})
    argv = [sys.executable, "-c", code]
    subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, check=True, timeout=SECONDS)
    assert holder.is_alive(tmp_path)
    holder.kill(tmp_path)
    assert holder.wait_gone(tmp_path, SECONDS)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 256 KiB."""
    with support.tmpfs(tmp_path, "size=256k") as disk:
        yield disk


@pytest.mark.root
@pytest.mark.usefixtures("small")
def test_full_disk_loses_words_and_stops_nobody(tiny_disk: Path) -> None:
    run(tiny_disk, "head -c 1M /dev/zero > ballast 2>/dev/null; seq 100000; rm ballast; seq 100000; echo last")
    assert kept(tiny_disk).endswith(b"\n100000\nlast\n")


# Readers


def test_reader_goes_on_from_one_file_to_the_next(tmp_path: Path) -> None:
    """What was written is read once and in order, however writing, changing files and reading take turns."""
    chance = random.Random(7)
    for _ in range(50):
        path = tmp_path / "log"
        path.write_bytes(b"")
        Path(recorder.older(str(path))).unlink(missing_ok=True)
        said, heard, turns = b"", b"", 0
        with contextlib.closing(logs.Log(path)) as log:
            for number in range(60):
                match chance.choice("wwrm"):
                    case "w":
                        with open(path, "ab") as file:
                            file.write(b"%d\n" % number)
                        said += b"%d\n" % number
                    case "r":
                        heard, turns = heard + b"".join(iter(log.read, b"")), 0
                    case "m" if turns < 2:
                        os.replace(path, recorder.older(str(path)))
                        path.touch()
                        turns += 1
            heard += b"".join(iter(log.read, b""))
        assert heard == said


def test_reader_that_is_too_slow_misses_the_middle_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first")
    with contextlib.closing(logs.Log(path)) as log:
        for text in (b"second", b"third", b"fourth"):
            os.replace(path, recorder.older(str(path)))
            path.write_bytes(text)
        assert b" ".join(iter(log.read, b"")) == b"first third fourth"


def test_machine_is_followed_past_the_end_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "LIMITS", {holder.CONSOLE: 1000})
    monkeypatch.setattr(logs, "_POLL", 0.001)
    os.mkfifo(tmp_path / "go")
    script = "for n in $(seq 30); do read go < go; seq 100; done"
    pid = holder.start(["sh", "-c", script], tmp_path)
    heard = b""
    with contextlib.closing(logs.Log(tmp_path / holder.CONSOLE)) as log:
        pieces = logs._read(log, tmp_path, follow=True)
        for turn in range(1, 31):
            (tmp_path / "go").write_text("go\n")
            while len(heard) < turn * len(numbers(100)):
                heard += next(pieces)
        assert heard + b"".join(pieces) == numbers(100) * 30
    os.waitpid(pid, 0)
