"""bg-mkext4: make an ext4 image from a tree, without root, mount or extraction.

Usage:
  bg-mkext4 [options] [INPUT]

Arguments:
  INPUT  A manifest with a tree, a tree.jsonl, or a plain tar; the manifest comes from stdin without it.

Options:
  -s SIZE, --size=SIZE     Size of the image; by default what the tree needs and a quarter more, 1G at least.
  -L NAME, --label=NAME    Label of the filesystem, 16 bytes at most.
  -U UUID, --uuid=UUID     UUID of the filesystem; by default it follows from the tree.
  @stage
  @talk

Description:
  mke2fs lays out an empty filesystem that fits the tree: 4 KiB blocks, journal, checksums, hashed folders, nothing
  reserved. Then the tree is written into it in one pass: owners, modes, times to the nanosecond, hardlinks, devices,
  extended attributes, ACLs and holes. File data goes straight from the layers into the image. Nothing is extracted
  or mounted, and no right is needed.

  The same tree gives the same bytes, whoever makes the image, where and when. SOURCE_DATE_EPOCH sets the time that
  the filesystem says it was made at. The file is sparse: free space takes no room on the disk.

  A --size that is too small is refused before anything is written, with the least size that does.

Examples:
  $ bg-fetch debian:bookworm | bg-flatten | bg-mkext4 --size=4G > made.json
  $ bg-mkext4 --path -o rootfs.ext4 tree.jsonl
  $ bg-mkext4 -o data.ext4 backup.tar

Exit status:
  0   done
  64  the command line is wrong, or the size too small
  65  the input is not what it claims to be, or holds what ext4 cannot
  66  an input is missing or cannot be read
  69  mke2fs is not installed
  73  the image exists already, or cannot be made
  74  the disk is full or failed

See also:
  bg-flatten(1), bg-chown(1), bg-inject(1), mke2fs(8), banger-manifest(5)
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, identify, sizes, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.tree import Tree


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    size: int | None
    label: str
    uuid: uuid.UUID | None

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        size = arguments["--size"]
        label = arguments["--label"] or ""
        if len(label.encode()) > 16:
            raise errors.BadUsage(f"--label: '{label}' has more than 16 bytes")
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            sizes.parse(size, "--size") if size else None,
            label,
            _uuid(arguments["--uuid"]),
        )

    def record(self) -> dict[str, Any]:
        """Return the options that shape the image."""
        wanted = {"size": self.size, "label": self.label, "uuid": str(self.uuid) if self.uuid else None}
        return {name: value for name, value in wanted.items() if value}


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text) if text else None
    except ValueError:
        raise errors.BadUsage(f"--uuid: '{text}' is not a UUID") from None


def read_input(argument: str | None) -> tuple[Manifest, Tree]:
    """Return the manifest and the tree that INPUT is or stands for."""
    from banger_tools import manifest, tree

    kind, path = stage.open_input(argument)
    if kind == identify.TREE and path is not None:
        return manifest.Manifest(), tree.read(path)
    if kind == identify.TAR and path is not None:
        return _tree_of_tar(path)
    if kind != identify.MANIFEST:
        raise stage.wrong_input(path, kind, "a manifest, a tree or a tar")
    given = stage.read_manifest(path)
    section = given.get("tree", manifest.Tree)
    found = stage.check_artifact(section.path, section.size, "the tree")
    with console.step("read the tree"):
        return given, tree.read(found, digest=section.digest)


def _tree_of_tar(path: Path) -> tuple[Manifest, Tree]:
    from banger_tools import layers, manifest, tar, tree

    with open(path, "rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        merged = layers.merge([(f"'{path}'", tar.members(file.fileno(), vouched=False))])
    source = tree.SourceFile(str(path), digest, path.stat().st_size)
    return manifest.Manifest(), tree.Tree([source], merged.tree_entries(), digest)


def work(arguments: dict[str, Any]) -> None:
    """Read the tree, build the image, print the manifest."""
    options = Options.from_arguments(arguments)
    artifact = options.outputs.artifact("rootfs.ext4")
    files.refuse_existing(artifact, force=options.outputs.force)
    manifest, tree = read_input(options.input)
    from banger_tools.ext4 import builder
    from banger_tools.manifest import Rootfs

    wanted = builder.Wanted(options.size, options.label, options.uuid)
    with files.atomic(artifact, force=options.outputs.force) as temporary:
        built = builder.build(temporary, tree, wanted)
    manifest.put(
        "rootfs", Rootfs(str(artifact), built.size, built.uuid, built.label, built.free_bytes, built.free_inodes)
    )
    manifest.record("bg-mkext4", options.record())
    stage.print_result(manifest, artifact, path_only=options.outputs.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-mkext4."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
