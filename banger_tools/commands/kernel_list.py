"""banger kernel list: list the kernels, or those that can be had by name.

Usage:
  banger kernel list [options]

Options:
  --available  List what the catalogs offer instead of what is here, as `banger kernel catalog` does.
  --json       Print an array of objects, one a kernel: name, version, architecture, source, used, boots, path, problem.
  --names      Print the names only, one a line.
  @talk

Description:
  A kernel is a folder in the store, with its record in kernel.json. BOOTS names the kinds of machine that it boots an
  image on; `banger kernel show` tells why it does not boot on the others. A broken one is listed with the reason.

Examples:
  $ banger kernel list
  $ banger kernel list --json | jq -r '.[] | select(.boots | index("firecracker")) | .name'

Exit status:
  0   done
  64  the command line is wrong
  77  the store may not be read

See also:
  banger-kernel-show(1) banger-kernel-pull(1) banger-kernel-catalog(1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import cli, console, errors, sizes


class Row(NamedTuple):
    """One kernel: what a list tells of it; `used` are the bytes that it takes on the disk."""

    name: str
    version: str | None
    architecture: str | None
    source: str | None
    used: int
    boots: list[str]
    path: str
    problem: str | None = None


def rows() -> list[Row]:
    """Return all kernels of the store, the broken ones too, sorted by name."""
    from banger_tools.store import kernels

    found = []
    for name in kernels.listed():
        folder = kernels.root() / name
        try:
            found.append(row(folder))
        except errors.BangerError as error:
            found.append(Row(name, None, None, None, 0, [], str(folder), error.message))
    return found


def row(folder: Path) -> Row:
    """Return what a list tells of a kernel; raises what `kernels.find` raises."""
    from banger_tools.kernel import bootable, record
    from banger_tools.store import kernels

    stored = kernels.find(folder.name)
    known = kernels.beside(folder / "vmlinux")
    boots = [verdict.machine for verdict in bootable.verdicts(known) if not verdict.lacks] if known else []
    used = sum(path.stat().st_blocks * 512 for path in record.listed(folder))
    return Row(folder.name, stored.version, stored.architecture, stored.source, used, boots, str(folder))


def shown(found: Sequence[Row]) -> str:
    """Return the list as a table for people."""
    head = ("NAME", "VERSION", "ARCH", "USED", "BOOTS", "SOURCE")
    body = [
        (r.name, r.version or "-", r.architecture or "-", sizes.show(r.used), _boots(r), r.source or "-") for r in found
    ]
    return console.table([head, *body])


def _boots(found: Row) -> str:
    return "broken" if found.problem else ",".join(found.boots) or "-"


def work(arguments: cli.Arguments) -> None:
    """Print the list."""
    if arguments["--available"]:
        from banger_tools.commands import kernel_catalog

        kernel_catalog.work(arguments)
        return
    found = rows()
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
        return
    sys.stdout.write("".join(f"{one.name}\n" for one in found) if arguments["--names"] else shown(found))
    for broken in filter(lambda one: one.problem, found):
        console.warning(f"kernel '{broken.name}': {broken.problem}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
