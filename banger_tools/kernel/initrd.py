"""Our initrd: the guest program as /init, the modules that a boot needs, and the order in which they load.

The bytes depend on the guest program and the kernel's modules alone, so `key` can tell whether one is up to date.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from banger_tools import errors, files
from banger_tools.kernel import cpio, modules, payload

_CONSOLE = cpio.Entry("dev/console", 0o020600, device=(5, 1))  # a kernel without devtmpfs has no other
LIMIT = 16 << 20
LARGEST = 1 << 29  # bytes of an initrd that others made, packed or not


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


class Contents(NamedTuple):
    """What an initrd that others made holds: the names of its modules, and the kernels that they are for."""

    modules: frozenset[str]
    versions: frozenset[str]


def look(path: Path) -> Contents:
    """Look into an initrd: cpio archives one after another, as those of a distribution are, the last one packed.

    Raises NoInput or Denied if it cannot be read, BadInput if it is none or damaged.
    """
    data = files.read_small(path, LARGEST, "an initrd")
    try:
        found = [PurePosixPath(name) for name in _names(data) if name.endswith(modules.SUFFIXES)]
    except (errors.BadInput, errors.Unavailable) as error:
        raise type(error)(f"'{path}': {error}", error.hint) from error
    parts = [place.parts for place in found]
    versions = (part[part.index("modules") + 1] for part in parts if "modules" in part[:-2])
    return Contents(frozenset(modules.module_name(Path(place)) for place in found), frozenset(versions))


def _names(data: bytes, *, packed: bool = False) -> Iterator[str]:
    """Yield the paths in an initrd; `packed` says that it came out of one, and is not unpacked again."""
    start = 0
    while data.startswith(cpio.MAGICS, start):
        start = yield from cpio.names(data, start)
    if start and (packed or start == len(data)):
        return
    rest = data[start:]
    if packed or payload.compression(rest) is None:
        raise errors.BadInput("this is no initrd: neither a cpio archive, nor one that is compressed")
    yield from _names(payload.decompress(rest, limit=LARGEST, what="the initrd"), packed=True)
