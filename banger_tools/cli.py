"""The contract that every program keeps: its command line, its signals, and how it ends.

A tool's `main` hands its docstring and its work to `run`. Only here an error becomes an exit status,
and only here a usage error is worded.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from banger_tools import __version__, console, docs, errors, files

Arguments = dict[str, Any]

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """SIGTERM arrived; like KeyboardInterrupt, it unwinds so that everything is cleaned up."""


def run(doc: str, argv: Sequence[str] | None, work: Callable[[Arguments], int | None], *, nested: bool = False) -> int:
    """Parse a command line by the manual in `doc`, do the work, and return the exit status.

    `argv` None is the process's own command line: it is done then, and signals stay ignored until it has ended, or one
    that comes late would turn a finished run into a killed one.
    `nested` is for a command that takes a command line of its own: options end at the first word.
    """
    manual = docs.parse(doc)
    console.configure(manual.name)
    with _signals(last=argv is None):
        try:
            try:
                status = _worked(manual, argv, work, nested=nested)
            finally:
                _ignore_signals()  # one that comes now must not break off the report and the clean-up
        except BaseException as error:
            status = status_of(error)
        finally:
            files.remove_temporaries()
            _settle_stdout()
        if argv is None:
            gc.freeze()  # or on its way out the interpreter looks for garbage in all that is left, while a pipe waits
        return status


def _worked(
    manual: docs.Manual, argv: Sequence[str] | None, work: Callable[[Arguments], int | None], *, nested: bool
) -> int:
    arguments = parse(manual, sys.argv[1:] if argv is None else argv, nested=nested)
    if answered(manual, arguments):
        status = 0
    else:
        _configure(manual.name, arguments)
        status = work(arguments) or 0
    flush_stdout()
    return status


def print_bytes(data: bytes) -> None:
    """Print bytes, which `flush_stdout` brings out at last; raises what that raises."""
    with _printing():
        sys.stdout.buffer.write(data)


def flush_stdout() -> None:
    """Make sure that what was printed is out; raises BrokenPipeError, or IOFailure if a disk is full."""
    with _printing():
        sys.stdout.flush()


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise errors.IOFailure(f"cannot write to stdout: {errors.reason(error)}") from error


def answered(manual: docs.Manual, arguments: Arguments) -> bool:
    """Print the help or the version if either was asked for, and tell whether it was."""
    if arguments.get("--help"):
        sys.stdout.write(docs.help_text(manual))
    elif arguments.get("--version"):
        sys.stdout.write(f"{manual.name} {__version__}\n")
    else:
        return False
    return True


def status_of(error: BaseException) -> int:
    """Say on stderr how the program failed, and return its exit status."""
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        error = errors.os_error(error)
    match error:
        case errors.BangerError():
            console.error(error.message)
            if error.hint:
                console.hint(error.hint)
            return error.status
        case KeyboardInterrupt():
            return errors.INTERRUPTED
        case Terminated():
            return errors.TERMINATED
        case BrokenPipeError():
            _abandon_stdout()
            return errors.CLOSED_PIPE
        case Exception() if _is_out_of_memory(error):
            with contextlib.suppress(MemoryError):  # there may be none for the words either
                console.error("out of memory")
                console.hint("run fewer programs at once, or allow more: ulimit -v, or the limit of the container")
            return errors.Retry.status
        case ModuleNotFoundError() if not str(error.name).startswith("banger_tools"):
            console.error(f"the Python package '{error.name}' is not installed")
            console.hint("in a checkout: make setup; else: pip install --force-reinstall banger-tools")
            return errors.Unavailable.status
        case SystemExit():
            return error.code if isinstance(error.code, int) else int(error.code is not None)
    try:
        import traceback

        console.lines("".join(traceback.format_exception(error)))
    except MemoryError as lack:  # it may have been what failed before, in words of Python's own
        return status_of(lack)
    console.error(f"a bug in banger {__version__}: {type(error).__name__}: {error}")
    console.hint("please report it with the lines above and the command that you ran")
    return errors.BUG


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that there is no memory, as Python, its threads and the loader of libraries put it."""
    words = ("start new thread", "failed to map segment")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _configure(name: str, arguments: Arguments) -> None:
    progress = arguments.get("--progress") or "auto"
    if progress not in console.PROGRESS_WORDS:
        raise errors.BadUsage(f"--progress: '{progress}' is none of {', '.join(console.PROGRESS_WORDS)}")
    verbosity = console.QUIET if arguments.get("--quiet") else int(arguments.get("--verbose") or 0)
    console.configure(name, verbosity, progress)


