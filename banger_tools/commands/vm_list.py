"""banger vm list: list the machines, and how they are.

Usage:
  banger vm list [options]

Options:
  --running  List only those that run.
  --json     Print an array of objects, one a machine: name, state, reason, path, image, vmm, accelerator, machine,
             cpus, memory, address, publish, pid, up, boot_seconds.
  --names    Print the names only, one a line.
  @talk

Description:
  A machine is a folder in the store. Its state is one of these:

    running  its monitor runs, and so does the guest; or another word of the monitor, such as paused
    stopped  it was stopped, or never started
    ended    it ended with nobody having stopped it: REASON says how, as far as can be told
    broken   its record cannot be read: REASON says why

  A machine whose guest reboots ends, too, with the REASON that its guest rebooted or powered off; `banger vm start`
  starts it again.

  What ended is cleaned up after by `banger vm start` and `banger vm delete`; the latter removes broken ones, too. PORTS
  are those of this host that are forwarded to the guest; UP is the time since the monitor started.

Examples:
  $ banger vm list
  $ banger vm list --json | jq -r '.[] | select(.state == "ended") | .name'
  $ banger vm stop $(banger vm list --running --names)

Exit status:
  0   done
  64  the command line is wrong
  77  the store may not be read

See also:
  banger-vm-show(1) banger-vm-stats(1) banger-vm-start(1) banger-vm-prune(1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors, sizes
from banger_tools.store import records, vms
from banger_tools.vmm import holder, life, usage


class Row(NamedTuple):
    """One machine: what a list tells of it. Memory in bytes, times in seconds; None is what is not known."""

    name: str
    state: str
    reason: str | None
    path: str
    image: str | None = None
    vmm: str | None = None
    accelerator: str | None = None
    machine: str | None = None
    cpus: int | None = None
    memory: int | None = None
    address: str | None = None
    publish: Sequence[str] = ()
    pid: int | None = None
    up: float | None = None
    boot_seconds: float | None = None


def rows(*, running_only: bool) -> list[Row]:
    """Return the machines of the store, the broken ones too, sorted by name."""
    found = []
    for name in vms.listed():
        alive = holder.is_alive(vms.root() / name)
        if (alive or not running_only) and (one := row(name, alive=alive)):
            found.append(one)
    return found


def row(name: str, *, alive: bool) -> Row | None:
    """Return what a list tells of a machine, None if it went meanwhile."""
    path = str(vms.root() / name)
    try:
        record = vms.load(name)
        vms.image(name)
    except errors.BangerError as error:
        if not records.exists(vms.root() / name):
            return None
        return Row(name, "running" if alive else "broken", error.message, path)
    vm, used = life.described(record), usage.of_record(record, vms.folder(name))
    return Row(
        name,
        vm.state,
        vm.reason,
        path,
        record.spec.image,
        vm.vmm,
        vm.accelerator if used else None,
        record.process.machine if record.process and used else None,
        vm.cpus,
        vm.memory,
        vm.address if used else None,
        vm.publish,
        vm.pid or None,
        round(used.up, 1) if used else None,
        vm.boot_seconds if used else None,
    )


def shown(found: Sequence[Row]) -> str:
    """Return the list as a table for people."""
    head = ("NAME", "STATE", "IMAGE", "VMM", "CPUS", "MEMORY", "ADDRESS", "PORTS", "UP", "REASON")
    return console.table([head, *map(_cells, found)])


def _cells(one: Row) -> tuple[str, ...]:
    return (
        one.name,
        one.state,
        one.image or "-",
        f"{one.vmm} ({one.accelerator})" if one.accelerator else one.vmm or "-",
        "-" if one.cpus is None else str(one.cpus),
        "-" if one.memory is None else sizes.show(one.memory),
        one.address or "-",
        ",".join(one.publish) or "-",
        usage.shown_time(one.up),
        one.reason or "",
    )


def work(arguments: cli.Arguments) -> None:
    """Print the list."""
    found = rows(running_only=bool(arguments["--running"]))
    if arguments["--json"]:
        sys.stdout.write(json.dumps([one._asdict() for one in found], indent=2) + "\n")
    elif arguments["--names"]:
        sys.stdout.write("".join(f"{one.name}\n" for one in found))
    else:
        sys.stdout.write(shown(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
