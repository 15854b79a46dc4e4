"""What is in the cache, and what of it belongs together: images, layers of packages, bundles, and single files.

An entry is what stays or goes as a whole. Its last use is that of the file that names it; entries share files.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from banger_tools import errors, lease
from banger_tools.apt import records
from banger_tools.oci import digest as digests
from banger_tools.oci import limits
from banger_tools.oci.cache import NOTE, Cache, is_leftover
from banger_tools.oci.documents import Descriptor

# Folders of the cache, and what their files are called that belong to nothing larger.
FOLDERS = {
    "oci/blobs": "blob",
    "layers": "layer",
    "apt": "record",
    "bundles": "bundle",
    "kernels": "kernel",
    "catalogs": "catalog",
    "partial": "transfer",
}
TRANSFER, LEFTOVER = "transfer", "leftover"


class File(NamedTuple):
    """A file of the cache: what it is, its bytes on disk, and when it was used last (ns)."""

    path: Path
    kind: str
    size: int
    used: int


class Entry(NamedTuple):
    """What stays or goes as a whole: its kind, its name, its files as far as they are there, its last use (ns)."""

    kind: str
    name: str
    files: tuple[Path, ...]
    used: int
    digest: str | None = None


class Inventory(NamedTuple):
    """All files of the cache, those that several entries have, and all entries, the one used last first."""

    files: Mapping[Path, File]
    shared: frozenset[Path]
    entries: Sequence[Entry]

    def size(self, paths: Iterable[Path]) -> int:
        """Return the bytes on disk of some files."""
        return sum(self.files[path].size for path in paths)

    def own(self, entry: Entry) -> int:
        """Return the bytes on disk of the files that no other entry has."""
        return self.size(path for path in entry.files if path not in self.shared)


def take(cache: Cache) -> Inventory:
    """Return what is in a cache now.

    Raises Denied if it may not be read.
    """
    found = {file.path: file for name, kind in FOLDERS.items() for file in _files(cache.root / name, kind)}
    found |= {file.path: file for file in _files(cache.oci, LEFTOVER) if file.path.name.endswith(".tmp")}
    entries = [*_images(cache, found), *_packages(cache, found), *_bundles(cache, found), *_catalogs(found)]
    entries += _kernels(cache, found)
    owners = Counter(path for entry in entries for path in entry.files)
    entries += [_single(file) for file in found.values() if file.path not in owners]
    shared = frozenset(path for path, count in owners.items() if count > 1)
    return Inventory(found, shared, sorted(entries, key=lambda entry: (-entry.used, entry.kind, entry.name)))


def _files(folder: Path, kind: str) -> Iterator[File]:
    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise errors.os_error(error, f"cannot read the cache '{folder}'") from error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in filter(lambda name: not name.startswith(NOTE), names):
            path = Path(parent, name)
            try:
                found = path.lstat()
            except FileNotFoundError:  # its maker has just finished
                continue
            regular = stat.S_ISREG(found.st_mode)
            unfinished = any(part.endswith(".tmp") for part in path.relative_to(folder).parts)
            useless = unfinished or (kind == TRANSFER and is_leftover(name, found.st_size)) or not regular
            used = lease.last_use(found) if regular else found.st_mtime_ns  # a look at a symlink changes its time
            yield File(path, LEFTOVER if useless else kind, found.st_blocks * 512, used)


def _single(file: File) -> Entry:
    parent, name = file.path.parent.name, file.path.name
    return Entry(file.kind, f"{parent}:{name}" if parent in ("sha256", "sha512") else name, (file.path,), file.used)


def _entry(kind: str, name: str, paths: Iterable[Path], found: Mapping[Path, File], digest: str | None = None) -> Entry:
    """Return an entry of those files that are there; the first one tells the last use."""
    there = tuple(path for path in dict.fromkeys(paths) if path in found and found[path].kind != LEFTOVER)
    return Entry(kind, name, there, found[there[0]].used if there else 0, digest)


def _images(cache: Cache, found: Mapping[Path, File]) -> Iterator[Entry]:
    for name, root in cache.references():
        paths = _image_files(cache, root, found)
        there = paths if paths[0] in found else []  # without its first document it is no image
        yield _entry("image", name or root.digest, there, found, root.digest)


def _image_files(cache: Cache, root: Descriptor, found: Mapping[Path, File]) -> list[Path]:
    """Return where the documents, the blobs and the tars of an image stand, the first document first."""
    paths: list[Path] = []
    documents = [root.digest]
    while documents:
        path = cache.blob_path(documents.pop())
        if path in paths:
            continue
        paths.append(path)
        raw = _document(path) if path in found else {}
        documents += [*_digests(raw.get("manifests")), *_digests([raw.get("config")])]
        paths += [cache.blob_path(digest) for digest in _digests(raw.get("layers"))]
        diff_ids = raw["rootfs"].get("diff_ids") if isinstance(raw.get("rootfs"), dict) else None
        paths += [cache.layer_path(digest) for digest in _digests([{"digest": one} for one in diff_ids or ()])]
    return paths


def _document(path: Path) -> dict[str, Any]:
    """Return a JSON object, {} for anything else; reading it is no use of it."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags | os.O_NOATIME)
        except PermissionError:  # another user's file
            descriptor = os.open(path, flags)
        with open(descriptor, "rb") as file:
            raw = json.loads(file.read(limits.DOCUMENT))
    except (OSError, ValueError, RecursionError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _digests(descriptors: object) -> list[str]:
    """Return the digests of a list of descriptors, without what is none."""
    found = []
    for one in descriptors if isinstance(descriptors, list) else []:
        try:
            found.append(digests.check(one["digest"], "a digest"))
        except (errors.BadInput, TypeError, KeyError):
            continue
    return found


def _packages(cache: Cache, found: Mapping[Path, File]) -> Iterator[Entry]:
    for path, record in records.listed(cache):
        layer = cache.layer_path(record.layer.diff_id)
        yield _entry("packages", record.ref, (path, layer), found, record.layer.diff_id)


def _bundles(cache: Cache, found: Mapping[Path, File]) -> Iterator[Entry]:
    """Yield the bundles whose URL is remembered."""
    for path in sorted((cache.root / "bundles" / "urls").glob("*.json")):
        memory = _document(path)
        for digest in _digests([memory]):
            bundle = cache.root.joinpath("bundles", *digests.split(digest))
            yield _entry("bundle", str(memory.get("url")), (bundle, path), found, digest)


def _catalogs(found: Mapping[Path, File]) -> Iterator[Entry]:
    """Yield the copies of catalogs that say which URL they are of."""
    for path in [path for path, file in found.items() if file.kind == "catalog"]:
        url = _document(path).get("url")
        if isinstance(url, str):
            yield _entry("catalog", url, (path,), found)


def _kernels(cache: Cache, found: Mapping[Path, File]) -> Iterator[Entry]:
    """Yield the kernels: each is a folder, with the notes that a package was this one."""
    notes: dict[str, list[Path]] = {}
    for path in sorted((cache.root / "kernels" / "packages").glob("*.json")):
        for digest in _digests([_document(path)]):
            notes.setdefault(digest, []).append(path)
    for folder in sorted((cache.root / "kernels").glob("sha*/*")):
        digest = f"{folder.parent.name}:{folder.name}"
        source = _document(folder / "kernel.json").get("source")
        inside = [path for path in found if path.is_relative_to(folder)]
        if inside:
            yield _entry("kernel", str(source or digest), [*inside, *notes.get(digest, ())], found, digest)
