"""A kernel's folder: `vmlinux`, perhaps `vmlinuz`, `initrd.img`, `modules/` and `config`; and its record beside them.

The store and the cache keep kernels so. Who knows the digest of such a folder can tell whether it still is what it was.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec import Struct, structs

from banger_tools import console, errors, files, manifest
from banger_tools.kernel import features, image, initrd, modules, understood
from banger_tools.kernel.sources import INITRD, Parts
from banger_tools.store import records

SCHEMA = "banger-kernel/1"
RECORD = "kernel.json"
WHAT = "kernel"
GIVEN = "given"  # the key of an initrd that came with the kernel, and is not ours to make


class Stored(Struct, frozen=True):
    """The record of a kernel: what it is, where it came from, what it has, and what its initrd was made of.

    `format`, `compression` and `banner` are those of the file that it came in, `features` in the words of
    kernel/features.py, which `evidence` told; `digest` is that of all files but an initrd of ours.
    """

    schema: str
    name: str
    version: str
    architecture: str
    source: str
    pvh: bool
    packages: dict[str, str] = {}
    modules: list[str] = []
    initrd_key: str | None = None
    format: str = ""
    compression: str | None = None
    banner: str = ""
    evidence: str = ""
    features: dict[str, str] = {}
    digest: str = ""


def read(folder: Path) -> Stored:
    """Return the record in a kernel's folder.

    Raises records.Missing, Denied, or BadInput if what is there is broken.
    """
    stored = records.read(folder, RECORD, Stored, WHAT)
    if stored.schema != SCHEMA:
        raise errors.BadInput(f"the kernel '{folder.name}' has the schema '{stored.schema}', and we read '{SCHEMA}'")
    return stored


def fill(folder: Path, name: str, source: str, parts: Parts) -> Stored:
    """Put a kernel together in an empty folder out of its parts, and return its record, which is written there, too.

    Raises BadInput for parts that are no kernel's, or not of the same one.
    """
    kernel = image.read(parts.kernel)
    tree = modules.locate(parts.modules, kernel.version) if parts.modules else None
    about = understood.understand(kernel, modules_folder=tree, config_file=parts.config)
    if parts.initrd:
        about = understood.with_initrd(about, parts.initrd)
        files.copy(parts.initrd, folder / INITRD)
    (folder / "vmlinux").write_bytes(kernel.bare)
    if kernel.is_bzimage:
        files.copy(parts.kernel, folder / "vmlinuz")
    if parts.config:
        files.copy(parts.config, folder / "config")
    chosen = modules.copy_closure(tree, folder / "modules") if tree else []
    stored = Stored(
        SCHEMA,
        name,
        about.version or parts.kernel.name.partition("-")[2] or "unknown",
        kernel.architecture,
        source,
        kernel.pvh,
        packages=dict(parts.packages),
        modules=chosen,
        initrd_key=GIVEN if parts.initrd else None,
        format=kernel.format,
        compression=kernel.compression,
        banner=kernel.banner,
        evidence=about.evidence,
        features=features.record(about.features),
        digest=digest(folder),
    )
    stored = with_initrd(folder, stored)
    records.write(folder, RECORD, stored)
    return stored


def with_initrd(folder: Path, stored: Stored) -> Stored:
    """Make the initrd that a kernel needs, unless there is one of the same guest program; return the record with it.

    A kernel without modules needs none, and one that came with its own keeps it.
    """
    from banger_tools import guest

    if stored.initrd_key == GIVEN or not stored.modules:
        return stored
    init = initrd.read_init(guest.program(stored.architecture))
    key = initrd.key(init, stored.version)
    if stored.initrd_key == key and (folder / INITRD).exists():
        return stored
    _make_initrd(folder, stored, init)
    return structs.replace(stored, initrd_key=key)


def _make_initrd(folder: Path, stored: Stored, init: bytes) -> None:
    source = modules.Folder(folder / "modules")
    with console.step(f"initrd of '{stored.name}' made"), files.atomic(folder / INITRD, force=True) as temporary:
        with open(temporary, "xb") as output:
            initrd.write(output, init, [source.read(module) for module in stored.modules])


def described(folder: Path, name: str, digest: str | None = None) -> manifest.Kernel:
    """Return the manifest's words for the kernel whose files stand in `folder`."""
    stored = read(folder)

    def path(part: str) -> str | None:
        return str(folder / part) if (folder / part).exists() else None

    return manifest.Kernel(
        name=name,
        version=stored.version,
        architecture=stored.architecture,
        kernel=str(records.check_file(folder, "vmlinux", WHAT)),
        vmlinuz=path("vmlinuz"),
        initrd=path(INITRD),
        modules=path("modules"),
        digest=digest,
    )


def listed(folder: Path) -> Iterator[Path]:
    """Yield the files of a kernel's folder, sorted by path, without what is only just being written.

    Raises BadInput for what is neither file nor folder.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise errors.BadInput(f"'{path}' is neither a file nor a folder")
        if path.is_file() and not path.name.endswith(".tmp"):
            yield path


def own_digest(folder: Path, stored: Stored) -> str:
    """Return the digest of a whole kernel as its record has it: of neither the record nor an initrd of ours."""
    return digest(folder, {RECORD} if stored.initrd_key == GIVEN else {RECORD, INITRD})


def digest(folder: Path, without: Collection[str] = ()) -> str:
    """Return a digest over the names and the bytes of all files of a kernel's folder, but for some."""
    whole = hashlib.sha256()
    for path in (path for path in listed(folder) if str(path.relative_to(folder)) not in without):
        with open(path, "rb") as file:
            one = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{one}  ".encode() + os.fsencode(path.relative_to(folder)) + b"\n")
    return f"sha256:{whole.hexdigest()}"
