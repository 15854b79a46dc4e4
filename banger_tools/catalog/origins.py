"""Where catalogs come from: those of config.toml in their order, then the one that comes with banger.

Each is read only when its turn comes, so one that cannot be reached is in nobody's way who does not need it.
The copy of one behind a URL is kept in `catalogs/<sha256 of the URL>.json` of the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from banger_tools import config, console, errors, files
from banger_tools.catalog import entries
from banger_tools.catalog.entries import Catalog
from banger_tools.oci import hosts, web
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.http import Settings

EMBEDDED = Path(__file__).parent / "embedded.json"
FRESH_SECONDS = 24 * 3600


class Origin(NamedTuple):
    """A catalog that may be read: what it is called, the folder that its files are relative to, or its host."""

    label: str
    read: Callable[[], Catalog]
    folder: Path | None = None
    host: str | None = None


class Access(NamedTuple):
    """How catalogs are to be got: the folder of the cache, how hosts are reached, and how old a copy may be."""

    cache: Path
    settings: Settings = Settings()
    pull: str = "missing"

    @property
    def offline(self) -> bool:
        """Whether nothing may go out."""
        return self.settings.offline or self.pull == "never"


def all_origins(access: Access) -> Iterator[Origin]:
    """Yield every catalog in the order of look-up.

    Raises BadInput if config.toml is wrong.
    """
    for catalog in config.load().catalogs:
        if catalog.url is not None:
            host = hosts.of_url(catalog.url)
            yield Origin(f"the catalog '{catalog.url}'", partial(remote, catalog.url, access), host=host)
        elif catalog.file is not None:
            path = Path(catalog.file)
            yield Origin(f"the catalog '{path}'", partial(local, path), path.parent)
    yield Origin("the catalog that comes with banger", embedded)


def embedded() -> Catalog:
    """Return the catalog that comes with banger."""
    return entries.parse(EMBEDDED.read_bytes(), f"'{EMBEDDED.name}'")


def local(path: Path) -> Catalog:
    """Return the catalog in a file.

    Raises NoInput, Denied, BadInput.
    """
    return entries.parse(files.read_small(path, entries.LIMIT, "a catalog"), f"the catalog '{path}'")


class _Copy(Struct, frozen=True):
    """A catalog as it was when its URL was asked; the time is that of the file."""

    url: str
    etag: str | None
    catalog: msgspec.Raw


def remote(url: str, access: Access) -> Catalog:
    """Return the catalog behind a URL: the copy of it if that is of today, or as good as any can get.

    Raises Unavailable and others naming the URL if there is no copy, BadInput if it is no catalog.
    """
    path = access.cache / "catalogs" / f"{hashlib.sha256(url.encode()).hexdigest()}.json"
    copy = _load(path)
    if copy is None or (not access.offline and (access.pull == "always" or not _is_fresh(path))):
        copy = _refreshed(url, path, copy, access)
    return _catalog(copy)


def _catalog(copy: _Copy) -> Catalog:
    return entries.parse(bytes(copy.catalog), f"the catalog '{copy.url}'")


def _load(path: Path) -> _Copy | None:
    """Return the copy in a file; one that was damaged is as good as none."""
    try:
        copy = msgspec.json.decode(path.read_bytes(), type=_Copy)
        _catalog(copy)
    except (OSError, msgspec.DecodeError, errors.BadInput):
        return None
    return copy


def _is_fresh(path: Path) -> bool:
    return 0 <= time.time() - path.stat().st_mtime < FRESH_SECONDS


def _refreshed(url: str, path: Path, old: _Copy | None, access: Access) -> _Copy:
    """Ask for a catalog; when that fails the old copy is better than nothing."""
    try:
        with console.step(f"look at the catalog '{url}'"):
            copy = _fetch(url, old, access)
            _catalog(copy)
    except errors.BangerError as error:
        why = re.sub(rf"^the catalog '{re.escape(url)}'", "it", error.message)
        if old is None:
            hint = error.hint or "without it, take its entry out of config.toml"
            raise type(error)(f"the catalog '{url}' cannot be read: {why}", hint) from error
        console.warning(f"the catalog '{url}' cannot be read, and an older copy is used: {why}")
        return old
    if copy is old:
        os.utime(path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, msgspec.json.encode(copy).decode(), force=True)
    return copy


def _fetch(url: str, old: _Copy | None, access: Access) -> _Copy:
    """Return what a URL holds now; the old copy itself if the server says that it still holds."""
    headers = {"Accept": "application/json, */*"}
    if old is not None and old.etag:
        headers["If-None-Match"] = old.etag
    what = f"the catalog '{url}'"
    with web.opened(url, access.settings, Cancel()) as transport:

        def once() -> _Copy:
            with web.get(transport, url, headers) as response:
                if response.status == 304 and old is not None:
                    return old
                data = transport.read_all(response, entries.LIMIT, url, what)
                entries.parse(data, what)
                return _Copy(url, response.headers.get("ETag"), msgspec.Raw(data))

        return transport.patiently(what, once)
