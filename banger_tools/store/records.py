"""The JSON file inside each object of the store: read with exact errors, written sorted and whole.

"Not there", "cannot be read" and "broken" are three different errors: only the first may start a download.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from banger_tools import errors, files

LIMIT = 16 << 20

T = TypeVar("T")


class Missing(errors.NoInput):
    """There is no such object: the only error that a missing thing may be fetched for."""


def missing(folder: Path, what: str, others: Sequence[str]) -> Missing:
    """Return the error that says that there is no such object, and which there are."""
    import difflib

    near = difflib.get_close_matches(folder.name, others, 3)
    asked = f"did you mean {' or '.join(repr(name) for name in near)}?"
    return Missing(
        f"there is no {what} '{folder.name}'", asked if near else f"{what}s here: {', '.join(others) or 'none'}"
    )


def exists(folder: Path) -> bool:
    """Tell whether an object's folder is there.

    Raises Denied if that cannot be known, which is not the same as no.
    """
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise errors.os_error(error, f"cannot look at '{folder}'") from error
    return True


def of_one(folder: Path, look: Callable[[], T]) -> T:
    """Return what `look` reads from an object's folder, all of it from one object.

    If the object goes meanwhile, or another one takes its name, `look` is called again: what it found, or what it
    missed, was of two. Raises what `look` raises of an object that is there, or of none.
    """
    while True:
        with _pinned(folder) as before:
            try:
                found = look()
            except (errors.BangerError, OSError):
                if _identity(folder) == before:
                    raise
            else:
                if _identity(folder) == before:
                    return found


@contextlib.contextmanager
def _pinned(folder: Path) -> Iterator[tuple[int, int] | None]:
    """Yield what tells a folder from others, which none gets meanwhile, as we have it open; None if it is not there."""
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield _identity(folder) if descriptor is None else _numbers(os.fstat(descriptor))
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        return _numbers(os.lstat(folder))
    except OSError:
        return None


def _numbers(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def read(folder: Path, name: str, kind: type[T], what: str) -> T:
    """Return the record `name` in an object's folder, in its type.

    Raises Missing if there is no such folder, Denied or IOFailure if it cannot be read, BadInput if it is broken.
    """
    import msgspec

    if not exists(folder):
        raise Missing(f"there is no {what} '{folder.name}'")
    try:
        text = files.read_small(folder / name, LIMIT, f"the record of a {what}")
        return msgspec.convert(json.loads(text), kind)
    except errors.NoInput as error:
        raise broken(folder, what, f"its '{name}' is missing") from error
    except (ValueError, RecursionError) as error:
        raise broken(folder, what, f"{name}: {str(error).splitlines()[0]}") from error


def broken(folder: Path, what: str, reason: str) -> errors.BadInput:
    """Return the error for an object that is there and is not whole."""
    return errors.BadInput(f"the {what} '{folder.name}' is broken: {reason}", f"look at '{folder}', or delete it")


def check_file(folder: Path, name: str, what: str) -> Path:
    """Return the path of a file that an object must have.

    Raises BadInput if it is missing, Denied if it cannot be read.
    """
    path = folder / name
    try:
        with open(path, "rb"):
            return path
    except FileNotFoundError as error:
        raise broken(folder, what, f"its '{name}' is missing") from error
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error


def write(folder: Path, name: str, record: object) -> None:
    """Write a record, for its owner alone, replacing the one before in one rename."""
    import msgspec

    text = json.dumps(msgspec.to_builtins(record), indent=2, sort_keys=True) + "\n"
    files.write_text(folder / name, text, force=True, mode=0o600)
