"""bg-chown: check or set owners and modes of the inodes of an ext4 image, in place.

Usage:
  bg-chown [options] [--set=SPEC]... [INPUT]

Arguments:
  INPUT  A manifest with an image and its tree, or an ext4 image; the manifest comes from stdin without it.

Options:
  --check          Change nothing; report what differs, and exit with status 1 if anything does.
  --from=FILE      Take owners and modes from this tree.jsonl instead of the manifest's.
  --set=SPEC       PATH=UID:GID[:MODE]: set these, and nothing else; may be repeated.
  @stage
  @talk

Description:
  Makes owner, group and mode of every inode what the tree says, whoever made the image: the type bits of a mode are
  kept, checksums are brought up to date. What is right already is not written, so running it twice is running it
  once. Everything is checked before the first write: a path that is not there or an id out of range leaves the image
  untouched. While it is edited the image is marked dirty; an image that is not clean is refused.

  With -o the image stays as it is, and a copy is edited.

Examples:
  $ bg-flatten < fetched.json | bg-mkext4 | bg-chown > owned.json
  $ bg-chown --check --from=tree.jsonl rootfs.ext4
  $ bg-chown --set=/srv/www=33:33:0755 --set=/srv/www/index.html=33:33 rootfs.ext4

Exit status:
  0   done
  1   something differs (--check)
  64  the command line is wrong
  65  the input is not what it claims to be, or has no such path
  66  an input is missing or cannot be read
  73  the copy exists already, or cannot be made (-o)
  74  the disk is full or failed
  77  the image may not be written

See also:
  bg-mkext4(1), bg-flatten(1), debugfs(8), banger-manifest(5)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, stage

if TYPE_CHECKING:
    from banger_tools.ext4.image import Image
    from banger_tools.ext4.structures import Inode
    from banger_tools.manifest import Manifest

MAX_ID = 2**32 - 2


class Owner(NamedTuple):
    """What an inode is to be; a mode of None is left as it is, a type of None is not checked."""

    path: bytes
    uid: int
    gid: int
    mode: int | None
    type: str | None = None


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    check: bool
    tree: Path | None
    owners: list[Owner]

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        tree = arguments["--from"]
        specs = arguments["--set"]
        if tree and specs:
            raise errors.BadUsage("--from and --set do not go together")
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            bool(arguments["--check"]),
            Path(tree) if tree else None,
            [parse_spec(spec) for spec in specs],
        )


def parse_spec(spec: str) -> Owner:
    """Parse PATH=UID:GID[:MODE].

    Raises BadUsage naming what is wrong.
    """
    match = re.fullmatch(r"(/.*)=(\d+):(\d+)(?::([0-7]+))?", spec, re.DOTALL)
    if match is None:
        raise errors.BadUsage(f"--set: '{spec}' is not PATH=UID:GID[:MODE]", "for example --set=/etc/shadow=0:42:0640")
    path, uid, gid, mode = match.groups()
    for number in (uid, gid):
        if int(number) > MAX_ID:
            raise errors.BadUsage(f"--set: the id {number} is out of range: {MAX_ID} at most")
    if mode is not None and int(mode, 8) > 0o7777:
        raise errors.BadUsage(f"--set: the mode {mode} has bits of a type: four octal digits at most")
    return Owner(os.fsencode(path), int(uid), int(gid), None if mode is None else int(mode, 8))


def owners_of_tree(path: Path, digest: str | None) -> list[Owner]:
    """Return what a tree says of every inode."""
    from banger_tools import tree

    return [
        Owner(tree.path_bytes(entry), entry.uid, entry.gid, int(entry.mode, 8), entry.type)
        for entry in tree.read(path, digest=digest).entries
        if entry.type != "hardlink"
    ]


class Difference(NamedTuple):
    """An inode that is not what it is to be."""

    number: int
    inode: Inode
    owner: Owner

    @property
    def mode(self) -> int:
        """The whole i_mode that the inode is to have."""
        kept = self.inode.i_mode
        return kept if self.owner.mode is None else kept & 0o170000 | self.owner.mode

    def __str__(self) -> str:
        inode, owner = self.inode, self.owner
        was = f"{inode.i_uid}:{inode.i_gid}:{inode.i_mode & 0o7777:04o}"
        return f"'{os.fsdecode(owner.path)}' is {was}, not {owner.uid}:{owner.gid}:{self.mode & 0o7777:04o}"


def differences(image: Image, owners: Iterable[Owner]) -> Iterator[Difference]:
    """Yield every inode of an image that is not what it is to be.

    Raises BadInput for a path that the image does not have, or has as another type.
    """
    find = _Finder(image)
    for owner in owners:
        number = find(owner.path)
        if number is None:
            raise errors.BadInput(f"'{image.path}' has no '{os.fsdecode(owner.path)}'")
        inode = image.inode(number)
        if owner.type is not None and image.kind(inode) != owner.type:
            kind = image.kind(inode)
            raise errors.BadInput(
                f"'{os.fsdecode(owner.path)}' is a {kind} in '{image.path}', and a {owner.type} in the tree"
            )
        found = Difference(number, inode, owner)
        if (inode.i_uid, inode.i_gid, inode.i_mode) != (owner.uid, owner.gid, found.mode):
            yield found


class _Finder:
    """Path look-up that reads each folder of an image once."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.folders: dict[bytes, dict[bytes, int] | None] = {}

    def __call__(self, path: bytes) -> int | None:
        from banger_tools.ext4.structures import ROOT_INO

        folder, _, name = path.rstrip(b"/").rpartition(b"/")
        if not name:
            return ROOT_INO
        names = self.names(folder)
        return None if names is None else names.get(name)

    def names(self, folder: bytes) -> dict[bytes, int] | None:
        if folder not in self.folders:
            number = self(folder)
            inode = None if number is None else self.image.inode(number)
            known = inode is not None and self.image.kind(inode) == "dir"
            self.folders[folder] = {n.name: n.inode for n in self.image.names(inode)} if inode and known else None
        return self.folders[folder]


