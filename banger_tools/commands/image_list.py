"""banger image list: list the images, or those that can be had by name.

Usage:
  banger image list [options]

Options:
  --available  List what the catalogs offer instead of what is here.
  --json       Print an array of objects, one an image: name, source, architecture, size, used, kernel, path, problem,
               managed, vms; with --available name, source, architecture, size, kernel, description, catalog.
  --names      Print the names only, one a line.
  @talk

Description:
  An image is a folder in the store, with its manifest in image.json. A broken one is listed with the reason. SIZE is
  the size of its filesystem, USED the disk space that it takes, VMS how many machines were made from it.

  With --available these are the entries of the catalogs of config.toml and of the one that comes with banger, in the
  order in which they are tried: of a name with several the first that this host can use is taken. A catalog behind
  a URL is asked once a day; of one that cannot be read a warning says why, and the others are listed.

Examples:
  $ banger image list
  $ banger image list --available
  $ banger image list --json | jq -r '.[] | select(.size > 1e9) | .name'

Exit status:
  0   done
  64  the command line is wrong
  77  the store may not be read

See also:
  banger-image-pull(1) banger-image-show(1) banger-vm-run(1)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, console, errors, sizes

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest


class Row(NamedTuple):
    """One image: what a list tells of it. Sizes in bytes: of the disk, and of what it takes on this one.

    `vms` are the machines that were made from it; the disk of one that is not managed lies elsewhere.
    """

    name: str
    source: str | None
    architecture: str | None
    size: int | None
    used: int | None
    kernel: str | None
    path: str
    problem: str | None = None
    managed: bool = True
    vms: Sequence[str] = ()


def rows() -> list[Row]:
    """Return all images of the store, the broken ones too, sorted by name."""
    from banger_tools.store import images, records

    found, used = [], images.uses()
    for name in images.listed():
        look = partial(_row, name)
        try:
            found.append(records.of_one(images.root() / name, look)._replace(vms=used.get(name, [])))
        except records.Missing:  # it went meanwhile
            continue
        except errors.BangerError as error:
            found.append(Row(name, None, None, None, None, None, str(images.root() / name), error.message))
    return found


def _row(name: str) -> Row:
    from banger_tools.store import images

    return row(images.find(name))


def row(image: Manifest) -> Row:
    """Return what a list tells of an image, but who uses it."""
    from banger_tools import manifest
    from banger_tools.store import images

    published = image.get("published", manifest.Published)
    source = image.get("source", manifest.Source).requested if image.has("source") else None
    status = os.stat(published.rootfs)
    kernel = published.kernel.name if published.kernel else None
    used = status.st_blocks * 512
    own = images.is_managed(published.name)
    return Row(published.name, source, image.architecture, status.st_size, used, kernel, published.path, managed=own)


class Offer(NamedTuple):
    """An entry of a catalog: what a list tells of it. The size is that of a bundle, in bytes."""

    name: str
    source: str
    architecture: str | None
    size: int | None
    kernel: str | None
    description: str | None
    catalog: str


def offers() -> list[Offer]:
    """Return the entries of all catalogs, in the order in which they are tried."""
    from banger_tools import pipeline
    from banger_tools.catalog import origins

    found = []
    for origin in origins.all_origins(pipeline.catalogs({})):
        try:
            images = origin.read().images
        except errors.BangerError as error:
            console.warning(error.message)
            continue
        found += [Offer(e.name, e.text, e.arch, e.size, e.kernel_ref, e.description, origin.label) for e in images]
    return found


def shown_offers(found: Sequence[Offer]) -> str:
    """Return the entries of catalogs as a table for people."""
    head = ("NAME", "SOURCE", "ARCH", "SIZE", "DESCRIPTION")
    body = [(o.name, o.source, o.architecture or "-", _size(o.size), o.description or "-") for o in found]
    return console.table([head, *body])


def shown(found: Sequence[Row]) -> str:
    """Return the list as a table for people."""
    head = ("NAME", "SOURCE", "ARCH", "SIZE", "USED", "KERNEL", "VMS")
    body = [
        (r.name, r.source or "-", r.architecture or "-", _size(r.size), _used(r), _kernel(r), str(len(r.vms)))
        for r in found
    ]
    return console.table([head, *body])


def _used(found: Row) -> str:
    return _size(found.used) if found.managed else "elsewhere"


def _size(size: int | None) -> str:
    return "-" if size is None else sizes.show(size)


def _kernel(found: Row) -> str:
    return "broken" if found.problem else found.kernel or "-"


def _print(found: Sequence[Row] | Sequence[Offer], arguments: cli.Arguments, table: str) -> None:
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
    elif arguments["--names"]:
        sys.stdout.write("".join(f"{name}\n" for name in dict.fromkeys(one.name for one in found)))
    else:
        sys.stdout.write(table)


def work(arguments: cli.Arguments) -> None:
    """Print the list."""
    if arguments["--available"]:
        available = offers()
        _print(available, arguments, shown_offers(available))
        return
    found = rows()
    _print(found, arguments, shown(found))
    for broken in () if arguments["--json"] else filter(lambda r: r.problem, found):
        console.warning(f"image '{Path(broken.path).name}': {broken.problem}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
