"""The format of a catalog: one JSON object that lists images and kernels by name.

{"schema": "banger-catalog/1", "images": [
  {"name": "debian-bookworm", "distro": "debian", "arch": "amd64", "kernel_ref": "apt:linux-image-cloud-amd64",
   "url": "https://example.org/debian-bookworm.tar.zst", "sha256": "<64 hex>", "size": 123456789},
  {"name": "debian-bookworm", "distro": "debian", "source": "apt:bookworm"}],
 "kernels": [
  {"name": "guest-6.12", "arch": "amd64", "kernel_version": "6.12.9",
   "url": "https://example.org/guest-6.12.tar.zst", "sha256": "<64 hex>", "size": 12345678},
  {"name": "cloud-amd64", "distro": "debian", "arch": "amd64", "source": "apt:linux-image-cloud-amd64"}]}

Entries of one name stand in the order of preference. Keys that are not known are allowed. A catalog in a
file may name files, relative to it, a bundle as "source": "bundle:FILE"; one behind a URL only what comes over a
network, or packages.

A bundle is a tar.zst that holds `rootfs.ext4` and `manifest.json`, regular files, and nothing else. The image went
through bg-mkext4(1), bg-chown(1) and bg-inject(1), and the manifest is what the last of them printed. bg-publish(1)
makes one and prints its entry, banger-image-export(1) makes one of an image of the store; GNU tar and zstd can, too:

$ bg-publish --bundle=. --url=https://example.org/images injected.json | jq .bundle.entry
$ tar -C DIR -c rootfs.ext4 manifest.json | zstd >NAME.tar.zst

A kernel's bundle holds `vmlinux` (any file that `banger kernel import` takes), and perhaps `initrd.img`, `modules/`
with what lib/modules/VERSION holds, and `config`, and nothing else: no links, no devices.

$ tar -C DIR -c vmlinux modules | zstd >NAME.tar.zst
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from banger_tools import errors, typed
from banger_tools.oci import reference
from banger_tools.oci.reference import Reference
from banger_tools.typed import about

SCHEMA = "banger-catalog/1"
LIMIT = 16 << 20

SHA256_PATTERN = "^[0-9a-f]{64}$"
SHA256_WORDS = {SHA256_PATTERN: "must be 64 hexadecimal digits"}
Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Size = Annotated[int, Meta(ge=1)]


class Entry(Struct, frozen=True, omit_defaults=True):
    """An image: either a bundle (`url`, `sha256`, `size`) or a `source` to make it from."""

    name: Annotated[str, about("What it is asked for by.")]
    distro: Annotated[str | None, about("ID of os-release(5), as in debian.")] = None
    arch: Annotated[str | None, about("In the words of OCI (amd64, arm64); an entry without it is for all.")] = None
    kernel_ref: Annotated[str | None, about("Kernel that `banger` publishes it with, as --kernel-ref takes it.")] = None
    description: Annotated[str | None, about("A line for people.")] = None
    source: Annotated[str | None, about("Any reference of bg-fetch(1) but a name of a catalog.")] = None
    url: Annotated[str | None, about("Where the bundle is.")] = None
    sha256: Annotated[Sha256 | None, about("SHA-256 of the bundle, in hex.")] = None
    size: Annotated[Size | None, about("Bytes of the bundle.")] = None

    @property
    def text(self) -> str:
        """What the entry stands for, as people write it."""
        return self.source or f"bundle:{self.url}"


class Kernel(Struct, frozen=True, omit_defaults=True):
    """A kernel: either a bundle (`url`, `sha256`, `size`), or a package of the host as `source`."""

    name: Annotated[str, about("What it is asked for by.")]
    arch: Annotated[str, about("In the words of OCI: amd64, arm64.")]
    distro: Annotated[str | None, about("ID of os-release(5) of the hosts whose package it is.")] = None
    kernel_version: Annotated[str | None, about("As `uname -r` prints it.")] = None
    description: Annotated[str | None, about("A line for people.")] = None
    source: Annotated[str | None, about("The package: apt:PACKAGE.")] = None
    url: Annotated[str | None, about("Where the bundle is.")] = None
    sha256: Annotated[Sha256 | None, about("SHA-256 of the bundle, in hex.")] = None
    size: Annotated[Size | None, about("Bytes of the bundle.")] = None

    @property
    def text(self) -> str:
        """What the entry stands for, as `bg-fetch kernel:` takes it."""
        return self.source or f"{self.url}#sha256:{self.sha256}"


class Catalog(Struct, frozen=True):
    """All of a catalog."""

    schema: Annotated[str, about("The kind and version of the format: banger-catalog/1.")]
    images: Annotated[tuple[Entry, ...], about("Images, in the order in which entries of one name are tried.")] = ()
    kernels: Annotated[tuple[Kernel, ...], about("Kernels, in the same order.")] = ()


def parse(data: bytes, where: str) -> Catalog:
    """Return the catalog in some bytes; `where` names it in errors.

    Raises BadInput naming the place of what is wrong, or both schemas if it is another one.
    """
    raw = typed.object_of_schema(data, SCHEMA, "a catalog", where)
    try:
        catalog: Catalog = typed.convert(raw, Catalog)
    except msgspec.ValidationError as error:
        raise errors.BadInput(f"{where}: {typed.problem(error, SHA256_WORDS)}") from error
    for number, entry in enumerate(catalog.images):
        wrong = _wrong(entry)
        if wrong:
            raise errors.BadInput(f"{where}: images[{number}]{wrong}")
    for number, kernel in enumerate(catalog.kernels):
        wrong = _wrong_kernel(kernel)
        if wrong:
            raise errors.BadInput(f"{where}: kernels[{number}]{wrong}")
    return catalog


def _wrong_kernel(entry: Kernel) -> str | None:
    """Return what is wrong with a kernel's entry; None if nothing is."""
    wrong = _wrong_origin(entry)
    if wrong or entry.url is None:
        is_package = entry.source is not None and re.fullmatch(r"apt:[a-z0-9][a-z0-9+.:-]+", entry.source)
        return wrong or (None if is_package else f".source: '{entry.source}' is not apt:PACKAGE")
    try:
        reference.parse_bundle(entry.url)
    except errors.BadUsage as error:
        return f".url: {error.message}"
    return None


