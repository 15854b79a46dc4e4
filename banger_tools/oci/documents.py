"""The JSON documents of an image: indexes, manifests, configurations, in OCI's and Docker's dialects.

Sources: OCI image specification 1.1 (descriptor, image-index, manifest, config), Docker image manifest version 2,
schema 2. Media types are what a document says of itself first, then what its descriptor or its server said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from banger_tools import errors, typed
from banger_tools.manifest import DIGEST_WORDS, Digest, Platform, Size
from banger_tools.oci import digest as digests
from banger_tools.oci import limits, platforms
from banger_tools.oci.platforms import IndexPlatform

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
ACCEPT = (*MANIFESTS, *INDEXES)

_LAYER_TYPE = re.compile(
    r"application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar|docker\.image\.rootfs\.(diff|foreign\.diff)\.tar)"
    r"(([.+])(gzip|zstd))?"
)
_ATTESTATION = "vnd.docker.reference.type"


class Descriptor(Struct, rename={"media_type": "mediaType"}):
    """A reference to content: what it is, its digest, its bytes."""

    digest: Digest
    size: Size
    media_type: str = ""
    urls: list[str] | None = None
    annotations: dict[str, str] | None = None
    platform: IndexPlatform | None = None


class Index(Struct, rename={"media_type": "mediaType"}):
    """An image index, or a Docker manifest list."""

    manifests: list[Descriptor]
    media_type: str = ""


class ImageManifest(Struct, rename={"media_type": "mediaType", "artifact_type": "artifactType"}):
    """An image manifest of OCI, or of Docker's schema 2."""

    config: Descriptor
    media_type: str = ""
    artifact_type: str | None = None
    layers: list[Descriptor] | None = None


class Typed(Struct, rename="camel"):
    """What a document says that it is."""

    media_type: str = ""


class _Outline(Typed, rename="camel"):
    """What tells indexes from manifests; the parts stay bytes, since a hostile document would take much memory."""

    schema_version: int | None = None
    fs_layers: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()


class TagList(Struct):
    """What a registry answers when it is asked for the tags of a repository."""

    tags: list[str] | None = None


class _RootFs(Struct):
    diff_ids: list[Digest] | None = None


class _Config(Struct):
    rootfs: _RootFs | None = None
    os: str = ""
    architecture: str = ""
    variant: str | None = None


class Document(NamedTuple):
    """A verified document: its descriptor and its bytes."""

    descriptor: Descriptor
    data: bytes


class Blob(NamedTuple):
    """A layer as it lies in its source; a docker-archive knows neither digest nor media type."""

    digest: str | None
    size: int | None
    media_type: str
    location: str = ""
    urls: tuple[str, ...] = ()


class Image(NamedTuple):
    """An image whose documents are read and checked: what there is to fetch.

    `diff_ids` has one entry a layer; None where nobody said what the plain tar must be.
    """

    config: dict[str, Any]
    layers: Sequence[Blob]
    diff_ids: Sequence[str | None]
    digest: str | None = None
    platform: Platform | None = None
    documents: tuple[Document, ...] = ()


Read = Callable[[Descriptor], bytes]


def decode(data: bytes, kind: type[Any], what: str) -> Any:
    """Return a JSON document in its type.

    Raises BadInput with the exact place of what is wrong; `what` names the document.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise errors.BadInput(f"{what}: {typed.problem(error, DIGEST_WORDS)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadInput(f"{what} is not JSON: {error}") from error


def decode_any(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object as it is.

    Raises BadInput if it is none, or more than anybody has in one.
    """
    check_values(data, what)
    value: dict[str, Any] = decode(data, dict[str, Any], what)
    if not _is_flat(value, limits.NESTING):
        raise errors.BadInput(f"{what} is nested more than {limits.NESTING} deep")
    return value


def check_values(data: bytes, what: str) -> None:
    """Raise BadInput if a document has too many values; counted generously, since strings may hold commas, too."""
    if sum(map(data.count, (b",", b"[", b"{"))) > limits.VALUES:
        raise errors.BadInput(f"{what} has more than {limits.VALUES} values")


