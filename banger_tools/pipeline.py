"""The pipe of the driver: the stages in their order, started together as real programs, stdout to stdin.

The driver imports no tool. What it knows of a stage is its name and its place; all else is that program's.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, overview

if TYPE_CHECKING:
    from banger_tools.catalog.lookup import Found
    from banger_tools.catalog.origins import Access
    from banger_tools.overview import Overview

STAGES = ("fetch", "flatten", "mkext4", "chown", "inject", "seed", "publish", "boot")
MAKERS = ("flatten", "mkext4", "seed")  # the stages that leave an artifact of their own in the folder of -C
EDITORS = ("chown", "inject")  # those that edit the one of the stage before
DONE_FOR_BUNDLES = ("flatten", "mkext4", "chown", "inject")  # when they were made; bg-fetch leaves the image
PASSED_ON: Mapping[str, tuple[str, ...]] = {  # options of the driver, and the stages that each one is for
    "--platform": ("fetch",),
    "--pull": ("fetch",),
    "--offline": ("fetch", "publish"),
    "--size": ("mkext4",),
    "--name": ("publish",),
    "--kernel-ref": ("publish",),
    "--kernel-file": ("publish",),
    "--initrd": ("publish",),
    "--modules": ("publish",),
    "--no-kernel": ("publish",),
    "--replace": ("publish",),
    "--move": ("publish",),
    "--optional": ("seed",),
}
GRACE = 15.0  # seconds that a stopped program gets for its clean-up
_NUDGE = 1.0  # seconds after which a stopped program gets the end of its input, too


class Command(NamedTuple):
    """One program of a pipe: its name as people type it, and its arguments."""

    program: str
    arguments: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it is a program of the suite."""
        return self.program == "banger" or self.program.startswith("bg-")

    @property
    def argv(self) -> list[str]:
        """Return what to run: a program of ours by this Python, wherever it is installed; else as it is."""
        if self.is_ours:
            return [sys.executable, "-P", "-m", f"banger_tools.{self.program.removeprefix('bg-')}", *self.arguments]
        return [self.program, *self.arguments]

    def telling(self) -> Command:
        """Return the same program, telling its progress in JSON lines if it is one of ours."""
        silent = [word for word in self.arguments if not word.startswith("--progress=")]
        return Command(self.program, ("--progress=json", *silent)) if self.is_ours else self

    def with_more(self, *arguments: str) -> Command:
        """Return the same program with more arguments."""
        return Command(self.program, (*self.arguments, *arguments))

    def __str__(self) -> str:
        return shlex.join([self.program, *self.arguments])


class Failed(errors.BangerError):
    """A program of the pipe failed; it has said why, and its status becomes ours."""

    def __init__(self, program: str, status: int) -> None:
        super().__init__(f"'{program}' {worded(status)}")
        self.status = status if status >= 0 else 128 - status


class Settings(NamedTuple):
    """What all stages are told, and what single ones are."""

    directory: Path
    force: bool
    single: dict[str, tuple[str, ...]]
    keeps_each: bool = False  # whether those that edit an artifact in place are to leave it as the stage before did

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], directory: Path, chosen: Sequence[str]) -> Settings:
        """Sort the driver's options by the stage that they are for.

        Raises BadUsage for an option whose stage is not among the chosen ones. The values are for the stage to check.
        """
        single: dict[str, tuple[str, ...]] = {}
        for option, stages in PASSED_ON.items():
            value = arguments.get(option)
            if value is None or value is False:
                continue
            if not set(stages).intersection(chosen):
                raise errors.BadUsage(f"{option} is for the stage '{stages[0]}', which is not to be run")
            for name in stages:
                single[name] = (*single.get(name, ()), option if value is True else f"{option}={value}")
        return cls(directory, bool(arguments.get("--force")), single)


def look_up(requested: str, arguments: Mapping[str, Any]) -> Found:
    """Return what a REF stands for, as bg-fetch will find it with the same options, before anything is started.

    Raises what `catalog.lookup.find` raises.
    """
    from banger_tools.catalog import lookup
    from banger_tools.oci import platforms

    platform = arguments.get("--platform")
    wanted = platforms.parse(platform) if platform else None
    return lookup.find(requested, catalogs(arguments), wanted)


def catalogs(arguments: Mapping[str, Any]) -> Access:
    """Return how the driver gets at catalogs."""
    from banger_tools import config, locations
    from banger_tools.catalog.origins import Access
    from banger_tools.oci.http import Settings

    pull = arguments.get("--pull") or "missing"
    offline = bool(arguments.get("--offline")) or pull == "never"
    return Access(locations.cache(), Settings(offline=offline, registries=config.load().registries), pull)


