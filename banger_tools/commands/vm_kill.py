"""banger vm kill: end machines at once.

Usage:
  banger vm kill [options] [NAME]...

Arguments:
  NAME  A machine of the store.

Options:
  --all  Kill all machines that run.
  @talk

Description:
  The monitor's process is killed, also while another command waits for the machine: a start fails then, and a stop is
  done. What the guest had not yet written to its disks is lost; their filesystems are as after a power cut, which
  their journals mend at the next start. `banger vm stop` loses nothing.

Examples:
  $ banger vm kill web

Exit status:
  0   done, or the machine does not run
  64  the command line is wrong
  66  there is no such machine
  75  the monitor's process hangs in the kernel

See also:
  banger-vm-stop(1) banger-vm-delete(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli, console, errors


def kill(name: str) -> None:
    """Kill a machine, and clean up after it."""
    from banger_tools.store import records, vms
    from banger_tools.vmm import holder, life

    if not records.exists(vms.folder(name)):
        raise vms.missing(name)
    runs = holder.is_alive(vms.folder(name))
    if runs:
        life.end_now(name)
        console.warning(f"the VM '{name}' was killed: what its guest had not yet written to its disks is lost")
    try:
        _settle(name)
    except records.Missing:  # whoever waited for it removed it, as for a start that failed
        if not runs:
            raise


def _settle(name: str) -> None:
    from banger_tools.store import vms
    from banger_tools.vmm import life

    with life.held(name):
        try:
            life.settle(vms.load(name))
        except errors.BadInput as error:
            console.warning(error.message)


def work(arguments: cli.Arguments) -> int:
    """Kill what the command line says."""
    from banger_tools.commands import several

    names = several.chosen(arguments, several.running)
    return several.each(("vm", "kill"), arguments, names, kill)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