def set_owners(image: Image, changes: Sequence[Difference]) -> None:
    """Write owner and mode of inodes, between the marks of an edit; nothing is written if nothing changes."""
    from banger_tools.ext4 import editor

    if not changes:
        return
    with editor.editing(image):
        for change in changes:
            change.inode.i_uid, change.inode.i_gid = change.owner.uid, change.owner.gid
            change.inode.i_mode = change.mode
            editor.write_inode(image, change.number, change.inode)


def wanted_owners(options: Options, manifest: Manifest) -> list[Owner]:
    """Return what the inodes are to be: from --set, from the tree of --from, or from the manifest's tree.

    Raises BadUsage if nothing of these is there.
    """
    from banger_tools.manifest import Tree

    if options.owners:
        return options.owners
    if options.tree:
        return owners_of_tree(options.tree, None)
    if not manifest.has("rootfs"):
        raise errors.BadUsage("an ext4 image comes without a tree", "say what to set with --from=TREE or --set=SPEC")
    section = manifest.get("tree", Tree)
    return owners_of_tree(Path(section.path), section.digest)


def work(arguments: dict[str, Any]) -> int:
    """Compare the image with what it is to be, and set what differs."""
    options = Options.from_arguments(arguments)
    manifest, source = stage.input_image(options.input)
    owners = wanted_owners(options, manifest)
    if options.check:
        return check(source, owners)
    from msgspec import structs

    from banger_tools.ext4.image import opened
    from banger_tools.manifest import Ownership, Rootfs

    with stage.edited(source, options.outputs) as (path, final):
        with console.step("set owners and modes"), opened(path, writable=True) as image:
            changes = list(differences(image, owners))
            set_owners(image, changes)
    if manifest.has("rootfs"):
        manifest.put("rootfs", structs.replace(manifest.get("rootfs", Rootfs), path=str(final)))
    manifest.put("ownership", Ownership(checked=len(owners), changed=len(changes)))
    manifest.record("bg-chown", {"set": arguments["--set"]} if arguments["--set"] else {})
    stage.print_result(manifest, final, path_only=options.outputs.path_only)
    return 0


def check(source: Path, owners: Sequence[Owner]) -> int:
    """Report on stderr what differs, and return the exit status."""
    from banger_tools.ext4.image import opened

    with opened(source) as image:
        found = list(differences(image, owners))
    for difference in found:
        console.note(str(difference))
    if found:
        raise errors.Negative(f"{len(found)} of {len(owners)} inodes differ from what they are to be")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-chown."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
