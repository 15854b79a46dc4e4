"""banger vm start: start machines that do not run.

Usage:
  banger vm start [options] [NAME]...

Arguments:
  NAME  A machine of the store.

Options:
  --all              Start all machines that do not run.
  --wait=WHAT        Return when this answers: agent, ssh or none (at once) [default: agent].
  --timeout=SECONDS  How long to wait for that [default: 120].
  @talk

Description:
  A machine goes on with the disks that it has. One whose agent does not answer in time is ended again, and so is one
  whose start is interrupted; one whose sshd is late runs on to be looked at. What a run left that ended by itself is
  cleaned up first: a guest that powered off, a monitor that died, a host that was restarted.

  The files of this host that banger-config(5) lists in file_sync are put on the work disk anew.

  Several machines are started side by side, and one that fails stops no other; the exit status is that of the
  first failure in the order of the names.

Examples:
  $ banger vm start web
  $ banger vm start --all

Exit status:
  0   done
  64  the command line is wrong
  65  the record of a machine is broken
  66  there is no such machine
  69  the machine did not start
  73  it runs already, or a port of this host is taken
  75  the agent or sshd did not answer in time, or another command kept the machine for a minute
  130  interrupted; a machine that did not answer yet does not run
  143  terminated; a machine that did not answer yet does not run

See also:
  banger-vm-stop(1) banger-vm-restart(1) bg-boot(1) banger-config(5)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import cli, errors


class Options(NamedTuple):
    """What to wait for, `agent`, `ssh` or `none`, and how many seconds."""

    awaited: str
    timeout: float

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check the options; raises BadUsage."""
        from banger_tools.vmm import spec as specs

        timeout, awaited = specs.parse_timeout(arguments["--timeout"]), arguments["--wait"]
        if awaited not in ("agent", "ssh", "none"):
            raise errors.BadUsage(f"--wait: '{awaited}' is none of agent, ssh, none")
        return cls(awaited, timeout)


def start(name: str, options: Options) -> None:
    """Start a machine, and wait for what was asked."""
    import time

    from banger_tools.vmm import life, ssh

    deadline = time.monotonic() + options.timeout
    with life.held(name):
        record = life.start(name, None if options.awaited == "none" else life.answering(options.timeout))
    if options.awaited == "ssh":
        ssh.wait(record, deadline)


def work(arguments: cli.Arguments) -> int:
    """Start what the command line says."""
    from banger_tools.commands import several

    options = Options.from_arguments(arguments)
    names = several.chosen(arguments, several.at_rest)
    return several.each(("vm", "start"), arguments, names, lambda name: start(name, options))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
