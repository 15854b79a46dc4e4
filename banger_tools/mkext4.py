"""bg-mkext4: make an ext4 image from a tree, without root, mount or extraction.

Usage:
  bg-mkext4 [options] [INPUT]

Arguments:
  INPUT  A manifest with a tree, a tree.jsonl, a tar, or a folder; the manifest comes from stdin without it.

Options:
  -s SIZE, --size=SIZE     Size of the image, as in 4G (4 GiB); by default what the tree needs and a quarter more, 1G at
                           least.
  --free=SIZE              Choose the size so that so much stays free for files.
  --minimal                Choose the least size that holds the tree, in whole MiB; nothing is spared for more.
  --inodes=N               Number of inodes, used ones too; by default one per 16K, and a quarter more than needed.
  --no-journal             Make a filesystem without a journal.
  --features=LIST          Features to add, or to leave out with ^, as in mke2fs -O: '^metadata_csum,verity'.
  -L NAME, --label=NAME    Label of the filesystem, 16 bytes at most.
  -U UUID, --uuid=UUID     UUID of the filesystem; by default it follows from the tree.
  @stage
  @talk

Description:
  mke2fs lays out an empty filesystem that fits the tree: 4 KiB blocks, journal, checksums, hashed folders, nothing
  reserved. Then the tree is written into it in one pass: owners, modes, times to the nanosecond, hardlinks, devices,
  extended attributes, ACLs and holes. File data goes straight from the layers into the image. Nothing is extracted
  or mounted, and no right is needed. Tars and folders are read as bg-flatten(1) says: compressed ones too, an ordinary
  user's own files become root's, and what is mounted below a folder is left out.

  The same tree gives the same bytes, whoever makes the image, where and when. SOURCE_DATE_EPOCH sets the time that
  the filesystem says it was made at. The file is sparse: free space takes no room on the disk.

  A --size that is too small is refused before anything is written, with the least size that does. Where the room is
  scarce, as with --minimal, there are only as many inodes as the tree needs, and the journal is as small as can be.
  Room that --free asks for is what df(1) shows as available; the kernel keeps a little more for itself.

  Features that may be added are ea_inode, fast_commit, large_dir, metadata_csum_seed and verity. Those that may be
  left out, for an old kernel or boot loader, are has_journal, resize_inode, 64bit, flex_bg and metadata_csum. All
  others are refused: the image would be wrong, or the programs that edit it would no longer know it.

Examples:
  $ bg-fetch debian:bookworm | bg-flatten | bg-mkext4 --size=4G > made.json
  $ bg-mkext4 --path -o rootfs.ext4 tree.jsonl
  $ bg-mkext4 -o data.ext4 --free=500M backup.tar
  $ bg-mkext4 -o home.ext4 -L home ./home
  $ bg-mkext4 -o readonly.ext4 --minimal --no-journal backup.tar

Exit status:
  0   done
  64  the command line is wrong, or the size too small
  65  the input is not what it claims to be, holds what ext4 cannot, or changed while it was read
  66  an input is missing
  69  mke2fs is not installed
  73  the image exists already, or cannot be made
  74  the disk is full or failed
  77  a file may not be read

See also:
  bg-flatten(1), bg-chown(1), bg-inject(1), mke2fs(8), banger-manifest(5)
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, identify, lease, merging, sizes, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.tree import Tree


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    size: int | None
    free: int | None
    minimal: bool
    inodes: int | None
    features: tuple[str, ...]
    label: str
    uuid: uuid.UUID | None

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        _refuse_contradiction(arguments)
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            _size(arguments, "--size"),
            _size(arguments, "--free"),
            bool(arguments["--minimal"]),
            _inodes(arguments["--inodes"]),
            _features(arguments),
            _label(arguments["--label"] or ""),
            _uuid(arguments["--uuid"]),
        )

    def record(self) -> dict[str, Any]:
        """Return the options that shape the image."""
        wanted = self._asdict() | {
            "uuid": str(self.uuid) if self.uuid else None,
            "features": ",".join(self.features),
            "input": None,
            "outputs": None,
        }
        return {name: value for name, value in wanted.items() if value}


def _refuse_contradiction(arguments: dict[str, Any]) -> None:
    given = [name for name in ("--size", "--free", "--minimal") if arguments[name]]
    if len(given) > 1:
        raise errors.BadUsage(f"{given[0]} and {given[1]} exclude each other")


def _size(arguments: dict[str, Any], option: str) -> int | None:
    text = arguments[option]
    return sizes.parse(text, option) if text is not None else None


def _inodes(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) < 1 << 32:
        raise errors.BadUsage(f"--inodes: '{text}' is not a number of inodes")
    return int(text)


def _features(arguments: dict[str, Any]) -> tuple[str, ...]:
    """Return the words of --features that are not empty, and what --no-journal stands for."""
    words = [word for word in (arguments["--features"] or "").split(",") if word]
    return (*words, *(["^has_journal"] if arguments["--no-journal"] else []))


def _label(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise errors.BadUsage(f"--label: '{text}' is not UTF-8") from None
    if size > 16:
        raise errors.BadUsage(f"--label: '{text}' has more than 16 bytes")
    return text


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
    if kind != identify.MANIFEST and path is not None:
        part = merging.part_of(path, kind, "a manifest, a tree, a tar or a folder")
        merged = merging.merge([part], merging.Rules(), literal=kind == identify.FOLDER)
        return manifest.Manifest(), tree.identified(merged.sources, merged.entries)
    given = stage.read_manifest(path)
    section = given.get("tree", manifest.Tree)
    found = stage.check_artifact(section.path, section.size, "the tree")
    with console.step("read the tree"):
        return given, tree.read(found, digest=section.digest)


@lease.held()
def work(arguments: dict[str, Any]) -> None:
    """Read the tree, build the image, print the manifest."""
    options = Options.from_arguments(arguments)
    from banger_tools.ext4 import builder, features, seal  # before the input is read: the stage before may still work
    from banger_tools.manifest import Rootfs, Tree

    chosen = features.chosen(options.features)
    artifact = options.outputs.artifact("rootfs.ext4")
    files.refuse_existing(artifact, force=options.outputs.force)
    manifest, tree = read_input(options.input)
    for source in tree.sources:
        lease.use_cached(Path(source.path))
    wanted = builder.Wanted(
        options.size,
        options.label,
        options.uuid,
        free=options.free,
        minimal=options.minimal,
        inodes=options.inodes,
        features=chosen,
    )
    with options.outputs.making(artifact) as temporary:
        built = builder.build(temporary, tree, wanted)
        if manifest.has("tree"):
            inodes = sum(entry.type != "hardlink" for entry in tree.entries)
            seal.put(temporary, manifest.get("tree", Tree).digest, inodes)
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
