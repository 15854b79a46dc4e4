"""banger vm set: change what machines have.

Usage:
  banger vm set [options] NAME...

Arguments:
  NAME  A machine of the store.

Options:
  --cpus=N          Virtual CPUs.
  --memory=SIZE     Memory, as in 512M.
  --disk=SIZE       Grow the root disk to this size.
  --work-disk=SIZE  Grow the disk for /root to this size.
  --nat=WHETHER     On a tap, let the machine reach what the host reaches: on or off.
  @talk

Description:
  All values are checked before any is changed. A machine must be stopped for all but --nat, which holds at once: --nat
  off cuts connections off that are open, but none to a published port. A disk that has grown gets its filesystem grown
  when the machine starts next; none becomes smaller.

  If one of several machines cannot be changed, the others still are; the exit status is that of the first failure.

  Nothing else of a machine can be changed: its ports, environment, kernel, network and limits are those that it was
  made with. For others make a new machine; banger-image-register(1) makes an image of a stopped machine's disk. There
  are no snapshots and no shared folders: `banger vm cp`, rsync to NAME.vm (banger-ssh-config(1)) and file_sync of
  banger-config(5) bring files in.

Examples:
  $ banger vm set web --memory 2G --cpus 2
  $ banger vm set web --nat off

Exit status:
  0   done
  64  the command line is wrong, or the machine cannot be like that
  65  the record of a machine is broken
  66  there is no such machine
  69  its monitor cannot run it like that
  73  the machine runs
  74  the disk is full or failed
  75  another command kept the machine for a minute
  77  --nat needs a right that the user lacks

See also:
  banger-vm-show(1) banger-vm-stop(1) bg-boot(1)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from banger_tools import cli, errors

if TYPE_CHECKING:
    from banger_tools.vmm.change import Changes

_WHETHER = {"on": True, "off": False}


def changes_of(arguments: cli.Arguments) -> Changes:
    """Return what is to be different; raises BadUsage, also if nothing is."""
    from banger_tools import sizes
    from banger_tools.vmm import spec as specs
    from banger_tools.vmm.change import Changes

    cpus, memory, disk, work, nat = (arguments[f"--{word}"] for word in ("cpus", "memory", "disk", "work-disk", "nat"))
    if nat is not None and nat not in _WHETHER:
        raise errors.BadUsage(f"--nat: '{nat}' is none of on, off")
    changes = Changes(
        None if cpus is None else specs.parse_cpus(cpus),
        None if memory is None else specs.parse_memory(memory),
        None if disk is None else sizes.parse(disk, "--disk"),
        None if work is None else sizes.parse(work, "--work-disk"),
        None if nat is None else _WHETHER[nat],
    )
    if changes == Changes():
        raise errors.BadUsage("nothing is to be changed", "as in banger vm set --memory 2G NAME")
    return changes


def work(arguments: cli.Arguments) -> int:
    """Change what the command line says."""
    from banger_tools.commands import several
    from banger_tools.vmm import change, life

    changes = changes_of(arguments)

    def one(name: str) -> None:
        with life.held(name):
            change.change(name, changes)

    return several.in_turn(several.named(arguments), one)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
