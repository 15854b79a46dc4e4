"""Whether KVM really works here, found out by booting a kernel with it under a deadline.

/dev/kvm can be there and open, and yet a stock kernel hangs in it (nested machines do that); nothing short of a boot
tells. The answer is kept per boot of the host and version of QEMU, since nothing else changes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from banger_tools import console, files, locations, process
from banger_tools.vmm import holder

DEADLINE = 5.0  # a kernel with KVM gets there in less than one
DEVICE = Path("/dev/kvm")
# A kernel that is given no root filesystem and no initrd ends here, having started its drivers.
_REACHED = b"Kernel panic - not syncing: VFS"


class Answer(NamedTuple):
    """Whether KVM is usable, and why not."""

    usable: bool
    reason: str


def kvm(program: str, version: str, kernel: Path) -> Answer:
    """Tell whether `program` (a QEMU) can boot `kernel` with KVM; asks the machine once and remembers.

    One kernel that boots proves KVM for all; one that does not (it may have no console) says nothing of others.
    """
    denied = _openable()
    if denied:
        return Answer(False, denied)
    host = f"{holder.boot_id()} {version}"
    record = locations.cache() / "kvm.json"
    with files.locked(locations.cache() / "kvm.lock", what="the probe of KVM"):
        answers = _remembered(record, host)
        proof = next((answer for answer in answers.values() if answer.usable), None)
        known = proof or answers.get(_identity(kernel))
        if known is None:
            with console.step("KVM tried"):
                known = _boots(program, kernel)
            kept = {**answers, _identity(kernel): known}
            text = json.dumps({"host": host, "answers": {key: answer._asdict() for key, answer in kept.items()}})
            files.write_text(record, text + "\n", force=True)
    return known


def _identity(kernel: Path) -> str:
    """Return what tells one kernel from another without reading all of it: its size, and its first part's digest."""
    with open(kernel, "rb") as file:
        head = hashlib.sha256(file.read(1 << 20)).hexdigest()
        return f"{file.seek(0, os.SEEK_END)} {head}"


def _openable() -> str:
    """Return why /dev/kvm cannot be opened, or nothing."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"'{DEVICE}' cannot be opened: {os.strerror(error.errno or 0).lower()}"
    return ""


def _remembered(record: Path, host: str) -> dict[str, Answer]:
    """Return the answers kept for this boot of the host and version of QEMU, by kernel."""
    try:
        value = json.loads(record.read_text())
        if value["host"] != host:
            return {}
        return {key: Answer(bool(a["usable"]), str(a["reason"])) for key, a in value["answers"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def command(program: str, kernel: Path) -> list[str]:
    """Return the command line of the trial: as near to a real machine as what decides it needs."""
    machine = ["-machine", "q35,accel=kvm", "-cpu", "max", "-smp", "1", "-m", "256"]
    quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
    return [program, *machine, *quiet, "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]


def _boots(program: str, kernel: Path) -> Answer:
    import subprocess

    # A kernel that hangs hangs for ever: the trial goes with us, however we end.
    argv = [process.find("setpriv"), "--pdeathsig", "KILL", *command(process.find(program), kernel)]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, check=False)
    except subprocess.TimeoutExpired as error:
        if _REACHED in (error.stdout or b""):
            return Answer(True, "")
        return Answer(False, f"a kernel does not boot with KVM here: nothing came of it in {DEADLINE:.0f} seconds")
    if _REACHED in done.stdout:
        return Answer(True, "")
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return Answer(False, f"a kernel does not boot with KVM here: {said[-1] if said else 'it stopped early'}")
