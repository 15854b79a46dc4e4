"""Stages and faults: each pair ends with the status and the words that the fault has, and leaves nothing behind.

A full disk and signals at any moment are in test_interrupt.py, programs of the host that are missing in
test_mistakes.py, a registry that fails in test_registry_faults.py, machines that fail in test_boot_failures.py.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import registry, support, trees
from tests.test_interrupt import command, leftovers

STAGES = support.STAGES[:-1]
WRITERS = {"bg-fetch": "home/cache", "bg-publish": "home/state"}  # the others write where they are told to


class Bench(NamedTuple):
    """A stage that is ready to be run: its inputs, and empty folders for what it makes and for its store."""

    stage: str
    inputs: Path
    top: Path

    @property
    def output(self) -> Path:
        """Where the stage writes."""
        return self.top / WRITERS.get(self.stage, "work")

    def run(
        self,
        wrap: tuple[str | Path, ...] = (),
        env: dict[str, str] | None = None,
        stdout: int = subprocess.PIPE,
        before: Callable[[], None] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the stage, perhaps by another program, with more in its environment, or with bounds."""
        program, *words = command(self.stage, self.inputs, self.top / "work")
        small = ["--size=32M"] if self.stage == "bg-mkext4" else []
        argv = [*map(str, wrap), program, *small, *words]
        setting = support.environment({"BANGER_HOME": str(self.top / "home"), **(env or {})})
        return subprocess.run(
            argv, env=setting, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=self.top, preexec_fn=before
        )

    def assert_clean(self, done: subprocess.CompletedProcess[str]) -> None:
        """Assert that a stage that failed said so as it should, and left nothing."""
        assert "Traceback" not in done.stderr and not done.stdout, done.stderr
        assert done.stderr.startswith(f"{self.stage}: error: "), done.stderr
        assert leftovers(self.top) == []
        assert list((self.top / "work").iterdir()) == []
        assert not list(self.top.glob("home/state/images/*"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the input of every stage: an OCI layout, and the manifests that the stages before leave."""
    folder = tmp_path_factory.mktemp("inputs")
    with trees.new_tar(folder / "root.tar") as out:
        trees.add(out, "root/.profile", data=b"x" * 300_000)
        trees.add(out, "usr/share/small", data=b"y" * 3_000)
        trees.add(out, "usr/lib/systemd/systemd", data=b"elf", mode=0o755)
    registry.umoci_layout(folder, [(folder / "root.tar").read_bytes()], "x").rename(folder / "oci")
    env = {"BANGER_HOME": str(folder / "home")}
    text = support.run_ok("bg-fetch", f"oci:{folder}/oci:x", env=env)
    more = {"bg-mkext4": ["--size=32M"], "bg-chown": ["-o", folder / "owned"], "bg-inject": ["-o", folder / "guest"]}
    for stage, following in itertools.pairwise(STAGES[1:]):
        (folder / stage).write_bytes(text)
        words = more.get(stage, [])  # no stage edits the input of another
        text = support.run_ok(stage, "-C", folder, *words, folder / stage, env=env)
        (folder / following).write_bytes(text)
    return folder


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.fixture(params=STAGES)
def bench(request: pytest.FixtureRequest, inputs: Path, top: Path) -> Bench:
    return Bench(request.param, inputs, top)


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes files fail."""
    support.need("gcc")
    path = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("fault_shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", path, source, "-ldl"], check=True)
    return path


def failing(shim: Path, kind: str, number: int, folder: Path) -> dict[str, str]:
    fault = {"FAULT_KIND": kind, "FAULT_ERRNO": str(number), "FAULT_FOLDER": str(folder)}
    return {"LD_PRELOAD": str(shim), **fault}


FAULTS = {  # kind: errno, what is said; a read fails where the stage reads, all else where it writes
    "write": (errno.EIO, "input/output error"),
    "write: quota": (errno.EDQUOT, "quota exceeded"),
    "read": (errno.EIO, "input/output error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_disk_that_fails_is_said_and_nothing_is_left(bench: Bench, shim: Path, fault: str) -> None:
    number, words = FAULTS[fault]
    kind = fault.partition(":")[0]
    done = bench.run(env=failing(shim, kind, number, bench.inputs if kind == "read" else bench.output))
    assert done.returncode == 74, done.stderr
    assert words in done.stderr.lower()
    bench.assert_clean(done)


def test_image_that_cannot_be_flushed_is_not_published(inputs: Path, top: Path, shim: Path) -> None:
    """What fsync(2) says is the last that is heard of a write that failed."""
    bench = Bench("bg-publish", inputs, top)
    done = bench.run(env=failing(shim, "sync", errno.EIO, bench.output))
    assert done.returncode == 74 and "input/output error" in done.stderr
    bench.assert_clean(done)


@pytest.mark.root
def test_read_only_disk_is_said_and_nothing_is_tried(bench: Bench) -> None:
    bench.output.mkdir(parents=True, exist_ok=True)
    shell = f'mount -t tmpfs -o ro none "{bench.output}" && exec "$@"'
    done = bench.run(("unshare", "--mount", "sh", "-c", shell, "sh"))
    assert done.returncode == 73, done.stderr
    assert "read-only file system" in done.stderr
    bench.assert_clean(done)


def began(bench: Bench, done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether a run came as far as our own code; before, it is Python that ends, or sh.

    It is Python's own end, too, where not even the report had any memory, or nobody had thought of its lack.
    """
    if "MemoryError" in done.stderr or "SystemError" in done.stderr:
        return False
    ours = rf'^{bench.stage}: |cli\.py", line \d+, in run$'
    return re.search(ours, done.stderr, re.MULTILINE) is not None


def test_too_little_memory_is_no_bug(bench: Bench) -> None:
    """From what Python cannot start with to what is enough: in between the stage says that it has too little."""
    mebibytes = 24
    words = ("out of memory", "cannot allocate memory", "was killed")
    found: set[tuple[int, str]] = set()

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))

    while (done := bench.run(before=bound, env={"COVERAGE_PROCESS_CONFIG": ""})).returncode:  # it would need more
        assert mebibytes < 2048, done.stderr
        if began(bench, done):
            said = [one for one in words if one in done.stderr]
            assert done.returncode in (74, 75) and said, done.stderr
            bench.assert_clean(done)
            found.add((done.returncode, said[0]))
        mebibytes += mebibytes // 8
    assert (75, "out of memory") in found


def made(bench: Bench) -> dict[str, str]:
    """Return the digests of the artifacts that a stage made."""
    disks = [*(bench.top / "work").iterdir(), *bench.top.glob("home/state/images/*/*.ext4")]
    disks += [path for path in bench.top.glob("home/cache/layers/sha256/*") if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in disks}


def assert_artifact_alone(bench: Bench) -> None:
    """Assert that a stage whose word reached nobody left its artifact, but no image, and nothing else."""
    assert leftovers(bench.top) == [] and not list(bench.top.glob("home/state/images/*"))
    assert bool(made(bench)) == (bench.stage != "bg-publish")


def test_reader_that_went_away_is_a_silent_end(bench: Bench) -> None:
    """SIGPIPE: as of any Unix tool, and an image that nobody heard of is not published."""
    reader, writer = os.pipe()
    os.close(reader)
    done = bench.run(stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    assert_artifact_alone(bench)


def test_full_disk_behind_stdout_is_said(bench: Bench) -> None:
    with open("/dev/full", "wb") as full:
        done = bench.run(stdout=full.fileno())
    assert (done.returncode, done.stderr) == (
        74,
        f"{bench.stage}: error: cannot write to stdout: no space left on device\n",
    )
    assert_artifact_alone(bench)


@pytest.mark.parametrize("now", ["1975-01-01 00:00:00", "2150-01-01 00:00:00"])
def test_clock_that_is_wrong_changes_no_byte(bench: Bench, now: str, tmp_path: Path) -> None:
    """A machine without a battery begins in 1970, and time servers make it jump."""
    support.need("faketime")
    right = Bench(bench.stage, bench.inputs, tmp_path / "right")
    (right.top / "work").mkdir(parents=True)
    assert right.run().returncode == 0
    done = bench.run(("faketime", "-f", now))
    assert done.returncode == 0, done.stderr
    again = bench.run(()) if bench.stage == "bg-fetch" else done  # what it left in the cache serves the next run
    assert again.returncode == 0 and made(bench) == made(right) != {}


HELPERS = {"bg-mkext4": "mke2fs", "bg-inject": "debugfs", "bg-seed": "mke2fs"}


@pytest.fixture(params=HELPERS)
def helped(request: pytest.FixtureRequest, inputs: Path, top: Path) -> Bench:
    return Bench(request.param, inputs, top)


def instead(bench: Bench, script: str) -> dict[str, str]:
    """Return an environment in which the program that a stage runs is this script."""
    path = bench.top / "bin" / HELPERS[bench.stage]
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"PATH": f"{path.parent}:{support.search_path()}"}


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        ("kill -9 $$", 74, "was killed by SIGKILL"),
        ("kill -11 $$", 74, "was killed by SIGSEGV"),
        ("echo 'No space left on device' >&2; exit 1", 74, "No space left on device"),
        ("printf '\\033[2Jwrong\\n' >&2; exit 3", 69, "failed with status 3: \\x1b[2Jwrong"),
    ],
)
def test_program_of_the_host_that_fails_is_named_and_nothing_is_left(
    helped: Bench, script: str, status: int, words: str
) -> None:
    done = helped.run(env=instead(helped, script))
    assert done.returncode == status, done.stderr
    assert f"'{HELPERS[helped.stage]}' " in done.stderr and words in done.stderr
    helped.assert_clean(done)


def test_program_of_the_host_that_does_nothing_is_found_out(helped: Bench) -> None:
    done = helped.run(env=instead(helped, "exit 0"))
    assert done.returncode in (65, 69, 74), done.stderr
    helped.assert_clean(done)
