"""A process that outlives the program that started it, known to be alive by a lock that it holds.

The lock is one of the open file (fcntl(2), "open file description locks"): the child inherits it, nobody can hold it
for longer than the child lives, and asking about it does not take it. The file is the child's stdin, in which there is
nothing to read: a program may close every descriptor that it does not know (Firecracker's jailer does), but keeps that
one. The recorder that writes down what the child says has the lock, too: when nobody holds it, all is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from banger_tools import console, errors
from banger_tools.vmm import recorder

LOCK = "vmm.lock"
CONSOLE, LOG = "console.log", "vmm.log"  # of the child's stdout, and of its stderr
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_POLL = 0.02


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def is_alive(folder: Path) -> bool:
    """Tell whether the process of a folder lives."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _take(folder: Path) -> int:
    """Take the lock of a folder for a process to come, and return its descriptor.

    Raises CannotCreate if a process holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        os.close(descriptor)
        raise errors.CannotCreate(f"the VM '{folder.name}' is running already") from error
    return descriptor


def start(argv: Sequence[str], folder: Path, pipes: Mapping[str, str] = MappingProxyType({})) -> int:
    """Start a program in `folder` that holds its lock, in a session of its own, and return its process id.

    It has no terminal, reads nothing, and all that it makes is private. What it says goes to CONSOLE and LOG, and from
    the named pipes of `pipes` to the logs that they stand for, all of them anew, and none without bound.
    """
    import shlex
    import subprocess

    console.command(shlex.join(argv))
    with contextlib.ExitStack() as stack:
        lock = _take(folder)
        stack.callback(os.close, lock)
        (console_read, stdout), (log_read, stderr) = _pipe(stack), _pipe(stack)
        sources = {CONSOLE: console_read, LOG: log_read}
        for pipe, log in pipes.items():
            sources[log] = _opened(stack, folder / pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _record(stack, folder, sources, lock)
            child = subprocess.Popen(
                argv, cwd=folder, stdin=lock, stdout=stdout, stderr=stderr, start_new_session=True, umask=0o077
            )
        except OSError as error:
            raise errors.os_error(error, f"cannot run '{argv[0]}'") from error
    _children.append(child)
    return child.pid


_children: list[object] = []  # Popen objects: one that is collected while its process lives would warn


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _opened(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def _record(stack: contextlib.ExitStack, folder: Path, sources: Mapping[str, int], lock: int) -> None:
    """Start the recorder of what comes from descriptors, each with the name of its log."""
    import subprocess

    words, passed = [], [lock]
    for name, source in sources.items():
        for path in (folder / name, Path(recorder.older(str(folder / name)))):
            path.unlink(missing_ok=True)
        file = _opened(stack, folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        words.append(recorder.argument(source, file, name))
        passed += [source, file]
    argv = [sys.executable, "-I", "-S", recorder.__file__, *words]
    nothing = subprocess.DEVNULL  # in the place of ours, which somebody may read to their end
    child = subprocess.Popen(
        argv, cwd=folder, stdin=nothing, stdout=nothing, stderr=nothing, pass_fds=passed, start_new_session=True
    )
    _children.append(child)


def wait_gone(folder: Path, seconds: float) -> bool:
    """Tell whether the process of a folder ends within some seconds."""
    deadline = time.monotonic() + seconds
    while is_alive(folder):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def start_time(pid: int) -> int:
    """Return when a process started in ticks since boot, or 0 if there is none (proc(5), stat, field 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.rpartition(")")[2].split()[19])


def boot_id() -> str:
    """Return what tells this boot of the host from all others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def holders(folder: Path) -> list[int]:
    """Return the processes that hold the lock of a folder by their stdin, which the kernel lists it with.

    So they are found without a record, and no id is taken on trust (proc(5), /proc/PID/fdinfo).
    """
    try:
        lock = os.stat(folder / LOCK)
    except FileNotFoundError:
        return []
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _holds(pid, lock)]


def _holds(pid: int, lock: os.stat_result) -> bool:
    try:
        stdin = os.stat(f"/proc/{pid}/fd/0")
        return os.path.samestat(stdin, lock) and "OFDLCK" in Path(f"/proc/{pid}/fdinfo/0").read_text()
    except OSError:  # it has ended, or is another user's
        return False


def kill(folder: Path) -> None:
    """Kill the process of a folder, and no other."""
    for pid in holders(folder):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in holders(folder):  # the descriptor pins the id that is checked only now
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)
