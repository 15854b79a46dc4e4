"""Images in files: OCI layouts, the archives of Docker and podman, and flat tars of a root filesystem."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from banger_tools import errors, files, identify, pack, sizes
from banger_tools.manifest import Platform
from banger_tools.oci import compression, documents, limits, platforms, reference
from banger_tools.oci import digest as digests
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.container import Container, TarFile, whole_file
from banger_tools.oci.documents import Blob, Descriptor, Document, Image

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"


class LayoutSource:
    """An OCI image layout in a folder or a tar."""

    remote = False

    def __init__(self, container: Container) -> None:
        self.container = container

    def resolve(self, ref: reference.Layout, wanted: Platform | None) -> Image:
        """Find the image that a reference names, and read its documents."""
        subject = str(ref)
        root = self._root(ref, subject, wanted)
        return documents.resolve(Document(root, self._read(root)), self._read, wanted, subject)

    def names(self) -> list[str]:
        """Return the names of the images, sorted."""
        return sorted(set().union(*map(_names, self._entries())))

    def _root(self, ref: reference.Layout, subject: str, wanted: Platform | None) -> Descriptor:
        return choose_entry(self._entries(), ref, subject, wanted)

    def _entries(self) -> list[Descriptor]:
        """Return what the index lists.

        Raises BadInput if this is no image layout.
        """
        data = self._file("oci-layout", "is not an OCI image layout: it has no 'oci-layout' file")
        layout = documents.decode(data, dict[str, Any], f"'{self.container.path}': oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise errors.BadInput(f"'{self.container.path}' is an image layout of an unknown version")
        index = self._file("index.json", "is not a complete OCI image layout: it has no 'index.json'")
        return list(documents.decode(index, documents.Index, f"'{self.container.path}': index.json").manifests)

    def _file(self, name: str, missing: str) -> bytes:
        extent = self.container.find(name)
        if extent is None:
            raise errors.BadInput(f"'{self.container.path}' {missing}")
        return extent.read(limits.DOCUMENT, f"'{name}' of '{self.container.path}'")

    def _read(self, descriptor: Descriptor) -> bytes:
        what = f"'{self.container.path}': the document {digests.short(descriptor.digest)}"
        documents.check_size(descriptor, what)
        extent = self.container.find(_blob_name(descriptor.digest))
        if extent is None:
            raise errors.BadInput(f"{what} is missing")
        return documents.verified(descriptor, extent.read(limits.DOCUMENT, what), what)

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield a blob's bytes from `start` on.

        Raises BadInput if it is not there.
        """
        extent = self.container.find(blob.location or _blob_name(str(blob.digest)))
        if extent is None:
            raise errors.BadInput(f"'{self.container.path}': the layer '{blob.location or blob.digest}' is missing")
        return extent.chunks(start, cancel)


def _blob_name(digest: str) -> str:
    return "/".join(("blobs", *digests.split(digest)))


def choose_entry(entries: list[Descriptor], ref: reference.Layout, subject: str, wanted: Platform | None) -> Descriptor:
    """Return the entry of a layout's index that a reference means.

    Raises NoInput listing the names that there are.
    """
    if ref.digest:
        return _only([entry for entry in entries if entry.digest == ref.digest], entries, subject)
    if ref.tag:
        return _only([entry for entry in entries if ref.tag in _names(entry)], entries, subject)
    if len(entries) > 1 and all(entry.platform for entry in entries):
        return documents.choose(entries, wanted, subject)
    latest = [entry for entry in entries if "latest" in _names(entry)]
    return _only(latest or entries, entries, subject)


def _names(entry: Descriptor) -> set[str]:
    annotations = entry.annotations or {}
    return {name for key in (REF_NAME, IMAGE_NAME) if (name := annotations.get(key))}


def _only(found: list[Descriptor], entries: list[Descriptor], subject: str) -> Descriptor:
    """Return the one entry found; entries that are the same thing twice count once."""
    if len({entry.digest for entry in found}) == 1:
        return found[0]
    names = sorted(set().union(*map(_names, entries)))
    hint = f"it has {', '.join(names)}" if names else "it names none; choose by @DIGEST" if entries else "it is empty"
    why = "means several images" if found else "is not there"
    raise errors.NoInput(f"'{subject}' {why}", hint)


class _Saved(Struct, rename={"config": "Config", "tags": "RepoTags", "layers": "Layers"}):
    """One image in the manifest.json of `docker save`."""

    config: str
    layers: list[str]
    tags: list[str] | None = None


