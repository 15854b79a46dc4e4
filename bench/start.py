"""How long each program takes to start, beside an interpreter that does nothing: a pipe pays it eight times."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

from bench import inputs, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way

PROGRAMS = sorted(path.name for path in (inputs.ROOT / "bin").iterdir())


def start(scale: Scale) -> Table:
    """Compare `--version` of each program, run by its launcher in bin/."""
    ways = {"python -P -c ''": Way(partial(started, scale, [sys.executable, "-P", "-c", ""]))}
    for name in PROGRAMS:
        ways[f"{name} --version"] = Way(partial(started, scale, [inputs.program(name), "--version"]))
    title = f"start-up, the mean of {scale.starts}" if scale.starts > 1 else "start-up"
    return timing.compare("start", title, ways, scale.rounds)


def started(scale: Scale, argv: Sequence[str]) -> Run:
    return timing.each(timing.together([timing.run(argv) for _ in range(scale.starts)]), scale.starts)
