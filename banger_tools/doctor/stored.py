"""What is in the store: whether it is whole, what was left behind, and what a machine would lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from banger_tools import errors, manifest, sizes
from banger_tools.doctor.result import FAIL, PASS, WARN, Check
from banger_tools.store import images as store_images
from banger_tools.store import kernels as store_kernels
from banger_tools.store import records, vms
from banger_tools.vmm import life
from banger_tools.vmm import spec as specs


def images() -> Iterator[Check]:
    """Check every image: a broken one cannot be booted."""
    whole = []
    for name in store_images.listed():
        try:
            store_images.find(name)
            whole.append(name)
        except errors.BangerError as error:
            yield Check("images", FAIL, error.message, error.hint)
    if whole or not store_images.listed():
        yield Check("images", PASS, _counted(whole, "image"))


def kernels() -> Iterator[Check]:
    """Check every kernel of the store."""
    whole = []
    for name in store_kernels.listed():
        try:
            store_kernels.find(name)
            whole.append(name)
        except errors.BangerError as error:
            yield Check("kernels", FAIL, error.message, f"banger kernel delete {name}, then pull it again")
    if whole or not store_kernels.listed():
        yield Check("kernels", PASS, _counted(whole, "kernel"))


def seeds() -> Iterator[Check]:
    """Check that the images have a work seed: what their /root holds, for machines to begin with."""
    found = {name: seed for name in store_images.listed() if (seed := _seed(name)) is not None}
    lost = [name for name, (reason, is_own) in found.items() if not is_own]
    if lost:
        named = "; ".join(f"'{name}': {found[name][0]}" for name in lost)
        again = f"banger image pull --replace --name={lost[0]} REF makes one again"
        yield Check("work seeds", WARN, f"the guest's /root will be empty: {named}", again)
    elif found:
        named = "; ".join(f"'{name}': {reason}" for name, (reason, _) in found.items())
        yield Check("work seeds", PASS, f"the guest's /root will be empty, as the image's: {named}")
    elif store_images.listed():
        yield Check("work seeds", PASS, "every image has one")


def _seed(name: str) -> tuple[str, bool] | None:
    """Return why an image has no work seed and whether that is its nature; None if it has one, or is broken."""
    try:
        image = store_images.find(name)
    except errors.BangerError:
        return None
    if image.get("published", manifest.Published).work_seed:
        return None
    if image.raw.get("work_seed"):
        return f"its '{store_images.WORK_SEED}' is missing", False
    reason = image.raw.get("work_seed_reason")
    return (str(reason), True) if reason else ("bg-seed was left out", False)


def machines() -> Iterator[Check]:
    """Check every machine: whether it can start again, and whether one ended with nobody having cleaned up."""
    whole = []
    for name in vms.listed():
        try:
            record = vms.load(name)
            _check_files(name, record)
        except errors.BangerError as error:
            if records.exists(vms.root() / name):  # else it went meanwhile
                yield Check("machines", FAIL, error.message, f"banger vm delete --force {name}")
            continue
        how = life.condition(record)
        if how.state in ("running", "stopped") and how.reason is None:
            whole.append(name)
        else:
            yield _unwell(name, how)
    if whole or not vms.listed():
        yield Check("machines", PASS, _counted(whole, "VM"))


def _unwell(name: str, how: life.Condition) -> Check:
    """Return the warning of a machine that ended by itself, or whose monitor has something to say."""
    is_over = how.state == "ended"
    detail = f"the VM '{name}' {'' if is_over else 'is '}{how.state}" + (f": {how.reason}" if how.reason else "")
    again = f"banger vm start {name} goes on with its disks, banger vm delete --force {name} removes it"
    return Check("machines", WARN, detail, again if is_over else f"banger vm logs --vmm {name}")


def _check_files(name: str, record: specs.Record) -> None:
    """Check that what a machine starts with is there; raises BadInput, Denied."""
    folder = vms.folder(name)
    vms.image(name)
    for disk in specs.disks(folder, record.spec.guest):
        if disk.file != specs.CONFIG_DISK:  # written anew at each start
            records.check_file(folder, disk.file, vms.WHAT)
    for path in filter(None, (record.spec.boot.kernel, record.spec.boot.initrd)):
        if Path(path).is_relative_to(folder):
            records.check_file(folder, str(Path(path).relative_to(folder)), vms.WHAT)
        elif not Path(path).exists():  # a record of an older time names it from the root
            raise records.broken(folder, vms.WHAT, f"it was made for '{Path(path).parents[1]}'")


def leftovers() -> Iterator[Check]:
    """Check for what programs left that were killed."""
    from banger_tools import leftovers as left

    found = list(left.found())
    others = {left.TAP: "taps of machines that are gone", left.OLD_NAME: "names that images had before"}
    taken = sizes.show(sum(one.size for one in found))
    told: dict[str, list[str]] = {}
    for one in found:
        told.setdefault(others.get(one.kind, f"of programs that died, taking {taken}"), []).append(one.name)
    for what, names in told.items():
        yield Check("leftovers", WARN, f"{what}: {', '.join(names)}", "banger prune")
    if not found:
        yield Check("leftovers", PASS, "none")


def _counted(names: Sequence[str], what: str) -> str:
    return f"{len(names) or 'no'} {what}{'' if len(names) == 1 else 's'}"
