"""The cache of what was fetched: compressed blobs as a standard OCI layout, layers as plain tars.

    oci/{oci-layout, index.json, blobs/<algorithm>/<hex>}   what came over the wire; skopeo and crane can read it
    layers/<algorithm>/<hex of diff_id>                     the plain tar of a layer
    partial/<algorithm>-<hex>                               a blob on its way; the only thing an interruption leaves

Nothing gets its final name before its digest matched to the last byte. A verified tar carries a mark that goes when
it is written to; then it is hashed again before it is trusted. But for the index nothing is flushed to the disk: what a
crash damages is noticed by its digest, and fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from banger_tools import console, errors, files, lease, typed
from banger_tools.oci import container, limits, mark
from banger_tools.oci import digest as digests
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import ACCEPT, OCI_INDEX, OCI_MANIFEST, Descriptor, Document

REF_NAME = "org.opencontainers.image.ref.name"
RESUMABLE = 7 * 86400
"""Seconds that a transfer which broke off is kept for somebody to go on with."""

NOTE = "workspace-"
"""How files on their way begin that say where a program works; who made one clears it away."""

_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_PIECE = 1 << 20


class Cache:
    """One cache folder; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.oci = root / "oci"
        self.partial = root / "partial"

    def prepare(self) -> None:
        """Make the folders and the two files that make an OCI layout, anew where they are damaged.

        Raises CannotCreate or Denied.
        """
        try:
            for folder in (self.oci / "blobs" / "sha256", self.root / "layers" / "sha256", self.partial):
                folder.mkdir(parents=True, exist_ok=True)
            with self._index_lock():
                if self._read_index() is None:
                    if os.path.lexists(self._index):
                        console.warning(f"'{self._index}' is damaged; what references stood for is forgotten")
                    _make_room(self._index)
                    self._write_index([])
        except OSError as error:
            hint = "XDG_CACHE_HOME or BANGER_HOME names another place"
            raise _with_hint(errors.os_error(error, f"cannot write to the cache '{self.root}'"), hint) from error

    def sweep(self) -> None:
        """Remove what programs that were killed left and nobody can go on with; only while nobody uses the cache."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.partial):
                found = entry.stat(follow_symlinks=False)
                old = time.time() - found.st_mtime > RESUMABLE
                if is_leftover(entry.name, found.st_size) or (old and not entry.name.startswith(NOTE)):
                    files.discard(Path(entry.path))

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Return where a blob stands once it is verified."""
        return self.oci.joinpath("blobs", *digests.split(digest))

    def has_blob(self, digest: str, size: int | None) -> bool:
        """Tell whether a blob is there with the right size, and note its use; whoever reads it checks the digest."""
        found = lease.use(self.blob_path(digest))
        return found is not None and size in (None, found.st_size)

    def is_damaged(self, digest: str, cancel: Cancel) -> bool:
        """Tell whether a blob is there and is not what its digest says; it is hashed."""
        path = self.blob_path(digest)
        return lease.use(path) is not None and _hash_file(path, digest, cancel) != digest

    def read_document(self, descriptor: Descriptor) -> bytes | None:
        """Return a document that is here and undamaged, else None."""
        if not self.has_blob(descriptor.digest, descriptor.size):
            return None
        data = self.blob_path(descriptor.digest).read_bytes()
        return data if digests.of(data, descriptor.digest) == descriptor.digest else None

    def write_document(self, document: Document) -> None:
        """Keep a verified document."""
        target = self.blob_path(document.descriptor.digest)
        if self.read_document(document.descriptor) is None:
            _make_room(target)
            with files.atomic(target, force=True, durable=False) as temporary:
                temporary.write_bytes(document.data)

    def keep_blob(self, temporary: Path, digest: str) -> None:
        """Give a verified blob its name."""
        target = self.blob_path(digest)
        _make_room(target)
        os.utime(temporary, ns=(time.time_ns(), os.stat(temporary).st_mtime_ns))
        files.place(temporary, target, force=True)

    # Layers

    def layer_path(self, diff_id: str) -> Path:
        """Return where the plain tar of a layer stands once it is verified."""
        return self.root.joinpath("layers", *digests.split(diff_id))

    def layer_size(self, diff_id: str, cancel: Cancel | None = None, *, thorough: bool = False) -> int | None:
        """Return the size of a layer's tar if it is here and undamaged, else None; a damaged one is removed.

        The file is hashed only if it was touched since it was verified, or if `thorough`.
        """
        path = self.layer_path(diff_id)
        found = lease.use(path)
        if found is not None and mark.stands(found, diff_id) and not thorough:
            return found.st_size
        if found is not None and _hash_file(path, diff_id, cancel or Cancel()) == diff_id:
            mark.put(path, diff_id)
            return found.st_size
        files.discard(path)
        return None

    def keep_layer(self, temporary: Path, diff_id: str) -> Path:
        """Give a verified tar its name, and mark it as verified."""
        target = self.layer_path(diff_id)
        _make_room(target)
        mark.put(temporary, diff_id)
        files.place(temporary, target, force=True)
        return target

    # Claims

    @contextlib.contextmanager
    def claim(self, digest: str, cancel: Cancel) -> Iterator[Path]:
        """Hold the right to fetch one blob, and yield the path of its partial file, with what is there already.

        The partial file is its own lock, so no lock file stays behind; an empty one is removed at the end.
        """
        path = self.partial / "-".join(digests.split(digest))
        descriptor = _lock_name(path, cancel)
        try:
            files.discard(path.with_name(f"{path.name}.tar"))
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size == 0:
                    path.unlink()
            os.close(descriptor)

    # Names

    def resolved(self, name: str) -> Descriptor | None:
        """Return what a reference stood for when it was last resolved."""
        known = (found for given, found in self.references() if given == name and found.media_type in ACCEPT)
        return next(known, None)

    def references(self) -> list[tuple[str | None, Descriptor]]:
        """Return what the layout's index lists, each with its name if it has one."""
        return [(_name(entry), _described(entry)) for entry in self._read_index() or []]

    def record(self, name: str, descriptor: Descriptor) -> None:
        """Remember what a reference stands for."""
        entry = {
            "mediaType": descriptor.media_type if descriptor.media_type in ACCEPT else self._media_type(descriptor),
            "digest": descriptor.digest,
            "size": descriptor.size,
            "annotations": {REF_NAME: name},
        }
        with self._index_lock():
            others = [other for other in self._read_index() or [] if _name(other) != name]
            self._write_index([*others, entry])

    def forget(self, gone: Callable[[str | None, Descriptor], bool]) -> None:
        """Strike references from the index."""
        with self._index_lock():
            entries = self._read_index() or []
            self._write_index([entry for entry in entries if not gone(_name(entry), _described(entry))])

    def _media_type(self, descriptor: Descriptor) -> str:
        """Return what an index is to call a document that a server sent as something general."""
        data = self.read_document(descriptor) or b"{}"
        return OCI_INDEX if "manifests" in json.loads(data) else OCI_MANIFEST

    @property
    def _index(self) -> Path:
        return self.oci / "index.json"

    def _read_index(self) -> list[dict[str, Any]] | None:
        """Return the entries of the index that are descriptors; None if it is no index."""
        try:
            entries = json.loads(container.whole_file(self._index).read(limits.DOCUMENT, "an index"))["manifests"]
            return [entry for entry in entries if _is_descriptor(entry)]
        except (errors.BangerError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        ordered = sorted(entries, key=lambda entry: str(_name(entry)))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": ordered}
        files.write_text(self._index, json.dumps(index, sort_keys=True) + "\n", force=True)

    @contextlib.contextmanager
    def _index_lock(self) -> Iterator[None]:
        """Hold the layout's marker file, which never changes, while the index is replaced."""
        marker = self.oci / "oci-layout"
        _make_room(marker)
        with files.locked(marker, what=f"the cache '{self.root}'"):
            if not _is_marker(marker):
                marker.write_text(_LAYOUT, encoding="ascii")
                marker.chmod(0o644)
            yield


def is_leftover(name: str, size: int) -> bool:
    """Tell whether a file on its way is of no use to anybody but the program that made it."""
    return name.endswith((".tar", ".tmp")) or size == 0


def _is_marker(path: Path) -> bool:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return bool(json.loads(path.read_bytes())["imageLayoutVersion"] == "1.0.0")
    return False


def _is_descriptor(entry: object) -> bool:
    try:
        return bool(_described(entry).digest)
    except msgspec.ValidationError:
        return False


def _described(entry: object) -> Descriptor:
    found: Descriptor = typed.convert(entry, Descriptor)
    return found


def _name(entry: dict[str, Any]) -> str | None:
    return (entry.get("annotations") or {}).get(REF_NAME)


def _make_room(target: Path) -> None:
    """Make the folder of a file, and remove what stands in its place and is no file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(target).st_mode):
            files.discard(target)


def _with_hint(error: errors.BangerError, hint: str) -> errors.BangerError:
    error.hint = error.hint or hint
    return error


def _hash_file(path: Path, like: str, cancel: Cancel) -> str:
    hasher = digests.hasher(like)
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE):
            cancel.check()
            hasher.update(data)
    return digests.text(hasher)


def _lock_name(path: Path, cancel: Cancel) -> int:
    """Return a locked descriptor of the file that stands at `path`, made if missing.

    A file that was renamed or removed while we waited is another's finished work: its name is tried anew.
    """
    while True:
        _make_room(path)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise errors.os_error(error, f"cannot write '{path}'") from error
        try:
            _wait_for_lock(descriptor, cancel)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait_for_lock(descriptor: int, cancel: Cancel) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            cancel.sleep(0.05)
