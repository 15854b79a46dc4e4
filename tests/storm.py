"""A storm on one store: many programs at once that publish, replace, delete, rename and so on, some of them killed.

Every image has a number, which its disk, its work seed and its record hold; so what was put together of two is found.
What is left is judged by sha256 and e2fsck, and by the kernel, which knows who holds a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests import machines, stored, support

IMAGES = ("ant", "bee", "cat", "dog", "elk")
MACHINES = tuple(f"vm{number}" for number in range(8))
VERSIONS = 4
SIZES = {"rootfs": 8 << 20, "seed": 4 << 20}
CREATE = ("banger", "vm", "create", "--no-start", "--vmm=qemu", "--net=none", "--work-disk=4M", "--pull=never")
PULL = ("banger", "image", "pull", "--kernel-ref=mine", "--size=8M")
PULLED = "pulled"  # the version of images that were pulled
PATIENCE = 300.0  # seconds that any program may take on a machine that does much else
KILLED_SHARE, AIMED_SHARE = 0.4, 0.5


class Kind(NamedTuple):
    """A kind of operation: how often it comes, the statuses that it may end with, and how its words are chosen."""

    weight: int
    statuses: tuple[int, ...]
    words: Callable[[random.Random, Path], list[str]]


def _image(chance: random.Random) -> str:
    return chance.choice(IMAGES)


def _publish(chance: random.Random, folder: Path, *more: str) -> list[str]:
    version = folder / f"version{chance.randrange(VERSIONS)}.json"
    return ["bg-publish", "--kernel-ref=mine", f"--name={_image(chance)}", *more, str(version)]


def _pull(chance: random.Random, folder: Path) -> list[str]:
    words = [f"--name={_image(chance)}", *chance.choice(([], ["--replace"]))]
    return [*PULL, *words, f"rootfs:{folder / 'pulled.tar'}"]


def _create(chance: random.Random, _: Path) -> list[str]:
    return [*CREATE, f"--name={chance.choice(MACHINES)}", f"--image={_image(chance)}"]


def _delete(chance: random.Random, _: Path) -> list[str]:
    return ["banger", "image", "delete", *chance.choice(([], ["--force"])), _image(chance)]


KINDS = {
    "publish": Kind(6, (0, 73), _publish),
    "replace": Kind(6, (0, 73, 75), lambda chance, folder: _publish(chance, folder, "--replace")),
    "pull": Kind(3, (0, 73, 75), _pull),
    "delete": Kind(4, (0, 66, 73, 75), _delete),
    "rename": Kind(4, (0, 66, 73, 75), lambda chance, _: ["banger", "image", "rename", *chance.sample(IMAGES, 2)]),
    "list": Kind(3, (0,), lambda *_: ["banger", "image", "list", "--json"]),
    "verify": Kind(3, (0, 75), lambda *_: ["banger", "image", "verify", "--json"]),
    "vm create": Kind(8, (0, 66, 73, 75), _create),
    "vm delete": Kind(4, (0, 66, 75), lambda chance, _: ["banger", "vm", "delete", chance.choice(MACHINES)]),
    "vm list": Kind(2, (0,), lambda *_: ["banger", "vm", "list", "--json"]),
    "prune": Kind(2, (0,), lambda *_: ["banger", "prune"]),
}


class Run(NamedTuple):
    """A program that ran: its kind, status and seconds.

    `killed` is how: the `program` alone, with its `group`, or with all that ran at the `end`; None if it was not.
    `left` tells whether there was something half made of its names then that nobody had a lock on.
    """

    kind: str
    words: list[str]
    status: int
    seconds: float
    killed: str | None
    left: bool
    printed: str
    said: str


class Found(NamedTuple):
    """What there was after the storm: leftovers by kind before and after `banger prune`, whole things, and troubles."""

    leftovers: Counter[str]
    left: Counter[str]
    images: int
    machines: int
    troubles: list[str]


class Storm:
    """A store in a folder, and what blows over it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.state = self.home / "state"
        self.env = support.environment({"BANGER_HOME": str(self.home)})
        self.seed = seed
        self.runs: list[Run] = []
        self.groups: set[int] = set()
        self.digests: dict[int | str, list[str | None]] = {version: self._make(version) for version in range(VERSIONS)}
        kernel = folder / "bzImage"
        kernel.write_bytes(stored.bzimage())
        self._ok("banger", "kernel", "import", "--name=mine", f"--kernel={kernel}")
        # The first machine finds out what this host can run; the others believe that.
        self._ok("bg-publish", "--kernel-ref=mine", "--name=ant", str(folder / "version0.json"))
        self.digests[PULLED] = self._pull()
        self._ok(*CREATE, "--name=vm0", "--image=ant")

    def _make(self, version: int) -> list[str | None]:
        """Make the disks and the manifest of a version; return the digests of its disks."""
        paths = []
        for name, size in SIZES.items():
            content = self.folder / f"{name}{version}"
            content.mkdir()
            (content / "filling").write_bytes(random.Random(version).randbytes(size // 20))
            (content / "version").write_text(f"{version}\n")
            (content / "usr/local/libexec").mkdir(parents=True)
            (content / "usr/local/libexec/banger-init").write_text("what bg-boot looks for; it is never run\n")
            paths.append(machines.mke2fs(self.folder / f"{name}{version}.ext4", content, f"{size >> 10}K"))
        seed = {"path": str(paths[1]), "size": paths[1].stat().st_size, "uuid": "", "home": "/root", "entries": 2}
        image = {"architecture": "amd64", "config": {}}
        text = machines.manifest(paths[0], f"version{version}", work_seed=seed, image=image, version=version)
        (self.folder / f"version{version}.json").write_text(text)
        return [_digest(path) for path in paths]

    def _pull(self) -> list[str | None]:
        """Pull an image, which has no work seed; return the digests of its disks, which all others have, too."""
        root = machines.busybox_root(self.folder / "root")
        support.run_ok("tar", "-C", root, "--owner=0", "--group=0", "-cf", self.folder / "pulled.tar", ".")
        self._ok(*PULL, "--name=bee", f"rootfs:{self.folder / 'pulled.tar'}")
        return [_digest(self.state / "images" / "bee" / "rootfs.ext4"), None]

    def _ok(self, program: str, *words: str) -> str:
        return support.run_ok(program, *words, env={"BANGER_HOME": str(self.home)}).decode()

    # The storm ---------------------------------------------------------------

    def blow(self, processes: int, seconds: float) -> None:
        """Run so many programs at once for some seconds, and wait until all are gone."""
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=self._work, args=(number, deadline)) for number in range(processes)]
        for thread in threads:
            thread.start()
        time.sleep(max(0.0, deadline - time.monotonic()))
        self._end()
        for thread in threads:
            thread.join()
        self._await_orphans()

    def _end(self) -> None:
        """Kill all that runs, as if the power went off, at a moment when something is half made."""
        while any(map(_is_there, list(self.groups))) and not any(self._stagings((*IMAGES, *MACHINES))):
            time.sleep(0.002)
        for group in list(self.groups):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _work(self, number: int, deadline: float) -> None:
        chance = random.Random(f"{self.seed} {number}")
        weights = [kind.weight for kind in KINDS.values()]
        while time.monotonic() < deadline:
            name = chance.choices(list(KINDS), weights)[0]
            self.runs.append(self._run(name, KINDS[name].words(chance, self.folder), chance, number))

    def _run(self, kind: str, words: list[str], chance: random.Random, number: int) -> Run:
        logs = [self.folder / f"{number}.{end}" for end in ("out", "err")]
        began = time.monotonic()
        with open(logs[0], "wb") as out, open(logs[1], "wb") as err:
            argv = support.argv(words[0], *words[1:])
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self.env, start_new_session=True
            )
        self.groups.add(process.pid)
        killed = self._kill(kind, process, chance, words)
        status = process.wait(PATIENCE)
        seconds = time.monotonic() - began
        how = (killed or "end") if status == -signal.SIGKILL else None
        left = how is not None and any(not is_held(path) and path.exists() for path in self._stagings(words))
        return Run(kind, words, status, seconds, how, left, *_read(*logs))

    def _kill(
        self, kind: str, process: subprocess.Popen[bytes], chance: random.Random, words: Sequence[str]
    ) -> str | None:
        """Kill some of the programs: at any moment of their lives, or just when something half made is in the store."""
        if chance.random() > KILLED_SHARE:
            return None
        if chance.random() < AIMED_SHARE:
            self._await_staging(process, words)
            time.sleep(chance.uniform(0, 0.03))
        else:
            lives = [run.seconds for run in self.runs if run.kind == kind and run.killed is None][-20:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, max(lives, default=2.0)))
        if process.poll() is not None:
            return None
        how = chance.choice(("program", "group"))
        with contextlib.suppress(ProcessLookupError):
            (os.kill if how == "program" else os.killpg)(process.pid, signal.SIGKILL)
        return how

    def _await_staging(self, process: subprocess.Popen[bytes], words: Sequence[str]) -> None:
        """Wait until something half made, of a name in a command line, is in the store, or the program has ended."""
        while process.poll() is None and not any(self._stagings(words)):
            time.sleep(0.002)

    def _stagings(self, words: Sequence[str]) -> Iterator[Path]:
        """Yield what is half made in the store, of the names in a command line."""
        names = tuple(f"{word.removeprefix('--name=')}.staging-" for word in words)
        for kind in ("images", "vms"):
            with contextlib.suppress(FileNotFoundError):
                yield from (path for path in (self.state / kind).iterdir() if path.name.startswith(names))

    def _await_orphans(self) -> None:
        """Wait for programs that were started by some that were killed."""
        deadline = time.monotonic() + PATIENCE
        for group in self.groups:
            while _is_there(group):
                assert time.monotonic() < deadline, f"processes of the group {group} do not end"
                time.sleep(0.05)

    # What is found afterwards --------------------------------------------------

    def look(self) -> Found:
        """Judge what was said meanwhile and what is left, prune, and judge again."""
        troubles = [*self._misbehaved(), *self._half_made()]
        before = self.leftovers()
        images, vms = self._names("images"), self._names("vms")
        self._ok("banger", "prune")
        if (self._names("images"), self._names("vms")) != (images, vms):
            troubles.append("'banger prune' removed what was whole")
        troubles += [f"lock left held: '{path}'" for path in self.held_locks()]
        troubles += self._half_made()
        verified = support.run("banger", "image", "verify", env=self.env)
        if verified.returncode != 0:
            troubles.append(f"'banger image verify' ended with {verified.returncode}: {verified.stdout.decode()}")
        return Found(before, self.leftovers(), len(images), len(vms), troubles)

    def _misbehaved(self) -> Iterator[str]:
        """Yield what programs did that nobody had killed and must not do, and what they saw of the work of others."""
        for run in self.runs:
            if run.killed is None and run.status not in KINDS[run.kind].statuses:
                yield f"{' '.join(run.words)}: status {run.status}: {run.said}{run.printed}"
            if run.kind in ("list", "vm list") and run.status == 0:
                yield from _seen_half_made(run)

    def _names(self, kind: str) -> list[str]:
        """Return the names of what anybody can see of a kind in the store."""
        folder = self.state / kind
        return sorted(path.name for path in folder.iterdir() if not _is_leftover(path)) if folder.exists() else []

    def _half_made(self) -> Iterator[str]:
        """Yield which images and machines are not one of the versions as a whole."""
        for name in self._names("images"):
            yield from self._judge(self.state / "images" / name, "rootfs.ext4", "work-seed.ext4")
        for name in self._names("vms"):
            yield from self._judge(self.state / "vms" / name, "root.ext4", "work.ext4")

    def _judge(self, folder: Path, rootfs: str, seed: str) -> Iterator[str]:
        try:
            version = json.loads((folder / "image.json").read_text()).get("version", PULLED)
            wanted = self.digests[version]
            digests = [
                _digest(folder / disk) if known else None for disk, known in zip((rootfs, seed), wanted, strict=True)
            ]
        except (OSError, ValueError, KeyError) as error:
            yield f"'{folder}': {error!r}"
            return
        if digests != wanted:
            yield f"'{folder}' is put together of several: the record says {version}"
        for disk in (rootfs, seed)[: 2 - wanted.count(None)]:
            checked = subprocess.run(["/sbin/e2fsck", "-fn", folder / disk], capture_output=True)
            if checked.returncode != 0:
                yield f"e2fsck of '{folder / disk}': {checked.stdout.decode()}"

    def leftovers(self) -> Counter[str]:
        """Count what no living program works on and no finished thing needs, by where it lies and what it is."""
        found = (path for path in self.state.rglob("*") if _is_leftover(path))
        return Counter(f"{path.parent.relative_to(self.home)}/*{_mark(path)}" for path in found)

    def held_locks(self) -> list[Path]:
        """Return the files and folders of the home that somebody holds a lock on."""
        return [path for path in [self.home, *self.home.rglob("*")] if is_held(path)]

    def remove_all(self) -> list[str]:
        """Remove every machine and image as a user would, and return what is still there."""
        for kind, words in (("vms", ("vm", "delete")), ("images", ("image", "delete"))):
            for name in self._names(kind):
                self._ok("banger", *words, name)
        return [str(path) for kind in ("images", "vms", "work") for path in (self.state / kind).glob("*")]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(*logs: Path) -> Iterator[str]:
    return (log.read_text(errors="replace") for log in logs)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _seen_half_made(run: Run) -> Iterator[str]:
    for row in json.loads(run.printed):
        if row.get("problem") or row["name"] not in (*IMAGES, *MACHINES) or row.get("state") == "broken":
            yield f"{' '.join(run.words)} shows what is half made: {row}"


