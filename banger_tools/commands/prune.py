"""banger prune: remove what programs that were killed left behind.

Usage:
  banger prune [options]

Options:
  --dry-run  Remove nothing, and print what would be removed.
  --json     Print an object: dry_run, removed (each with kind, name, size), and the bytes freed.
  @talk

Description:
  Removes what `banger doctor` calls leftovers: half-made images, kernels and machines, what is left of deleted ones,
  work folders of pulls, unfinished files, transfers that nobody can go on with, locks, and taps of machines that do not
  run. Machines that know their image by the name that it had before it was renamed are told the new one. Nothing that
  is whole goes, and nothing that a running program works on: `banger image prune`, `banger vm prune` and `banger cache
  prune` remove what is whole and not used.

  Programs that end by themselves, by ^C or by SIGTERM leave nothing. These leftovers are of those that were killed, or
  were running when the host stopped.

Examples:
  $ banger prune --dry-run
  $ banger prune

Exit status:
  0   done
  1   something could not be removed
  64  the command line is wrong
  77  the store may not be read

See also:
  banger-doctor(1) banger-image-prune(1) banger-vm-prune(1) banger-cache-prune(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli, errors
from banger_tools.commands import pruning


def work(arguments: cli.Arguments) -> int:
    """Remove the leftovers, and say what went."""
    from banger_tools import leftovers

    gone, failed = list(leftovers.found()), 0
    if not arguments["--dry-run"]:
        found = {one.name for one in gone}
        gone, failed = pruning.remove(gone)
    removed = [{"kind": one.kind, "name": one.name, "size": one.size} for one in gone]
    pruning.tell(arguments, gone, {"removed": removed}, sum(one.size for one in gone))
    stay = failed and found & {one.name for one in leftovers.found()}  # others may have removed it meanwhile
    return errors.Negative.status if stay else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
