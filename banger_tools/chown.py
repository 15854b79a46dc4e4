"""bg-chown: check or set owners and modes of the inodes of an ext4 image, in place.

Usage:
  bg-chown [options] [--set=SPEC]... [--map-uid=MAP]... [--map-gid=MAP]... [INPUT]

Arguments:
  INPUT  A manifest with an image and its tree, or an ext4 image; the manifest comes from stdin without it.

Options:
  --check          Change nothing; report what differs, and exit with status 1 if anything does.
  --from=FILE      Take owners and modes from this tree, as bg-flatten wrote it; the image may be edited since.
  --map-uid=MAP    A:B:N: the owners A to A+N-1 become B to B+N-1; may be repeated.
  --map-gid=MAP    A:B:N: the groups A to A+N-1 become B to B+N-1; may be repeated.
  --set=SPEC       PATH=UID:GID[:MODE]: set these; may be repeated.
  @stage
  @talk

Description:
  Makes owner, group and mode of every inode what the manifest's tree says, whoever made the image: the type bits of a
  mode are kept, checksums are brought up to date. What is right already is not written, so running it twice is running
  it once. Everything is checked before the first write: a path that is not there, an id out of range or a damaged image
  leaves the image untouched. While it is edited the image is marked dirty; an image that is not clean is refused.

  Of an image that bg-mkext4 made of the manifest's tree, and that nobody wrote to since, nothing is read: it has these
  owners already. A file says so in its extended attribute user.banger.owners, with the time of its last write; --check
  and --from compare all the same.

  With --from the image may have been edited since it was that tree. What only the image has becomes 0:0 and is
  listed; what only the tree has is listed and skipped; a path that is of another type now counts as both. Without
  --from these are errors, but for what only the image has, such as the files of bg-inject: it stays as it is.

  The order is: the tree, then the maps, then --set. With a map or --set and without --from the manifest's tree is not
  read: then maps change what every inode has, and --set nothing but what it names. Ids in no range are kept. Neither
  the ranges A nor the ranges B of an option may overlap. A map whose ranges A and B overlap maps again what it has
  mapped when it runs again; with --from it does not. Ids inside of POSIX ACLs are not mapped.

  The folders of a PATH may be symlinks, as /bin often is; the last name is not followed. An image may be of any block
  size and have any feature of mke2fs 1.43 to 1.47. What is in encrypted folders cannot be named and is refused. Where
  the image keeps quotas, e2fsck counts them again.

  With -o the image stays as it is, and a copy is edited.

Examples:
  $ bg-flatten < fetched.json | bg-mkext4 | bg-chown > owned.json
  $ bg-chown --check --from=tree.jsonl rootfs.ext4
  $ bg-mkext4 --path edited-folder | xargs bg-chown --path --from=tree.jsonl
  $ bg-chown --set=/srv/www=33:33:0755 --set=/srv/www/index.html=33:33 rootfs.ext4
  $ bg-chown --map-uid=0:100000:65536 --map-gid=0:100000:65536 -o shifted.ext4 rootfs.ext4

Exit status:
  0   done
  1   something differs (--check)
  64  the command line is wrong
  65  the input is not what it claims to be, or has no such path
  66  an input is missing or cannot be read
  69  e2fsck is not installed (images with quotas)
  73  the copy exists already, or cannot be made (-o)
  74  the disk is full or failed
  77  the image may not be written

See also:
  bg-mkext4(1), bg-flatten(1), debugfs(8), banger-manifest(5)
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, collection, console, errors, stage

if TYPE_CHECKING:
    from banger_tools.ext4.image import Image
    from banger_tools.ext4.owners import IdMap, Owner, Wanted
    from banger_tools.manifest import Manifest, Ownership
    from banger_tools.tree import Entry

MAX_ID = 2**32 - 2


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    check: bool
    tree: Path | None
    uids: list[IdMap]
    gids: list[IdMap]
    owners: list[Owner]

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        tree = arguments["--from"]
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            bool(arguments["--check"]),
            Path(tree) if tree else None,
            parse_maps("--map-uid", arguments["--map-uid"]),
            parse_maps("--map-gid", arguments["--map-gid"]),
            [parse_spec(spec) for spec in arguments["--set"]],
        )

    @property
    def maps(self) -> bool:
        return bool(self.uids or self.gids)


def parse_spec(spec: str) -> Owner:
    """Parse PATH=UID:GID[:MODE].

    Raises BadUsage naming what is wrong.
    """
    from banger_tools.ext4.owners import Owner

    match = re.fullmatch(r"(/.*)=([0-9]{1,20}):([0-9]{1,20})(?::([0-7]{1,20}))?", spec, re.DOTALL)
    if match is None:
        raise errors.BadUsage(f"--set: '{spec}' is not PATH=UID:GID[:MODE]", "for example --set=/etc/shadow=0:42:0640")
    path, uid, gid, mode = match.groups()
    for number in (uid, gid):
        if int(number) > MAX_ID:
            raise errors.BadUsage(f"--set: the id {number} is out of range: {MAX_ID} at most")
    if mode is not None and int(mode, 8) > 0o7777:
        raise errors.BadUsage(f"--set: the mode {mode} has bits of a type: four octal digits at most")
    return Owner(os.fsencode(path), int(uid), int(gid), None if mode is None else int(mode, 8))


def parse_maps(option: str, texts: Sequence[str]) -> list[IdMap]:
    """Parse the A:B:N of an option.

    Raises BadUsage for a range that is malformed, empty or too long, or overlaps with another one.
    """
    from banger_tools.ext4.owners import IdMap

    maps: list[IdMap] = []
    for text in texts:
        match = re.fullmatch(r"([0-9]{1,20}):([0-9]{1,20}):([0-9]{1,20})", text)
        if match is None:
            raise errors.BadUsage(f"{option}: '{text}' is not A:B:N", f"for example {option}=0:100000:65536")
        one = IdMap(*map(int, match.groups()))
        if one.length == 0 or max(one.first, one.target) + one.length - 1 > MAX_ID:
            raise errors.BadUsage(f"{option}: the range '{text}' is empty or out of range: ids go to {MAX_ID}")
        for other in maps:
            if _overlap(one.first, other.first, one, other) or _overlap(one.target, other.target, one, other):
                raise errors.BadUsage(f"{option}: the range '{text}' overlaps with another one")
        maps.append(one)
    return maps


def _overlap(start: int, other_start: int, one: IdMap, other: IdMap) -> bool:
    return start < other_start + other.length and other_start < start + one.length


def tree_entries(options: Options, manifest: Manifest) -> list[Entry] | None:
    """Return the entries of the tree that counts: that of --from, else the manifest's; None with --set or maps alone.

    Raises BadUsage if nothing of these is there.
    """
    from banger_tools import tree
    from banger_tools.manifest import Tree

    if options.tree:
        return tree.read(options.tree).entries
    if options.owners or options.maps:
        return None
    if not manifest.has("rootfs"):
        hint = "say what to set with --from=TREE, --map-uid, --map-gid or --set"
        raise errors.BadUsage("an ext4 image comes without a tree", hint)
    section = manifest.get("tree", Tree)
    return tree.read(Path(section.path), digest=section.digest).entries


def known(path: Path, options: Options, manifest: Manifest) -> int | None:
    """Return how many inodes are known to be what the manifest's tree says, None unless all are and that is asked for.

    They are if bg-mkext4 made the image of this tree, and nobody wrote to it since.
    """
    from banger_tools.ext4 import seal
    from banger_tools.manifest import Tree

    if options.tree or options.owners or options.maps or not (manifest.has("rootfs") and manifest.has("tree")):
        return None
    return seal.inodes(path, manifest.get("tree", Tree).digest)


def wanted_owners(image: Image, options: Options, entries: Sequence[Entry] | None) -> Wanted:
    """Return what the inodes of an image are to be.

    Raises BadInput for a path that the image does not have.
    """
    from banger_tools.ext4.owners import Wanted

    wanted = Wanted(image)
    if entries is not None:
        wanted.take_tree(entries, edited=options.tree is not None)
    elif options.maps:
        wanted.take_all()
    wanted.map_ids(options.uids, options.gids)
    wanted.take_one_by_one(options.owners)
    return wanted


def settle(path: Path, options: Options, entries: Sequence[Entry] | None) -> Ownership:
    """Make the inodes of an image what they are to be, and list where it and the tree of --from do not meet."""
    from banger_tools.ext4 import editor
    from banger_tools.ext4.image import opened
    from banger_tools.manifest import Ownership

    with collection.paused(), opened(path, alone=True) as image:
        wanted = wanted_owners(image, options, entries)
        differences = wanted.differences()
        if differences:
            changes = {one.number: (one.mode, one.owner.uid, one.owner.gid) for one in differences}
            with opened(path, writable=True) as target:
                editor.set_owners(target, changes)
    report(wanted)
    return Ownership(len(wanted.owners), len(differences), len(wanted.new), len(wanted.missing))


def work(arguments: dict[str, Any]) -> int:
    """Compare the image with what it is to be, and set what differs."""
    from msgspec import structs

    from banger_tools.ext4 import seal  # noqa: F401 - loaded while the stage before still works
    from banger_tools.manifest import Ownership, Rootfs

    options = Options.from_arguments(arguments)
    manifest, source = stage.input_image(options.input)
    if options.check:
        return check(source, options, tree_entries(options, manifest))
    sealed = known(source, options, manifest)
    entries = tree_entries(options, manifest) if sealed is None else None
    with stage.edited(source, options.outputs) as (path, final):
        if sealed is None:
            with console.step("set owners and modes"):
                manifest.put("ownership", settle(path, options, entries))
        else:
            console.detail("nobody wrote to the image since bg-mkext4 gave it the owners and modes of this tree")
            manifest.put("ownership", Ownership(sealed, 0))
    if manifest.has("rootfs"):
        manifest.put("rootfs", structs.replace(manifest.get("rootfs", Rootfs), path=str(final)))
    given = {name[2:]: arguments[name] for name in ("--map-uid", "--map-gid", "--set") if arguments[name]}
    manifest.record("bg-chown", given)
    stage.print_result(manifest, final, path_only=options.outputs.path_only)
    return 0


def report(wanted: Wanted) -> None:
    """List on stderr where the image and the tree of --from do not meet."""
    for path in wanted.new:
        console.note(f"only in the image, belongs to root now: '{os.fsdecode(path)}'")
    report_missing(wanted)


def report_missing(wanted: Wanted) -> None:
    """List on stderr what only the tree of --from has."""
    for path in wanted.missing:
        console.note(f"only in the tree, or of another type there: '{os.fsdecode(path)}'")


def check(source: Path, options: Options, entries: Sequence[Entry] | None) -> int:
    """Report on stderr what differs, and return the exit status."""
    from banger_tools.ext4.image import opened

    with opened(source) as image:
        wanted = wanted_owners(image, options, entries)
        found = wanted.differences()
    for difference in found:
        console.note(str(difference))
    report_missing(wanted)
    if found or wanted.missing:
        total = len(wanted.owners) + len(wanted.missing)
        raise errors.Negative(f"{len(found) + len(wanted.missing)} of {total} inodes differ from what they are to be")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-chown."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
