"""What a REF stands for on this host: the first entry of a name in the catalogs that can be used here, or itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from banger_tools import errors, manifest
from banger_tools.catalog import entries, origins
from banger_tools.catalog.entries import Entry
from banger_tools.catalog.origins import Access, Origin
from banger_tools.oci import hosts, platforms, reference
from banger_tools.oci.cache import Cache
from banger_tools.oci.reference import Reference

_NOT_OURS = "a catalog behind a URL may not name what is on this machine"


class Found(NamedTuple):
    """What was asked for, what it stands for, what it is called, and the entry of a catalog that says so."""

    requested: str
    ref: Reference
    name: str
    entry: Entry | None = None
    label: str = ""

    @property
    def bundle(self) -> reference.Bundle | None:
        """The bundle that it is, if it is a finished image."""
        return self.ref if isinstance(self.ref, reference.Bundle) else None

    def __str__(self) -> str:
        assert self.entry is not None
        return f"'{self.requested}' is {self.entry.text}, of {self.label}"


def find(requested: str, access: Access, wanted: manifest.Platform | None = None) -> Found:
    """Return what a REF stands for; a name that is in no catalog is that of an image in a registry.

    Raises BadUsage for what is no reference, Unavailable saying of each entry of a name why it cannot be used.
    """
    refusals: list[str] = []
    for origin, entry in named(requested, access):
        ref = entries.reference_of(entry, origin.folder, origin.host)
        refusal = why_not(entry, ref, origin, access, wanted)
        if refusal is None:
            return Found(requested, ref, entry.name, entry, origin.label)
        refusals.append(f"{entry.text}, of {origin.label}: {refusal}")
    if refusals:
        raise errors.Unavailable(f"no entry of '{requested}' can be used here", "\n".join(refusals))
    ref = reference.parse(requested)
    return Found(requested, ref, reference.friendly_name(ref))


def named(name: str, access: Access) -> Iterator[tuple[Origin, Entry]]:
    """Yield the entries of a name in the order of preference, each with its catalog.

    Each is read when its turn comes: nobody waits for those behind the one that is used. Raises what reading raises.
    """
    if reference.may_be_catalog_name(name):
        for origin in origins.all_origins(access):
            yield from ((origin, entry) for entry in origin.read().images if entry.name == name)


def names(access: Access) -> Iterator[str]:
    """Yield the names of the images in all catalogs; raises what reading raises."""
    for origin in origins.all_origins(access):
        yield from (entry.name for entry in origin.read().images)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the question whether one of the known names was meant that are near to one; None if none is."""
    import difflib

    near = [f"'{one}'" for one in difflib.get_close_matches(name, sorted(set(known)), 3)]
    return f"did you mean {' or '.join(near)}?" if near else None


def name_of(requested: str) -> str | None:
    """Return the name by which the catalog that comes with banger calls what a reference names."""
    return next((entry.name for entry in origins.embedded().images if entry.source == requested), None)


def why_not(
    entry: Entry, ref: Reference, origin: Origin, access: Access, wanted: manifest.Platform | None
) -> str | None:
    """Return why this host cannot use an entry, None if it can; nobody is asked."""
    platform = wanted or platforms.host()
    if entry.arch is not None and entry.arch != platform.architecture:
        return f"it is for {entry.arch}, and {platform.architecture} is needed"
    cache = Cache(access.cache)
    match ref:
        case reference.Registry():
            if origin.host is not None and hosts.is_near(ref.host) and not hosts.is_near(origin.host):
                return _NOT_OURS
            known = not access.offline or cache.resolved(str(ref)) is not None
            return None if known else "it is not in the cache, and going out is not allowed"
        case reference.Bundle(is_url=True):
            from banger_tools.catalog import bundle

            known = not access.offline or bundle.is_cached(ref, cache)
            return None if known else "it is not in the cache, and going out is not allowed"
        case reference.Apt():
            return _why_no_packages(entry, ref, access, wanted)
    if origin.host is not None:
        return _NOT_OURS
    if isinstance(ref, reference.Daemon):
        return None if shutil.which(ref.engine) else f"'{ref.engine}' is not installed"
    path = ref.location if isinstance(ref, reference.Bundle) else ref.path
    return None if os.path.exists(path) else f"'{path}' does not exist"


def _why_no_packages(entry: Entry, ref: reference.Apt, access: Access, wanted: manifest.Platform | None) -> str | None:
    """Return why this host cannot make an image of packages, None if it can."""
    if wanted is not None and wanted.architecture != platforms.host().architecture:
        return f"packages are of this machine's architecture, and {wanted.architecture} is needed"
    from banger_tools.apt import bootstrap

    return bootstrap.why_not(ref, entry.distro, Cache(access.cache), offline=access.offline)
