"""The manifest: one JSON object that grows as it flows through the stages.

Each tool reads the sections that it needs, adds its own, appends one line of history, and passes everything
that it does not know through untouched. The structs here are the reference: an error names the exact place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from banger_tools import __version__, errors, typed

SCHEMA = "banger-manifest/1"
LIMIT = 16 << 20

DIGEST_PATTERN = r"^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$"
DIGEST_WORDS = {DIGEST_PATTERN: "must be sha256:<64 hex> or sha512:<128 hex>"}
Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
Size = Annotated[int, Meta(ge=0)]

TREE_TYPE = "application/vnd.banger.tree.v1+jsonl"
EXT4_TYPE = "application/vnd.banger.ext4"


class Platform(Struct, frozen=True, rename={"os_name": "os"}, omit_defaults=True):
    """What an image was built for, in the words of the OCI image index."""

    architecture: str
    os_name: str = "linux"
    variant: str | None = None


class Source(Struct, frozen=True, omit_defaults=True):
    """What was asked for, and what it turned out to be."""

    requested: str
    kind: str
    resolved: str | None = None
    digest: Digest | None = None
    platform: Platform | None = None


class Layer(Struct, frozen=True, rename={"media_type": "mediaType"}, omit_defaults=True):
    """One layer: `path` is its plain tar of `tar_size` bytes, whose digest is `diff_id`.

    `digest`, `mediaType` and `size` are those of the blob that it came in.
    """

    diff_id: Digest
    path: str
    tar_size: Size
    digest: Digest | None = None
    media_type: str | None = None
    size: Size | None = None


class Tree(Struct, frozen=True, rename={"media_type": "mediaType"}):
    """The merged file tree of a root filesystem, as a tree.jsonl file."""

    path: str
    digest: Digest
    size: Size
    entries: Size
    bytes: Size
    media_type: str = TREE_TYPE


class Rootfs(Struct, frozen=True, rename={"media_type": "mediaType"}):
    """A root filesystem as one ext4 file; its bytes change as later stages edit it, so it has no digest."""

    path: str
    size: Size
    uuid: str
    label: str
    free_bytes: Size
    free_inodes: Size
    media_type: str = EXT4_TYPE


class Ownership(Struct, frozen=True, omit_defaults=True):
    """How many inodes are what the tree says, and how many of them had to be set right.

    Of an image that was edited by hand: how many of its names the tree lacks, and how many of the tree's it lacks.
    """

    checked: Size
    changed: Size
    new: Size = 0
    missing: Size = 0


class Guest(Struct, frozen=True):
    """What was put into the root filesystem so that it boots and answers."""

    architecture: str
    agent: Digest | None
    files: list[str]
    ssh_keys: Size = 0


class WorkSeed(Struct, frozen=True, rename={"media_type": "mediaType"}):
    """The image's /root as an ext4 file of its own."""

    path: str
    size: Size
    uuid: str
    home: str
    entries: Size
    media_type: str = EXT4_TYPE


class Kernel(Struct, frozen=True, omit_defaults=True):
    """A kernel in the cache, in the store or beside an image: `kernel` is what Firecracker boots, `vmlinuz` a bzImage.

    `digest` is that of the folder of a kernel in the cache.
    """

    name: str
    version: str
    architecture: str
    kernel: str
    vmlinuz: str | None = None
    initrd: str | None = None
    modules: str | None = None
    digest: Digest | None = None


class Published(Struct, frozen=True, omit_defaults=True):
    """An image in the store: its folder, and the files in it by name.

    `digests` are those of its disks, by the names of their files: SHA-256 over the size, and over each piece of 64 KiB
    that is not all zeros, after its number (size and numbers as 8 bytes, little-endian; the last piece filled up).
    """

    name: str
    path: str
    rootfs: str
    work_seed: str | None = None
    kernel: Kernel | None = None
    digests: dict[str, Digest] = {}


class Bundle(Struct, frozen=True):
    """The image as a bundle: its file, the SHA-256 of it in hex, and the entry of a catalog (banger-catalog(5))."""

    path: str
    sha256: str
    size: Size
    entry: dict[str, str | int]


class Vm(Struct, frozen=True, omit_defaults=True):
    """A virtual machine: its folder, its VMM, and how to reach it; `reason` says why it is in its state."""

    name: str
    path: str
    vmm: str
    pid: int
    state: str
    console: str
    accelerator: str | None = None
    cpus: int | None = None
    memory: int | None = None
    publish: list[str] = []
    address: str | None = None
    boot_seconds: float | None = None
    reason: str | None = None


