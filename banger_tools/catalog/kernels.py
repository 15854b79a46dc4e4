"""Which kernels the catalogs offer, and which of a name this host can use."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import NamedTuple

from banger_tools import errors, manifest
from banger_tools.catalog import origins
from banger_tools.catalog.entries import Kernel
from banger_tools.catalog.origins import Access, Origin
from banger_tools.kernel import sources
from banger_tools.kernel.sources import Source
from banger_tools.oci import platforms


class Found(NamedTuple):
    """What a name stands for: the entry of a catalog, where that is, and the source that it names."""

    entry: Kernel
    label: str
    source: Source

    def __str__(self) -> str:
        return f"'{self.entry.name}' is {self.entry.text}, of {self.label}"


def find(name: str, access: Access, wanted: manifest.Platform | None = None) -> Found | None:
    """Return the first entry of a name that this host can use, one for its own architecture before all others.

    None if no catalog has the name. Raises Unavailable saying of each entry why it cannot be used, and what reading
    a catalog raises.
    """
    refusals: list[str] = []
    for origin, entry in _preferred(name, access):
        reason = why_not(entry, wanted)
        if reason is None:
            return Found(entry, origin.label, source_of(entry, origin.host))
        refusals.append(f"{entry.text}, of {origin.label}: {reason}")
    if refusals:
        raise errors.Unavailable(f"no entry of the kernel '{name}' can be used here", "\n".join(refusals))
    return None


def known(access: Access) -> Iterator[str]:
    """Yield the names of the kernels in all catalogs; raises what reading raises."""
    for origin in origins.all_origins(access):
        yield from (entry.name for entry in origin.read().kernels)


def _preferred(name: str, access: Access) -> Iterator[tuple[Origin, Kernel]]:
    """Yield the entries of a name; each catalog is read when its turn comes."""
    here = platforms.host().architecture
    for origin in origins.all_origins(access):
        found = [entry for entry in origin.read().kernels if entry.name == name]
        yield from ((origin, entry) for entry in sorted(found, key=lambda entry: entry.arch != here))


def source_of(entry: Kernel, host: str | None = None) -> Source:
    """Return what an entry stands for; `host` is that of a catalog behind a URL."""
    source = sources.parse(entry.text)
    assert source is not None
    if isinstance(source, sources.Archive):
        return sources.Archive(source.bundle._replace(named_by=host), entry.size)
    return source


def why_not(entry: Kernel, wanted: manifest.Platform | None = None) -> str | None:
    """Return why this host cannot use an entry, None if it can."""
    if wanted is not None and entry.arch != wanted.architecture:
        return f"it is for {entry.arch}, and {wanted.architecture} is needed"
    if entry.source is None:
        return None
    if not shutil.which("apt-get"):
        return "'apt-get' is not installed"
    known = distributions()
    return None if entry.distro in (None, *known) else f"this host is no {entry.distro}, but {' or '.join(known)}"


def distributions() -> list[str]:
    """Return what this host calls its distribution, and those that it is like: ID and ID_LIKE of os-release(5)."""
    import platform

    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    return [word for word in (release.get("ID", ""), *release.get("ID_LIKE", "").split()) if word] or ["linux"]
