"""banger kernel catalog: list the kernels that can be pulled by name.

Usage:
  banger kernel catalog [options]

Options:
  --json   Print an array of objects, one an entry: name, kernel_version, architecture, distro, size, source,
           description, catalog, why_not (null if it can be pulled here).
  --names  Print the names only, one a line.
  @talk

Description:
  These are the entries of the catalogs of config.toml and of the one that comes with banger, in the order in which
  they are tried: of a name with several the first that this host can use is taken, one for its own architecture before
  others. HERE says whether it can be pulled on this host, and --json why not. A catalog behind a URL is asked once a
  day; of one that cannot be read a warning says why, and the others are listed.

Examples:
  $ banger kernel catalog
  $ banger kernel catalog --json | jq -r '.[] | select(.why_not == null) | .name'

Exit status:
  0   done
  64  the command line is wrong
  65  config.toml is wrong

See also:
  banger-kernel-pull(1) banger-catalog(5) banger-config(5)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors, pipeline, sizes


class Offer(NamedTuple):
    """An entry of a catalog; the size is that of a bundle, in bytes; `why_not` is None if it can be pulled here."""

    name: str
    kernel_version: str | None
    architecture: str
    distro: str | None
    size: int | None
    source: str
    description: str | None
    catalog: str
    why_not: str | None


def offers() -> list[Offer]:
    """Return the entries of all catalogs, in the order in which they are tried."""
    from banger_tools.catalog import kernels, origins

    found = []
    for origin in origins.all_origins(pipeline.catalogs({})):
        try:
            listed = origin.read().kernels
        except errors.BangerError as error:
            console.warning(error.message)
            continue
        found += [
            Offer(
                *(one.name, one.kernel_version, one.arch, one.distro, one.size, one.text, one.description),
                origin.label,
                kernels.why_not(one),
            )
            for one in listed
        ]
    return found


def shown(found: Sequence[Offer]) -> str:
    """Return the entries as a table for people."""
    head = ("NAME", "VERSION", "ARCH", "SIZE", "HERE", "SOURCE", "DESCRIPTION")
    body = [
        (
            one.name,
            one.kernel_version or "-",
            one.architecture,
            "-" if one.size is None else sizes.show(one.size),
            "yes" if one.why_not is None else "no",
            one.source.partition("#")[0],
            one.description or "-",
        )
        for one in found
    ]
    return console.table([head, *body])


def work(arguments: cli.Arguments) -> None:
    """Print the entries."""
    found = offers()
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
    elif arguments["--names"]:
        sys.stdout.write("".join(f"{name}\n" for name in dict.fromkeys(one.name for one in found)))
    else:
        sys.stdout.write(shown(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
