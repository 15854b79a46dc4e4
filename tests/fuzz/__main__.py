"""Fuzz the readers of what others wrote: nothing may crash, hang, take much memory or touch a file that is not its own.

Usage: python -m tests.fuzz [--seconds=N | --inputs=N] [--seed=N] [TARGET...]

Each target runs for N seconds (30), or takes N inputs, in a process of its own. First come the inputs of the corpus,
tests/corpus/TARGET: text, zlib's bytes in base64, which once found something. What is found is shown, and put there.
The seed is printed, and gives the same inputs again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import math
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors
from tests.fuzz import guard
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
FOUND = 1
BATCH = 200


def kept(name: str) -> Iterator[bytes]:
    """Yield the inputs that once found something."""
    for path in sorted((CORPUS / name).glob("*.b64")):
        yield zlib.decompress(base64.b64decode(path.read_text()))


def keep(name: str, data: bytes) -> Path:
    """Put an input into the corpus, and return its path."""
    path = CORPUS / name / f"{hashlib.sha256(data).hexdigest()[:16]}.b64"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(base64.encodebytes(zlib.compress(data, 9)).decode())
    return path


def inputs(name: str, seeds: list[bytes], seed: str) -> Iterator[bytes]:
    """Yield inputs without end: in the first batch the corpus and the sound ones, then wrong ones."""
    if seed.endswith(" 0"):
        yield from kept(name)
        yield from seeds
    chance = random.Random(seed)
    while True:
        yield TARGETS[name].mutate(chance, seeds)


def trouble(target: Target, data: bytes, work: Path) -> str | None:
    """Return what is wrong with how a reader took an input, None if nothing is."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        try:
            guard.wind()
            target.read(data, work)
        finally:
            guard.wind(on=False)
    except errors.BangerError as error:
        return None if error.message else "an error without a message"
    except (Exception, guard.Overrun, guard.Outside):
        return traceback.format_exc()
    return None


class Bound(NamedTuple):
    """When it is enough: at a time of the monotonic clock, and after so many inputs."""

    end: float
    inputs: float


def batch(name: str, seeds: list[bytes], seed: str, bound: Bound, folder: Path) -> int:
    """Give a reader some inputs in this process, which is of no more use afterwards; return the exit status."""
    guard.confine(folder)
    guard.bound_memory()
    guard.watch()
    count = 0
    least = len(list(kept(name))) + len(seeds) if seed.endswith(" 0") else 0
    for data in itertools.islice(inputs(name, seeds, seed), least + int(min(BATCH, bound.inputs))):
        if time.monotonic() > bound.end and count >= least:
            break
        found = trouble(TARGETS[name], data, folder / "work")
        count += 1
        if found is not None:
            say(f"{name}: an input of '{seed}' found:\n{found}")
            (folder / "found").write_bytes(data)
            return FOUND
    (folder / "count").write_text(str(count))
    return 0


def apart(act: Callable[[], int]) -> int:
    """Do something in a process of its own, and return its wait status."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = act()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def run(name: str, bound: Bound, seed: int) -> bool:
    """Fuzz a target, and tell whether nothing was found.

    A process takes some hundred inputs only: a library may leak what one of them cost.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        folder, total = Path(made), 0
        (folder / "seeds").mkdir()
        seeds = TARGETS[name].seeds(folder / "seeds")
        for number in itertools.count():
            rest = bound._replace(inputs=bound.inputs - total)
            status = apart(lambda: batch(name, seeds, f"{seed} {name} {number}", rest, folder))  # noqa: B023
            if status:
                break
            total += int((folder / "count").read_text())
            if time.monotonic() > bound.end or total >= bound.inputs:
                break
        if (folder / "found").exists():
            say(f"{name}: kept as {keep(name, (folder / 'found').read_bytes())}")
        say(f"{name}: ended with the wait status {status}" if status else f"{name}: {total} inputs, nothing found")
    return status == 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--seconds", type=float)
    amount.add_argument("--inputs", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[[], *TARGETS], default=[])
    options = parser.parse_args()
    say(f"seed {options.seed}")
    seconds = options.seconds or (30 if options.inputs == math.inf else math.inf)
    names = options.targets or TARGETS
    results = [run(name, Bound(time.monotonic() + seconds, options.inputs), options.seed) for name in names]
    return 0 if all(results) else FOUND


if __name__ == "__main__":
    raise SystemExit(main())
