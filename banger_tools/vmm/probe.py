"""Whether KVM really works here, found out by booting a kernel with it under a deadline.

/dev/kvm can be there and open, and yet a stock kernel hangs in it (nested machines do that); nothing short of a boot
tells. Each monitor is tried for itself, since each asks something else of KVM. The answers are kept per boot of the
host and version of the monitor. That it works is one for good; that it does not may have been a busy host, or a module
that was not loaded yet, and is asked again after a while.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from banger_tools import console, files, locations, process
from banger_tools.vmm import holder

if TYPE_CHECKING:
    from subprocess import Popen

DEADLINE = 5.0  # of silence: a kernel with KVM is done in less than one second
FIRECRACKER_DEADLINE = 20.0  # it has no firmware that speaks before the kernel does, and is tried on fewer hosts
NO_SECONDS = 600.0  # for which a no is remembered
LONGEST = 120.0  # for a kernel that goes on speaking, as one in a machine in a machine does
DEVICE = Path("/dev/kvm")
# A kernel that is given no root filesystem and no initrd ends here, having started its drivers.
_REACHED = b"Kernel panic - not syncing: VFS"


class Answer(NamedTuple):
    """Whether KVM is usable, and why not; and when that was found, in seconds since the host's boot."""

    usable: bool
    reason: str
    at: float = 0.0


def kvm(program: str, version: str, kernel: Path, machine: str = "q35", console_name: str = "ttyS0") -> Answer:
    """Tell whether `program` (a QEMU) can boot `kernel` with KVM on a machine; asks once and remembers."""
    argv = command(program, kernel, machine, console_name)
    return _known("kvm", version, kernel, lambda: _boots(argv, DEADLINE))


def microvm(program: str, version: str, kernel: Path) -> Answer:
    """Tell whether a QEMU can boot `kernel` with KVM on its machine without PCI; asks once and remembers."""
    argv = command(program, kernel, "microvm,acpi=on", "ttyS0")
    return _known("kvm-microvm", version, kernel, lambda: _boots(argv, DEADLINE))


def firecracker(program: str, version: str, kernel: Path) -> Answer:
    """Tell whether a Firecracker can boot `kernel`, an uncompressed one; asks the machine once and remembers."""
    return _known("kvm-firecracker", version, kernel, lambda: _boots_in_firecracker(program, kernel))


def _known(what: str, version: str, kernel: Path, trial: Callable[[], Answer]) -> Answer:
    """Return the answer that is remembered, else that of a trial.

    One kernel that boots proves KVM for all; one that does not (it may have no console) says nothing of others.
    """
    denied = _openable()
    if denied:
        return Answer(False, denied)
    host = f"{holder.boot_id()} {version}"
    record = locations.cache() / f"{what}.json"
    with files.locked(locations.cache() / f"{what}.lock", what="the probe of KVM"):
        answers = _remembered(record, host)
        proof = next((answer for answer in answers.values() if answer.usable), None)
        known = proof or answers.get(_identity(kernel))
        if known is None:
            with console.step("KVM tried"):
                known = trial()._replace(at=_now())
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
    """Return the answers kept for this boot of the host and version of the monitor, by kernel, but no old no."""
    try:
        value = json.loads(record.read_text())
        if value["host"] != host:
            return {}
        kept = value["answers"].items()
        answers = {key: Answer(bool(one["usable"]), str(one["reason"]), float(one["at"])) for key, one in kept}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {key: one for key, one in answers.items() if one.usable or _now() - one.at < NO_SECONDS}


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # nobody sets this clock


def command(program: str, kernel: Path, machine: str, console_name: str) -> list[str]:
    """Return the command line of the trial: as near to a real machine as what decides it needs."""
    processor = ["-machine", f"{machine},accel=kvm", "-cpu", "host", "-smp", "1", "-m", "256"]
    quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]
    return [program, *processor, *quiet, "-kernel", str(kernel), "-append", f"console={console_name} panic=-1"]


def firecracker_configuration(kernel: Path) -> dict[str, object]:
    """Return Firecracker's configuration of the trial."""
    boot = {"kernel_image_path": str(kernel), "boot_args": "console=ttyS0 panic=-1 reboot=k"}
    return {"boot-source": boot, "drives": [], "machine-config": {"vcpu_count": 1, "mem_size_mib": 128}}


def _boots_in_firecracker(program: str, kernel: Path) -> Answer:
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="banger-kvm-", suffix=".json") as file:
        json.dump(firecracker_configuration(kernel.absolute()), file)
        file.flush()
        return _boots([program, "--no-api", "--config-file", file.name], FIRECRACKER_DEADLINE)


def _boots(argv: list[str], patience: float) -> Answer:
    """Run a trial, and end it as soon as it is decided: by the kernel's end, or by `patience` seconds of silence."""
    import subprocess
    import tempfile

    # A kernel that hangs hangs for ever: the trial goes with us, however we end.
    argv = [process.find("setpriv"), "--pdeathsig", "KILL", process.find(argv[0]), *argv[1:]]
    with tempfile.TemporaryFile() as said:
        trial = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        try:
            reason = _reached(trial, patience)
        finally:
            trial.kill()
            trial.communicate()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if reason is None:
        return Answer(True, "")
    return Answer(False, f"a kernel does not boot with KVM here: {reason or (lines or ['it stopped early'])[-1]}")


def _reached(trial: Popen[bytes], patience: float) -> str | None:
    """Return None if the kernel comes to its end, else why it did not; nothing if the monitor ended before it."""
    assert trial.stdout is not None
    end = time.monotonic() + LONGEST
    console_text = b""
    while _REACHED not in console_text:
        if not _readable(trial.stdout, min(patience, end - time.monotonic())):
            return f"nothing came of it in {patience:.0f} seconds"
        data = os.read(trial.stdout.fileno(), 65536)
        if not data:
            return ""
        console_text = console_text[-len(_REACHED) :] + data
    return None


def _readable(stream: IO[bytes], seconds: float) -> bool:
    return bool(select.select([stream], [], [], max(seconds, 0))[0])
