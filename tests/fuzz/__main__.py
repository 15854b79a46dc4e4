"""Fuzz the readers of what others wrote: nothing may crash, hang, take much memory or touch a file that is not its own.

Usage: python -m tests.fuzz [--seconds=N] [--seed=N] [TARGET...]

Each target runs for N seconds (30) in a process of its own. First come the inputs of the corpus, tests/corpus/TARGET:
text, zlib's bytes in base64, which once found something. What is found is shown, and put there. The seed is printed,
and gives the same inputs again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path

from banger_tools import errors
from tests.fuzz import guard
from tests.fuzz.targets import TARGETS, Target

CORPUS = Path(__file__).resolve().parent.parent / "corpus"
FOUND = 1


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


def inputs(name: str, target: Target, seeds: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """Yield inputs without end: the corpus, the sound ones, then wrong ones."""
    yield from kept(name)
    yield from seeds
    while True:
        yield target.mutate(chance, seeds)


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


def fuzz(name: str, seconds: float, seed: int, folder: Path) -> int:
    """Run a target in this process, which is of no more use afterwards; return the exit status."""
    target = TARGETS[name]
    (folder / "seeds").mkdir()
    seeds = target.seeds(folder / "seeds")
    guard.confine(folder)
    guard.bound_memory()
    guard.watch()
    end, count = time.monotonic() + seconds, 0
    least = len(list(kept(name))) + len(seeds)
    for data in inputs(name, target, seeds, random.Random(f"{seed} {name}")):
        if time.monotonic() > end and count >= least:
            break
        found = trouble(target, data, folder / "work")
        count += 1
        if found is not None:
            sys.stdout.write(f"{name}: input {count} of seed {seed} found:\n{found}")
            sys.stdout.flush()
            (folder / "found").write_bytes(data)
            return FOUND
    sys.stdout.write(f"{name}: {count} inputs, nothing found\n")
    sys.stdout.flush()
    return 0


def run(name: str, seconds: float, seed: int) -> bool:
    """Run a target in a process of its own, and tell whether nothing was found."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = fuzz(name, seconds, seed, Path(folder))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        status = os.waitpid(child, 0)[1]
        if Path(folder, "found").exists():
            sys.stdout.write(f"{name}: kept as {keep(name, Path(folder, 'found').read_bytes())}\n")
        elif status:
            sys.stdout.write(f"{name}: ended with the wait status {status}\n")
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("targets", nargs="*", metavar="TARGET", choices=[[], *TARGETS], default=[])
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    sys.stdout.flush()
    results = [run(name, options.seconds, options.seed) for name in options.targets or TARGETS]
    return 0 if all(results) else FOUND


if __name__ == "__main__":
    raise SystemExit(main())
