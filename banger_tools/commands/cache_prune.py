"""banger cache prune: remove from the cache what was not used for long.

Usage:
  banger cache prune [options]

Options:
  --keep=AMOUNT  What stays: what was used within a time, as in 12h, 7d or 2w; or what was used last up to a size, as in
                 10G; 0 is nothing [default: 30d].
  --dry-run      Remove nothing, and print what would be removed.
  --json         Print an object: dry_run, removed and spared (each with kind and name), and the bytes freed and left.
  @talk

Description:
  What `banger cache list` lists as one entry stays or goes as a whole; files that it shares with what stays are kept,
  and the OCI layout in the cache stays a valid one. Everything in it can be fetched or made again.

  Nothing goes that a running program uses: while bg-fetch, bg-flatten or bg-mkext4 run, all that was used since the
  first of them began stays; and what was used within the last minute stays always, for a pipe may just be starting.

  Transfers that broke off are kept for a week at most. What programs that were killed left is removed.

Examples:
  $ banger cache prune --dry-run
  $ banger cache prune --keep=10G
  $ banger cache prune --keep=0

Exit status:
  0   done
  64  the command line is wrong
  77  the cache may not be changed

See also:
  banger-cache-list(1) bg-fetch(1)
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import cli, console, errors, inventory, lease, locations, sizes
from banger_tools.apt import workspace
from banger_tools.commands import pruning
from banger_tools.inventory import Entry, Inventory
from banger_tools.oci.cache import RESUMABLE, Cache
from banger_tools.oci.documents import Descriptor

_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}


class Keep(NamedTuple):
    """What stays: what was used within so many seconds, or the last used up to so many bytes."""

    seconds: int | None
    size: int | None = None

    @classmethod
    def parse(cls, text: str) -> Keep:
        """Return what --keep says.

        Raises BadUsage.
        """
        age = re.fullmatch(r"(\d{1,6})([hdw])", text, re.ASCII)
        if age:
            return cls(int(age.group(1)) * _SECONDS[age.group(2)])
        if text == "0":
            return cls(0)
        try:
            return cls(None, sizes.parse(text, "--keep"))
        except errors.BadUsage:
            hint = "write 12h, 7d or 2w, or a size as in 10G, or 0"
            raise errors.BadUsage(f"--keep: '{text}' is neither a time nor a size", hint) from None

    def chosen(self, found: Inventory) -> list[Entry]:
        """Return the entries that stay."""
        now, room, chosen, theirs = time.time_ns(), self.size, list[Entry](), set[Path]()
        for entry in found.entries:  # the one used last comes first
            if not entry.files or self._is_old(entry, now):
                continue
            if room is not None:
                room -= found.size(path for path in entry.files if path not in theirs)
                if room < 0:
                    break
            chosen.append(entry)
            theirs.update(entry.files)
        return chosen

    def _is_old(self, entry: Entry, now: int) -> bool:
        limit = self.seconds
        if entry.kind == inventory.TRANSFER:
            limit = RESUMABLE if limit is None else min(limit, RESUMABLE)
        return entry.kind == inventory.LEFTOVER or (limit is not None and now - entry.used > limit * 10**9)


class Pruned(NamedTuple):
    """What prune did: entries that went, entries that stay only because they are in use; bytes now free, and left."""

    removed: list[Entry]
    spared: list[Entry]
    freed: int
    left: int


def prune(cache: Cache, keep: Keep, *, dry_run: bool = False) -> Pruned:
    """Remove what is not to be kept and not in use.

    Raises Denied if the cache may not be changed.
    """
    with lease.unused_since(cache.root) as since:
        if not dry_run:
            workspace.sweep(cache.partial)
        found = inventory.take(cache)
        chosen = set(keep.chosen(found))
        spared = [entry for entry in found.entries if entry not in chosen and entry.used >= since]
        staying = {path for entry in (*chosen, *spared) for path in entry.files}
        removed = [entry for entry in found.entries if entry not in chosen and entry.used < since]
        doomed = [path for path, file in found.files.items() if path not in staying and file.used < since]
        if not dry_run:
            _forget(cache, removed, since)
            doomed = [path for path in doomed if lease.remove_unused(path, since)]
            _remove_empty(cache.root / "kernels")
    freed = found.size(doomed)
    return Pruned(removed, spared, freed, found.size(found.files) - freed)


def _remove_empty(root: Path) -> None:
    """Remove the folders that nothing is left in; of a kernel each file is one of the cache's."""
    for folder, _, _ in os.walk(root, topdown=False):
        with contextlib.suppress(OSError):  # it is not empty, or somebody has just removed it
            os.rmdir(folder)


def _forget(cache: Cache, removed: Sequence[Entry], since: int) -> None:
    """Strike images from the index before their files go, but for those that somebody has begun to use."""
    gone = {(entry.name, entry.digest) for entry in removed if entry.kind == "image"}

    def is_gone(name: str | None, root: Descriptor) -> bool:
        return (name or root.digest, root.digest) in gone and not _used(cache.blob_path(root.digest), since)

    if gone:
        cache.forget(is_gone)


def _used(path: Path, since: int) -> bool:
    try:
        return lease.last_use(path.lstat()) >= since
    except FileNotFoundError:
        return False


def work(arguments: cli.Arguments) -> None:
    """Prune, and say what went."""
    keep, dry_run = Keep.parse(arguments["--keep"]), bool(arguments["--dry-run"])
    done = prune(Cache(locations.cache()), keep, dry_run=dry_run)
    if done.spared:
        console.note(f"{len(done.spared)} entries stay because they may be in use, or were within the last minute")
    whole = {"removed": done.removed, "spared": done.spared}
    named = {key: [{"kind": one.kind, "name": one.name} for one in entries] for key, entries in whole.items()}
    pruning.tell(arguments, done.removed, named, done.freed, left=done.left)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
