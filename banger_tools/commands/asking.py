"""The question before something is removed for good."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from banger_tools import console, errors


def agreed(statement: str, names: Sequence[str], question: str) -> bool:
    """Tell whoever sits at the terminal what it is about, and ask.

    Raises BadUsage if nobody sits there.
    """
    if not sys.stdin.isatty():
        raise errors.BadUsage("prune asks before it removes anything, and stdin is no terminal", "add --force")
    console.lines(f"{statement}:\n" + "".join(f"  {name}\n" for name in names))
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
