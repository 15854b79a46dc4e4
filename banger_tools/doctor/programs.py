"""What is installed: Python and its packages, the guest program, and the host's programs that several features need."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from banger_tools import errors, process
from banger_tools.doctor.result import FAIL, PASS, WARN, Check, lack

PACKAGES = ("docopt", "zstandard", "elftools", "tqdm", "isal", "crc32c", "msgspec", "urllib3", "lz4")
OLDEST_PYTHON, OLDEST_E2FSPROGS = (3, 11), (1, 43)
_VERSION = re.compile(r"(\d+(?:\.\d+)+)")


def version(said: bytes) -> tuple[int, ...]:
    """Return the first version number in what a program said, () if there is none."""
    match = _VERSION.search(said.decode(errors="replace"))
    return tuple(map(int, match[1].split("."))) if match else ()


def dotted(number: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, number)) or "unknown version"


def user() -> str:
    """Return the name of the user, or the number of one who has none here, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def python() -> Iterator[Check]:
    """Check the Python that runs the programs."""
    fits = sys.version_info >= OLDEST_PYTHON
    hint = None if fits else f"install Python {dotted(OLDEST_PYTHON)} or newer"
    yield Check("python", PASS if fits else FAIL, f"{platform.python_version()}, {sys.executable}", hint)


def packages() -> Iterator[Check]:
    """Check that the Python packages are there."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield Check("packages", FAIL, f"missing: {', '.join(missing)}", "make setup, or: pip install .")
    else:
        yield Check("packages", PASS, "all installed")


def guest_program() -> Iterator[Check]:
    """Check that the program that goes into images was compiled."""
    from banger_tools import guest
    from banger_tools.oci import platforms

    yield Check("guest", PASS, str(guest.program(platforms.host().architecture)))


def e2fsprogs() -> Iterator[Check]:
    """Check that mke2fs and its sisters are there, and know metadata_csum."""
    found = version(process.run(["mke2fs", "-V"], check=False).stderr)
    for program in ("e2fsck", "debugfs", "resize2fs"):
        process.find(program)
    if found < OLDEST_E2FSPROGS:
        hint = f"install e2fsprogs {dotted(OLDEST_E2FSPROGS)} or newer"
        yield Check("e2fsprogs", FAIL, f"{dotted(found)} is too old", hint)
    else:
        yield Check("e2fsprogs", PASS, dotted(found))


def ssh() -> Iterator[Check]:
    """Check that there is an ssh client."""
    try:
        found = version(process.run(["ssh", "-V"], check=False).stderr)
    except errors.BangerError as error:
        yield lack("ssh", error, "machines are entered with banger vm exec only")
    else:
        yield Check("ssh", PASS, dotted(found))


def debian_builds() -> Iterator[Check]:
    """Check what apt: images need: mmdebstrap, and for an ordinary user a range of user ids."""
    cost = "apt: images cannot be made"
    try:
        for program in ("mmdebstrap", *(() if os.geteuid() == 0 else ("newuidmap",))):
            process.find(program)
    except errors.BangerError as error:
        yield lack("mmdebstrap", error, cost)
        return
    without = [] if os.geteuid() == 0 else [name for name in ("subuid", "subgid") if not _has_range(Path("/etc", name))]
    if without:
        name = user()
        add = f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        yield Check("mmdebstrap", WARN, f"/etc/{without[0]} has no range for '{name}': {cost}", add)
    else:
        yield Check("mmdebstrap", PASS, "apt: images can be made")


def _has_range(table: Path) -> bool:
    names = {user(), str(os.geteuid())}
    with contextlib.suppress(OSError):
        return any(line.split(":")[0] in names for line in table.read_text().splitlines())
    return False
