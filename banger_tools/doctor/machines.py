"""What machines run on: monitors, hardware virtualisation, vsock, and taps."""

from __future__ import annotations

import errno
import getpass
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from banger_tools import errors, process
from banger_tools.doctor.programs import dotted, version
from banger_tools.doctor.result import FAIL, PASS, WARN, Check, lack

OLDEST_FIRECRACKER = (1, 5)
EMULATED = "machines run emulated, many times slower, and not in Firecracker"
KVM, VHOST_VSOCK = Path("/dev/kvm"), Path("/dev/vhost-vsock")


def qemu() -> Iterator[Check]:
    """Check that QEMU for this machine is there; Firecracker alone is enough where it runs."""
    try:
        found = version(process.run([_qemu(), "--version"], check=False).stdout)
    except errors.BangerError as error:
        cost = "no machine runs emulated, or with a user network"
        result = WARN if shutil.which("firecracker", path=process.search_path()) else FAIL
        yield lack("qemu", error, cost)._replace(result=result)
        return
    try:
        process.find("qemu-img")
    except errors.BangerError as error:
        yield lack("qemu", error, "a disk too large to be copied cannot be an overlay instead")
    else:
        yield Check("qemu", PASS, dotted(found))


def _qemu() -> str:
    return f"qemu-system-{platform.machine()}"


def firecracker() -> Iterator[Check]:
    """Check Firecracker's version, and if it is there its jailer's."""
    cost = "--vmm firecracker cannot be used"
    hint = "put the release for this machine into PATH: https://github.com/firecracker-microvm/firecracker/releases"
    try:
        found = version(process.run(["firecracker", "--version"], check=False).stdout)
    except errors.BangerError as error:
        yield Check("firecracker", WARN, f"{error.message}: {cost}", hint)
        return
    if found < OLDEST_FIRECRACKER:
        old = f"{dotted(found)} is older than {dotted(OLDEST_FIRECRACKER)}: {cost}"
        yield Check("firecracker", WARN, old, hint)
    else:
        yield Check("firecracker", PASS, dotted(found))
    yield _jailer(found)


def _jailer(firecracker_version: tuple[int, ...]) -> Check:
    cost = "--jail cannot be used"
    try:
        found = version(process.run(["jailer", "--version"], check=False).stdout)
    except errors.BangerError as error:
        return Check("jailer", WARN, f"{error.message}: {cost}", "it is part of Firecracker's release")
    if found != firecracker_version:
        detail = f"{dotted(found)} is not of Firecracker {dotted(firecracker_version)}"
        return Check("jailer", WARN, detail, "take both from one release")
    return Check("jailer", PASS, dotted(found) + ("" if os.geteuid() == 0 else "; --jail needs root"))


def kvm() -> Iterator[Check]:
    """Check that hardware virtualisation works: that its device opens is no proof."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Check("kvm", WARN, f"no {KVM}: {EMULATED}", "enable virtualisation in the firmware; sudo modprobe kvm")
    except OSError as error:
        mend = f"sudo usermod -aG kvm {getpass.getuser()}" if error.errno == errno.EACCES else None
        yield Check("kvm", WARN, f"{KVM} cannot be opened: {errors.reason(error)}: {EMULATED}", mend)
    else:
        yield _kvm_tried()


def _kvm_tried() -> Check:
    from banger_tools.vmm import probe
    from banger_tools.vmm import qemu as monitor

    kernel = _kernel()
    if kernel is None:
        return Check("kvm", PASS, f"{KVM} opens; whether a kernel boots with it is tried with the first machine")
    try:
        answer = probe.kvm(_qemu(), monitor.version(_qemu()), kernel)
    except errors.BangerError as error:
        return lack("kvm", error, "it cannot be tried")
    if not answer.usable:
        return Check("kvm", WARN, f"{answer.reason}: {EMULATED}", "look for the host's limits on nested virtualisation")
    return Check("kvm", PASS, "boots a kernel")


def _kernel() -> Path | None:
    """Return a kernel to try: one of the store, else the one that this host runs."""
    from banger_tools.store import kernels

    for name in kernels.listed():
        try:
            kernels.find(name)
        except errors.BangerError:  # told by the check of the kernels
            continue
        found = kernels.described(kernels.root() / name, name)
        return Path(found.vmlinuz or found.kernel)
    own = Path(f"/boot/vmlinuz-{platform.release()}")
    return own if os.access(own, os.R_OK) else None


def vsock() -> Iterator[Check]:
    """Check whether QEMU's machines are reached over vsock; nothing is lost where they are not."""
    try:
        os.close(os.open(VHOST_VSOCK, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why = f"{VHOST_VSOCK} cannot be opened: {errors.reason(error)}"
        yield Check("vsock", PASS, f"not used by QEMU, whose machines are reached over virtio-serial ({why})")
    else:
        yield Check("vsock", PASS, f"{VHOST_VSOCK} opens")


def taps() -> Iterator[Check]:
    """Check what --net tap needs: iproute2, nftables, and the right to make taps."""
    from banger_tools.net import taps as networks

    try:
        networks.check()
    except errors.BangerError as error:
        yield lack("tap", error, "--net tap cannot be used, and Firecracker's machines have no network")
    else:
        yield Check("tap", PASS, "taps can be made")