class DockerArchiveSource(LayoutSource):
    """A file made by `docker save` or `podman save`."""

    def resolve_saved(self, name: str | None, subject: str, wanted: Platform | None) -> Image:
        """Find the image of a name, or the only one, and read its configuration; `subject` is what errors call it."""
        saved = self._choose(self._images(), name, subject)
        config_data = self._file(saved.config, f"is not complete: the configuration '{saved.config}' is missing")
        config, diff_ids, platform = documents.read_config(config_data, wanted, subject)
        if len(saved.layers) != len(diff_ids):
            raise errors.BadInput(
                f"'{subject}' has {len(saved.layers)} layers, and its configuration lists {len(diff_ids)} diff_ids"
            )
        layers = [self._blob(name) for name in saved.layers]
        return Image(config, layers, diff_ids, digests.of(config_data), platform)

    def names(self) -> list[str]:
        """Return the names of the images, sorted."""
        return sorted({tag for image in self._images() for tag in image.tags or []})

    def _images(self) -> list[_Saved]:
        data = self._file("manifest.json", "was not made by docker save: it has no 'manifest.json'")
        return list(documents.decode(data, list[_Saved], f"'{self.container.path}': manifest.json"))

    def _blob(self, name: str) -> Blob:
        extent = self.container.find(name)
        return Blob(None, extent.size if extent else None, documents.DOCKER_LAYER, name)

    def _choose(self, images: list[_Saved], name: str | None, subject: str) -> _Saved:
        found = [image for image in images if name is None or name in _normalised(image.tags)]
        if len(found) == 1:
            return found[0]
        names = sorted(tag for image in images for tag in image.tags or [])
        hint = f"it has {', '.join(names)}" if names else None
        raise errors.NoInput(f"'{subject}' {'means several images' if found else 'is not there'}", hint)


def _normalised(tags: list[str] | None) -> set[str]:
    names = set()
    for tag in tags or []:
        with contextlib.suppress(errors.BadUsage):
            names.add(str(reference.parse_registry(tag)))
    return names


class RootfsSource:
    """A flat tar of a root filesystem, from a file or from stdin, or a folder that becomes one."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def resolve(self, wanted: Platform | None) -> Image:
        """Return an image of one layer; what its tar must be, nobody says."""
        platform = wanted or platforms.host()
        config: dict[str, Any] = {"architecture": platform.architecture, "os": "linux", "config": {}}
        return Image(config, [self._blob()], [None], None, platform)

    def _blob(self) -> Blob:
        if str(self.path) == "-":
            if sys.stdin.isatty():
                raise errors.BadUsage("no tar: stdin is a terminal", "name a file, or pipe a tar into bg-fetch")
            return Blob(None, None, "", "-")
        if self.path.is_dir():
            return Blob(None, None, "", str(self.path))
        extent = whole_file(self.path)
        if extent.size == 0:
            raise errors.BadInput(f"'{self.path}' is empty")
        return Blob(None, extent.size, "", str(self.path))

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield the tar's bytes."""
        if blob.location == "-":
            return _stdin_chunks(cancel)
        if self.path.is_dir():
            return pack.chunks(self.path, cancel)
        return whole_file(self.path).chunks(start, cancel)


def _stdin_chunks(cancel: Cancel) -> Iterator[bytes]:
    empty = True
    while data := os.read(sys.stdin.fileno(), 1 << 20):
        cancel.check()
        empty = False
        yield data
    if empty:
        raise errors.BadInput("stdin is empty: no tar came")


@contextlib.contextmanager
def open_archive(path: Path, folder: Path, limit: int = limits.Limits().image) -> Iterator[TarFile]:
    """Open an archive of images; a compressed one, or one on stdin, is laid out in `folder` meanwhile.

    Raises NoInput, Denied, BadInput, also for one of more than `limit` bytes.
    """
    kind = identify.MANIFEST if str(path) == "-" else identify.kind(path)
    if kind == identify.TAR:
        yield TarFile(path)
        return
    if str(path) != "-" and kind not in ("gzip", "zstd", "xz", "bzip2"):
        raise errors.BadInput(f"'{path}' is no archive of an image: it is of {_format(kind)}")
    chunks = _stdin_chunks(Cancel()) if str(path) == "-" else whole_file(path).chunks(0, Cancel())
    with laid_out(chunks, folder, path, limit) as archive:
        yield archive


@contextlib.contextmanager
def laid_out(chunks: Iterator[bytes], folder: Path, shown: Path, limit: int) -> Iterator[TarFile]:
    """Write a stream that holds an archive to a file in `folder`, decompressed, and yield it; it is gone afterwards.

    Raises BadInput for one of more than `limit` bytes.
    """
    temporary = files.temporary_name(folder / "archive")
    try:
        _lay_out(chunks, temporary, shown, limit)
        yield TarFile(temporary, shown)
    finally:
        files.discard(temporary)


def _format(kind: str) -> str:
    return "no known format" if kind == identify.UNKNOWN else f"the format '{kind}'"


def _lay_out(chunks: Iterator[bytes], target: Path, shown: Path, limit: int) -> None:
    """Write a stream to a file, decompressed."""
    try:
        with open(target, "xb") as file:

            def write(data: bytes) -> None:
                if file.tell() + len(data) > limit:
                    raise errors.BadInput(
                        f"'{shown}' is larger than {sizes.show(limit)}", "allow more with --max-image"
                    )
                file.write(data)

            _decompress(chunks, write)
    except compression.Corrupt as error:
        raise errors.BadInput(f"'{shown}': {error.message}") from error
    except OSError as error:
        raise errors.os_error(error, f"cannot write '{target}'") from error


def _decompress(chunks: Iterator[bytes], sink: compression.Sink) -> None:
    head = b""
    decompressor: compression.Decompressor | None = None
    for chunk in chunks:
        head += chunk
        if decompressor is None and len(head) < compression.HEAD:
            continue
        decompressor = decompressor or compression.open_stream(head, sink)
        decompressor.feed(head)
        head = b""
    decompressor = decompressor or compression.open_stream(head, sink)
    decompressor.feed(head)
    decompressor.finish()
