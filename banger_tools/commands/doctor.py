"""banger doctor: look whether this machine has what banger needs.

Usage:
  banger doctor [options]

Options:
  --json  Print an array of objects, one a check.
  @talk

Description:
  Each check prints one line: PASS, WARN for what works but slower or not for everything, or FAIL for what must be
  mended first, and how to mend it. Nothing is changed on this machine; whether KVM works is noted in the cache.

Examples:
  $ banger doctor
  $ banger doctor --json | jq -r '.[] | select(.result != "PASS") | .hint'

Exit status:
  0   no check failed
  1   a check failed
  64  the command line is wrong

See also:
  banger(1) bg-fetch(1) bg-boot(1)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import cli, console, errors, files, locations, process, sizes

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
PACKAGES = ("docopt", "zstandard", "elftools", "tqdm", "isal", "crc32c", "msgspec", "urllib3", "lz4")
OLDEST_E2FSPROGS = (1, 43)
LITTLE, ENOUGH = 1 << 30, 8 << 30  # free bytes: an image cannot be made below the first, several fit in the second


class Check(NamedTuple):
    """What one check found, and how to mend it."""

    check: str
    result: str
    detail: str
    hint: str | None = None


def python() -> Check:
    """Check the Python that runs the programs."""
    version = platform.python_version()
    result = PASS if sys.version_info >= (3, 11) else FAIL
    return Check("python", result, f"{version}, {sys.executable}", None if result == PASS else "install Python 3.11")


def packages() -> Check:
    """Check that the Python packages are there."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Check("packages", FAIL, f"missing: {', '.join(missing)}", "make setup, or: pip install .")
    return Check("packages", PASS, "all installed")


