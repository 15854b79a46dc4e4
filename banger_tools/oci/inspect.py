"""A look at an image before it is fetched: its documents, its platforms, its sizes; or the tags beside it.

No layer is read and no tag is remembered. Documents that arrive are kept, for they are named by their digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from banger_tools import errors
from banger_tools.oci import container, documents, local, platforms, pull, reference, remote
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Document, Image


def inspect(ref: reference.Reference, cache: Cache, wants: pull.Wants) -> dict[str, Any]:
    """Return what a reference names, as it is now unless nothing may go out.

    Raises what fetching it would raise, BadUsage for what has no documents.
    """
    if isinstance(ref, reference.Rootfs | reference.Apt | reference.Bundle):
        raise _nothing_to_see(ref, "--inspect")
    cache.prepare()
    wants = wants._replace(pull="always", record=False)
    with pull.open_image(ref, cache, wants, Cancel()) as (_, image):
        return {"reference": str(ref), **describe(image)}


def describe(image: Image) -> dict[str, Any]:
    """Return an image as JSON; what a docker-archive does not have is null."""
    layers = [
        {"digest": blob.digest, "diff_id": diff_id, "mediaType": blob.media_type or None, "size": blob.size}
        for blob, diff_id in zip(image.layers, image.diff_ids, strict=True)
    ]
    root = image.documents[0] if image.documents else None
    manifest = image.documents[-2] if image.documents else None
    return {
        "digest": root.descriptor.digest if root else image.digest,
        "mediaType": _media_type(root) if root else None,
        "platforms": list(dict.fromkeys(_platforms(image.documents[:-2]))) if root is not manifest else None,
        "platform": platforms.show(image.platform) if image.platform else None,
        "manifest_digest": manifest.descriptor.digest if manifest else None,
        "manifest": documents.decode_any(manifest.data, "the manifest") if manifest else None,
        "config": image.config,
        "layers": layers,
        "size": sum(blob.size or 0 for blob in image.layers),
    }


def _media_type(document: Document) -> str | None:
    stated = documents.decode(document.data, documents.Typed, "the manifest").media_type
    return stated or document.descriptor.media_type or None


def _platforms(indexes: tuple[Document, ...]) -> Iterator[str]:
    """Yield the platforms that indexes have images for; attestations are none."""
    for index in indexes:
        for entry in documents.decode(index.data, documents.Index, "the index").manifests:
            if entry.platform is not None and entry.platform.os not in ("", "unknown"):
                yield platforms.show_index(entry.platform)


def tags(ref: reference.Reference, cache: Cache, wants: pull.Wants) -> list[str]:
    """Return the names beside the one that a reference names: tags of a repository, images of a layout or archive.

    Raises BadUsage for what has none.
    """
    cache.prepare()
    match ref:
        case reference.Registry():
            with remote.open_registry(ref, cache, wants.settings, Cancel()) as source:
                return source.tags()
        case reference.Layout(archive=False):
            return local.LayoutSource(container.Folder(ref.path)).names()
        case reference.Layout():
            with local.open_archive(ref.path, cache.partial) as archive:
                return local.LayoutSource(archive).names()
        case reference.DockerArchive():
            with local.open_archive(ref.path, cache.partial) as archive:
                return local.DockerArchiveSource(archive).names()
    raise _nothing_to_see(ref, "--list-tags")


def _nothing_to_see(ref: reference.Reference, option: str) -> errors.BadUsage:
    return errors.BadUsage(
        f"{option}: '{ref}' has no manifest to look at", "registries, layouts and archives of images have"
    )
