"""The rounds of a soak, in its shelter: all workers do errands, then all rest, and it is looked what there is.

Usage: python -m tests.soak.rounds FOLDER OPTIONS-AS-JSON (`python -m tests.soak` does that)
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import registry, support
from tests.soak import errands, look, report, wares
from tests.soak.report import Round
from tests.soak.shelter import Places
from tests.soak.worker import Broken, Worker

RESIDENT = "resident"
WARES = 8
# What programs note of this host for the next time, and a folder that the first machine made
KEPT = frozenset({"home/cache/kvm.json", "home/cache/kvm.lock", "home/state/vms"})
_OLD = 86400.0  # seconds by which the cache is made older: what was used within the last minute is never removed


class Options(NamedTuple):
    """How long, by whichever ends first; how many workers do how many errands a round; and where chance begins."""

    seconds: float
    rounds: int
    workers: int
    errands: int
    seed: int


class Soak:
    """The workers, the one who keeps the place, and the machine that runs all the time."""

    def __init__(self, places: Places, options: Options) -> None:
        self.places = places
        self.options = options
        self.taps = _has_taps()
        self.turns = itertools.count()
        self.wares: Sequence[wares.Ware] = ()
        self.workers = [self._worker(str(number)) for number in range(options.workers)]
        self.keeper = self._worker("keeper")

    def _worker(self, name: str) -> Worker:
        return Worker(self.places.folder / f"worker-{name}", f"{self.options.seed} {name}", taps=self.taps)

    def rounds(self) -> Iterator[Round]:
        """Do the rounds, and yield each: first what there is before them, at last what there is when no machine is."""
        with contextlib.suppress(Broken):
            self._pull()
        self._tidy()
        alone, began = look.sample(self.places), time.monotonic()
        with contextlib.suppress(Broken):
            self._create()
        yield (first := self._look("start", began, None))
        end, number = time.monotonic() + self.options.seconds, 0
        while time.monotonic() < end and number < self.options.rounds:
            number, began = number + 1, time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(self.options.workers) as pool:
                list(pool.map(self._work, self.workers))
            yield self._look(str(number), began, first)
        began = time.monotonic()
        with contextlib.suppress(Broken):
            self._delete()
        yield self._look("end", began, first._replace(sample=alone._replace(files=alone.files | KEPT)))

    def _work(self, worker: Worker) -> None:
        for _ in range(self.options.errands):
            errands.errand(worker, self.wares, next(self.turns))

    def _pull(self) -> None:
        """Make the image of the machine that runs all the time; it stays."""
        options = (f"--kernel-ref={wares.KERNEL}", f"--name={RESIDENT}", self.wares[0].reference)
        self.keeper.banger("pull", "image", "pull", *options)

    def _create(self) -> None:
        options = (f"--image={RESIDENT}", f"--name={RESIDENT}", *errands.MACHINE)
        self.keeper.banger("create", "vm", "create", *options, *(["--net=tap", "--nat"] if self.taps else []))

    def _delete(self) -> None:
        self.keeper.banger("stop", "vm", "stop", RESIDENT)
        errands.fsck(self.keeper, RESIDENT)
        self.keeper.banger("delete", "vm", "delete", RESIDENT)

    # What there is ------------------------------------------------------------------

    def _look(self, name: str, began: float, first: Round | None) -> Round:
        """Look what there is at the end of a round, and what of it was not there after the first."""
        with contextlib.suppress(Broken):
            self._use()
        self._tidy()
        sample = look.settled(self.places, first.sample) if first else look.sample(self.places)
        leaks = look.more(sample, first.sample) if first else []
        leaks += [f"'banger prune' would remove the {kind} '{path}'" for kind, path in self._prunable()]
        told = [worker.told() for worker in (*self.workers, self.keeper)]
        done, fresh = ([one for kind in kinds for one in kind] for kinds in zip(*told, strict=True))
        return Round(name, time.monotonic() - began, done, fresh, sample, self._resident(first), leaks)

    def _use(self) -> None:
        """Use the machine that runs all the time, and have all images checked."""
        if RESIDENT in self.keeper.banger("list", "vm", "list", "--names").split():
            errands.use(self.keeper, RESIDENT)
        self.keeper.banger("verify", "image", "verify")

    def _tidy(self) -> None:
        """Remove all from the cache, as if a day had gone by."""
        for path in look.below(self.places.home / "cache"):
            if path.is_file():
                os.utime(path, (time.time() - _OLD,) * 2)
        with contextlib.suppress(Broken):
            self.keeper.banger("cache prune", "cache", "prune", "--keep=0")

    def _prunable(self) -> list[tuple[str, str]]:
        found = json.loads(support.run_ok("banger", "prune", "--dry-run", "--json"))["removed"]
        return [(one["kind"], one["name"]) for one in found]

    def _resident(self, first: Round | None) -> look.Machine | None:
        """Return what the machine takes that runs all the time, None if it does not run."""
        shown = support.run("banger", "vm", "show", RESIDENT)
        if shown.returncode or not (vm := json.loads(shown.stdout)["vm"])["pid"]:
            return None
        most = first.resident if first else None
        return look.settled_machine(RESIDENT, self.places.home, vm["memory"], most)


def _has_taps() -> bool:
    programs = all(shutil.which(name, path=support.search_path()) for name in ("ip", "nft"))
    return programs and os.access("/dev/net/tun", os.R_OK | os.W_OK)


def main() -> int:
    """Do the rounds, and show what was found."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    places, options = Places(Path(sys.argv[1])), Options(**json.loads(sys.argv[2]))
    with registry.serve(places.folder / "registry") as server:
        soak = Soak(places, options)
        soak.wares = wares.make(
            places.wares, server.host, min(WARES, options.rounds * options.workers * options.errands)
        )
        table = report.Table(sys.stdout)
        for one in soak.rounds():
            table.add(one)
    return table.verdict()


if __name__ == "__main__":
    sys.exit(main())