def guest_program() -> Check:
    """Check that the program that goes into images was compiled."""
    from banger_tools import guest

    machine = platform.machine()
    try:
        return Check("guest", PASS, str(guest.program({"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine))))
    except errors.BangerError as error:
        return Check("guest", FAIL, error.message, error.hint)


def e2fsprogs() -> Check:
    """Check that mke2fs is there and knows metadata_csum."""
    try:
        said = process.run(["mke2fs", "-V"], check=False).stderr.decode(errors="replace")
        for program in ("e2fsck", "debugfs", "resize2fs"):
            process.find(program)
    except errors.BangerError as error:
        return Check("e2fsprogs", FAIL, error.message, error.hint)
    version = _version(said)
    if version < OLDEST_E2FSPROGS:
        return Check("e2fsprogs", FAIL, f"{_dotted(version)} is too old", "install e2fsprogs 1.43 or newer")
    return Check("e2fsprogs", PASS, _dotted(version))


def qemu() -> Check:
    """Check that QEMU for this machine is there."""
    program = f"qemu-system-{platform.machine()}"
    try:
        said = process.run([program, "--version"], check=False).stdout.decode(errors="replace")
    except errors.BangerError as error:
        return Check("qemu", FAIL, error.message, error.hint)
    return Check("qemu", PASS, f"{_dotted(_version(said))}")


def kvm() -> Check:
    """Check that hardware virtualisation may be used."""
    device = Path("/dev/kvm")
    if not device.exists():
        return Check("kvm", WARN, "no /dev/kvm: machines run emulated, slowly", "enable virtualisation in the firmware")
    if not os.access(device, os.R_OK | os.W_OK):
        return Check("kvm", WARN, "/dev/kvm may not be opened", f"sudo usermod -aG kvm {getpass.getuser()}")
    return _kvm_tried()


def _kvm_tried() -> Check:
    """Try KVM with a kernel of the store, if there is one: that /dev/kvm opens is no proof."""
    from banger_tools.store import kernels
    from banger_tools.vmm import probe, qemu

    program = f"qemu-system-{platform.machine()}"
    try:
        names = kernels.listed()
        if not names:
            return Check("kvm", PASS, "/dev/kvm opens; whether a kernel boots with it is tried with the first machine")
        kernel = kernels.described(kernels.root() / names[0], names[0])
        answer = probe.kvm(program, qemu.version(program), Path(kernel.vmlinuz or kernel.kernel))
    except errors.BangerError as error:
        return Check("kvm", WARN, f"could not be tried: {error.message}", error.hint)
    if not answer.usable:
        return Check("kvm", WARN, f"does not work: {answer.reason}; machines run emulated, slowly")
    return Check("kvm", PASS, "boots a kernel")


def debian_builds() -> Check:
    """Check what apt: images need: mmdebstrap, and for an ordinary user a range of user ids."""
    hint = "only apt: images need it"
    try:
        process.find("mmdebstrap")
        if os.geteuid() != 0:
            process.find("newuidmap")
    except errors.BangerError as error:
        return Check("mmdebstrap", WARN, error.message, f"{error.hint} ({hint})")
    if os.geteuid() != 0 and not _has_range(Path("/etc/subuid")):
        name = getpass.getuser()
        add = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        return Check("mmdebstrap", WARN, f"/etc/subuid has no range for '{name}'", f"{add} ({hint})")
    return Check("mmdebstrap", PASS, "apt: images can be made")


def _has_range(subuid: Path) -> bool:
    names = {getpass.getuser(), str(os.geteuid())}
    with contextlib.suppress(OSError):
        return any(line.split(":")[0] in names for line in subuid.read_text().splitlines())
    return False


def disk_space(what: str, folder: Path) -> Check:
    """Check the free space where a folder is, or will be."""
    place = _existing(folder)
    status = os.statvfs(place)
    free = status.f_bavail * status.f_frsize
    detail = f"{sizes.show(free)} free for '{folder}'"
    if free < LITTLE:
        return Check(what, FAIL, detail, "free some space, or set BANGER_HOME to a folder on another disk")
    return Check(what, PASS if free >= ENOUGH else WARN, detail, None if free >= ENOUGH else "it may fill up soon")


def reflink(folder: Path) -> Check:
    """Check whether files can be cloned where the store is: it makes machines in no time."""
    place = _existing(folder)
    if not os.access(place, os.W_OK):
        return Check("reflink", FAIL, f"'{place}' may not be written", "set BANGER_HOME to a folder of yours")
    if _clones(place):
        return Check("reflink", PASS, f"'{place}' clones files")
    return Check("reflink", WARN, f"'{place}' cannot clone files: they are copied without their holes")


def _clones(folder: Path) -> bool:
    with files.temporary_folder(folder / "banger-doctor") as work:
        (work / "a").write_bytes(bytes(4096))
        with open(work / "a", "rb") as source, open(work / "b", "wb") as target:
            try:
                fcntl.ioctl(target.fileno(), files.FICLONE, source.fileno())
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
                    return False
                raise
    return True


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _version(text: str) -> tuple[int, ...]:
    match = re.search(r"(\d+(?:\.\d+)+)", text)
    return tuple(map(int, match[1].split("."))) if match else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "unknown version"


def checks() -> Iterator[Check]:
    """Run every check, the ones that all need first."""
    alone: tuple[Callable[[], Check], ...] = (python, packages, guest_program, e2fsprogs, qemu, kvm, debian_builds)
    yield from (check() for check in alone)
    yield disk_space("store", locations.state())
    yield disk_space("cache", locations.cache())
    yield reflink(locations.state())


def shown(check: Check) -> str:
    """Return one check as a line for people, its hint on a line of its own."""
    text = console.printable(f"{check.result}  {check.check:<10}  {check.detail}") + "\n"
    return text + (console.printable(f"      {'':<10}  hint: {check.hint}") + "\n" if check.hint else "")


def work(arguments: cli.Arguments) -> int:
    """Print the checks, and tell by the status whether one failed."""
    found = list(checks())
    if arguments["--json"]:
        sys.stdout.write(json.dumps([check._asdict() for check in found], indent=2) + "\n")
    else:
        sys.stdout.write("".join(map(shown, found)))
    return errors.Negative.status if any(check.result == FAIL for check in found) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
