"""Replaying the layers of an image on a tree in memory, with exactly the semantics of a container runtime.

Nothing is extracted: a node holds what a header said and where its data stands. Rules: OCI image-spec, "Image Layer
Filesystem Changeset". Where that is silent, what umoci and containerd do; docs/layers.md says what was chosen and why
where these differ, or are no model.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from banger_tools import console, errors, tar, tree
from banger_tools.tar import DIR, HARDLINK, SYMLINK, Member

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
RESERVED = b".wh..wh."  # AUFS bookkeeping, never content
MAX_LINKS_FOLLOWED = 40  # as the kernel's MAXSYMLINKS


class Limits(NamedTuple):
    """Bounds against hostile archives."""

    entries: int = 10_000_000
    xattr_bytes: int = 64 << 10
    depth: int = 1000
    path_bytes: int = 2 << 30  # an entry of half a kilobyte may have a path of four
    steps: int = 10_000_000  # through the targets of symlinks, each of which may have two thousand: some two seconds


class Node:
    """An inode of the tree: what its header said, the number of its archive, and for a folder its children by name."""

    __slots__ = ("children", "member", "source", "type")

    def __init__(self, member: Member, source: int) -> None:
        self.type = member.type
        self.member = member
        self.source = source
        self.children: dict[bytes, Node] = {}


def _implied() -> Node:
    """Return a folder that some entry needs but no header describes."""
    return Node(Member(b"", DIR, 0o755, 0, 0, (0, 0), 0, b"", None, None, 0, None), 0)


class Refused(errors.BadInput):
    """An entry that no runtime would accept; the message names it."""


class Replay:
    """The merged tree so far; `apply` one layer after the other, oldest first."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 - immutable
        self.root = _implied()
        self.whiteouts = True  # else a name that begins with `.wh.` is a name like any other
        self.limits = limits
        self.entries = 0
        self.layer = -1
        # (id of the folder, name) of everything that the current layer made: what it hides is only what is older.
        self.upper: set[tuple[int, bytes]] = set()
        # The ids of folders that hold nothing older any more: a marker that is repeated costs nothing.
        self.cleared: set[int] = set()
        self.parents: dict[bytes, Node] = {}
        self.steps = 0

    def apply(self, members: Iterable[Member], source: int) -> None:
        """Replay one layer, whose data is the source numbered `source`.

        Raises Refused or extensions.Corrupt, naming the entry.
        """
        self.layer += 1
        self.upper.clear()
        self.cleared.clear()
        self.parents.clear()
        for member in members:
            self.entries += 1
            if self.entries > self.limits.entries:
                raise Refused(f"more than {self.limits.entries} entries")
            self.add(member, source)

    def add(self, member: Member, source: int) -> None:
        """Replay one entry."""
        folder, name = _split(member.name)
        if len(member.name) > tree.MAX_PATH:
            raise Refused(
                f"a path has {len(member.name)} bytes, {tree.MAX_PATH} at most: '{_shown(member.name[:60])}…'"
            )
        if member.xattrs:
            self.check_xattrs(member, member.xattrs)
        if name is None:
            self.replace_root(member)
            return
        if name.startswith(WHITEOUT) and self.whiteouts:
            self.whiteout(folder, name)
            return
        parent = self.parents.get(folder)
        if parent is None:
            parent = self.parents[folder] = self.walk(folder, member.name)
        self.place(parent, name, self.node(parent, name, member, source))

    def check_xattrs(self, member: Member, xattrs: dict[str, bytes]) -> None:
        """Refuse xattrs that are too large, or whose names no filesystem (or no JSON) can hold."""
        if sum(map(len, xattrs.values())) > self.limits.xattr_bytes:
            raise Refused(f"'{_shown(member.name)}' has more than {self.limits.xattr_bytes} bytes of xattrs")
        for name in xattrs:
            exact = os.fsencode(name)
            if not 0 < len(exact) <= tree.MAX_NAME or b"\0" in exact or tree.text_of(exact)[1]:
                raise Refused(f"'{_shown(member.name)}' has an xattr of the name {exact[:60]!r}")

    def node(self, parent: Node, name: bytes, member: Member, source: int) -> Node:
        """Return the node that a header stands for: a new one, the folder that is there, or a link's target."""
        if member.type == HARDLINK:
            self.discard(parent, name)  # as runtimes do before they link: a name cannot be a link to itself
            return self.link_target(member)
        old = parent.children.get(name)
        if member.type == DIR and old is not None and old.type == DIR:
            old.member = member
            return old
        if member.type == SYMLINK and not member.link:
            raise Refused(f"symlink '{_shown(member.name)}' has no target")
        return Node(member, source)

    def place(self, parent: Node, name: bytes, node: Node) -> None:
        """Give a node a name, in place of whatever had it."""
        old = parent.children.get(name)
        if old is not node and old is not None and old.type in (DIR, SYMLINK):
            self.parents.clear()  # what was reached through the old one is reached no more
        parent.children[name] = node
        if self.layer:
            self.upper.add((id(parent), name))

    def replace_root(self, member: Member) -> None:
        if member.type != DIR:
            raise Refused("the root of the tree is not a folder")
        self.root.member = member

    def discard(self, parent: Node, name: bytes) -> None:
        if parent.children.pop(name, None) is not None:
            self.parents.clear()

    def link_target(self, member: Member) -> Node:
        """Return the node that a hardlink names; its parents may be symlinks, itself is never followed."""
        folder, name = _split(member.link)
        parent = self.find(folder) if name is not None else None
        target = parent.children.get(name) if parent is not None and name is not None else None
        if target is None:
            raise Refused(f"hardlink '{_shown(member.name)}' to '{_shown(member.link)}', which is not there")
        if target.type == DIR:
            raise Refused(f"hardlink '{_shown(member.name)}' to the folder '{_shown(member.link)}'")
        return target

    def walk(self, folder: bytes, entry: bytes) -> Node:
        """Return the folder at a path, following symlinks inside the root and making what is missing."""
        return self.resolve(folder, entry, make=True) or self.root

    def find(self, folder: bytes) -> Node | None:
        """Return the folder at a path, or None if there is none."""
        return self.resolve(folder, folder, make=False)

    def resolve(self, folder: bytes, entry: bytes, *, make: bool) -> Node | None:
        """Walk to a folder as chroot'ed path resolution would; `entry` is what errors name.

        Beyond a name that is missing or no folder, what is left of a symlink's target is only read, as runtimes do: of
        `missing/x/..` only `missing` is made.
        """
        pending = folder.split(b"/")[::-1]
        trail = [self.root]
        names: list[bytes] = []
        beyond: list[bytes] = []
        followed = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":  # only out of a symlink's target: entries with it were refused
                if beyond:
                    beyond.pop()
                elif names:
                    trail.pop()
                    names.pop()
                continue
            child = None if beyond else trail[-1].children.get(name)
            if child is None or child.type not in (DIR, SYMLINK):
                beyond.append(name)
            elif child.type == SYMLINK:
                followed += 1
                if followed > MAX_LINKS_FOLLOWED:
                    raise Refused(f"'{_shown(entry)}' is below a loop of symlinks")
                target = child.member.link
                pending += self.spend(target.split(b"/"))[::-1]
                if target.startswith(b"/"):
                    del trail[1:], names[:]
            else:
                trail.append(child)
                names.append(name)
        if not make:
            return None if beyond else trail[-1]
        return self.make(trail, names, beyond, entry)

    def spend(self, parts: list[bytes]) -> list[bytes]:
        """Return the parts of a symlink's target, of which all that are followed may have so many together."""
        self.steps += len(parts)
        if self.steps > self.limits.steps:
            raise Refused(f"its symlinks lead through more than {self.limits.steps} folders")
        return parts

    def make(self, trail: list[Node], names: list[bytes], missing: list[bytes], entry: bytes) -> Node:
        """Make the folders that a trail lacks at its end, and return the last; all of it counts as of this layer."""
        if len(trail) + len(missing) > self.limits.depth:
            raise Refused(f"'{_shown(entry[:100])}…' is more than {self.limits.depth} folders deep")
        for name in missing:
            if name in trail[-1].children:
                raise Refused(f"'{_shown(entry)}' is below '{_shown(name)}', which is no folder")
            child = trail[-1].children[name] = _implied()
            trail.append(child)
        if self.layer:
            self.upper.update((id(parent), name) for parent, name in zip(trail, names + missing, strict=False))
        return trail[-1]

    def whiteout(self, folder: bytes, name: bytes) -> None:
        """Hide what older layers put at a name, or with an opaque marker in a whole folder.

        A marker hides only what is older than its layer, wherever it stands in it; a whiteout of nothing is fine.
        """
        parent = self.find(folder)
        hidden = name.removeprefix(WHITEOUT)
        if name == OPAQUE:
            if parent is not None:
                self.hide_children(parent)
        elif name.startswith(RESERVED):
            console.warning(f"ignored '{_shown(name)}', which is not content")
        elif hidden in (b"", b".", b".."):
            raise Refused(f"whiteout '{_shown(folder + b'/' + name)}' names nothing")
        elif parent is not None and hidden in parent.children:
            self.hide(parent, hidden)
        self.parents.clear()

    def hide(self, parent: Node, name: bytes) -> None:
        """Take away what older layers put at a name."""
        child = parent.children[name]
        if (id(parent), name) not in self.upper:
            if self.layer:
                del parent.children[name]
        elif child.type == DIR:
            self.hide_children(child)

    def hide_children(self, folder: Node) -> None:
        """Take away what older layers put into a folder, and into those that this layer put there."""
        pending = [folder]
        while pending:
            inner = pending.pop()
            if id(inner) in self.cleared:
                continue
            self.cleared.add(id(inner))
            for name, child in list(inner.children.items()):
                if (id(inner), name) in self.upper:
                    pending += [child] if child.type == DIR else []
                elif self.layer:
                    del inner.children[name]

    def exclude(self, excluded: Callable[[bytes, bool], bool]) -> None:
        """Take out the names, and all that is below them, for which `excluded(path, is a folder)` is true.

        An inode stays as long as one of its names does.
        """
        stack: list[tuple[bytes, Node]] = [(b"/", self.root)]
        while stack:
            prefix, folder = stack.pop()
            for name, child in list(folder.children.items()):
                if excluded(prefix + name, child.type == DIR):
                    del folder.children[name]
                elif child.type == DIR:
                    stack.append((prefix + name + b"/", child))

    def tree_entries(self) -> list[tree.Entry]:
        """Return the merged tree: folders before what is in them, the first of several names has the inode."""
        found: list[tree.Entry] = []
        path_bytes = 0
        first_names: dict[int, bytes] = {}
        stack: list[tuple[bytes, Node]] = [(b"/", self.root)]
        while stack:
            path, node = stack.pop()
            path_bytes += len(path)
            if path_bytes > self.limits.path_bytes:
                raise Refused(f"its paths have more than {self.limits.path_bytes} bytes together")
            found.append(_entry(path, node, first_names))
            if node.children:
                prefix = path if path == b"/" else path + b"/"
                stack += [(prefix + name, node.children[name]) for name in sorted(node.children, reverse=True)]
        return found


