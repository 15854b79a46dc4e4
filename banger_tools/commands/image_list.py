"""banger image list: list the images.

Usage:
  banger image list [options]

Options:
  --json   Print an array of objects, one an image.
  --names  Print the names only, one a line.
  @talk

Description:
  An image is a folder in the store, with its manifest in image.json. A broken one is listed as such, and said
  what is wrong with it.

Examples:
  $ banger image list
  $ banger image list --json | jq -r '.[] | select(.size > 1e9) | .name'

Exit status:
  0   done
  64  the command line is wrong
  77  the store may not be read

See also:
  banger-image-pull(1) banger-vm-run(1)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, console, errors, sizes

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest


class Row(NamedTuple):
    """One image: what a list tells of it. Sizes in bytes: of the disk, and of what it takes on this one."""

    name: str
    source: str | None
    architecture: str | None
    size: int | None
    used: int | None
    kernel: str | None
    path: str
    problem: str | None = None


def rows() -> list[Row]:
    """Return all images of the store, the broken ones too, sorted by name."""
    from banger_tools.store import images

    found = []
    for name in images.listed():
        try:
            found.append(row(images.find(name)))
        except errors.BangerError as error:
            found.append(Row(name, None, None, None, None, None, str(images.root() / name), error.message))
    return found


def row(image: Manifest) -> Row:
    """Return what a list tells of an image."""
    from banger_tools import manifest

    published = image.get("published", manifest.Published)
    source = image.get("source", manifest.Source).requested if image.has("source") else None
    status = os.stat(published.rootfs)
    kernel = published.kernel.name if published.kernel else None
    used = status.st_blocks * 512
    return Row(published.name, source, image.architecture, status.st_size, used, kernel, published.path)


def shown(found: Sequence[Row]) -> str:
    """Return the list as a table for people."""
    head = ("NAME", "SOURCE", "ARCH", "SIZE", "USED", "KERNEL")
    body = [(r.name, r.source or "-", r.architecture or "-", _size(r.size), _size(r.used), _kernel(r)) for r in found]
    return console.table([head, *body])


def _size(size: int | None) -> str:
    return "-" if size is None else sizes.show(size)


def _kernel(found: Row) -> str:
    return "broken" if found.problem else found.kernel or "-"


def work(arguments: cli.Arguments) -> None:
    """Print the list."""
    found = rows()
    if arguments["--json"]:
        sys.stdout.write(json.dumps([r._asdict() for r in found], indent=2) + "\n")
        return
    sys.stdout.write("".join(f"{r.name}\n" for r in found) if arguments["--names"] else shown(found))
    for broken in filter(lambda r: r.problem, found):
        console.warning(f"image '{Path(broken.path).name}': {broken.problem}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
