"""A block of ours in a file of somebody else: put in, changed and taken out; every other byte stays as it is."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from banger_tools import errors, files

_LIMIT = 1 << 20


def put(path: Path, name: str, text: str, comment: str) -> bool:
    """Have a file begin with a block, once; tell whether that changed it. A missing file is made, private.

    Raises BadInput if the file has the beginning of the block and not its end.
    """
    old = _read(path)
    block = f"{_begin(name)} {comment}\n{text}{_end(name)}\n".encode()
    return _replace(path, old, block + _without(path, old, name))


def take_out(path: Path, name: str) -> bool:
    """Take a block out of a file, if it is there; tell whether it was. Raises what `put` does."""
    old = _read(path)
    return _replace(path, old, _without(path, old, name))


def _begin(name: str) -> str:
    return f"# >>> {name} >>>"


def _end(name: str) -> str:
    return f"# <<< {name} <<<"


def _read(path: Path) -> bytes:
    return files.read_small(path, _LIMIT, "a configuration") if path.exists() else b""


def _without(path: Path, data: bytes, name: str) -> bytes:
    begin, end = re.escape(_begin(name)).encode(), re.escape(_end(name)).encode()
    rest = re.sub(rb"(?ms)^%b[^\n]*\n.*?^%b(?:\n|\Z)" % (begin, end), b"", data)
    if re.search(rb"(?m)^(?:%b|%b)" % (begin, end), rest):
        raise errors.BadInput(
            f"'{path}': the block of '{name}' is damaged", f"remove it by hand: '{_begin(name)}' to '{_end(name)}'"
        )
    return rest


def _replace(path: Path, old: bytes, new: bytes) -> bool:
    """Give a file, or the one that a symlink leads to, another content, and nothing else that is new."""
    if new == old:
        return False
    target = path.resolve()
    about = target.stat() if target.exists() else None
    with files.atomic(target, force=True) as temporary:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(new)
            if about:
                os.fchown(file.fileno(), about.st_uid, about.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(about.st_mode))
    return True
