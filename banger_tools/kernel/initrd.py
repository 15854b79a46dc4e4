"""Our initrd: the guest program as /init, the modules that a boot needs, and the order in which they load.

The bytes depend on the guest program and the kernel's modules alone, so `key` can tell whether one is up to date.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from banger_tools import errors, files
from banger_tools.kernel import cpio, modules

_CONSOLE = cpio.Entry("dev/console", 0o020600, device=(5, 1))  # a kernel without devtmpfs has no other
LIMIT = 16 << 20


def key(init: bytes, version: str) -> str:
    """Return what an initrd is made of in short: the guest program's digest and the kernel's version."""
    return f"{version}:{hashlib.sha256(init).hexdigest()}"


def write(output: BinaryIO, init: bytes, needed: Iterable[modules.Module]) -> None:
    """Write the archive."""
    cpio.write(output, entries(init, list(needed)))


def entries(init: bytes, needed: list[modules.Module]) -> Iterator[cpio.Entry]:
    """Yield the entries: each folder before what is in it."""
    yield cpio.folder("dev")
    yield _CONSOLE
    yield cpio.file("init", init, 0o755)
    yield cpio.folder("lib")
    yield cpio.folder("lib/modules")
    places = [(str(PurePosixPath("lib/modules", f"{module.name}.ko")), module.data) for module in needed]
    yield cpio.file("modules", "".join(f"/{place}\n" for place, _ in places).encode())
    for place, data in places:
        yield cpio.file(place, data)


def read_init(program: Path) -> bytes:
    """Return the guest program's bytes.

    Raises BadInput if it is no ELF file: a kernel would only say that it has no init.
    """
    data = files.read_small(program, LIMIT, "a guest program")
    if not data.startswith(b"\x7fELF"):
        raise errors.BadInput(f"'{program}' is no ELF file")
    return data
