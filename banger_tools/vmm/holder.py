"""A process that outlives the program that started it, known to be alive by a lock that it holds.

The lock is one of the open file (fcntl(2), "open file description locks"): the child inherits it, nobody can hold it
for longer than the child lives, and asking about it does not take it. The file is the log that is the child's stderr:
a program may close every descriptor that it does not know (Firecracker's jailer does), but keeps that one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from banger_tools import console, errors

LOG = "vmm.log"
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid
_POLL = 0.02


def _flock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def is_alive(folder: Path) -> bool:
    """Tell whether the process of a folder lives."""
    try:
        descriptor = os.open(folder / LOG, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK))
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _take(folder: Path) -> int:
    """Take the lock of a folder for a process to come, and return its descriptor, that of an empty log.

    Raises CannotCreate if a process holds it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    descriptor = os.open(folder / LOG, flags, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
    except OSError as error:
        os.close(descriptor)
        raise errors.CannotCreate(f"the VM '{folder.name}' is running already") from error
    os.ftruncate(descriptor, 0)
    return descriptor


def start(argv: Sequence[str], folder: Path, stdout: str = LOG) -> int:
    """Start a program in `folder` that holds its lock, in a session of its own, and return its process id.

    It has no terminal, reads nothing, writes to files of the folder (`stdout`, and the log), and all that it makes is
    private.
    """
    import shlex
    import subprocess

    console.command(shlex.join(argv))
    with contextlib.ExitStack() as stack:
        log = _take(folder)
        stack.callback(os.close, log)
        output = log
        if stdout != LOG:
            output = os.open(folder / stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, output)
        try:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            raise errors.os_error(error, f"cannot run '{argv[0]}'") from error
    _children.append(child)
    return child.pid


_children: list[object] = []  # Popen objects: one that is collected while its process lives would warn


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
    """Return the processes that hold the lock of a folder: those whose stderr the kernel lists it with.

    So they are found without a record, and no id is taken on trust (proc(5), /proc/PID/fdinfo).
    """
    try:
        log = os.stat(folder / LOG)
    except FileNotFoundError:
        return []
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _holds(pid, log)]


def _holds(pid: int, log: os.stat_result) -> bool:
    try:
        stderr = os.stat(f"/proc/{pid}/fd/2")
        return os.path.samestat(stderr, log) and "OFDLCK" in Path(f"/proc/{pid}/fdinfo/2").read_text()
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
