"""Kernels brought to the cache: put together, understood, and kept under the digest of what they are.

    kernels/<algorithm>/<hex>/     a kernel's folder, as record.py says
    kernels/packages/<hex>.json    what a package was when it was fetched last

A folder appears there whole, and is never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from banger_tools import console, errors, files, lease, manifest
from banger_tools.kernel import apt, bundle, record, sources
from banger_tools.kernel.sources import Parts, Source
from banger_tools.oci import digest as digests
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.pull import Wants


class Fetched(NamedTuple):
    """A kernel in the cache, and the digest of the bundle that it came in, if it did."""

    kernel: manifest.Kernel
    digest: str | None = None


class _Remembered(Struct, frozen=True):
    """What a package was when it was fetched."""

    source: str
    digest: manifest.Digest


def fetch(source: Source, name: str, wants: Wants, cache: Cache) -> Fetched:
    """Bring a kernel into the cache, and return it; the caller holds the cache's lease.

    A package that was fetched before stays what it was, unless it is always to be asked for. Raises what the source
    gives cause for, BadInput for what is no kernel.
    """
    cache.prepare()
    if not isinstance(source, sources.Apt):
        return _put_together(source, name, wants, cache)
    with cache.claim(f"url:{_key(source)}", Cancel()):
        kernel = _remembered(source, cache) if wants.pull != "always" or wants.settings.offline else None
        if kernel is not None:
            return Fetched(kernel)
        if wants.settings.offline:
            hint = "fetch it once without --offline and --pull=never"
            raise errors.Unavailable(f"the kernel package '{source.package}' is not in the cache", hint)
        fetched = _put_together(source, name, wants, cache)
        _remember(source, str(fetched.kernel.digest), cache)
        return fetched


def _put_together(source: Source, name: str, wants: Wants, cache: Cache) -> Fetched:
    with files.temporary_folder(cache.partial / "kernel") as work, console.step(f"kernel '{name}' fetched"):
        parts, digest = _parts(source, wants, cache, work)
        folder = work / "kernel"
        folder.mkdir()
        record.fill(folder, name, str(source), parts)
        return Fetched(_keep(folder, name, cache), digest)


def _parts(source: Source, wants: Wants, cache: Cache, work: Path) -> tuple[Parts, str | None]:
    """Return the parts of a kernel, brought to a folder of ours if they are not on this machine."""
    match source:
        case sources.Apt(package):
            console.note(f"fetching the kernel package '{package}' through apt")
            (work / "packages").mkdir()
            found = apt.unpack(package, work / "packages")
            return Parts(found.vmlinuz, None, found.modules, found.config, found.packages), None
        case sources.Archive():
            return bundle.fetch(source, wants, cache, work)
    return sources.parts(source), None


def _keep(folder: Path, name: str, cache: Cache) -> manifest.Kernel:
    """Give a kernel's folder its place in the cache, unless the same one is there; a damaged one is replaced."""
    digest = record.digest(folder)
    target = _path(digest, cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    _use(folder)
    if _is_whole(target, digest):
        return record.described(target, name, digest)
    if os.path.lexists(target):
        console.warning(f"the kernel in '{target}' is damaged, or was removed in part; it is replaced")
        files.rename(folder, target, files.RENAME_EXCHANGE)
    else:
        with contextlib.suppress(FileExistsError):  # another program was quicker, with the very same
            files.rename(folder, target, files.RENAME_NOREPLACE)
    return record.described(target, name, digest)


def _path(digest: str, cache: Cache) -> Path:
    return cache.root.joinpath("kernels", *digests.split(digest))


def _use(folder: Path) -> None:
    """Note that a kernel's files are used now."""
    for path in record.listed(folder):
        lease.use(path)


def _is_whole(folder: Path, digest: str) -> bool:
    if not folder.is_dir():
        return False
    with contextlib.suppress(errors.BadInput):
        _use(folder)
        return record.digest(folder) == digest
    return False


# What packages were


def _key(source: Source) -> str:
    return hashlib.sha256(str(source).encode()).hexdigest()


def _memory(source: Source, cache: Cache) -> Path:
    return cache.root / "kernels" / "packages" / f"{_key(source)}.json"


def _remembered(source: Source, cache: Cache) -> manifest.Kernel | None:
    """Return the kernel that a package was when it was fetched, if all of it is still here."""
    try:
        before = msgspec.json.decode(_memory(source, cache).read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError):
        return None
    folder = _path(before.digest, cache)
    if before.source != str(source) or not _is_whole(folder, before.digest):
        return None
    lease.use(_memory(source, cache))
    return record.described(folder, sources.name_of(source), before.digest)


def _remember(source: Source, digest: str, cache: Cache) -> None:
    memory = _memory(source, cache)
    memory.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(memory, msgspec.json.encode(_Remembered(str(source), digest)).decode() + "\n", force=True)
    os.utime(memory, ns=(time.time_ns(), memory.stat().st_mtime_ns))