def _mark(path: Path) -> str:
    return ".staging" if ".staging-" in path.name else path.suffix or "lock"


def _is_leftover(path: Path) -> bool:
    return ".staging-" in path.name or path.suffix == ".tmp" or path.parent.name == "locks"


def is_held(path: Path) -> bool:
    """Tell whether somebody holds a lock on a file or a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # a symlink or a socket: nobody locks these
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def table(runs: Sequence[Run]) -> str:
    """Return what ran, what was killed, when, and how the rest ended, as Markdown."""
    head = ["operation", "runs", "killed", "alone / with its group / at the end", "after s: least, median, most"]
    lines = ["| " + " | ".join([*head, "left something", "the others ended with"]) + " |"]
    lines.append("|---|--:|--:|--:|---|--:|---|")
    for kind in KINDS:
        own = [run for run in runs if run.kind == kind]
        when = sorted(run.seconds for run in own if run.killed)
        moments = f"{when[0]:.2f}, {when[len(when) // 2]:.2f}, {when[-1]:.2f}" if when else ""
        ways = " / ".join(str(sum(run.killed == way for run in own)) for way in ("program", "group", "end"))
        left = sum(run.left for run in own)
        ends = Counter(run.status for run in own if run.killed is None)
        told = ", ".join(f"{status}: {count}" for status, count in sorted(ends.items()))
        lines.append(f"| {kind} | {len(own)} | {len(when)} | {ways} | {moments} | {left} | {told} |")
    return "\n".join(lines) + "\n"
