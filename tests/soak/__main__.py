"""Soak: pull, build, run, stop and delete different images for a while, several at once, and look what is left.

Usage: python -m tests.soak [--minutes=N] [--rounds=N] [--workers=N] [--errands=N] [--seed=N] [--folder=DIR]

All runs in namespaces of its own, with a registry, so that every process, link, rule and file in them is a trace of
our programs. After each round, when nobody works, there is to be what was there before it, and no more. The table has a
line for every round, "start" before and 'end' after all is removed: operations, files, processes, locks (flock),
network links, rules, loop devices; what a machine that runs all the time has of descriptors and memory, its monitor for
itself (without the guest's memory and translated code) and in the guest; and what fresh monitors took. The exit status
is 1 if anything failed, was left, or grew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.soak import shelter, wares
from tests.soak.shelter import Places


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """Yield a folder to work in; it stays if it was given."""
    if given:
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="banger-soak-") as made:
        yield Path(made).resolve()


def main(argv: Sequence[str] | None = None) -> int:
    """Make the shelter and a kernel, and run the rounds in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="begin no round after so many (20)")
    parser.add_argument("--rounds", type=int, default=1 << 30, help="do so many at most")
    parser.add_argument("--workers", type=int, default=3, help="so many work at once (3)")
    parser.add_argument("--errands", type=int, default=2, help="an image each, so many a worker and round (2)")
    parser.add_argument("--seed", type=int, default=1, help="for what chance decides, not for the order (1)")
    parser.add_argument("--folder", type=Path, help="work there, and leave it; its home may have the kernel")
    options = parser.parse_args(argv)
    with _folder(options.folder) as folder:
        places = Places(folder)
        places.make()
        os.environ.update(places.environment())
        wares.kernel()
        told = {
            "seconds": options.minutes * 60,
            **{key: getattr(options, key) for key in ("rounds", "workers", "errands", "seed")},
        }
        words = [sys.executable, "-P", "-m", "tests.soak.rounds", str(folder), json.dumps(told)]
        return subprocess.run(shelter.argv(words)).returncode


if __name__ == "__main__":
    raise SystemExit(main())
