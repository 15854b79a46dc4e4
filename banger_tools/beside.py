"""Work in a process of its own beside this one, forked: a thread would not do, the interpreter's lock is the limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from banger_tools import errors

Wait = Callable[[], None]

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NO_MEMORY = b"no memory"  # made before there is none


class Crashed(Exception):
    """The work met a bug; the traceback of where is its note."""


@contextlib.contextmanager
def running(work: Callable[[], object], lost: str = "") -> Iterator[Wait]:
    """Do some work in another process while the body runs, and yield what waits for its end.

    That raises the error that the work met, MemoryError, or Crashed for any that is not ours; with `lost` it raises
    BadInput of these words if a mapped file was cut meanwhile (SIGBUS). At the end of the body a process that nobody
    waited for is killed.
    """
    reader, writer = os.pipe()
    with contextlib.ExitStack() as held:
        usual = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        held.callback(signal.pthread_sigmask, signal.SIG_SETMASK, usual)
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)  # our handlers would take the child through our clean-up
        child = os.fork()
        if child == 0:
            os.close(reader)
            _work(work, writer, usual)
        os.close(writer)
        ended: list[int] = []

        def wait() -> None:
            with open(reader, "rb", closefd=False) as pipe:
                said = pipe.read()
            ended.append(os.waitpid(child, 0)[1])
            _check(ended[0], said, lost)

        try:
            held.close()  # what came meanwhile interrupts us here, where the child is looked after
            yield wait
        finally:
            os.close(reader)
            if not ended:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _check(status: int, said: bytes, lost: str) -> None:
    if said == _NO_MEMORY:
        raise MemoryError
    if said and os.WIFEXITED(status):
        raise _heard(*json.loads(said))
    if lost and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS:
        raise errors.BadInput(lost)
    if status != 0:
        raise errors.IOFailure(f"a process beside this one ended with status {os.waitstatus_to_exitcode(status)}")


def _work(work: Callable[[], object], pipe: int, mask: Iterable[int]) -> None:
    """Do it and end the process; what failed goes into the pipe."""
    status = 1
    try:
        for number in _STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) and shells have it
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work()
        status = 0
    except MemoryError:
        os.write(pipe, _NO_MEMORY)
    except BaseException as error:
        os.write(pipe, json.dumps(_told(error)).encode())
    finally:
        os._exit(status)


def _told(error: BaseException) -> tuple[int, str, str | None]:
    """Return what goes through the pipe: status and message of an error, and its hint, or the traceback of a bug."""
    if isinstance(error, OSError):
        error = errors.os_error(error)
    if isinstance(error, errors.BangerError):
        return error.status, error.message, error.hint
    import traceback

    return errors.BUG, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def _heard(status: int, message: str, more: str | None) -> Exception:
    """Return the error that `_told` told of."""
    for kind in errors.ERRORS:
        if kind.status == status:
            return kind(message, more)
    crashed = Crashed(message)
    crashed.add_note(more or "")
    return crashed