def _entry(path: bytes, node: Node, first_names: dict[int, bytes]) -> tree.Entry:
    if len(path) > tree.MAX_PATH:
        raise Refused(f"a path has {len(path)} bytes, {tree.MAX_PATH} at most: '{_shown(path[:100])}…'")
    kind = node.type
    if kind != DIR:
        first = first_names.setdefault(id(node), path)
        if first is not path:
            link = tree.new_entry(path, HARDLINK)
            link.target, link.target_b64 = tree.text_of(first)
            return link
    member = node.member
    entry = tree.new_entry(path, kind)
    entry.mode = f"{member.mode:04o}" if kind != SYMLINK else "0777"  # nothing else can be set on Linux
    entry.uid, entry.gid, entry.mtime = member.uid, member.gid, member.mtime
    if kind == tar.FILE:
        entry.size, entry.segments = member.size, member.segments
        if member.size:
            entry.data = (node.source, member.offset)
    elif kind == SYMLINK:
        entry.target, entry.target_b64 = tree.text_of(member.link)
    elif member.rdev is not None:
        entry.rdev = member.rdev
    if member.xattrs:
        entry.xattrs = {name: base64.b64encode(member.xattrs[name]).decode() for name in sorted(member.xattrs)}
    return entry


def _split(path: bytes) -> tuple[bytes, bytes | None]:
    """Return the folder and the last name of an entry's path; (b"", None) is the root.

    Raises Refused for what can only be an attack or a mistake.
    """
    if path.startswith(b"./"):
        path = path[2:]  # how all names begin where a whole folder was packed
    folder, _, name = path.rpartition(b"/")
    if name in (b"", b".", b"..") or b"/." in path or path.startswith(b".") or b"//" in path:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise Refused(f"'{_shown(path)}' has a '..' component")
        if not parts:
            return b"", None
        folder, name = b"/".join(parts[:-1]), parts[-1]
    if len(name) > tree.MAX_NAME:
        raise Refused(f"a name has {len(name)} bytes, {tree.MAX_NAME} at most: '{_shown(name[:60])}…'")
    return folder, name


def _shown(name: bytes) -> str:
    return os.fsdecode(name)


def merge(
    archives: Iterable[tuple[str, Iterator[Member]]],
    limits: Limits = Limits(),  # noqa: B008 - immutable
    *,
    literal: bool = False,
) -> Replay:
    """Replay archives, oldest first; each is a label for errors and its members.

    With `literal` the first is no layer: names in it that look like whiteouts are names. Raises BadInput that names the
    layer and the entry.
    """
    replay = Replay(limits)
    for number, (label, members) in enumerate(archives):
        replay.whiteouts = number > 0 or not literal
        try:
            replay.apply(members, number)
        except errors.BadInput as error:
            raise errors.BadInput(f"{label}: {error.message}", error.hint) from error
    return replay
