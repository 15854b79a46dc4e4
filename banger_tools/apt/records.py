"""What was made of packages before: one small file a plan in the cache, `apt/<key>.json`, and the layer that it names.

A record holds its own digest, so that a damaged one is as good as none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Raw, Struct

from banger_tools import errors, files, lease, manifest
from banger_tools.oci import container
from banger_tools.oci import digest as digests
from banger_tools.oci.cache import Cache

LIMIT = 1 << 20


class Record(Struct):
    """What was built for a plan: of which state of the archives, under which name and for which REF, and the layer."""

    state: str
    epoch: int
    name: str
    ref: str
    layer: manifest.Layer


class _Kept(Struct):
    digest: manifest.Digest
    record: Raw


def load(cache: Cache, key: str, *, thorough: bool) -> Record | None:
    """Return what was built for a plan and note its use, if its layer is still there and undamaged."""
    path = _path(cache, key)
    record = read(path)
    if record is None:
        return None
    size = cache.layer_size(record.layer.diff_id, thorough=thorough)
    if size is None:
        return None
    lease.use(path)
    layer = str(cache.layer_path(record.layer.diff_id))  # the cache may have moved since
    record.layer = msgspec.structs.replace(record.layer, path=layer, tar_size=size)
    return record


def read(path: Path) -> Record | None:
    """Return a record, None if it is damaged or gone."""
    try:
        kept = msgspec.json.decode(container.whole_file(path).read(LIMIT, "a record"), type=_Kept)
        if digests.of(bytes(kept.record), kept.digest) != kept.digest:
            return None
        return msgspec.json.decode(kept.record, type=Record)
    except (errors.BangerError, msgspec.DecodeError):
        return None


def store(cache: Cache, key: str, record: Record) -> None:
    """Remember what was built for a plan."""
    data = msgspec.json.encode(record)
    kept = msgspec.json.encode(_Kept(digests.of(data), Raw(data)))
    path = _path(cache, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        files.discard(path)
    files.write_text(path, kept.decode() + "\n", force=True)


def listed(cache: Cache) -> Iterator[tuple[Path, Record]]:
    """Yield all records that are whole."""
    for path in sorted((cache.root / "apt").glob("*.json")):
        record = read(path)
        if record is not None:
            yield path, record


def _path(cache: Cache, key: str) -> Path:
    return cache.root / "apt" / f"{key}.json"
