"""Work in a process of its own beside this one, forked: a thread would not do, the interpreter's lock is the limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator

from banger_tools import errors

Wait = Callable[[], None]


@contextlib.contextmanager
def running(work: Callable[[], object], lost: str = "") -> Iterator[Wait]:
    """Do some work in another process while the body runs, and yield what waits for its end.

    That raises the error that the work met; with `lost` it raises BadInput of these words if a mapped file was cut
    meanwhile (SIGBUS). At the end of the body a process that nobody waited for is killed.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer)
    os.close(writer)
    ended: list[int] = []

    def wait() -> None:
        with open(reader, "rb", closefd=False) as pipe:
            said = pipe.read()
        ended.append(os.waitpid(child, 0)[1])
        _check(ended[0], said, lost)

    try:
        yield wait
    finally:
        os.close(reader)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _check(status: int, said: bytes, lost: str) -> None:
    if said:
        number, message, hint = json.loads(said)
        kind = next(kind for kind in errors.ERRORS if kind.status == number)
        raise kind(message, hint)
    if lost and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS:
        raise errors.BadInput(lost)
    if status != 0:
        raise errors.IOFailure(f"a process beside this one ended with status {os.waitstatus_to_exitcode(status)}")


def _work(work: Callable[[], object], pipe: int) -> None:
    """Do it and end the process; what failed goes into the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    status = 1
    try:
        work()
        status = 0
    except OSError as error:
        _tell(errors.os_error(error), pipe)
    except errors.BangerError as error:
        _tell(error, pipe)
    finally:
        os._exit(status)


def _tell(error: errors.BangerError, pipe: int) -> None:
    os.write(pipe, json.dumps([error.status, error.message, error.hint]).encode())
