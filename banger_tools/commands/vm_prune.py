"""banger vm prune: remove the machines that do not run.

Usage:
  banger vm prune [options]

Options:
  -f, --force  Remove without asking.
  --dry-run    Remove nothing, and print what would be removed.
  --json       Print an object: what was removed, and how many bytes that freed.
  @talk

Description:
  Removes the machines that are stopped, and those that ended with nobody having stopped them. One that runs stays, and
  so does a broken one: `banger vm list` says what is wrong with it, and `banger vm delete` removes it.

  What programs that were killed left goes, too: half-made machines, and taps of machines that do not run.

  What a machine's disks share with its image by reflink is counted as freed, and is not.

Examples:
  $ banger vm prune --dry-run
  $ banger vm prune --force

Exit status:
  0   done, or the answer was no
  64  the command line is wrong, or nobody can be asked
  75  another command kept a machine for a minute
  77  the store may not be changed

See also:
  banger-vm-delete(1) banger-vm-list(1) banger-cache-prune(1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors, sizes
from banger_tools.commands import asking, several
from banger_tools.net import taps
from banger_tools.store import records, vms
from banger_tools.vmm import life, usage


class Pruned(NamedTuple):
    """What went, or would: names of machines, of half-made ones and of taps; bytes of disk."""

    machines: list[str]
    leftovers: list[str]
    taps: list[str]
    freed: int


def prunable() -> list[str]:
    """Return the machines that do not run and whose records are whole."""
    found = []
    for name in several.at_rest():
        try:
            vms.load(name)
        except records.Missing:  # it went meanwhile
            continue
        except errors.BangerError as error:
            console.warning(f"{error.message}; it stays")
        else:
            found.append(name)
    return found


def remove(name: str) -> int:
    """Remove a machine that does not run, and return the bytes that its files took; 0 if it is gone or runs by now."""
    try:
        with life.held(name):
            size = usage.disk(vms.folder(name))
            life.delete(name, force=False)
            return size
    except (records.Missing, errors.CannotCreate):
        console.note(f"the VM '{name}' stays: another command uses it")
        return 0


def prune(names: Sequence[str]) -> tuple[Pruned, int]:
    """Remove machines and leftovers; return what went, and the status of the first failure."""
    from banger_tools import leftovers

    sizes_of: dict[str, int] = {}

    def one(name: str) -> None:
        if size := remove(name):
            sizes_of[name] = size

    status = several.in_turn(names, one)
    left = leftovers.remove(leftovers.half_made(vms.root()))
    freed = sum([*sizes_of.values(), *(one.size for one in left)])
    return Pruned(list(sizes_of), [one.name for one in left], taps.sweep(life.may_run), freed), status


def previewed(names: Sequence[str]) -> Pruned:
    """Return what would go."""
    from banger_tools import leftovers

    left = list(leftovers.half_made(vms.root()))
    freed = sum([*(usage.disk(vms.folder(name)) for name in names), *(one.size for one in left)])
    lost = [tap.name for tap in taps.leftovers(life.may_run)]
    return Pruned(list(names), [one.name for one in left], lost, freed)


def report(done: Pruned, *, dry_run: bool) -> str:
    """Return what was done as text for people."""
    verb = "would remove" if dry_run else "removed"
    kinds = {"VM": done.machines, "leftover": done.leftovers, "tap": done.taps}
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
        and not asking.agreed("these machines do not run", names, "remove them and their disks?")
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
