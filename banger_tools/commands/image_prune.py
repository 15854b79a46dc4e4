"""banger image prune: remove the images that no machine was made from.

Usage:
  banger image prune [options]

Options:
  -f, --force  Remove without asking.
  --dry-run    Remove nothing, and print what would be removed.
  --json       Print an object: dry_run, images and leftovers (the names of what was removed), and the bytes freed.
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

from collections.abc import Sequence
from functools import partial

from banger_tools import cli, console, errors
from banger_tools.commands import pruning


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


def remove(name: str) -> bool:
    """Remove an image; tell whether that was done: it may be gone, or in use by now."""
    from banger_tools.store import images, records

    try:
        images.delete(name)
    except (records.Missing, errors.CannotCreate) as error:
        console.note(f"{error.message}: it stays")
        return False
    return True


def work(arguments: cli.Arguments) -> int:
    """Remove the images and what programs left of others that were killed, and say what went."""
    from banger_tools import leftovers
    from banger_tools.store import images
    from banger_tools.vmm import usage

    sized = ((name, usage.disk(images.root() / name)) for name in prunable())
    whole = [leftovers.Leftover(images.WHAT, name, size, partial(remove, name)) for name, size in sized]
    words = "no machine was made from these images", "remove them?"
    keys = {"images": images.WHAT, "leftovers": leftovers.HALF_MADE}
    return pruning.prune(arguments, whole, leftovers.half_made(images.root()), words, keys)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