def _is_flat(value: object, depth: int) -> bool:
    """Tell whether a value has at most `depth` levels."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth >= 0 and all(_is_flat(one, depth - 1) for one in inner)


def verified(descriptor: Descriptor, data: bytes, what: str) -> bytes:
    """Return a document's bytes after checking their digest.

    Raises digest.Mismatch.
    """
    found = digests.of(data, descriptor.digest)
    if found != descriptor.digest:
        raise digests.Mismatch(f"{what}: the digest must be {descriptor.digest}, and is {found}")
    return data


def check_size(descriptor: Descriptor, what: str) -> None:
    """Raise BadInput if a document claims to be larger than any document is."""
    if descriptor.size > limits.DOCUMENT:
        raise errors.BadInput(f"{what} of {descriptor.size} bytes is too large: the limit is {limits.DOCUMENT}")


def is_index(document: Document, what: str) -> bool:
    """Tell an index from a manifest.

    Raises BadInput for documents that are neither, that claim to be both (CVE-2021-41190), or are of schema 1.
    """
    check_values(document.data, what)
    outline: _Outline = decode(document.data, _Outline, what)
    if outline.schema_version == 1 or outline.fs_layers:
        raise errors.BadInput(
            f"{what} is of Docker's schema 1, which is too old", "push the image again with a newer tool"
        )
    has_list, has_layers = bool(outline.manifests), bool(outline.layers or outline.config)
    if has_list == has_layers:
        raise errors.BadInput(
            f"{what} is {'both an index and' if has_list else 'neither an index nor'} an image manifest"
        )
    stated = outline.media_type or document.descriptor.media_type
    if (has_list and stated in MANIFESTS) or (has_layers and stated in INDEXES):
        raise errors.BadInput(f"{what} says that it is '{stated}', and is not")
    return has_list


def resolve(root: Document, read: Read, wanted: Platform | None, subject: str) -> Image:
    """Descend from an index or a manifest to the image for a platform, reading documents with `read`.

    Raises BadInput for what is no Linux root filesystem, NoInput if the platform is not there.
    """
    path = _Descent(read, wanted, subject).descend((root,))
    manifest = decode(path[-1].data, ImageManifest, _what(path[-1], subject))
    check_manifest(manifest, subject)
    described = msgspec.structs.replace(manifest.config, media_type=manifest.config.media_type or OCI_CONFIG)
    config = Document(described, read(described))
    return _image((*path, config), manifest, wanted, subject)


class _Descent:
    """The way through indexes to a manifest; of entries that name no platform several may have to be tried."""

    def __init__(self, read: Read, wanted: Platform | None, subject: str) -> None:
        self._read = read
        self._wanted = wanted
        self._subject = subject
        self._left = limits.INDEXES

    def descend(self, path: tuple[Document, ...]) -> tuple[Document, ...]:
        """Return the documents from the first of a path to a manifest for the platform."""
        what = _what(path[-1], self._subject)
        if not is_index(path[-1], what):
            return path
        if len(path) > limits.INDEX_DEPTH:
            raise errors.BadInput(f"'{self._subject}' has indexes in indexes, more than {limits.INDEX_DEPTH} deep")
        entries = decode(path[-1].data, Index, what).manifests
        *others, last = choices(entries, self._wanted, self._subject)
        for entry in others:
            try:
                return self._into(path, entry)
            except errors.NoInput:
                continue
        return self._into(path, last)

    def _into(self, path: tuple[Document, ...], entry: Descriptor) -> tuple[Document, ...]:
        self._left -= 1
        if self._left < 0:
            raise errors.BadInput(f"'{self._subject}' has more than {limits.INDEXES} indexes to look through")
        return self.descend((*path, Document(entry, self._read(entry))))


def _what(document: Document, subject: str) -> str:
    return f"the manifest {digests.short(document.descriptor.digest)} of '{subject}'"


def _image(documents: tuple[Document, ...], manifest: ImageManifest, wanted: Platform | None, subject: str) -> Image:
    listed = documents[-2].descriptor.platform
    config, diff_ids, platform = read_config(documents[-1].data, wanted, subject, listed)
    layers = [
        Blob(layer.digest, layer.size, layer.media_type, urls=tuple(layer.urls or ()))
        for layer in manifest.layers or ()
    ]
    if len(layers) != len(diff_ids):
        raise errors.BadInput(
            f"'{subject}' has {len(layers)} layers, and its configuration lists {len(diff_ids)} diff_ids"
        )
    return Image(config, layers, diff_ids, documents[-2].descriptor.digest, platform, documents)


def check_manifest(manifest: ImageManifest, subject: str) -> None:
    """Raise BadInput if a manifest is not that of a root filesystem, naming what it is of."""
    media_type = manifest.config.media_type
    if media_type not in (OCI_CONFIG, DOCKER_CONFIG, ""):
        kind = manifest.artifact_type or media_type
        raise errors.BadInput(f"'{subject}' is an artifact of type '{kind}', not an image with a root filesystem")
    layers = manifest.layers or []
    if len(layers) > limits.LAYERS:
        raise errors.BadInput(f"'{subject}' has {len(layers)} layers; the limit is {limits.LAYERS}")
    for number, layer in enumerate(layers, 1):
        check_layer_type(layer.media_type, f"layer {number} of '{subject}'")


def check_layer_type(media_type: str, what: str) -> None:
    """Raise BadInput if a layer is encrypted or no tar; how it is compressed is told by its bytes."""
    if media_type.endswith("+encrypted"):
        raise errors.BadInput(
            f"{what} is encrypted", "decrypt the image first, for example with skopeo copy --decryption-key"
        )
    if media_type and not _LAYER_TYPE.fullmatch(media_type):
        raise errors.BadInput(f"{what} is of type '{media_type}', which is not a file system layer")


def read_config(
    data: bytes, wanted: Platform | None, subject: str, listed: IndexPlatform | None = None
) -> tuple[dict[str, Any], list[str], Platform]:
    """Return an image's configuration, its diff_ids and its platform.

    Configurations often leave the variant out or have a wrong one, so what an index says (`listed`) counts as well.
    Raises BadInput if it has no root filesystem, is of another OS, or not of the platform that was asked for.
    """
    what = f"the configuration of '{subject}'"
    raw = decode_any(data, what)
    config = decode(data, _Config, what)
    if config.rootfs is None or config.rootfs.diff_ids is None:
        raise errors.BadInput(f"{what} lists no layers: it is not an image with a root filesystem")
    if config.os not in ("linux", ""):
        raise errors.BadInput(f"'{subject}' is for the OS '{config.os}', and only Linux images can be used")
    listed = listed or IndexPlatform()
    architecture = config.architecture or listed.architecture or platforms.host().architecture
    platform = Platform(architecture, "linux", config.variant or listed.variant or None)
    stated = IndexPlatform(architecture, "linux", platform.variant)
    if wanted is not None and platforms.rank(stated, wanted) is None and platforms.rank(listed, wanted) is None:
        raise errors.NoInput(
            f"'{subject}' is for {platforms.show(platform)}, and {platforms.show(wanted)} was asked for"
        )
    return raw, list(config.rootfs.diff_ids), platform


def choose(entries: Sequence[Descriptor], wanted: Platform | None, subject: str) -> Descriptor:
    """Return the entry of an index that a container runtime would take; the first of equals.

    Raises NoInput listing the platforms that there are.
    """
    return choices(entries, wanted, subject)[0]


def choices(entries: Sequence[Descriptor], wanted: Platform | None, subject: str) -> list[Descriptor]:
    """Return the entries of an index that may hold an image for a platform, the best first.

    One that names no platform may be an index itself. Raises NoInput listing the platforms if there is none.
    """
    ranked = [(rank, entry) for entry in entries if (rank := _entry_rank(entry, wanted)) is not None]
    if ranked:
        ordered = [entry for _, entry in sorted(ranked, key=lambda pair: pair[0])]
        return ordered[:1] if ordered[0].platform else ordered
    names = sorted({platforms.show_index(entry.platform) for entry in entries if entry.platform})
    there = ", ".join(name for name in names if not name.startswith("unknown")) or "no platform"
    raise errors.NoInput(
        f"'{subject}' has no image for {platforms.show(wanted or platforms.host())}",
        f"it has {there}; choose one with --platform",
    )


def _entry_rank(entry: Descriptor, wanted: Platform | None) -> int | None:
    """Return how well an entry fits (0 is best); one without a platform only if nothing else does.

    Attestations that builders add are no images, whatever platform they state.
    """
    if (entry.media_type and entry.media_type not in ACCEPT) or _ATTESTATION in (entry.annotations or {}):
        return None
    if entry.platform is None:
        return 1000
    ranks = [platforms.rank(entry.platform, one) for one in platforms.runnable(wanted)]
    return next((100 * number + rank for number, rank in enumerate(ranks) if rank is not None), None)