SECTIONS: Mapping[str, Any] = {
    "source": Source,
    "layers": list[Layer],
    "tree": Tree,
    "rootfs": Rootfs,
    "ownership": Ownership,
    "guest": Guest,
    "work_seed": WorkSeed | None,
    "kernel": Kernel,
    "bundle": Bundle,
    "published": Published,
    "vm": Vm,
}
MADE_BY = {
    "layers": "bg-fetch",
    "tree": "bg-flatten",
    "rootfs": "bg-mkext4",
    "ownership": "bg-chown",
    "guest": "bg-inject",
    "work_seed": "bg-seed",
    "kernel": "bg-fetch",
    "bundle": "bg-publish",
    "published": "bg-publish",
    "vm": "bg-boot",
}

T = TypeVar("T")


class Manifest:
    """A manifest: the JSON object as it came, and typed access to the sections that we know."""

    def __init__(self, raw: dict[str, Any] | None = None) -> None:
        self.raw: dict[str, Any] = {"schema": SCHEMA} if raw is None else raw

    @property
    def name(self) -> str:
        """The friendly name that artifacts and images get by default."""
        name = self.raw.get("name", "rootfs")
        if not isinstance(name, str):
            raise errors.BadInput("manifest: name: must be a string")
        return name

    @name.setter
    def name(self, name: str) -> None:
        self.raw["name"] = name

    @property
    def image(self) -> dict[str, Any]:
        """The OCI image configuration as it came with the image; empty when there was none."""
        return _object(self.raw.get("image", {}), "image")

    @property
    def process(self) -> dict[str, Any]:
        """The `config` object of the image: Env, Entrypoint, Cmd, User, WorkingDir, Labels."""
        config = self.image.get("config")
        return {} if config is None else _object(config, "image.config")

    @property
    def architecture(self) -> str:
        """The image's architecture in the words of OCI (amd64, arm64); this machine's when it says none."""
        import platform

        machine = platform.machine()
        default = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
        return str(self.image.get("architecture") or default)

    def has(self, section: str) -> bool:
        """Tell whether a section is there (a null one is not)."""
        return self.raw.get(section) is not None

    def get(self, section: str, kind: type[T]) -> T:
        """Return a section in its type, as in `get("tree", Tree)`.

        Raises BadInput if it is missing, naming the tool that makes it, or if it is not what it must be.
        """
        if not self.has(section):
            maker = MADE_BY.get(section)
            hint = f"run {maker} before this tool" if maker else None
            raise errors.BadInput(f"the manifest has no '{section}' section", hint)
        value: T = _convert(self.raw[section], kind, section)
        return value

    def layers(self) -> list[Layer]:
        """Return the layers, oldest first."""
        return self.get("layers", list[Layer])

    def put(self, section: str, value: object) -> None:
        """Set a section from its struct."""
        self.raw[section] = msgspec.to_builtins(value)

    def record(self, tool: str, options: Mapping[str, Any]) -> None:
        """Append one line to the history: the tool, its version, and the options that shaped the artifact."""
        entry = {"tool": tool, "version": __version__, "options": dict(options)}
        self.raw["history"] = [*_list(self.raw.get("history", []), "history"), entry]

    def dumps(self) -> str:
        """Return the manifest as JSON: the schema first, all other keys sorted."""
        body = {key: self.raw[key] for key in sorted(self.raw) if key != "schema"}
        ordered = {"schema": self.raw["schema"], **{key: _sorted(value) for key, value in body.items()}}
        return json.dumps(ordered, indent=2) + "\n"


def loads(text: str | bytes, origin: str) -> Manifest:
    """Read a manifest; `origin` names it in errors.

    Raises BadInput with the exact place of what is wrong, or naming both schemas if it is another one.
    """
    raw = typed.object_of_schema(text, SCHEMA, "a manifest", origin)
    for section, kind in SECTIONS.items():
        if section in raw:
            _convert(raw[section], kind, section)
    return Manifest(raw)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.BadInput(f"manifest: {where}: must be an object")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise errors.BadInput(f"manifest: {where}: must be an array")
    return value


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _convert(value: object, kind: Any, section: str) -> Any:
    try:
        return typed.convert(value, kind)
    except msgspec.ValidationError as error:
        raise errors.BadInput(f"manifest: {typed.problem(error, DIGEST_WORDS, section)}") from error
