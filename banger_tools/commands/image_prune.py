"""banger image prune: remove the images that no machine was made from.

Usage:
  banger image prune [options]

Options:
  -f, --force  Remove without asking.
  --dry-run    Remove nothing, and print what would be removed.
  --json       Print an object: what was removed, and how many bytes that freed.
  @talk

Description:
  A machine that is there, running or not, keeps the image that it was made from. A broken image stays, too: `banger
  image list` says what is wrong with it, and `banger image delete` removes it. Of an image that was registered the
  files that it refers to stay.

  What programs that were killed left of images goes as well; `banger prune` removes all such leftovers.

Examples:
  $ banger image prune --dry-run
  $ banger image prune --force

Exit status:
  0   done, or the answer was no
  64  the command line is wrong, or nobody can be asked
  75  another command kept an image for a minute
  77  the store may not be changed

See also:
  banger-image-delete(1) banger-image-list(1) banger-prune(1) banger-vm-prune(1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors, sizes
from banger_tools.commands import asking


class Pruned(NamedTuple):
    """What went, or would: names of images and of half-made ones; bytes of disk."""

    images: list[str]
    leftovers: list[str]
    freed: int


def prunable() -> list[str]:
    """Return the images that are whole and that no machine was made from."""
    from banger_tools.store import images

    used, found = images.uses(), []
    for name in images.listed():
        try:
            images.find(name)
        except errors.BangerError as error:
            console.warning(f"{error.message}; it stays")
        else:
            found += [] if name in used else [name]
    return found


def remove(name: str) -> int | None:
    """Remove an image, and return the bytes that its files took; None if it is gone or in use by now."""
    from banger_tools.store import images, records
    from banger_tools.vmm import usage

    size = usage.disk(images.root() / name)
    try:
        images.delete(name)
    except (records.Missing, errors.CannotCreate) as error:
        console.note(f"{error.message}: it stays")
        return None
    return size


def prune(names: Sequence[str]) -> tuple[Pruned, int]:
    """Remove images and leftovers; return what went, and the status of the first failure."""
    from banger_tools import leftovers
    from banger_tools.commands import several
    from banger_tools.store import images

    freed: dict[str, int] = {}

    def one(name: str) -> None:
        if (size := remove(name)) is not None:
            freed[name] = size

    status = several.in_turn(names, one)
    left = leftovers.remove(leftovers.half_made(images.root()))
    return Pruned(list(freed), [one.name for one in left], sum([*freed.values(), *(one.size for one in left)])), status


def previewed(names: Sequence[str]) -> Pruned:
    """Return what would go."""
    from banger_tools import leftovers
    from banger_tools.store import images
    from banger_tools.vmm import usage

    left = list(leftovers.half_made(images.root()))
    freed = sum([*(usage.disk(images.root() / name) for name in names), *(one.size for one in left)])
    return Pruned(list(names), [one.name for one in left], freed)


def report(done: Pruned, *, dry_run: bool) -> str:
    """Return what was done as text for people."""
    verb = "would remove" if dry_run else "removed"
    kinds = {"image": done.images, "leftover": done.leftovers}
    lines = [f"{verb} {kind} {console.printable(name)}\n" for kind, names in kinds.items() for name in names]
    return "".join(lines) + f"{sizes.show(done.freed)} {'would be ' if dry_run else ''}freed\n"


def work(arguments: cli.Arguments) -> int:
    """Prune, and say what went."""
    names, status, dry_run = prunable(), 0, bool(arguments["--dry-run"])
    if dry_run:
        done = previewed(names)
    elif (
        names
        and not arguments["--force"]
        and not asking.agreed("no machine was made from these images", names, "remove them?")
    ):
        return 0
    else:
        done, status = prune(names)
    if arguments["--json"]:
        sys.stdout.write(json.dumps({"dry_run": dry_run, **done._asdict()}, indent=2) + "\n")
    else:
        sys.stdout.write(report(done, dry_run=dry_run))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
