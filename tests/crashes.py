"""Programs that are killed, or find the disk full, at one chosen system call after the other, by strace(1)."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import leftovers
from banger_tools.commands import pruning
from tests import support

# What changes a disk, or asks for it to be flushed; the question mark is for calls that an architecture does not have.
_CALLS = (
    "openat,?mkdir,mkdirat,?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat,?unlink,unlinkat,?rmdir,write,"
    "pwrite64,pwritev,ftruncate,copy_file_range,sendfile,ioctl,fchmod,?chmod,fchmodat,utimensat,fsync,fdatasync"
)
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
_FREEING = ("unlink", "unlinkat", "rmdir", "ftruncate", "fchmod", "chmod", "utimensat")
NO_SPACE = 74


class Step(NamedTuple):
    """One system call of a program: its name, and which one of that name it is."""

    call: str
    number: int

    @property
    def takes_room(self) -> bool:
        """Whether a disk may be too full for it."""
        return self.call not in _FREEING


class Program(NamedTuple):
    """A program that is to be disturbed: its module, words and stdin, and the folder whose changes count.

    It is one process, since calls are counted in each alone: so it runs without the launcher, which is a shell's.
    """

    module: str
    words: Sequence[str]
    stdin: str
    folder: Path
    scratch: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run it below strace with these options."""
        strace = ["strace", "-f", "-qq", "-y", "-o", str(self.scratch / "trace"), f"-etrace={_CALLS}", *words]
        # No byte code that only one run writes
        env = support.environment({"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(support.ROOT)})
        argv = [*strace, sys.executable, "-P", "-m", f"banger_tools.{self.module}", *self.words]
        return subprocess.run(argv, input=self.stdin.encode(), capture_output=True, env=env, timeout=300)

    def steps(self) -> list[Step]:
        """Run it to its end, and return the calls that change the folder, in their order."""
        done = self.run()
        assert done.returncode == 0, done.stderr.decode()
        counted: Counter[str] = Counter()
        found = []
        for call, rest in re.findall(_LINE.pattern, (self.scratch / "trace").read_text(), re.MULTILINE):
            counted[call] += 1
            if str(self.folder) in rest and not rest.startswith("1<") and not _changes_nothing(call, rest):
                found.append(Step(call, counted[call]))
        return found

    def killed_at(self, step: Step) -> bool:
        """Run it until a call, which is not made any more; tell whether it came so far."""
        done = self.run(f"-einject={step.call}:signal=KILL:when={step.number}")
        return done.returncode in (-9, 128 + 9)

    def without_room_at(self, step: Step) -> subprocess.CompletedProcess[bytes]:
        """Run it with a disk that is full at one call; what it removes then makes room."""
        return self.run(f"-einject={step.call}:error=ENOSPC:when={step.number}")


def _changes_nothing(call: str, rest: str) -> bool:
    """Tell calls apart that only read, by their arguments, and those that failed."""
    reads = (call == "openat" and "O_CREAT" not in rest) or (call == "ioctl" and "FICLONE" not in rest)
    return reads or re.search(r" = -1 E\w+ \(.*\)$", rest) is not None


class Tally:
    """How often a program was disturbed, at which calls, and what was found after."""

    def __init__(self) -> None:
        self.found: Counter[tuple[str, str]] = Counter()

    def note(self, step: Step, state: str) -> None:
        """Count one time."""
        self.found[step.call, state] += 1

    def total(self, state: str) -> int:
        """Return how often a state was found."""
        return sum(count for (_, other), count in self.found.items() if other == state)

    def __str__(self) -> str:
        """Return a table: the call, what was found, how often."""
        return "".join(f"{call:16} {state:6} {count}\n" for (call, state), count in sorted(self.found.items()))


def strays(home: Path, *objects: str) -> list[str]:
    """Return what is in the store beside these objects, given as `images/NAME`, and the folders that they are in."""
    state = home / "state"
    own = {*objects, "locks", *(str(Path(name).parent) for name in ("images/x", "kernels/x"))}
    found = (str(path.relative_to(state)) for path in state.rglob("*"))
    return sorted(name for name in found if name not in own and not any(name.startswith(f"{o}/") for o in objects))


def prune() -> None:
    """Remove what was left, as `banger prune` does, without a program for it each time."""
    pruning.remove(list(leftovers.found()))
