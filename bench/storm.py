"""A storm on a store: fifty programs at once for a minute, some of them killed; then what was killed and what is left.

    .venv/bin/python -m bench.storm --seconds 60 --processes 50

tests/test_storm.py runs a shorter one. The exit status is 1 if anything was found that must not be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import storm


def report(blown: storm.Storm, found: storm.Found) -> str:
    """Return what ran and what was found, as Markdown."""
    before = ", ".join(f"{count} {kind}" for kind, count in sorted(found.leftovers.items())) or "none"
    after = ", ".join(f"{count} {kind}" for kind, count in sorted(found.left.items())) or "none"
    troubles = "".join(f"- {trouble}\n" for trouble in found.troubles) or "none\n"
    return (
        f"{storm.table(blown.runs)}\n"
        f"Leftovers before `banger prune`: {before}\n"
        f"Leftovers after it: {after}\n"
        f"Whole: {found.images} images, {found.machines} machines\n"
        f"Troubles: {troubles}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Blow, look, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="for what is run and what is killed; not for the order")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="banger-storm-") as folder:
        blown = storm.Storm(Path(folder), options.seed)
        blown.blow(options.processes, options.seconds)
        found = blown.look()
        sys.stdout.write(report(blown, found))
        remaining = blown.remove_all()
    return 1 if found.troubles or found.left or remaining else 0


if __name__ == "__main__":
    raise SystemExit(main())
