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
from banger_tools.typed import about

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

    architecture: Annotated[str, about("amd64, arm64 and so on.")]
    os_name: Annotated[str, about("linux, if not given.")] = "linux"
    variant: Annotated[str | None, about("As in v8.")] = None


class Source(Struct, frozen=True, omit_defaults=True):
    """What was asked for, and what it turned out to be."""

    requested: Annotated[str, about("The REF as it was given.")]
    kind: Annotated[
        str,
        about("registry, oci, oci-archive, docker-archive, docker-daemon, podman, rootfs, bundle or apt."),
    ]
    resolved: Annotated[str | None, about("The REF spelled out; of apt: with the date of the release.")] = None
    digest: Annotated[Digest | None, about("That of the image's manifest, or of the bundle.")] = None
    platform: Annotated[Platform | None, about("What the image was built for: architecture, os and variant.")] = None


class Layer(Struct, frozen=True, rename={"media_type": "mediaType"}, omit_defaults=True):
    """One layer, the oldest first: a plain tar in the cache, and the blob that it came in."""

    diff_id: Annotated[Digest, about("Digest of the tar.")]
    path: Annotated[str, about("The tar.")]
    tar_size: Annotated[Size, about("Its bytes.")]
    digest: Annotated[Digest | None, about("Digest of the blob.")] = None
    media_type: Annotated[str | None, about("What the blob is, in the words of OCI or docker.")] = None
    size: Annotated[Size | None, about("Bytes of the blob.")] = None


class Tree(Struct, frozen=True, rename={"media_type": "mediaType"}):
    """The merged file tree of a root filesystem, as a tree.jsonl file."""

    path: Annotated[str, about("The tree.jsonl; banger-tree(5) describes it.")]
    digest: Annotated[Digest, about("Digest of that file.")]
    size: Annotated[Size, about("Its bytes.")]
    entries: Annotated[Size, about("How many files, folders and others the tree has.")]
    bytes: Annotated[Size, about("Bytes of the content of all its files.")]
    media_type: Annotated[str, about("What the file is.")] = TREE_TYPE


class Rootfs(Struct, frozen=True, rename={"media_type": "mediaType"}):
    """A root filesystem as one ext4 file; its bytes change as later stages edit it, so it has no digest."""

    path: Annotated[str, about("The ext4 file.")]
    size: Annotated[Size, about("Its bytes; it has holes, and takes less on the disk.")]
    uuid: Annotated[str, about("UUID of the filesystem.")]
    label: Annotated[str, about("Label of the filesystem.")]
    free_bytes: Annotated[Size, about("Bytes of free blocks in it.")]
    free_inodes: Annotated[Size, about("Inodes that are free in it.")]
    media_type: Annotated[str, about("What the file is.")] = EXT4_TYPE


class Ownership(Struct, frozen=True, omit_defaults=True):
    """What was found of owners and modes; the last two only of an image that was edited by hand."""

    checked: Annotated[Size, about("Inodes that are now what the tree says.")]
    changed: Annotated[Size, about("Those of them that had to be set right.")]
    new: Annotated[Size, about("Names that only the image has.")] = 0
    missing: Annotated[Size, about("Names that only the tree has.")] = 0


class Guest(Struct, frozen=True):
    """What was put into the root filesystem so that it boots and answers."""

    architecture: Annotated[str, about("That of the guest program: amd64 or arm64.")]
    agent: Annotated[Digest | None, about("Digest of the guest program; null with --no-agent.")]
    files: Annotated[list[str], about("Paths in the image of all that was put in.")]
    ssh_keys: Annotated[Size, about("How many keys may log in as root.")] = 0


class WorkSeed(Struct, frozen=True, rename={"media_type": "mediaType"}):
    """The image's /root as an ext4 file of its own; null if there is none, and `work_seed_reason` says why."""

    path: Annotated[str, about("The ext4 file.")]
    size: Annotated[Size, about("Its bytes; it has holes, and takes less on the disk.")]
    uuid: Annotated[str, about("UUID of the filesystem.")]
    home: Annotated[str, about("The folder of the image that was copied.")]
    entries: Annotated[Size, about("How many files, folders and others it has.")]
    media_type: Annotated[str, about("What the file is.")] = EXT4_TYPE


class Kernel(Struct, frozen=True, omit_defaults=True):
    """A kernel in the cache, in the store or beside an image."""

    name: Annotated[str, about("Its name in the store.")]
    version: Annotated[str, about("As `uname -r` prints it.")]
    architecture: Annotated[str, about("amd64 or arm64.")]
    kernel: Annotated[str, about("The file that Firecracker boots.")]
    vmlinuz: Annotated[str | None, about("The same kernel as a bzImage.")] = None
    initrd: Annotated[str | None, about("The initrd that goes with it.")] = None
    modules: Annotated[str | None, about("Folder of the modules that a boot needs.")] = None
    digest: Annotated[Digest | None, about("Of a kernel in the cache: digest of its folder.")] = None


class Published(Struct, frozen=True, omit_defaults=True):
    """An image in the store: its folder, and the files in it."""

    name: Annotated[str, about("Its name in the store.")]
    path: Annotated[str, about("Its folder.")]
    rootfs: Annotated[str, about("The disk of its root filesystem.")]
    work_seed: Annotated[str | None, about("The disk of its work seed.")] = None
    kernel: Annotated[Kernel | None, about("As the section `kernel`; none: it is chosen at boot.")] = None
    digests: Annotated[
        dict[str, Digest],
        about(
            "Those of its disks, by the names of their files: SHA-256 over the size, and over each piece of 64 KiB"
            " that is not all zeros, after its number (both as 8 bytes, little-endian; the last piece filled up)."
        ),
    ] = {}


class Bundle(Struct, frozen=True):
    """The image as a bundle, one file."""

    path: Annotated[str, about("The file.")]
    sha256: Annotated[str, about("SHA-256 of the file, in hex.")]
    size: Annotated[Size, about("Its bytes.")]
    entry: Annotated[dict[str, str | int], about("Its entry for a catalog: banger-catalog(5).")]


class Vm(Struct, frozen=True, omit_defaults=True):
    """A virtual machine: what it is, how it is, and how to reach it."""

    name: Annotated[str, about("Its name in the store, and its host name.")]
    path: Annotated[str, about("Its folder: vm.json, the disks, sockets and logs.")]
    vmm: Annotated[str, about("Its monitor: qemu or firecracker.")]
    pid: Annotated[int, about("Process of the monitor; 0 if it does not run.")]
    state: Annotated[
        str,
        about("running, stopped or ended, or another word of the monitor, such as paused; as in banger-vm-list(1)."),
    ]
    console: Annotated[str, about("Log of its console.")]
    accelerator: Annotated[str | None, about("kvm or tcg, as of the last start.")] = None
    cpus: Annotated[int | None, about("Virtual CPUs.")] = None
    memory: Annotated[int | None, about("Bytes of memory.")] = None
    publish: Annotated[list[str], about("Forwarded ports: ADDRESS:PORT:GUESTPORT/PROTOCOL.")] = []
    address: Annotated[str | None, about("Its IPv4 address on a tap.")] = None
    boot_seconds: Annotated[float | None, about("Seconds that the last start took, until the agent answered.")] = None
    reason: Annotated[str | None, about("Why it is in its state, if that is known.")] = None


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
