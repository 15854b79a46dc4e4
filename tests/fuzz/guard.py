"""The bounds within which a reader must stay: time, memory, and the files of one folder."""

from __future__ import annotations

import ipaddress
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

SECONDS = 10  # of the processor's time, for an input that takes milliseconds
SILENCE = 120  # of waiting, for one that waits for nobody
MEMORY = 768 << 20

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.utime", "os.setxattr"}
_MOVES = {"os.rename", "os.link", "os.symlink"}


class Overrun(BaseException):
    """A reader took more time than any input is worth; no handler of errors may swallow that."""


class Outside(BaseException):
    """A reader touched a file that is not its own."""


def confine(folder: Path) -> None:
    """Let this process change nothing outside of a folder any more, and connect only to this machine."""
    inside = (os.path.realpath(folder), "/dev/null", "/proc/self/fd/", "/dev/tty")

    def check(path: object) -> None:
        if isinstance(path, int):
            return
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        real = os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))
        if not real.startswith(inside):
            raise Outside(real)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        if opened or event in _CHANGES:
            check(arguments[0])
        elif event in _MOVES:
            check(arguments[1])
        elif event == "socket.connect" and isinstance(arguments[1], tuple) and not _is_here(arguments[1][0]):
            raise Outside(str(arguments[1]))

    os.chdir(folder)
    sys.addaudithook(hook)


def _is_here(address: str) -> bool:
    """Tell whether an address is of this machine: a registry that is here may name any of it, 127.0.1.1 as well."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def bound_memory() -> None:
    """Let this process take so much memory beyond what it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))


def watch() -> None:
    """Turn the alarms that `wind` sets into Overrun."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Overrun

    signal.signal(signal.SIGPROF, ring)
    signal.signal(signal.SIGALRM, ring)


def wind(*, on: bool = True) -> None:
    """Start the time that one input may take, or stop it."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS if on else 0)
    signal.setitimer(signal.ITIMER_REAL, SILENCE if on else 0)
