"""bg-seed: copy the home folder of an ext4 image into a work seed, an ext4 file of its own.

Usage:
  bg-seed [options] [INPUT]

Arguments:
  INPUT  A manifest with an image, or an ext4 image; the manifest comes from stdin without it.

Options:
  --home=PATH              The folder to copy [default: /root].
  --flatten-nested         Lift up what a folder of the home's own name in it holds, as in /root/root.
  -s SIZE, --size=SIZE     Size of the seed; by default what it needs and a quarter more, 64M at least.
  --require                Fail if the image has no such folder, or an empty one.
  --optional               Go on with a warning, too, if the seed cannot be made of what the folder holds.
  @stage
  @talk

Description:
  A VM keeps /root on a work disk of its own, made from this seed and grown when the VM is made, so that its root disk
  can be replaced. Everything below the folder is copied exactly: links, owners, modes, times, extended attributes,
  ACLs, devices, holes. The root of the seed has the mode of the folder, but belongs to 0:0 and lets nobody else write
  to it, as sshd asks of a home. A home that is a symlink is followed inside the image. Sockets are left out with a
  warning. The seed has a lost+found, as the first e2fsck would make one. Nothing is mounted, and the image is only
  read.

  Without the folder, or with an empty one, there is a warning, and the manifest's work_seed is null with the reason:
  an image can be published without a seed, and /root of its VMs begins empty. A folder that is damaged, or that no
  seed can hold, is an error, after which the manifest of the stage before can be published as it is; with --optional,
  as `banger image pull` has it, that is a warning as well.

  Other tools have put the home itself, not what it holds, into a work disk: its VMs then have /root/root. With
  --flatten-nested a folder in the home that has the name of the home is taken for that. What it holds is lifted up,
  its mode becomes the seed's, and it goes; again, if there is one more in it. A folder that both have becomes one,
  with owner, mode and times of the nested one; any other name that both have is an error, and nothing is lost. Such a
  disk is itself an INPUT: with --home=/ and --flatten-nested it becomes a seed as it should have been.

Examples:
  $ bg-inject < owned.json | bg-seed > seeded.json
  $ bg-seed --path -o home.ext4 --home=/home/me rootfs.ext4
  $ bg-seed --path -o mended.ext4 --home=/ --flatten-nested work.ext4

Exit status:
  0   done
  64  the command line is wrong, or the size too small
  65  the input is not what it claims to be, has no such folder (--require), or a name twice (--flatten-nested)
  66  an input is missing or cannot be read
  69  mke2fs is not installed
  73  the seed exists already, or cannot be made
  74  the disk is full or failed

See also:
  bg-inject(1), bg-publish(1), bg-boot(1), banger-manifest(5)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, sizes, stage

if TYPE_CHECKING:
    from banger_tools.ext4.image import Image
    from banger_tools.manifest import Manifest
    from banger_tools.tree import Tree

LEAST_SIZE = 64 << 20
LABEL = "banger-work"


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    home: str
    size: int | None
    require: bool
    optional: bool
    flatten_nested: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        home, size = arguments["--home"], arguments["--size"]
        if not home.startswith("/"):
            raise errors.BadUsage(f"--home: '{home}' is not an absolute path in the image")
        if arguments["--require"] and arguments["--optional"]:
            raise errors.BadUsage("--require and --optional exclude each other")
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            home,
            sizes.parse(size, "--size") if size else None,
            bool(arguments["--require"]),
            bool(arguments["--optional"]),
            bool(arguments["--flatten-nested"]),
        )


class NoHome(Exception):
    """There is nothing to copy; the message says why."""


def find_home(image: Image, home: str) -> int:
    """Return the inode number of the home folder.

    Raises NoHome if it is missing or no folder.
    """
    number = image.resolve(os.fsencode(home), follow=True)
    if number is None:
        dangling = image.lookup(os.fsencode(home)) is not None
        raise NoHome(f"'{home}' of the image is a symlink to nowhere" if dangling else f"the image has no '{home}'")
    if image.kind(image.inode(number)) != "dir":
        raise NoHome(f"'{home}' of the image is no folder")
    return number


def home_tree(image: Image, options: Options) -> Tree:
    """Return the tree of the home folder, its root owned by 0:0.

    Raises NoHome if it is missing, no folder, or empty.
    """
    import msgspec

    from banger_tools.ext4 import subtree
    from banger_tools.tree import SourceFile, Tree

    entries = subtree.entries(image, find_home(image, options.home))
    if options.flatten_nested:
        entries = subtree.without_nested(entries, nested_name(options.home))
    if all(entry.path in ("/", "/lost+found") for entry in entries):
        raise NoHome(f"'{options.home}' of the image is empty")
    # sshd's StrictModes wants the home to be root's own, and nobody else to write to it.
    entries[0].uid = entries[0].gid = 0
    entries[0].mode = f"{int(entries[0].mode, 8) & ~0o022:04o}"
    source = SourceFile(str(image.path), size=os.fstat(image.descriptor).st_size)
    # The names of xattrs may be no UTF-8, which only this json can write down.
    text = json.dumps(msgspec.to_builtins(entries))
    identity = hashlib.sha256(image.superblock.s_uuid + text.encode()).hexdigest()
    return Tree([source], entries, identity)


def nested_name(home: str) -> bytes:
    """Return the name that a nested home has: the last of the home's own, `root` for a whole work disk."""
    return os.fsencode(os.path.basename(os.path.normpath(home)) or "root")


def make(source: Path, artifact: Path, options: Options) -> tuple[Any, int]:
    """Make the seed of an image; return what was built and how many entries it has.

    Raises NoHome if there is nothing to copy.
    """
    from banger_tools.ext4 import builder
    from banger_tools.ext4.image import opened

    with opened(source) as image:
        tree = home_tree(image, options)
    wanted = builder.Wanted(options.size, LABEL, least=LEAST_SIZE)
    with options.outputs.making(artifact) as temporary:
        return builder.build(temporary, tree, wanted), len(tree.entries)


def work(arguments: dict[str, Any]) -> None:
    """Read the image, make the seed, print the manifest."""
    options = Options.from_arguments(arguments)
    artifact = options.outputs.artifact("work-seed.ext4")
    files.refuse_existing(artifact, force=options.outputs.force)
    manifest, source = stage.input_image(options.input)
    manifest.raw.pop("work_seed_reason", None)
    try:
        with console.step("made the work seed"):
            built, count = make(source, artifact, options)
    except (NoHome, errors.BadInput, errors.IOFailure) as error:
        if not isinstance(error, NoHome) and not options.optional:
            raise
        _without_seed(manifest, str(error), required=options.require)
        stage.print_result(manifest, "", path_only=options.outputs.path_only)
        return
    from banger_tools.manifest import WorkSeed

    manifest.put("work_seed", WorkSeed(str(artifact), built.size, built.uuid, options.home, count))
    given = {"flatten-nested": True} if options.flatten_nested else {}
    manifest.record("bg-seed", {"home": options.home, **given})
    stage.print_result(manifest, artifact, path_only=options.outputs.path_only)


def _without_seed(manifest: Manifest, reason: str, *, required: bool) -> None:
    if required:
        raise errors.BadInput(f"no work seed: {reason}")
    console.warning(f"no work seed: {reason}; /root of the VMs will begin empty")
    manifest.raw["work_seed"] = None
    manifest.raw["work_seed_reason"] = reason
    manifest.record("bg-seed", {})


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-seed."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
