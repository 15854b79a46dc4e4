"""What there is of a soak at a moment when nobody works: files, processes, descriptors, memory, networks, locks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tests import boots, storm, support
from tests.soak.shelter import Places

PATIENCE = 60.0  # seconds that what ends by itself may take for that
# In a guest: how many descriptors all its processes have; how many these are, with zombies, and their own KiB.
GUEST = """set -- /proc/[0-9]*/fd/*; echo $#
busybox awk '/^State:.*Z/ { n++ } /^RssAnon:/ { n++; m += $2 } END { print n, m }' /proc/[0-9]*/status 2>/dev/null"""


class Machine(NamedTuple):
    """What a machine that runs all the time takes: its processes on this host, and those inside."""

    processes: int
    descriptors: int
    memory: int  # in bytes, without that of the guest and without translated code
    guest_descriptors: int
    guest_processes: int
    guest_memory: int  # of all its programs, in bytes


class Sample(NamedTuple):
    """What there is: each thing by its name, and how much of it."""

    files: frozenset[str]
    taken: int  # bytes, without the disks of machines, to which guests write
    processes: frozenset[str]
    links: frozenset[str]
    rules: frozenset[str]
    loops: frozenset[str]
    mounts: frozenset[str]
    locks: frozenset[str]


def sample(places: Places) -> Sample:
    """Look at everything in a shelter."""
    places_of_files = places.written().items()
    found = {f"{kind}/{path.relative_to(folder)}": path for kind, folder in places_of_files for path in below(folder)}
    return Sample(
        files=frozenset(found),
        taken=_taken(path for path in found.values() if path.suffix != ".ext4"),
        processes=frozenset(_processes()),
        links=frozenset(line.split(":")[0].strip() for line in _lines("/proc/net/dev")[2:]),
        rules=frozenset(_rules()),
        loops=frozenset(_loops(places.folder)),
        mounts=frozenset(line.split()[4] for line in _lines("/proc/self/mountinfo")),
        locks=frozenset(str(path) for path in [places.home, *below(places.home)] if storm.is_held(path)),
    )


def more(now: Sample, before: Sample) -> list[str]:
    """Return what is there now and was not before, one line each."""
    kinds = {name: getattr(now, name) - getattr(before, name) for name in Sample._fields if name != "taken"}
    return [f"{kind} left: {one}" for kind, found in kinds.items() for one in sorted(found)]


def settled(places: Places, before: Sample) -> Sample:
    """Return what there is when nothing is there that was not before, or after waiting for that."""
    deadline = time.monotonic() + PATIENCE
    while more(found := sample(places), before) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def below(folder: Path) -> list[Path]:
    """Return all that is in a folder, at every depth."""
    return [Path(place, name) for place, *kinds in os.walk(folder) for names in kinds for name in names]


def _taken(paths: Iterable[Path]) -> int:
    """Return the bytes that files take on the disk, each counted once, however many names it has."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _lines(path: str | Path) -> list[str]:
    return Path(path).read_text().splitlines()


def _processes() -> list[str]:
    """Return the processes of the shelter, all of which are ours."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found.append(f"{pid} {'(zombie)' if state == 'Z' else words.strip()}")
    return found


def _rules() -> list[str]:
    """Return all that taps change of a network: rules, and what sysctl says of forwarding."""
    rules = ["ip_forward=" + Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()]
    if shutil.which("nft", path=support.search_path()):
        listed = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True)
        rules += listed.stdout.splitlines()
    return rules


def _loops(folder: Path) -> list[str]:
    backing = Path("/sys/block").glob("loop*/loop/backing_file")
    return [str(path) for path in backing if path.read_text().startswith(f"{folder}/")]


def machine(name: str, home: Path, memory: int) -> Machine:
    """Look at the one machine of a home that runs; `memory` is what its guest has."""
    said = support.run_ok("banger", "vm", "exec", name, "sh", "-c", GUEST).split()
    descriptors, processes, kibibytes = map(int, said)
    own = [Path("/proc", str(pid)) for pid in boots.processes(home)]
    open_files = sum(len(os.listdir(process / "fd")) for process in own)
    taken = sum(_own_memory(process, memory) for process in own)
    return Machine(len(own), open_files, taken, descriptors, processes, kibibytes << 10)


def _own_memory(process: Path, guest: int) -> int:
    """Return the bytes of memory that a process has for itself: neither the guest's, nor code made of it."""
    total, counts = 0, False
    for line in _lines(process / "smaps"):
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ", line):
            counts = int(match[2], 16) - int(match[1], 16) != guest and not match[3].startswith("rwx")
        elif counts and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


def settled_machine(name: str, home: Path, memory: int, most: Machine | None) -> Machine:
    """Return what it takes when it has no more processes and descriptors than `most`, or after waiting for that.

    Without `most` it is the least of some looks: an agent closes what it has of a request a moment after its answer.
    """
    if most is None:
        return min((machine(name, home, memory) for _ in range(3)), key=lambda one: sum(_counts(one).values()))
    deadline = time.monotonic() + PATIENCE
    while _counts(found := machine(name, home, memory)) - _counts(most) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _counts(machine: Machine) -> Counter[str]:
    return Counter({name: getattr(machine, name) for name in Machine._fields if "memory" not in name})
