"""banger vm health: ask the agents of machines whether they are well.

Usage:
  banger vm health [options] [NAME]...

Arguments:
  NAME  A machine of the store; all that run if none is given.

Options:
  --json             Print an array of objects, one a machine: name, health, version, boot_id, uptime, pending.
  --timeout=SECONDS  How long an agent may take to answer [default: 10].
  @talk

Description:
  HEALTH is `ready`, or what is wrong: the machine does not run, or its agent does not answer. BOOT is another one after
  each boot of the guest; UP is the time since that. PENDING tells that something is still to be installed which the
  image asked for at its first boot.

Examples:
  $ banger vm health web
  $ until banger vm health --timeout 2 web; do sleep 1; done

Exit status:
  0   all are ready
  1   one is not
  64  the command line is wrong
  66  there is no such machine

See also:
  banger-vm-list(1) banger-vm-stats(1) banger-agent(7)
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors
from banger_tools.commands import several
from banger_tools.store import records
from banger_tools.vmm import inside, usage

READY = "ready"


class Row(NamedTuple):
    """One machine: `ready` or what is wrong; what its agent answered. `uptime` in seconds."""

    name: str
    health: str
    version: str | None = None
    boot_id: str | None = None
    uptime: float | None = None
    pending: bool = False


def ask(name: str, timeout: float) -> Row:
    """Return how a machine is, by its agent's own words.

    Raises records.Missing if there is no such machine.
    """
    try:
        answer = inside.agent(name).health(timeout)
    except records.Missing:
        raise
    except (errors.BangerError, OSError) as error:
        return Row(name, str(error))
    health = READY if answer.ready else "not ready"
    return Row(name, health, answer.version, answer.boot_id, answer.uptime, answer.first_boot_pending)


def shown(found: Sequence[Row]) -> str:
    """Return the answers as a table for people."""
    head = ("NAME", "HEALTH", "BOOT", "UP", "PENDING")
    body = [
        (one.name, one.health, one.boot_id or "-", usage.shown_time(one.uptime), "yes" if one.pending else "no")
        for one in found
    ]
    return console.table([head, *body])


def work(arguments: cli.Arguments) -> int:
    """Print the answers, and return 1 if one is not ready."""
    from banger_tools.vmm import spec as specs

    timeout = specs.parse_timeout(arguments["--timeout"])
    found, status = several.answers(functools.partial(ask, timeout=timeout), arguments)
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
    else:
        sys.stdout.write(shown(found))
    return status or (0 if all(one.health == READY for one in found) else errors.Negative.status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
