"""One command for several machines: side by side, each in a process of its own.

So the signals, the clean-up and the lock of each stay as simple as for one, and one that fails stops no other. What
they say names the machine; the exit status is that of the first failure in the order of the names.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

from banger_tools import cli, console, errors, pipeline
from banger_tools.store import vms
from banger_tools.vmm import holder

T = TypeVar("T")

AT_ONCE = 16
_TERMINAL_SECONDS = 1.0  # ^C reached the others as well: a second signal would disturb their clean-up
_OURS = ("--verbose", "--quiet", "--progress", "--all", "--")  # words that are passed on otherwise, or not at all


def running() -> list[str]:
    """Return the names of the machines that run."""
    return [name for name in vms.listed() if holder.is_alive(vms.root() / name)]


def at_rest() -> list[str]:
    """Return the names of the machines that do not run."""
    return [name for name in vms.listed() if not holder.is_alive(vms.root() / name)]


def named(arguments: cli.Arguments) -> list[str]:
    """Return the machines that a command line names, each once; raises BadUsage if a name can be none."""
    names = list(dict.fromkeys(arguments["NAME"]))
    for name in names:
        vms.folder(name)
    return names


def chosen(arguments: cli.Arguments, everyone: Callable[[], list[str]]) -> list[str]:
    """Return the machines that a command line names, or with --all those that `everyone` returns.

    Raises BadUsage if it does neither, or both.
    """
    names = named(arguments)
    if not arguments["--all"]:
        if not names:
            raise errors.BadUsage("missing argument: NAME", "name VMs, or give --all")
        return names
    if names:
        raise errors.BadUsage("--all and NAME exclude each other")
    return everyone()


def each(words: Sequence[str], arguments: cli.Arguments, names: Sequence[str], one: Callable[[str], None]) -> int:
    """Do something to one machine, or run the command `words` for each of several; return the exit status."""
    if len(names) == 1:
        one(names[0])
        return 0
    options = list(_options(arguments))
    statuses = _run([pipeline.Command("banger", (*words, *options, "--", name)).argv for name in names])
    return next((status for status in statuses if status), 0)


def in_turn(items: Sequence[T], one: Callable[[T], None]) -> int:
    """Do something quick to several things, one after the other; what fails is said, and stops no other.

    Return the exit status of the first failure.
    """
    statuses = []
    for item in items:
        try:
            one(item)
        except (errors.BangerError, OSError) as error:
            statuses.append(cli.status_of(error))
    return statuses[0] if statuses else 0


def answers(ask: Callable[[str], T], arguments: cli.Arguments) -> tuple[list[T], int]:
    """Ask the machines that a command line names, or all that run, at the same time.

    Return the answers in the order of the names, and the exit status: what fails is said, and hides no other. A machine
    that nobody named and that ended meanwhile is left out.
    """
    chosen = named(arguments)
    found, statuses = [], []
    asked = chosen or running()
    for name, (answer, error) in zip(asked, _at_once(ask, asked), strict=True):
        if error is None:
            found.append(cast("T", answer))
        elif chosen or holder.is_alive(vms.root() / name):
            statuses.append(cli.status_of(error))
    return found, statuses[0] if statuses else 0


def _at_once(ask: Callable[[str], T], names: Sequence[str]) -> list[tuple[T | None, Exception | None]]:
    from concurrent.futures import ThreadPoolExecutor

    def one(name: str) -> tuple[T | None, Exception | None]:
        try:
            return ask(name), None
        except (errors.BangerError, OSError) as error:
            return None, error

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(one, names))


def _options(arguments: cli.Arguments) -> Iterator[str]:
    """Yield the options of this command line as words for others; bars of several would overwrite each other."""
    talk = console.passed_on()
    yield from talk if any(word.startswith("--progress") for word in talk) else [*talk, "--progress=never"]
    for name, value in arguments.items():
        if name.startswith("-") and name not in _OURS and value is not None and value is not False:
            yield name if value is True else f"{name}={value}"


def _run(commands: Sequence[Sequence[str]]) -> list[int]:
    """Run programs side by side, and return their exit statuses in order; an interruption stops them all."""
    statuses = [0] * len(commands)
    with selectors.DefaultSelector() as exits:
        try:
            for index, argv in enumerate(commands):
                if len(exits.get_map()) >= AT_ONCE:
                    _reap(exits, statuses, None)
                _start(exits, index, argv)
            while exits.get_map():
                _reap(exits, statuses, None)
        except BaseException as error:
            _stop(exits, statuses, _TERMINAL_SECONDS if isinstance(error, KeyboardInterrupt) else 0.0)
            raise
    return statuses


def _start(exits: selectors.BaseSelector, index: int, argv: Sequence[str]) -> None:
    with cli.signals_later():  # a process that nobody has noted could not be stopped
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        exits.register(os.pidfd_open(process.pid), selectors.EVENT_READ, (index, process))


def _reap(exits: selectors.BaseSelector, statuses: list[int], seconds: float | None) -> None:
    """Wait until programs have ended, and note how."""
    for key, _ in exits.select(seconds):
        index, process = key.data
        status = process.wait()
        statuses[index] = status if status >= 0 else 128 - status
        exits.unregister(key.fd)
        os.close(key.fd)


def _stop(exits: selectors.BaseSelector, statuses: list[int], patience: float) -> None:
    """Stop the programs that still run after some seconds, and wait for their clean-up."""
    deadline = time.monotonic() + patience
    while exits.get_map() and (left := deadline - time.monotonic()) > 0:
        _reap(exits, statuses, left)
    for key in list(exits.get_map().values()):
        key.data[1].terminate()
    while exits.get_map():
        _reap(exits, statuses, None)
