"""A little of what `make fuzz` does for minutes, the same each time, and that it finds what is there to be found."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from banger_tools import errors
from tests import support
from tests.fuzz import __main__ as program
from tests.fuzz import mutation
from tests.fuzz.targets import TARGETS, Target

OUTSIDE = support.ROOT / "outside"


def fuzz(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the program, changed by some code, in a process of its own, and kill it and its children if it never ends."""
    start = f"import sys; from tests.fuzz import __main__ as program, guard, targets\n{code}\nsys.exit(program.main())"
    env = support.environment({"PYTHONPATH": str(support.ROOT)})
    argv = ["timeout", "--signal=KILL", "300", sys.executable, "-P", "-c", start, *words]
    return subprocess.run(argv, capture_output=True, text=True, env=env)


INPUTS = dict.fromkeys(TARGETS, 500) | {"compressed": 150, "archive": 100, "registry": 30, "ext4": 10, "bundle": 80}


@pytest.mark.parametrize("name", TARGETS)
def test_reader_stays_in_bounds_whatever_it_reads(name: str) -> None:
    done = fuzz("", f"--inputs={INPUTS[name]}", "--seed=1", name)
    assert done.returncode == 0, done.stdout + done.stderr


BAD = {  # what a reader does, and what is said of it
    "a crash": ("{}[data]", "KeyError: b'x'"),
    "a hang": ("[None for turn in iter(int, 1) if turn]", "guard.Overrun"),
    "memory": ("bytearray(1 << 32)", "MemoryError"),
    "a file outside": (f"open({str(OUTSIDE)!r}, 'w')", f"guard.Outside: {OUTSIDE}"),
    "a folder outside": (f"__import__('os').mkdir({str(OUTSIDE)!r})", f"guard.Outside: {OUTSIDE}"),
    "a host outside": (
        "__import__('socket').create_connection(('192.0.2.1', 9), 1)",
        "guard.Outside: ('192.0.2.1', 9)",
    ),
    "an end": ("__import__('os')._exit(3)", "ended with the wait status 768"),
    "no message": (
        "exec('raise targets.errors.BadInput(str())', {'targets': targets})",
        "an error without a message",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_reader_that_does_wrong_is_found_out(kind: str, tmp_path: Path) -> None:
    act, words = BAD[kind]
    code = f"guard.SECONDS = 1; program.CORPUS = program.Path({str(tmp_path)!r})\n"
    code += f"targets.TARGETS['reference'] = targets.Target(lambda _: [b'x'], lambda data, work: {act})"
    done = fuzz(code, "--seconds=5", "reference")
    assert done.returncode == 1, done.stdout + done.stderr
    assert words in done.stdout
    assert not OUTSIDE.exists()
    assert kind == "an end" or len(list((tmp_path / "reference").iterdir())) == 1


def test_what_was_found_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "CORPUS", tmp_path)
    program.keep("tree", b"\0found")
    given = program.inputs("tree", [b"sound"], "1 tree 0")
    assert [next(given), next(given)] == [b"\0found", b"sound"]


def test_same_seed_gives_the_same_inputs() -> None:
    def some() -> list[bytes]:
        chance = random.Random(5)
        return [mutation.mutant(chance, [b"abc" * 100, b"xyz"]) for _ in range(200)]

    assert some() == some()
    assert len(set(some())) > 150


def test_error_of_ours_is_no_finding(tmp_path: Path) -> None:
    def refuse(_data: bytes, _work: Path) -> None:
        raise errors.BadInput("it is none")

    assert program.trouble(Target(lambda _: [], refuse), b"", tmp_path / "work") is None
