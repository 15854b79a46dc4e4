"""banger vm stop: end machines without losing anything.

Usage:
  banger vm stop [options] [NAME]...

Arguments:
  NAME  A machine of the store.

Options:
  --all              Stop all machines that run.
  --timeout=SECONDS  How long the guest may take [default: 120].
  @talk

Description:
  The guest syncs and powers off through its agent. One that has not done so in time is asked with the power button,
  then its monitor is told to quit, then killed; all that takes 20 seconds more at most. A warning says when it came to
  the last two: then what the guest had not written yet is lost. A stopped machine keeps its disks.

  Several machines are stopped side by side, and one that fails stops no other; the exit status is that of the
  first failure in the order of the names. A machine that does not run is no failure.

Examples:
  $ banger vm stop web
  $ banger vm stop --all --timeout 20

Exit status:
  0   done
  64  the command line is wrong
  65  the record of a machine is broken
  66  there is no such machine
  75  another command kept the machine for a minute, or its monitor hangs in the kernel

See also:
  banger-vm-start(1) banger-vm-kill(1) banger-vm-delete(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def stop(name: str, timeout: float) -> None:
    """Stop a machine."""
    from banger_tools.store import vms
    from banger_tools.vmm import life

    with life.held(name):
        life.stop(vms.load(name), timeout)


def work(arguments: cli.Arguments) -> int:
    """Stop what the command line says."""
    from banger_tools.commands import several
    from banger_tools.vmm import spec as specs

    timeout = specs.parse_timeout(arguments["--timeout"])
    names = several.chosen(arguments, several.running)
    return several.each(("vm", "stop"), arguments, names, lambda name: stop(name, timeout))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
