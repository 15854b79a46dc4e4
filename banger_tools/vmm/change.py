"""What of a machine can be different after it was made: every value is checked before any is changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from banger_tools import errors, sizes
from banger_tools.net import taps
from banger_tools.store import vms
from banger_tools.vmm import disks, holder, interface, life
from banger_tools.vmm import spec as specs


class Changes(NamedTuple):
    """What is to be different, sizes in bytes; None: it stays as it is."""

    cpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    work_disk: int | None = None
    nat: bool | None = None

    @property
    def want_stopped(self) -> bool:
        """Whether a machine has to be off for these."""
        return any(value is not None for value in (self.cpus, self.memory, self.disk, self.work_disk))


class _Growth(NamedTuple):
    disk: Path
    size: int


def change(name: str, changes: Changes) -> specs.Record:
    """Change a machine, whose lock the caller holds, and return its record.

    Larger disks get their filesystem grown by the guest at the next start. Raises BadUsage for what it cannot become,
    CannotCreate if it runs and must not, and what the monitor's own check raises.
    """
    record = life.settle(vms.load(name))
    spec = _changed(record.spec, changes)
    if changes.want_stopped and holder.is_alive(vms.folder(name)):
        raise errors.CannotCreate(f"the VM '{name}' is running", f"banger vm stop {name}")
    growths = _growths(vms.folder(name), changes)
    interface.monitor(spec.vmm).check(spec)
    for disk, size in growths:
        disks.extend(disk, size)
    record = structs.replace(record, spec=spec, process=_let_out(record.process, spec, changes))
    vms.save(record)
    return record


def _changed(spec: specs.Spec, changes: Changes) -> specs.Spec:
    """Return the spec with what of the changes stands in it."""
    if changes.nat is not None and spec.net != "tap":
        raise errors.BadUsage(f"--nat goes with --net tap only, and the VM '{spec.name}' has --net {spec.net}")
    return structs.replace(
        spec,
        cpus=changes.cpus or spec.cpus,
        memory=changes.memory or spec.memory,
        nat=spec.nat if changes.nat is None else changes.nat,
    )


def _growths(folder: Path, changes: Changes) -> list[_Growth]:
    """Return which disks become how large, those left out that are so already."""
    root, *rest = (folder / disk.file for disk in specs.disks(folder, specs.Guest()))
    work = next((disk for disk in rest if disk.name == specs.WORK_DISK), None)
    if changes.work_disk is not None and work is None:
        raise errors.BadUsage(f"--work-disk: the VM '{folder.name}' was made without one")
    asked = (("--disk", root, changes.disk), ("--work-disk", work, changes.work_disk))
    growths = [_growth(option, disk, size) for option, disk, size in asked if disk and size is not None]
    return [growth for growth in growths if growth.size > disks.size(growth.disk)]


def _growth(option: str, disk: Path, size: int) -> _Growth:
    have = disks.size(disk)
    if size < have:
        raise errors.BadUsage(f"{option}: {sizes.show(size)} is less than the disk has: {sizes.show(have)}")
    return _Growth(disk, size)


def _let_out(process: specs.Process | None, spec: specs.Spec, changes: Changes) -> specs.Process | None:
    """Let a running machine out of its tap's network, or no longer: also if it was told before, for rules get lost."""
    if process is None or process.network is None or changes.nat is None:
        return process
    return structs.replace(process, network=taps.lead(process.network, nat=spec.nat, forwards=spec.forwards))