def stages_for(chosen: Sequence[str], found: Found) -> tuple[str, ...]:
    """Return those of the chosen stages that are needed for what is to be fetched.

    Raises BadUsage if the last one is none of them.
    """
    if found.bundle is None:
        return tuple(chosen)
    if chosen[-1] in DONE_FOR_BUNDLES:
        hint = "its stages are fetch, seed, publish and boot"
        raise errors.BadUsage(f"'{found.requested}' is a bundle: its '{chosen[-1]}' was done when it was made", hint)
    return tuple(name for name in chosen if name not in DONE_FOR_BUNDLES)


def stages(chosen: Sequence[str], source: str | None, settings: Settings) -> list[Command]:
    """Return the programs of the chosen stages; `source` is the INPUT of the first."""
    makers = MAKERS if set(DONE_FOR_BUNDLES).intersection(chosen) else (*MAKERS, "fetch")
    commands = [Command(f"bg-{name}", tuple(_arguments(name, settings, makers))) for name in chosen]
    if source is not None:
        commands[0] = commands[0].with_more("--", source)
    return commands


def _arguments(name: str, settings: Settings, makers: Sequence[str]) -> Iterator[str]:
    yield from console.passed_on()
    if settings.directory != Path() and name in makers:
        yield f"--directory={settings.directory}"
    if settings.force and name in makers:
        yield "--force"
    if settings.keeps_each and name in EDITORS:
        yield f"--output={settings.directory / f'rootfs-{name}.ext4'}"
    yield from settings.single.get(name, ())


def with_manifests(commands: Sequence[Command], directory: Path) -> list[Command]:
    """Return the programs with a tee(1) behind each, which keeps its manifest: 1-fetch.json, 2-flatten.json …"""
    woven: list[Command] = []
    for number, command in enumerate(commands, 1):
        path = directory / f"{number}-{command.program.removeprefix('bg-')}.json"
        woven += [command, Command("tee", (str(path),))]
    return woven