@contextlib.contextmanager
def _signals(*, last: bool) -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into exceptions while a program runs, and if it is not the `last`, turn back.

    What was ignored stays so: nohup(1) ignores SIGHUP, and a shell's background jobs ignore SIGINT.
    """
    previous = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGALRM)}
    for number in _STOPPING:
        if previous[number] != signal.SIG_IGN:
            signal.signal(number, _raiser(KeyboardInterrupt if number == signal.SIGINT else Terminated))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items() if not last else ():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_later() -> Iterator[None]:
    """Let what would interrupt the body interrupt its end instead; for a step that must not be half done."""
    import threading

    if threading.current_thread() is not threading.main_thread():  # the only one that signals interrupt
        yield
        return
    came: list[int] = []
    previous = {number: signal.getsignal(number) for number in _STOPPING}
    for number, handler in previous.items():
        if callable(handler):
            signal.signal(number, lambda arrived, _frame: came.append(arrived))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _raiser(error: type[BaseException]) -> Callable[[int, FrameType | None], None]:
    """Return a signal handler that raises `error`, but not in the midst of an import: then a moment later.

    A module whose import is broken off may be left half made: msgspec 0.22 loses the exception and crashes when it
    is used (one ^C in forty that falls into its import).
    """

    def stop(_number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            return
        raise error

    return stop


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _ignore_signals() -> None:
    """Let nothing interrupt the clean-up."""
    for number in (*_STOPPING, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _settle_stdout() -> None:
    """Leave nothing in stdout's buffer that the interpreter could fail to write on its way out."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _abandon_stdout()


def _abandon_stdout() -> None:
    """Point stdout at /dev/null, so that the interpreter's last flush does not complain of the closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(manual: docs.Manual, argv: Sequence[str], *, nested: bool = False) -> Arguments:
    """Return the arguments of a command line as docopt's dictionary.

    Raises BadUsage that names what is wrong, where docopt would only repeat the usage.
    """
    from docopt import DocoptExit, docopt

    positionals = _check_words(manual, list(argv), nested=nested)
    try:
        return dict(docopt(docs.docopt_text(manual), list(argv), False, None, nested))
    except DocoptExit:
        asked = {"-h", "--help", "--version"}.intersection(argv)
        if asked:
            return {"--help": asked != {"--version"}, "--version": asked == {"--version"}}
        hint = f"{manual.name} --help lists the commands" if "Commands" in manual.sections else None
        raise _bad_usage(manual, _misfit(manual, positionals), hint) from None


def _bad_usage(manual: docs.Manual, message: str, hint: str | None = None) -> errors.BadUsage:
    lines = [hint] if hint else []
    return errors.BadUsage(message, "\n".join([*lines, *(f"usage: {line}" for line in manual.synopsis)]))


def _misfit(manual: docs.Manual, positionals: Sequence[str]) -> str:
    """Say which positional argument is missing or too many."""
    pattern = manual.synopsis[0].removeprefix(manual.name).split()
    required = [word.removesuffix("...") for word in pattern if re.fullmatch(r"[A-Z][A-Z_:]*(\.\.\.)?", word)]
    optional = [word for word in pattern if re.fullmatch(r"\[[A-Z][A-Z_:]*\]", word)]
    if len(positionals) < len(required):
        return f"missing argument: {required[len(positionals)]}"
    endless = any(re.fullmatch(r"\[?[A-Z][A-Z_:]*\]?\.\.\.", word) for word in pattern)
    if len(positionals) > len(required) + len(optional) and not endless:
        return f"unexpected argument: '{positionals[len(required) + len(optional)]}'"
    return "these options or arguments do not go together"


def _check_words(manual: docs.Manual, argv: list[str], *, nested: bool) -> list[str]:
    """Check every option of a command line by name, and return the words that are none."""
    known = {name: option for option in manual.options for name in (option.short, option.long) if name}
    seen: set[str] = set()
    positionals: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--" or (nested and not word.startswith("-")):
            return [*positionals, *([word] if word != "--" else []), *words]
        if not word.startswith("-") or word == "-":
            positionals.append(word)
            continue
        for option, missing in _options_in(manual, known, word):
            _refuse_twice(manual, option, seen)
            if missing and next(words, None) is None:
                raise _bad_usage(manual, f"option '{word}' needs a value: {option.value}")
    return positionals


def _options_in(manual: docs.Manual, known: dict[str, docs.Option], word: str) -> Iterator[tuple[docs.Option, bool]]:
    """Yield each option in one word of the command line, and whether its value must be the next word."""
    if word.startswith("--"):
        name, equals, _ = word.partition("=")
        option = _lookup(manual, known, name)
        if equals and option.value is None:
            raise _bad_usage(manual, f"option '{name}' takes no value")
        yield option, option.value is not None and not equals
        return
    rest = word[1:]
    while rest:
        option = _lookup(manual, known, f"-{rest[0]}")
        rest = rest[1:]
        if option.value is not None:
            yield option, not rest
            return
        yield option, False


def _lookup(manual: docs.Manual, known: dict[str, docs.Option], name: str) -> docs.Option:
    if name in known:
        return known[name]
    import difflib

    near = difflib.get_close_matches(name, [n for n in known if len(n) > 2], 1)
    raise _bad_usage(manual, f"unknown option '{name}'", f"did you mean '{near[0]}'?" if near else None)


def _refuse_twice(manual: docs.Manual, option: docs.Option, seen: set[str]) -> None:
    name = option.spelling
    pattern = rf"\[{re.escape(name)}[^\]]*\]\.\.\."
    repeatable = name == "--verbose" or any(re.search(pattern, usage) for usage in manual.synopsis)
    if name in seen and not repeatable:
        raise _bad_usage(manual, f"option '{name}' was given twice")
    seen.add(name)
