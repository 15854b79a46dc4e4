"""banger vm stop: end a machine without losing anything.

Usage:
  banger vm stop [options] NAME

Arguments:
  NAME  A machine of the store.

Options:
  --timeout=SECONDS  How long the guest may take [default: 120].
  @talk

Description:
  The guest syncs and powers off through its agent. One that does not is asked with the power button, and killed in
  the end. A stopped machine keeps its disks.

Examples:
  $ banger vm stop web

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such machine
  75  the machine is being changed by another command

See also:
  banger-vm-start(1) banger-vm-delete(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def work(arguments: cli.Arguments) -> None:
    """Stop what the command line says."""
    from banger_tools.store import vms
    from banger_tools.vmm import life
    from banger_tools.vmm import spec as specs

    timeout = specs.parse_timeout(arguments["--timeout"])
    with life.held(arguments["NAME"]):
        life.stop(vms.load(arguments["NAME"]), timeout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