def worded(status: int) -> str:
    """Say how a program ended, from its status as subprocess gives it."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"failed with status {status}"


def text(commands: Sequence[Command]) -> str:
    """Return a pipe as a shell takes it."""
    return " | ".join(map(str, commands))


def run(
    commands: Sequence[Command],
    output: IO[bytes] | None = None,
    *,
    stdin: int | None = None,
    timed: bool = True,
    shown: str | None = None,
) -> bytes:
    """Run programs as one pipe, and return what the last one printed.

    `output` is a file that gets that, for who wants to know of it even after a failure. `stdin` is None for ours, or
    subprocess.DEVNULL. With `timed` their progress is shown as one, and how long each took; else their stderr is
    ours. `shown` is what to say at -v that is run, if it is not the pipe itself. When one fails the others are stopped,
    and the first failure in the order of the pipe is raised as Failed; an interruption stops them all and waits for
    their clean-up.
    """
    console.pipe(shown or text(commands))
    with contextlib.ExitStack() as stack:
        printed = output or stack.enter_context(tempfile.TemporaryFile())
        names = [command.program for command in commands if command.is_ours]
        pipe = _Pipe(commands, timed=timed, overview=stack.enter_context(overview.of(names if timed else [])))
        try:
            pipe.start(stdin, printed)
            pipe.watch()
        except KeyboardInterrupt:
            pipe.all_ended(1.0)  # ^C of a terminal reached them as well: a second signal would disturb their clean-up
            raise
        finally:
            pipe.end()
        pipe.raise_failure()
        printed.seek(0)
        return printed.read()


class _Pipe:
    """The running programs of one pipe, and the ends of the pipes between them that we hold."""

    def __init__(self, commands: Sequence[Command], *, timed: bool, overview: Overview | None) -> None:
        self.commands = commands
        self.timed = timed
        self.overview = overview
        self.said: list[int] = []  # the reading ends of their stderr, if there is an overview
        self.processes: list[subprocess.Popen[bytes]] = []
        self.held: list[int] = []
        self.stopped: set[int] = set()
        self.began = time.monotonic()

    def start(self, stdin: int | None, stdout: IO[bytes]) -> None:
        """Start all programs.

        We keep the writing end of each pipe open until its program succeeded. So the next one never takes
        the end of a failed program for its input, and complains of nothing but its own troubles.
        """
        reader = -1
        try:
            for command in self.commands[:-1]:
                source, (reader, writer) = reader, os.pipe()
                self.held.append(writer)
                self._start_one(command, stdin if source < 0 else source, writer)
            source, reader = reader, -1
            self._start_one(self.commands[-1], stdin if source < 0 else source, stdout)
        finally:
            if reader >= 0:
                os.close(reader)

    def _start_one(self, command: Command, stdin: int | None, stdout: IO[bytes] | int) -> None:
        stderr = None
        if self.overview:
            reader, stderr = self.overview.join(command.program)
            self.said.append(reader)
            command = command.telling()
        try:
            with cli.signals_later():  # nobody would stop a program that runs and is not noted yet
                self.processes.append(subprocess.Popen(command.argv, stdin=stdin, stdout=stdout, stderr=stderr))
        except OSError as error:
            raise errors.os_error(error, f"cannot run '{command.program}'") from error
        finally:
            if stderr is not None:
                os.close(stderr)
            if stdin is not None and stdin >= 0:
                os.close(stdin)  # the program has it now, and must be its only reader

    def watch(self) -> None:
        """Wait for all programs; on the first failure stop the rest.

        A signal that comes between a program's last look for one and its read(2) is not seen before that returns. So
        one that does not end gets the end of its input, now that it will not take it for an input.
        """
        running = set(range(len(self.processes)))
        with _exits(self.processes, self.overview, self.said) as wait:
            while running:
                ended = wait(_NUDGE if self.stopped else None)
                if not ended:
                    self._release()
                    return
                for index in ended:
                    running.discard(index)
                    if self.processes[index].wait() == 0:
                        self._succeeded(index)
                    elif not self.stopped:
                        self.stop(signal.SIGTERM)

    def _succeeded(self, index: int) -> None:
        if index < len(self.held):
            self._let_go(index)
        if self.timed and self.commands[index].is_ours:
            self._tell_time(self.commands[index].program)

    def _tell_time(self, program: str) -> None:
        """Say how long a program took since the one before it had ended."""
        now = time.monotonic()
        seconds, self.began = now - self.began, now
        with self.overview.aside() if self.overview else contextlib.nullcontext():
            console.note(f"{program:<10} {seconds:7.2f} s")
        console.ended(program, seconds)
        if self.overview:
            self.overview.succeeded()

    def stop(self, number: int) -> None:
        """Send a signal to every program that still runs."""
        for index, process in enumerate(self.processes):
            if process.poll() is None:
                self.stopped.add(index)
                process.send_signal(number)

    def end(self) -> None:
        """See that no program outlives us: stop what still runs, let it clean up, then kill it."""
        try:
            if not self.stopped:
                self.stop(signal.SIGTERM)
            if not self.all_ended(GRACE):
                self.stop(signal.SIGKILL)
                self.all_ended(GRACE)
        finally:
            self._release()

    def _release(self) -> None:
        """Close the pipes' ends that we hold."""
        for index, descriptor in enumerate(self.held):
            if descriptor >= 0:
                self._let_go(index)

    def _let_go(self, index: int) -> None:
        """Close an end; it is forgotten first, since an interruption in between must not close another one's."""
        descriptor, self.held[index] = self.held[index], -1
        os.close(descriptor)

    def all_ended(self, patience: float) -> bool:
        """Wait at most `patience` seconds for all programs, and tell whether they ended."""
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return False
        return True

    def raise_failure(self) -> None:
        """Raise Failed for the first program that failed by itself, or for any that was ended from outside."""
        failed = [(i, p.returncode) for i, p in enumerate(self.processes) if p.returncode != 0]
        by_themselves = [(i, status) for i, status in failed if i not in self.stopped]
        for index, status in by_themselves or failed:
            raise Failed(self.commands[index].program, status)


@contextlib.contextmanager
def _exits(
    processes: Sequence[subprocess.Popen[bytes]], overview: Overview | None, said: Sequence[int]
) -> Iterator[Callable[[float | None], list[int]]]:
    """Give a function that waits until processes have ended, or for some seconds, and returns their indexes.

    Meanwhile the overview is fed with what they say.
    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for index, process in enumerate(processes):
            descriptor = os.pidfd_open(process.pid)
            stack.callback(os.close, descriptor)
            selector.register(descriptor, selectors.EVENT_READ, index)
        for reader in said:
            selector.register(reader, selectors.EVENT_READ)

        def wait(seconds: float | None) -> list[int]:
            deadline = None if seconds is None else time.monotonic() + seconds
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                ready = [key for key, _ in selector.select(left)]
                for key in ready:
                    if key.data is not None or not (overview and overview.read(key.fd)):
                        selector.unregister(key.fd)
                ended = [int(key.data) for key in ready if key.data is not None]
                if ended or (deadline is not None and time.monotonic() >= deadline):
                    return ended

        yield wait
