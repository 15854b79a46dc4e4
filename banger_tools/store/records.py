"""The JSON file inside each object of the store: read with exact errors, written sorted and whole.

"Not there", "cannot be read" and "broken" are three different errors: only the first may start a download.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

from banger_tools import errors, files

LIMIT = 16 << 20

T = TypeVar("T")


class Missing(errors.NoInput):
    """There is no such object: the only error that a missing thing may be fetched for."""


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
