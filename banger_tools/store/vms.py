"""The virtual machines in the store: `vms/NAME/{vm.json, image.json, disks, sockets, logs}`, private to their owner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from banger_tools import errors, files, locations, manifest
from banger_tools.store import names, records, staging
from banger_tools.vmm import spec as specs

WHAT = "VM"


def root() -> Path:
    """Return the folder of all machines."""
    return locations.state() / "vms"


def listed() -> list[str]:
    """Return the names of all machines, sorted."""
    return staging.finished(root())


def folder(name: str) -> Path:
    """Return the folder that a machine of this name has, or would have."""
    return root() / names.check_vm(name, "NAME")


def load(name: str) -> specs.Record:
    """Return a machine's record.

    Raises records.Missing, Denied, or BadInput if what is there is broken.
    """
    place = folder(name)
    try:
        record = records.of_one(place, lambda: records.read(place, specs.RECORD, specs.Record, WHAT))
    except records.Missing as error:
        raise missing(name) from error
    if record.spec.name != name:  # every path is made of that name: those of another machine
        raise records.broken(place, WHAT, f"its record is that of '{record.spec.name}'")
    if record.schema != specs.SCHEMA:
        raise errors.BadInput(f"the VM '{name}' has the schema '{record.schema}', and we read '{specs.SCHEMA}'")
    return _with_paths(record, lambda path: str(place / path))


def save(record: specs.Record) -> None:
    """Write a machine's record."""
    write(folder(record.spec.name), record)


def write(place: Path, record: specs.Record) -> None:
    """Write a machine's record into its folder, or one that will become it: what lies in there is named from there.

    So a machine may be moved with the store, or reached by another path.
    """

    def named(path: Path) -> str:
        return str(path.relative_to(place) if path.is_relative_to(place) else path)

    records.write(place, specs.RECORD, _with_paths(record, named))


def _with_paths(record: specs.Record, named: Callable[[Path], str]) -> specs.Record:
    """Return a record with the paths of what it boots named in another way."""
    boot = record.spec.boot
    present = {field: path for field in ("kernel", "vmlinuz", "initrd") if (path := getattr(boot, field)) is not None}
    changed = structs.replace(boot, **{field: named(Path(path)) for field, path in present.items()})
    return structs.replace(record, spec=structs.replace(record.spec, boot=changed))


def image(name: str) -> manifest.Manifest:
    """Return the manifest that a machine was made from.

    Raises records.Missing, Denied, or BadInput if what is there is broken.
    """
    path = folder(name) / specs.IMAGE

    def look() -> manifest.Manifest:
        if not records.exists(folder(name)):
            raise missing(name)
        return manifest.loads(files.read_small(path, manifest.LIMIT, "a manifest"), f"'{path}'")

    return records.of_one(folder(name), look)


def missing(name: str) -> records.Missing:
    """Return the error that says that there is no such machine."""
    return records.missing(root() / name, WHAT, listed())
