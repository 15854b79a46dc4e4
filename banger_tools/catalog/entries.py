"""The format of a catalog: one JSON object that lists images by name.

{"schema": "banger-catalog/1", "images": [
  {"name": "debian-bookworm", "distro": "debian", "arch": "amd64", "kernel_ref": "apt:linux-image-cloud-amd64",
   "url": "https://example.org/debian-bookworm.tar.zst", "sha256": "<64 hex>", "size": 123456789},
  {"name": "debian-bookworm", "distro": "debian", "source": "apt:bookworm"}]}

Entries of one name stand in the order of preference. Keys that are not known are allowed. A catalog in a
file may name files, relative to it; one behind a URL only what comes over a network, or packages.

A bundle is a tar.zst that holds `rootfs.ext4` and `manifest.json`, regular files, and nothing else. The image went
through bg-mkext4(1), bg-chown(1) and bg-inject(1), and the manifest is what the last of them printed:

$ tar -C DIR -c rootfs.ext4 manifest.json | zstd >NAME.tar.zst
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from banger_tools import errors, typed
from banger_tools.oci import reference
from banger_tools.oci.reference import Reference

SCHEMA = "banger-catalog/1"
LIMIT = 16 << 20

SHA256_PATTERN = "^[0-9a-f]{64}$"
SHA256_WORDS = {SHA256_PATTERN: "must be 64 hexadecimal digits"}
Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Size = Annotated[int, Meta(ge=1)]


class Entry(Struct, frozen=True, omit_defaults=True):
    """An image: either a bundle (`url`, `sha256`, `size`) or a `source` to make it from.

    `source` is any reference of bg-fetch(1) but a name of a catalog. `arch` is in the words of OCI (amd64, arm64); an
    entry without it is for all. `kernel_ref` is the kernel that `banger` publishes it with.
    """

    name: str
    distro: str | None = None
    arch: str | None = None
    kernel_ref: str | None = None
    description: str | None = None
    source: str | None = None
    url: str | None = None
    sha256: Sha256 | None = None
    size: Size | None = None

    @property
    def text(self) -> str:
        """What the entry stands for, as people write it."""
        return self.source or f"bundle:{self.url}"


class Catalog(Struct, frozen=True):
    """All of a catalog."""

    schema: str
    images: tuple[Entry, ...] = ()


def parse(data: bytes, where: str) -> Catalog:
    """Return the catalog in some bytes; `where` names it in errors.

    Raises BadInput naming the place of what is wrong, or both schemas if it is another one.
    """
    raw = typed.object_of_schema(data, SCHEMA, "a catalog", where)
    try:
        catalog: Catalog = msgspec.convert(raw, Catalog)
    except msgspec.ValidationError as error:
        raise errors.BadInput(f"{where}: {typed.problem(error, SHA256_WORDS)}") from error
    for number, entry in enumerate(catalog.images):
        wrong = _wrong(entry)
        if wrong:
            raise errors.BadInput(f"{where}: images[{number}]{wrong}")
    return catalog


def _wrong(entry: Entry) -> str | None:
    """Return what is wrong with an entry, as in ".source: …"; None if nothing is."""
    if not reference.may_be_catalog_name(entry.name):
        return f".name: '{entry.name}' is no name: lower case letters, digits, and '.', '_' or '-' between them"
    if (entry.url is None) == (entry.source is None):
        return ": needs either 'url' or 'source'"
    if entry.url is not None and (entry.sha256 is None or entry.size is None):
        return f": a bundle needs '{'sha256' if entry.sha256 is None else 'size'}', too"
    if entry.source is not None and reference.may_be_catalog_name(entry.source):
        return f".source: '{entry.source}' could be a name of a catalog; write docker://{entry.source}"
    try:
        reference_of(entry)
    except errors.BadUsage as error:
        return f".{'url' if entry.url else 'source'}: {error.message}"
    return None


def reference_of(entry: Entry, folder: Path | None = None) -> Reference:
    """Return what an entry stands for; files that it names are relative to `folder`, where its catalog is.

    Raises BadUsage for text that is no reference.
    """
    if entry.url is not None:
        ref = reference.parse(f"{entry.url}#sha256:{entry.sha256}")
        if not isinstance(ref, reference.Bundle):
            raise errors.BadUsage(f"'{entry.url}' is no https URL")
        return ref
    ref = reference.parse(str(entry.source))
    if folder is None:
        return ref
    match ref:
        case reference.Layout() | reference.DockerArchive() | reference.Rootfs():
            return ref._replace(path=folder / ref.path)
        case reference.Bundle(location=location) if not ref.is_url:
            return ref._replace(location=str(folder / location))
    return ref
