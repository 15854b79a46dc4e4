"""banger vm restart: stop machines and start them again.

Usage:
  banger vm restart [options] [NAME]...

Arguments:
  NAME  A machine of the store.

Options:
  --all              Restart all machines that run.
  --timeout=SECONDS  How long the guest may take to stop, and how long to wait for its agent [default: 120].
  @talk

Description:
  Stops each machine as banger-vm-stop(1) does, and starts it as banger-vm-start(1) does. No other command gets at the
  machine in between. One that does not run is started.

Examples:
  $ banger vm restart web

Exit status:
  0   done
  64  the command line is wrong
  65  the record of a machine is broken
  66  there is no such machine
  69  the machine did not start
  73  a port of this host is taken
  75  the agent did not answer in time, or another command kept the machine for a minute

See also:
  banger-vm-start(1) banger-vm-stop(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def restart(name: str, timeout: float) -> None:
    """Stop a machine, start it, and wait for its agent."""
    from banger_tools.store import vms
    from banger_tools.vmm import life

    with life.held(name):
        life.stop(vms.load(name), timeout)
        life.start(name, life.answering(timeout))


def work(arguments: cli.Arguments) -> int:
    """Restart what the command line says."""
    from banger_tools.commands import several
    from banger_tools.vmm import spec as specs

    timeout = specs.parse_timeout(arguments["--timeout"])
    names = several.chosen(arguments, several.running)
    return several.each(("vm", "restart"), arguments, names, lambda name: restart(name, timeout))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
