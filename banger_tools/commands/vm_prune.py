"""banger vm prune: remove the machines that do not run.

Usage:
  banger vm prune [options]

Options:
  -f, --force  Remove without asking.
  --dry-run    Remove nothing, and print what would be removed.
  --json       Print an object: dry_run, machines, leftovers and taps (the names of what was removed), the bytes freed.
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

from collections.abc import Sequence
from functools import partial
from itertools import chain

from banger_tools import cli, console, errors, leftovers
from banger_tools.commands import pruning, several
from banger_tools.leftovers import Leftover
from banger_tools.store import records, vms
from banger_tools.vmm import life, usage

KEYS = {"machines": vms.WHAT, "leftovers": leftovers.HALF_MADE, "taps": leftovers.TAP}


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


def remove(name: str) -> bool:
    """Remove a machine that does not run; tell whether that was done: it may be gone, or run by now."""
    try:
        with life.held(name):
            life.delete(name, force=False)
    except (records.Missing, errors.CannotCreate):
        console.note(f"the VM '{name}' stays: another command uses it")
        return False
    return True


def work(arguments: cli.Arguments) -> int:
    """Remove the machines and what programs left of others that were killed, and say what went."""
    whole = [Leftover(vms.WHAT, name, usage.disk(vms.folder(name)), partial(remove, name)) for name in prunable()]
    left = chain(leftovers.half_made(vms.root()), leftovers.lost_taps())
    words = "these machines do not run", "remove them and their disks?"
    return pruning.prune(arguments, whole, left, words, KEYS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