def _wrong_origin(entry: Entry | Kernel) -> str | None:
    """Return what is wrong with the name of an entry or with where it comes from; None if nothing is."""
    if not reference.may_be_catalog_name(entry.name):
        return f".name: '{entry.name}' is no name: lower case letters, digits, and '.', '_' or '-' between them"
    if (entry.url is None) == (entry.source is None):
        return ": needs either 'url' or 'source'"
    if entry.url is not None and (entry.sha256 is None or entry.size is None):
        return f": a bundle needs '{'sha256' if entry.sha256 is None else 'size'}', too"
    return None


def _wrong(entry: Entry) -> str | None:
    """Return what is wrong with an entry, as in ".source: …"; None if nothing is."""
    wrong = _wrong_origin(entry)
    if wrong:
        return wrong
    if entry.source is not None and reference.may_be_catalog_name(entry.source):
        return f".source: '{entry.source}' could be a name of a catalog; write docker://{entry.source}"
    try:
        reference_of(entry)
    except errors.BadUsage as error:
        return f".{'url' if entry.url else 'source'}: {error.message}"
    return None


def reference_of(entry: Entry, folder: Path | None = None, host: str | None = None) -> Reference:
    """Return what an entry stands for; files that it names are relative to `folder`, where its catalog is.

    `host` is that of a catalog behind a URL. Raises BadUsage for text that is no reference.
    """
    if entry.url is not None:
        return reference.parse_bundle(f"{entry.url}#sha256:{entry.sha256}")._replace(named_by=host)
    ref = reference.parse(str(entry.source))
    if isinstance(ref, reference.Bundle) and ref.is_url:
        return ref._replace(named_by=host)
    if folder is None:
        return ref
    match ref:
        case reference.Layout() | reference.DockerArchive() | reference.Rootfs():
            return ref._replace(path=folder / ref.path)
        case reference.Bundle(location=location):
            return ref._replace(location=str(folder / location))
    return ref
