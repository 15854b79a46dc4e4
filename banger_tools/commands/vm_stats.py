"""banger vm stats: show what machines use, of the host and inside.

Usage:
  banger vm stats [options] [NAME]...

Arguments:
  NAME  A machine that runs; all that do if none is given.

Options:
  --json  Print an array of objects, one a machine: name, host (cpu_percent, cpu_seconds, resident, disk, up), and
          guest, what `GET /stats` of banger-agent(7) answers.
  @talk

Description:
  The host's side is that of the monitor's process: CPU is its share of one processor over half a second, RSS the memory
  that it has taken, DISK what the machine's files take. The guest's side is what its agent says: LOAD is the average of
  one minute, MEM the memory in use of what the guest has, ROOT the space in use of its root filesystem. It is `-`
  where the agent does not answer within five seconds.

Examples:
  $ banger vm stats
  $ banger vm stats web --json | jq '.[0].guest.memory.available'

Exit status:
  0   done
  64  the command line is wrong
  65  the record of a machine is broken
  66  there is no such machine
  73  a machine that was named does not run

See also:
  banger-vm-list(1) banger-vm-health(1) banger-agent(7)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, sizes
from banger_tools.commands import several
from banger_tools.store import vms
from banger_tools.vmm import inside, usage
from banger_tools.vmm import spec as specs

if TYPE_CHECKING:
    from banger_tools.agent.answers import Stats

_SAMPLE_SECONDS = 0.5
_AGENT_SECONDS = 5.0


class Host(NamedTuple):
    """What a machine uses of the host: percent of one processor now, seconds of it so far, bytes."""

    cpu_percent: float | None
    cpu_seconds: float | None
    resident: int | None
    disk: int
    up: float | None


class Row(NamedTuple):
    """One machine: what it uses of the host, and what its agent answered, if it did."""

    name: str
    host: Host
    guest: Stats | None


def measured(name: str) -> Row:
    """Return what a machine uses; raises CannotCreate if it does not run."""
    record = inside.running(name)
    before, began = _used(record), time.monotonic()
    guest = asked(name)
    time.sleep(max(began + _SAMPLE_SECONDS - time.monotonic(), 0))
    return Row(name, host(record, before, time.monotonic() - began), guest)


def _used(record: specs.Record) -> usage.Usage | None:
    return usage.of_record(record, vms.folder(record.spec.name))


def host(record: specs.Record, before: usage.Usage | None, seconds: float) -> Host:
    """Return what a machine uses of the host, and how much of a processor since it was measured before."""
    now, disk = _used(record), usage.disk(vms.folder(record.spec.name))
    if now is None or before is None:
        return Host(None, None, None, disk, None)
    percent = (now.cpu_seconds - before.cpu_seconds) / seconds * 100
    return Host(round(percent, 1), round(now.cpu_seconds, 2), now.resident, disk, round(now.up, 1))


def asked(name: str) -> Stats | None:
    """Return what the agent of a machine says of its guest, None if it does not answer."""
    try:
        return inside.agent(name).stats(_AGENT_SECONDS)
    except (errors.BangerError, OSError) as error:
        console.detail(f"the agent of '{name}' does not answer: {error}")
        return None


def shown(found: Sequence[Row]) -> str:
    """Return what machines use as a table for people."""
    head = ("NAME", "CPU", "RSS", "DISK", "UP", "LOAD", "MEM", "ROOT")
    return console.table([head, *(_cells(one) for one in found)])


def _cells(one: Row) -> tuple[str, ...]:
    ours = one.host
    percent = "-" if ours.cpu_percent is None else f"{ours.cpu_percent:.0f}%"
    resident = "-" if ours.resident is None else sizes.show(ours.resident)
    return (one.name, percent, resident, sizes.show(ours.disk), usage.shown_time(ours.up), *_inside(one.guest))


def _inside(guest: Stats | None) -> tuple[str, str, str]:
    if guest is None:
        return ("-", "-", "-")
    memory, root = guest.memory, next((disk for disk in guest.disks if disk.path == "/"), None)
    used = f"{sizes.show(max(memory.total - memory.available, 0))} of {sizes.show(memory.total)}"
    space = f"{sizes.show(max(root.size - root.free, 0))} of {sizes.show(root.size)}" if root else "-"
    return (f"{guest.load[0]:.2f}", used, space)


def work(arguments: cli.Arguments) -> int:
    """Print what machines use."""
    found, status = several.answers(measured, arguments)
    if arguments["--json"]:
        sys.stdout.write(json.dumps([_plain(one) for one in found], indent=2) + "\n")
    else:
        sys.stdout.write(shown(found))
    return status


def _plain(one: Row) -> dict[str, Any]:
    import msgspec

    return {"name": one.name, "host": one.host._asdict(), "guest": msgspec.to_builtins(one.guest)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
