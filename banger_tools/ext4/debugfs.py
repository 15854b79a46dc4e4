"""Commands for debugfs that put things into an image and take them out.

debugfs exits with 0 even when its commands fail, so neither its status nor its silence is trusted: any complaint is
an error here, and whoever calls reads everything back.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from banger_tools import console, errors, process
from banger_tools.ext4 import structures as s
from banger_tools.ext4.view import Placed

_TYPES = {"file": s.S_IFREG, "dir": s.S_IFDIR, "symlink": s.S_IFLNK}


def can_say(text: str) -> bool:
    """Tell whether a path can stand in a command: what ends a line cannot."""
    return not any(ord(char) < 32 or char == "\x7f" for char in text)


def _quoted(text: str | Path) -> str:
    """Return a word for debugfs, in which a quote is written twice."""
    return '"{}"'.format(str(text).replace('"', '""'))


def removal(path: str) -> str:
    """Return the command that takes a name away, and with the last one its inode and content, but no attribute block.

    All of these come first: debugfs looks for `/name` in the folder where it stands, which must still be the root.
    """
    return f"rm {_quoted(path)}"


def creation(one: Placed, scratch: Path, number: int) -> list[str]:
    """Return the commands that make a thing at a path that nothing has; its content goes by a file in `scratch`.

    debugfs would make `/name` in the folder where it stands, so it enters each folder first.
    """
    folder, name = posixpath.split(one.path)
    enter = f"cd {_quoted(folder)}"
    if one.type == "dir":
        return [enter, f"mkdir {_quoted(name)}", *fields(one)]
    if isinstance(one.content, bytes) and one.type == "symlink":
        return [enter, f"symlink {_quoted(name)} {_quoted(os.fsdecode(one.content))}", *fields(one)]
    source = one.content
    if isinstance(source, bytes):
        (scratch / str(number)).write_bytes(source)
        source = scratch / str(number)
    return [enter, f"write {_quoted(source)} {_quoted(name)}", *fields(one)]


def fields(one: Placed) -> list[str]:
    """Return the commands that set owner and mode; the mode is the whole i_mode, or the type would be lost."""
    mode = _TYPES[one.type] | (0o777 if one.type == "symlink" else one.mode)
    values = {"mode": f"0{mode:o}", "uid": str(one.uid), "gid": str(one.gid)}
    return [f"sif {_quoted(one.path)} {field} {value}" for field, value in values.items()]


def run(path: Path, commands: list[str], when: int) -> None:
    """Run commands on an image; `when` is the time that what is made gets.

    Raises IOFailure with the first complaint.
    """
    script = "\n".join(commands) + "\n"
    console.command(f"debugfs commands:\n{script}")
    result = process.run(
        ["debugfs", "-w", "-f", "-", str(path)],
        stdin=os.fsencode(script),
        env={"E2FSPROGS_FAKE_TIME": str(when)},
    )
    complaint = next(_complaints(result.stderr), None)
    if complaint is not None:
        raise errors.IOFailure(f"debugfs could not write to '{path}': {complaint}")


def _complaints(said: bytes) -> Iterator[str]:
    for line in said.decode(errors="replace").splitlines():
        if line.strip() and not line.startswith("debugfs 1."):
            yield line
