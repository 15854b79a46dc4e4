"""What owners and modes the inodes of an image are to have: those of a tree, shifted by maps, or set one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from banger_tools import errors, tree
from banger_tools.ext4 import structures as s
from banger_tools.ext4.image import KINDS, Image
from banger_tools.ext4.walk import quoted, walk
from banger_tools.tree import Entry

LOST_FOUND = b"/lost+found"
FORMATS = {kind: s_ifmt for s_ifmt, kind in KINDS.items()}


class Owner(NamedTuple):
    """What an inode is to be; a mode of None is left as it is."""

    path: bytes
    uid: int
    gid: int
    mode: int | None = None

    def agrees_with(self, other: Owner) -> bool:
        """Tell whether two names ask the same of their inode."""
        return self[1:] == other[1:]


class IdMap(NamedTuple):
    """A range of ids: `first` … `first + length - 1` become `target` …, as in a user namespace."""

    first: int
    target: int
    length: int


class Difference(NamedTuple):
    """An inode that is not what it is to be: i_mode, owner and group as they are, and what they are to be."""

    number: int
    found: tuple[int, int, int]
    owner: Owner

    @property
    def mode(self) -> int:
        """The whole i_mode that the inode is to have."""
        kept = self.found[0]
        return kept if self.owner.mode is None else kept & s.S_IFMT | self.owner.mode

    def __str__(self) -> str:
        mode, uid, gid = self.found
        owner = self.owner
        was, wanted = f"{uid}:{gid}:{mode & 0o7777:04o}", f"{owner.uid}:{owner.gid}:{self.mode & 0o7777:04o}"
        return f"{quoted(owner.path)} is {was}, not {wanted}"


def mapped(number: int, maps: Sequence[IdMap]) -> int:
    """Return what an id becomes; what is in no range stays."""
    for one in maps:
        if one.first <= number < one.first + one.length:
            return number - one.first + one.target
    return number


class Wanted:
    """What the inodes of one image are to be, by their numbers; and where the image and a tree do not meet."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.owners: dict[int, Owner] = {}
        self.new: list[bytes] = []
        self.missing: list[bytes] = []

    def take_tree(self, entries: Iterable[Entry], *, edited: bool) -> None:
        """Ask for what a tree says.

        With `edited` the image was changed since: a path that only the tree has is listed as missing, one that only
        the image has is to belong to 0:0 and listed as new. Else the first is an error, and the second stays as it is.
        """
        expected = _by_path(entries)
        others: list[tuple[bytes, int]] = []
        for path, number, mode, _, _ in walk(self.image):
            entry = expected.get(path)
            if entry is not None and FORMATS[entry.type] == mode & s.S_IFMT:
                del expected[path]
                self.add(number, Owner(path, entry.uid, entry.gid, int(entry.mode, 8)))
            elif entry is not None and not edited:
                raise self.disagreement(path, f"is a {self.image.kind_of(mode)}, and a {entry.type} in the tree")
            else:
                others.append((path, number))
        if edited:
            self._take_new(others)
            self.missing += expected
        elif expected:
            raise self.disagreement(next(iter(expected)), "is in the tree, and not there")

    def _take_new(self, others: Iterable[tuple[bytes, int]]) -> None:
        for path, number in others:
            if number in self.owners:
                continue  # one more name of a file that the tree has
            self.add(number, Owner(path, 0, 0))
            if path != LOST_FOUND:
                self.new.append(path)

    def disagreement(self, path: bytes, how: str) -> errors.BadInput:
        """Return the error for an image that is not the one of the tree."""
        hint = "if it was edited since, name the tree with --from"
        return errors.BadInput(f"'{self.image.path}' is not the image of this tree: {quoted(path)} {how}", hint)

    def take_all(self) -> None:
        """Ask for what the image has already, so that maps have something to map."""
        for path, number, _, uid, gid in walk(self.image):
            self.owners.setdefault(number, Owner(path, uid, gid))

    def map_ids(self, uids: Sequence[IdMap], gids: Sequence[IdMap]) -> None:
        """Map all ids asked for so far."""
        if not uids and not gids:
            return
        for number, owner in self.owners.items():
            self.owners[number] = owner._replace(uid=mapped(owner.uid, uids), gid=mapped(owner.gid, gids))

    def take_one_by_one(self, owners: Iterable[Owner]) -> None:
        """Ask for these instead of what was asked before; symlinks are followed except by the last name.

        Raises BadInput for a path that the image does not have, or for two names of one file that disagree.
        """
        asked: dict[int, Owner] = {}
        for owner in owners:
            number = self.image.resolve(owner.path, follow=False)
            if number is None:
                raise errors.BadInput(f"'{self.image.path}' has no {quoted(owner.path)}")
            self.refuse_conflict(asked.setdefault(number, owner), owner)
        self.owners.update(asked)

    def add(self, number: int, owner: Owner) -> None:
        """Ask for the owner of one inode.

        Raises BadInput if another name of it has asked for something else.
        """
        other = self.owners.setdefault(number, owner)
        if other is not owner:
            self.refuse_conflict(other, owner)

    def refuse_conflict(self, one: Owner, other: Owner) -> None:
        """Raise BadInput if two owners of one inode differ."""
        if not one.agrees_with(other):
            raise errors.BadInput(
                f"{quoted(one.path)} and {quoted(other.path)} are one file in '{self.image.path}', "
                "and cannot have different owners or modes"
            )

    def differences(self) -> list[Difference]:
        """Return the inodes that are not what they are to be, sorted by path."""
        found: list[Difference] = []
        for number, owner in self.owners.items():
            state = self.image.owner(number)
            mode, uid, gid = state
            if uid != owner.uid or gid != owner.gid or owner.mode not in (None, mode & 0o7777):
                found.append(Difference(number, state, owner))
        return sorted(found, key=lambda difference: tree.order(difference.owner.path))


def _by_path(entries: Iterable[Entry]) -> dict[bytes, Entry]:
    """Return the paths of a tree, each with the entry that describes its inode: for a hardlink, its target's."""
    found = {tree.path_bytes(entry): entry for entry in entries}
    for path, entry in found.items():
        if entry.type == "hardlink":
            found[path] = found[tree.target_bytes(entry)]
    return found
