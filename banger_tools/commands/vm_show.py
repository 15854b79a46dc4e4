"""banger vm show: print what a machine is and how it is.

Usage:
  banger vm show [options] NAME...

Arguments:
  NAME  A machine of the store.

Options:
  @talk

Description:
  Prints the manifest of the machine, as bg-boot(1) did, with its state as it is now. Of several machines it prints one
  after the other, in the order of the names; the exit status is that of the first failure.

Examples:
  $ banger vm show web | jq -r .vm.state

Exit status:
  0   done
  64  the command line is wrong
  65  its record is broken
  66  there is no such machine

See also:
  banger-vm-list(1) banger-vm-start(1) banger-manifest(5)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def show(name: str) -> None:
    """Print the manifest of a machine."""
    import sys

    from banger_tools.store import vms
    from banger_tools.vmm import life

    record, image = vms.load(name), vms.image(name)
    image.put("vm", life.described(record))
    sys.stdout.write(image.dumps())


def work(arguments: cli.Arguments) -> int:
    """Print what the command line says."""
    from banger_tools.commands import several

    return several.in_turn(several.named(arguments), show)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
