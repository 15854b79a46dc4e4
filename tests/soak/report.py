"""What a soak shows: a line for each round, what each kind of operation took, what was found, and the verdict."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TextIO

from tests.soak.look import Machine, Sample
from tests.soak.worker import Operation

MIB = 1 << 20
# What each may be more at the end than after the first round: what is counted not at all, memory as it fluctuates.
LIMITS = {
    "processes": 0,
    "descriptors": 0,
    "guest_descriptors": 0,
    "guest_processes": 0,
    "memory": 8 * MIB,
    "guest_memory": MIB,
}
TAKEN = MIB  # the same of what files take
FRESH = 1.25  # how much more fresh machines of the last rounds may take than those of the first
_KINDS = ("pull", "build", "run", "stop", "delete")


class Round(NamedTuple):
    """A round: what was done, what fresh machines took of memory, what there was afterwards, and what should not be."""

    name: str
    seconds: float
    done: Sequence[Operation]
    fresh: Sequence[int]
    sample: Sample
    resident: Machine | None
    leaks: Sequence[str]

    @property
    def troubles(self) -> list[str]:
        return [f"banger {' '.join(one.words)}: {one.trouble}" for one in self.done if one.trouble]


def _count(kind: str) -> Callable[[Round], str]:
    return lambda one: str(sum(operation.kind.startswith(kind) for operation in one.done))


def _mib(size: float) -> str:
    return f"{size / MIB:.1f}"


def _of_resident(show: Callable[[Machine], str]) -> Callable[[Round], str]:
    return lambda one: show(one.resident) if one.resident else "-"


COLUMNS: dict[str, Callable[[Round], str]] = {
    "round": lambda one: one.name,
    "s": lambda one: f"{one.seconds:.0f}",
    **{kind: _count(kind) for kind in _KINDS},
    "all": lambda one: str(len(one.done)),
    "failed": lambda one: str(len(one.troubles)),
    "files": lambda one: str(len(one.sample.files)),
    "MiB": lambda one: _mib(one.sample.taken),
    "processes": lambda one: str(len(one.sample.processes)),
    "locks": lambda one: str(len(one.sample.locks)),
    "links": lambda one: str(len(one.sample.links)),
    "rules": lambda one: str(len(one.sample.rules)),
    "loops": lambda one: str(len(one.sample.loops)),
    "VMM fds": _of_resident(lambda machine: str(machine.descriptors)),
    "VMM MiB": _of_resident(lambda machine: _mib(machine.memory)),
    "fresh VMM MiB": lambda one: _mib(statistics.median(one.fresh)) if one.fresh else "-",
    "guest fds": _of_resident(lambda machine: str(machine.guest_descriptors)),
    "guest processes": _of_resident(lambda machine: str(machine.guest_processes)),
    "guest KiB": _of_resident(lambda machine: str(machine.guest_memory >> 10)),
    "leaks": lambda one: str(len(one.leaks)),
}


class Table:
    """A Markdown table that is written as the rounds come, and what is told below it."""

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.rounds: list[Round] = []
        self._lines([*COLUMNS], ["--:" for _ in COLUMNS])

    def _lines(self, *rows: Iterable[str]) -> None:
        for cells in rows:
            self.out.write(f"| {' | '.join(cells)} |\n")
        self.out.flush()

    def add(self, one: Round) -> None:
        self.rounds.append(one)
        self._lines(show(one) for show in COLUMNS.values())

    def verdict(self) -> int:
        """Write what took how long and what was found, and return the exit status."""
        self.out.write("\n")
        self._lines(*_times(self.rounds))
        troubles = {one.name: [*one.troubles, *one.leaks] for one in self.rounds}
        found = [f"round {name}: {trouble}" for name, told in troubles.items() for trouble in told]
        found += growth(self.rounds)
        done = sum(len(one.done) for one in self.rounds)
        self.out.write("".join(f"\n- {one}" for one in found) + "\n" if found else "")
        verdict = f"{len(found)} troubles" if found else "nothing failed, nothing is left, nothing grew"
        self.out.write(f"\nsoak: {done} operations in {len(self.rounds) - 2} rounds: {verdict}\n")
        return 1 if found else 0


def _times(rounds: Sequence[Round]) -> Iterable[list[str]]:
    """Yield the rows of a table of what each kind of operation took."""
    yield ["operation", "times", "failed", "median s", "longest s"]
    yield ["---", "--:", "--:", "--:", "--:"]
    done = [operation for one in rounds for operation in one.done]
    for kind in sorted({operation.kind for operation in done}):
        own = [operation for operation in done if operation.kind == kind]
        seconds = [operation.seconds for operation in own]
        failed = sum(bool(operation.trouble) for operation in own)
        yield [kind, str(len(own)), str(failed), f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"]


def growth(rounds: Sequence[Round]) -> list[str]:
    """Return what grew from the first round to the last, beyond what it may."""
    _, *own, _ = rounds
    if not own:
        return []
    first, last = own[0], own[-1]
    grown = _grown("what files take", first.sample.taken, last.sample.taken, TAKEN)
    for name, limit in LIMITS.items():
        if first.resident and last.resident:
            grown += _grown(name, getattr(first.resident, name), getattr(last.resident, name), limit)
    fresh = [statistics.median(one.fresh) for one in own if one.fresh]
    third = len(fresh) // 3
    if third:
        least = statistics.median(fresh[:third])
        grown += _grown("memory of fresh machines", least, statistics.median(fresh[-third:]), least * (FRESH - 1))
    return grown


def _grown(what: str, first: float, last: float, limit: float) -> list[str]:
    return [f"{what.replace('_', ' ')} grew from {first:.0f} to {last:.0f}"] if last - first > limit else []
