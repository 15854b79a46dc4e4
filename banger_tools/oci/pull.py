"""An image into the cache: its source opened, its documents read and checked, its layers fetched side by side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial as bound
from operator import itemgetter
from typing import Any, NamedTuple

from banger_tools import console, errors, manifest, sizes
from banger_tools.oci import container, layer, limits, local, place, platforms, reference, remote
from banger_tools.oci import digest as digests
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel, run_all
from banger_tools.oci.documents import Blob, Image
from banger_tools.oci.http import Settings, Transport

WORKERS = 4

Opened = tuple[layer.Source, Image]


class Wants(NamedTuple):
    """How an image is to be fetched."""

    platform: manifest.Platform | None = None
    pull: str = "missing"
    limits: limits.Limits = limits.Limits()
    settings: Settings = Settings()
    thorough: bool = False
    record: bool = True


class Fetched(NamedTuple):
    """An image in the cache: its untouched configuration, its layers oldest first, what it turned out to be."""

    config: dict[str, Any]
    layers: list[manifest.Layer]
    source: manifest.Source


def fetch(ref: reference.Reference, requested: str, cache: Cache, wants: Wants) -> Fetched:
    """Fetch what a reference (any but `apt:`) names.

    Raises NoInput, BadInput, Unavailable, Denied or Retry, each saying what is wrong.
    """
    cache.prepare()
    cancel = Cancel()
    with open_image(ref, cache, wants, cancel) as (source, image):
        platforms.warn_of_another(image.platform, wants.platform, f"'{ref}'")
        layers = fetch_layers(source, image, cache, wants, cancel)
    config = image.config
    if "rootfs" not in config:
        config = {**config, "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]}}
    return Fetched(config, layers, manifest.Source(requested, ref.kind, str(ref), image.digest, image.platform))


@contextlib.contextmanager
def open_image(ref: reference.Reference, cache: Cache, wants: Wants, cancel: Cancel) -> Iterator[Opened]:
    """Open what a reference names, with its documents read and checked; nothing else is read yet."""
    match ref:
        case reference.Registry():
            with remote.open_registry(ref, cache, wants.settings, cancel) as source:
                with console.step(f"resolve '{ref}'"):
                    image = source.resolve(ref, wants.platform, wants.pull, record=wants.record)
                yield source, image
        case reference.Layout(archive=False):
            source_folder = local.LayoutSource(container.Folder(ref.path))
            yield source_folder, source_folder.resolve(ref, wants.platform)
        case reference.Layout():
            with local.open_archive(ref.path, cache.partial, wants.limits.image) as archive:
                yield local.LayoutSource(archive), local.LayoutSource(archive).resolve(ref, wants.platform)
        case reference.DockerArchive():
            with local.open_archive(ref.path, cache.partial, wants.limits.image) as archive:
                saved = local.DockerArchiveSource(archive)
                yield saved, saved.resolve_saved(ref.name, str(ref), wants.platform)
        case reference.Daemon():
            from banger_tools.oci import daemon

            with daemon.opened(ref, cache.partial, wants.limits.image) as archive:
                saved = local.DockerArchiveSource(archive)
                yield saved, saved.resolve_saved(None, str(ref), wants.platform)
        case reference.Rootfs():
            flat = local.RootfsSource(ref.path)
            yield flat, flat.resolve(wants.platform)
        case reference.Apt():
            raise AssertionError("packages are no image")


def fetch_layers(
    source: layer.Source, image: Image, cache: Cache, wants: Wants, cancel: Cancel
) -> list[manifest.Layer]:
    """Bring all layers of an image into the cache, several at a time, and return them oldest first."""
    known = [blob.size or 0 for blob in image.layers]
    _check_sizes(known, wants.limits)
    _say_what_is_here(image, cache)
    with console.step(f"fetch {len(known)} layers"), console.progress("all layers", sum(known)) as total:
        task = layer.Task(cache, source, cancel, wants.limits, total, wants.thorough)
        with _places(source, wants.settings, cancel) as places:
            jobs = [
                bound(place.fetch, task, places, blob, diff_id, _what(number, len(known), blob, diff_id))
                for number, (blob, diff_id) in enumerate(zip(image.layers, image.diff_ids, strict=True), 1)
            ]
            largest_first = sorted(range(len(jobs)), key=lambda index: -known[index])  # none is left for the end
            done = run_all([jobs[index] for index in largest_first], WORKERS, cancel)
    layers = [one for _, one in sorted(zip(largest_first, done, strict=True), key=itemgetter(0))]
    _check_total(layers, wants.limits)
    return layers


def _check_sizes(known: Sequence[int], bounds: limits.Limits) -> None:
    """Raise BadInput for layers that are larger as they come than their tars may be: what is compressed grows little.

    So nothing is asked of a registry that its disk, or ours, cannot hold.
    """
    for number, size in enumerate(known, 1):
        if size > bounds.layer + bounds.layer // 8:
            what = f"layer {number} of {len(known)} has {size} bytes"
            raise errors.BadInput(f"{what}, more than {sizes.show(bounds.layer)}", "allow more with --max-layer")
    if sum(known) > bounds.image + bounds.image // 8:
        what = f"the layers have {sum(known)} bytes together"
        raise errors.BadInput(f"{what}, more than {sizes.show(bounds.image)}", "allow more with --max-image")


def _say_what_is_here(image: Image, cache: Cache) -> None:
    """Tell people and machines which layers need no transfer; those are hashed only when they are used."""
    here, left, count = 0, 0, len(image.layers)
    for number, (blob, diff_id) in enumerate(zip(image.layers, image.diff_ids, strict=True), 1):
        there = _arrived(cache, blob, diff_id)
        left += (blob.size or 0) - there
        if blob.size is not None and there == blob.size:
            here += 1
            what = _what(number, count, blob, diff_id)
            console.done_already(what, blob.size, digest=blob.digest or diff_id, cached=True)
    total = sum(blob.size or 0 for blob in image.layers)
    if left < total:
        text = f"{here} of {count} layers are here already, {sizes.show(left)} of {sizes.show(total)} to fetch"
        (console.note if console.shows_bars() and left else console.detail)(text)


def _arrived(cache: Cache, blob: Blob, diff_id: str | None) -> int:
    """Return how many bytes of a layer are here: all if its tar or its blob is, else what an earlier run left."""
    if diff_id is not None and cache.layer_path(diff_id).is_file():
        return blob.size or 0
    if blob.digest is None:
        return 0
    if cache.has_blob(blob.digest, blob.size):
        return blob.size or 0
    try:
        return min(os.stat(cache.partial / "-".join(digests.split(blob.digest))).st_size, blob.size or 0)
    except OSError:
        return 0


@contextlib.contextmanager
def _places(source: layer.Source, settings: Settings, cancel: Cancel) -> Iterator[place.Find]:
    """Give what tells the places of a layer: where files lack a foreign one, the network may have it."""
    if isinstance(source, remote.RegistrySource):
        yield source.places
        return
    transport = Transport("", settings, cancel)
    try:
        yield lambda blob: [source, *place.foreign(blob, transport)]
    finally:
        transport.close()


def _what(number: int, count: int, blob: Blob, diff_id: str | None) -> str:
    """Return what errors and bars call a layer: the only one of a flat tar or a folder is called as that is."""
    digest = blob.digest or diff_id
    if digest is None and blob.location:
        return "stdin" if blob.location == "-" else f"'{blob.location}'"
    short = f" ({digest.partition(':')[2][:12]})" if digest else ""
    return f"layer {number} of {count}{short}"


def _check_total(layers: Sequence[manifest.Layer], bounds: limits.Limits) -> None:
    total = sum(one.tar_size for one in layers)
    if total > bounds.image:
        raise errors.BadInput(
            f"the layers have {total} bytes together, more than {sizes.show(bounds.image)}",
            "allow more with --max-image",
        )
