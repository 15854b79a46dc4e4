"""The cache of what was fetched: compressed blobs as a standard OCI layout, layers as plain tars.

    oci/{oci-layout, index.json, blobs/<algorithm>/<hex>}   what came over the wire; skopeo and crane can read it
    layers/<algorithm>/<hex of diff_id>                     the plain tar of a layer
    partial/<algorithm>-<hex>                               a blob on its way; the only thing an interruption leaves

Nothing gets its final name before its digest matched to the last byte. A verified tar carries a mark that
goes when it is written to; then it is hashed again before it is trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from banger_tools import errors, files
from banger_tools.oci import digest as digests
from banger_tools.oci import mark
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Descriptor, Document

REF_NAME = "org.opencontainers.image.ref.name"
_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_PIECE = 1 << 20


class Cache:
    """One cache folder; any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.oci = root / "oci"
        self.partial = root / "partial"

    def prepare(self) -> None:
        """Make the folders and the two files that make an OCI layout.

        Raises CannotCreate or Denied.
        """
        try:
            for folder in (self.oci / "blobs" / "sha256", self.root / "layers" / "sha256", self.partial):
                folder.mkdir(parents=True, exist_ok=True)
            with self._index_lock():
                if not (self.oci / "index.json").exists():
                    self._write_index([])
        except OSError as error:
            raise errors.os_error(error, f"cannot make the cache '{self.root}'") from error

    # Blobs

    def blob_path(self, digest: str) -> Path:
        """Return where a blob stands once it is verified."""
        return self.oci.joinpath("blobs", *digests.split(digest))

    def has_blob(self, digest: str, size: int | None) -> bool:
        """Tell whether a blob is there with the right size; whoever reads it checks the digest again."""
        try:
            found = os.stat(self.blob_path(digest))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and size in (None, found.st_size)

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
            target.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(target, force=True) as temporary:
                temporary.write_bytes(document.data)

    def keep_blob(self, temporary: Path, digest: str) -> None:
        """Give a verified blob its name."""
        target = self.blob_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        files.sync_file(temporary)
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
        try:
            found = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISREG(found.st_mode) and mark.stands(found, diff_id) and not thorough:
            return found.st_size
        if stat.S_ISREG(found.st_mode) and _hash_file(path, diff_id, cancel or Cancel()) == diff_id:
            mark.put(path, diff_id)
            return os.stat(path).st_size
        files.discard(path)
        return None

    def keep_layer(self, temporary: Path, diff_id: str) -> Path:
        """Give a verified tar its name, and mark it as verified."""
        target = self.layer_path(diff_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        mark.put(temporary, diff_id)
        files.sync_file(temporary)
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
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_size == 0:
                    path.unlink()
            os.close(descriptor)

    # Names

    def resolved(self, name: str) -> Descriptor | None:
        """Return what a reference stood for when it was last resolved."""
        for entry in self._entries():
            if (entry.get("annotations") or {}).get(REF_NAME) == name:
                return Descriptor(str(entry["digest"]), int(entry["size"]), str(entry["mediaType"]))
        return None

    def record(self, name: str, descriptor: Descriptor) -> None:
        """Remember what a reference stands for."""
        with self._index_lock():
            others = [e for e in self._entries() if (e.get("annotations") or {}).get(REF_NAME) != name]
            entry = {
                "mediaType": descriptor.media_type,
                "digest": descriptor.digest,
                "size": descriptor.size,
                "annotations": {REF_NAME: name},
            }
            self._write_index([*others, entry])

    def _entries(self) -> list[dict[str, Any]]:
        try:
            index = json.loads((self.oci / "index.json").read_bytes())
            return [entry for entry in index["manifests"] if isinstance(entry, dict)]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        ordered = sorted(entries, key=lambda entry: str((entry.get("annotations") or {}).get(REF_NAME)))
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": ordered}
        files.write_text(self.oci / "index.json", json.dumps(index, sort_keys=True) + "\n", force=True)

    @contextlib.contextmanager
    def _index_lock(self) -> Iterator[None]:
        """Hold the layout's marker file, which never changes, while the index is replaced."""
        marker = self.oci / "oci-layout"
        with files.locked(marker, what=f"the cache '{self.root}'"):
            if marker.stat().st_size == 0:
                marker.write_text(_LAYOUT, encoding="ascii")
                marker.chmod(0o644)
            yield


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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
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
