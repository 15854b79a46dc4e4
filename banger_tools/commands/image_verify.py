"""banger image verify: check that images are what their manifests say.

Usage:
  banger image verify [options] [NAME]...

Arguments:
  NAME  Images of the store; all of them if none is given.

Options:
  --json  Print an array of objects, one a difference: image, difference.
  @talk

Description:
  Each difference is a line with the image's name and what is wrong. Looked at are the digests that were noted when the
  image was published, of its disks and of its kernel; the filesystems, by e2fsck, which changes nothing; the files that
  were put into the image, and the agent's digest; and types, owners and modes of all files, if the tree that the image
  was made from is still where the manifest says, as after banger image pull --keep-work.

  Of an image that is not managed the disks may be written to by others, and have no digest.

Examples:
  $ banger image verify
  $ banger image verify --json web | jq -r '.[].difference'

Exit status:
  0   there is no difference
  1   there are differences
  64  the command line is wrong
  66  there is no such image
  69  e2fsck is not installed
  77  an image may not be read

See also:
  banger-image-show(1) bg-chown(1) banger-manifest(5)
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors


class Found(NamedTuple):
    """What is different in an image."""

    image: str
    difference: str


def verify(names: Sequence[str]) -> Iterator[Found]:
    """Yield what is different in the images named, or in all, each looked at while nobody replaces or removes it.

    Raises records.Missing for one that was named, Denied, Unavailable.
    """
    from banger_tools.store import images, records, verify

    gone = () if names else (records.Missing,)  # it was there when we listed them
    for name in chosen(names):
        with contextlib.suppress(*gone), images.locked(name, shared=True):
            for difference in verify.differences(name):
                yield Found(name, difference)


def chosen(names: Sequence[str]) -> list[str]:
    """Return the images that were named, each once, or all; raises BadUsage, records.Missing."""
    from banger_tools.store import images
    from banger_tools.store import names as rules

    for name in names:
        images.check_there(rules.check(name, "NAME"))
    return list(dict.fromkeys(names)) or images.listed()


def work(arguments: cli.Arguments) -> int:
    """Print what is different, and tell by the status whether anything is."""
    found = []
    for one in verify(arguments["NAME"]):
        found.append(one)
        if not arguments["--json"]:
            sys.stdout.write(console.printable(f"{one.image}: {one.difference}") + "\n")
            sys.stdout.flush()
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
    return errors.Negative.status if found else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
