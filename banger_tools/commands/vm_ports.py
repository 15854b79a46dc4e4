"""banger vm ports: show who listens in machines, and how to reach it from here.

Usage:
  banger vm ports [options] [NAME]...

Arguments:
  NAME  A machine that runs; all that do if none is given.

Options:
  --json  Print an array of objects, one a port: name, protocol, address, port, pid, program, host.
  @talk

Description:
  GUEST is where a program in the guest listens, HOST where that is to be reached from this host: a port that
  `--publish` forwards to it, or the machine's address on its tap. A program that listens on the guest's loopback is
  reached through neither. A published port that nobody listens on is shown, too.

Examples:
  $ banger vm ports web
  $ curl http://$(banger vm ports web --json | jq -r '.[] | select(.port == 80) | .host[0]')

Exit status:
  0   done
  64  the command line is wrong
  65  the record of a machine is broken
  66  there is no such machine
  73  a machine that was named does not run
  75  an agent did not answer

See also:
  banger-vm-list(1) bg-boot(1) banger-agent(7)
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, console
from banger_tools.commands import several
from banger_tools.vmm import inside
from banger_tools.vmm import spec as specs

if TYPE_CHECKING:
    from banger_tools.agent.answers import Port

_AGENT_SECONDS = 10.0


class Row(NamedTuple):
    """A port of a guest: where who listens on it (None: nobody does), and where it is to be reached from this host."""

    name: str
    protocol: str
    address: str | None
    port: int
    pid: int | None
    program: str | None
    host: list[str]


def rows(name: str) -> list[Row]:
    """Return the ports of a machine, those that are only published too.

    Raises CannotCreate if it does not run, Retry if its agent does not answer.
    """
    record = inside.running(name)
    listening = inside.agent(name).ports(_AGENT_SECONDS)
    found = [
        Row(name, one.protocol, one.address, one.port, one.pid, one.program, _endpoints(record, one))
        for one in listening
    ]
    found += _unused(record, {(one.protocol, one.port) for one in found})
    return sorted(found, key=lambda one: (one.port, one.protocol, one.address or ""))


def _unused(record: specs.Record, listening: set[tuple[str, int]]) -> Iterator[Row]:
    for forward in record.spec.forwards:
        if (forward.protocol, forward.guest_port) not in listening:
            end = f"{forward.host}:{forward.host_port}"
            yield Row(record.spec.name, forward.protocol, None, forward.guest_port, None, None, [end])


def _endpoints(record: specs.Record, listening: Port) -> list[str]:
    """Return where what listens in the guest is to be reached from this host."""
    if ipaddress.ip_address(listening.address).is_loopback:
        return []
    wanted = (listening.protocol, listening.port)
    found = [f"{f.host}:{f.host_port}" for f in record.spec.forwards if (f.protocol, f.guest_port) == wanted]
    network = record.process.network if record.process else None
    if network:
        found.append(f"{network.address.partition('/')[0]}:{listening.port}")
    return found


def shown(found: Sequence[Row]) -> str:
    """Return ports as a table for people."""
    head = ("NAME", "GUEST", "PROGRAM", "HOST")
    body = [(one.name, _guest(one), one.program or "-", " ".join(one.host) or "-") for one in found]
    return console.table([head, *body])


def _guest(one: Row) -> str:
    address = f"[{one.address}]" if one.address and ":" in one.address else one.address or "-"
    return f"{address}:{one.port}/{one.protocol}"


def work(arguments: cli.Arguments) -> int:
    """Print the ports."""
    answers, status = several.answers(rows, arguments)
    found = [one for ports in answers for one in ports]
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
    else:
        sys.stdout.write(shown(found))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
