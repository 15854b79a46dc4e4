"""What machines run on: monitors, hardware virtualisation, vsock, and taps."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from banger_tools import errors, manifest, process
from banger_tools.doctor.programs import dotted, user, version
from banger_tools.doctor.result import FAIL, PASS, WARN, Check, lack
from banger_tools.store import kernels
from banger_tools.vmm import probe

EMULATED = "machines run emulated, many times slower, and not in Firecracker"
NESTED = "in a virtual machine, have its own monitor offer nested virtualisation, or run on the hardware"
KVM = Path("/dev/kvm")


def qemu() -> Iterator[Check]:
    """Check that QEMU for this machine is there; Firecracker alone is enough where KVM lets it run."""
    try:
        found = version(process.run([_qemu(), "--version"], check=False).stdout)
    except errors.BangerError as error:
        if _firecracker_runs():
            yield lack("qemu", error, "no machine runs emulated, or with a user network")
        else:
            yield lack("qemu", error, "no machine can run")._replace(result=FAIL)
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
    """Check Firecracker: its version, whether a kernel boots in it, and its jailer."""
    cost = "--vmm firecracker cannot be used"
    hint = "put the release for this machine into PATH: https://github.com/firecracker-microvm/firecracker/releases"
    try:
        found = _firecracker_release()
    except errors.BangerError as error:
        yield Check("firecracker", WARN, f"{error.message}: {cost}", hint)
        return
    answer = _firecracker_tried(found)
    if answer is not None and not answer.usable:
        yield Check("firecracker", WARN, f"{found}: {answer.reason}: {cost}", NESTED)
    else:
        yield Check("firecracker", PASS, f"{found}, boots a kernel" if answer else found)
    yield _jailer(found)


def _firecracker_release() -> str:
    """Return the version of Firecracker; raises Unavailable if there is none, or one that is too old."""
    from banger_tools.vmm import firecracker as monitor

    found = monitor.version()
    if version(found.encode()) < monitor.LEAST_VERSION:
        raise errors.Unavailable(f"{found} is older than {dotted(monitor.LEAST_VERSION)}")
    return found


def _firecracker_tried(release: str) -> probe.Answer | None:
    """Return whether a kernel boots in Firecracker; None if that cannot be tried."""
    from banger_tools.vmm import firecracker as monitor

    kernel = _kernel()
    return probe.firecracker(monitor.PROGRAM, release, Path(kernel.kernel)) if kernel and _opens() else None


def _firecracker_runs() -> bool:
    """Tell whether Firecracker can run machines, as far as that can be tried."""
    try:
        answer = _firecracker_tried(_firecracker_release())
    except errors.BangerError:
        return False
    return _opens() and (answer is None or answer.usable)


def _jailer(release: str) -> Check:
    from banger_tools.vmm import jailer

    try:
        found = process.run([jailer.PROGRAM, "--version"], check=False).stdout
        jailer.check()
    except errors.BangerError as error:
        return lack("jailer", error, "--jail cannot be used")
    if version(found) != version(release.encode()):
        detail = f"{dotted(version(found))} is not of Firecracker {release}"
        return Check("jailer", WARN, detail, "take both of one release")
    return Check("jailer", PASS, dotted(version(found)))


def kvm() -> Iterator[Check]:
    """Check that hardware virtualisation works: that its device opens is no proof."""
    try:
        _open()
    except FileNotFoundError:
        yield Check("kvm", WARN, f"no {KVM}: {EMULATED}", "enable virtualisation in the firmware; sudo modprobe kvm")
    except OSError as error:
        mend = f"sudo usermod -aG kvm {user()}" if error.errno == errno.EACCES else None
        yield Check("kvm", WARN, f"{KVM} cannot be opened: {errors.reason(error)}: {EMULATED}", mend)
    else:
        yield _kvm_tried()


def _kvm_tried() -> Check:
    from banger_tools.vmm import qemu as monitor

    stored = _kernel()
    kernel = Path(stored.vmlinuz or stored.kernel) if stored else Path(f"/boot/vmlinuz-{platform.release()}")
    if not os.access(kernel, os.R_OK):
        return Check("kvm", PASS, f"{KVM} opens; whether a kernel boots with it is tried with the first machine")
    try:
        answer = probe.kvm(_qemu(), monitor.version(_qemu()), kernel)
    except errors.BangerError as error:
        return lack("kvm", error, "it cannot be tried")
    if not answer.usable:
        return Check("kvm", WARN, f"{answer.reason}: {EMULATED}", NESTED)
    return Check("kvm", PASS, "boots a kernel")


def _kernel() -> manifest.Kernel | None:
    """Return a kernel of the store to try, the first that is whole and for this machine."""
    from banger_tools.oci import platforms

    for name in kernels.listed():
        with contextlib.suppress(errors.BangerError):  # told by the check of the kernels
            if kernels.find(name).architecture == platforms.host().architecture:
                return kernels.described(kernels.root() / name, name)
    return None


def _open() -> None:
    os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))


def _opens() -> bool:
    try:
        _open()
    except OSError:
        return False
    return True


def vsock() -> Iterator[Check]:
    """Check whether QEMU's machines are reached over vsock; nothing is lost where they are not."""
    from banger_tools.vmm import qemu_vsock

    if qemu_vsock.free_cid("doctor") is not None:
        yield Check("vsock", PASS, f"{qemu_vsock.DEVICE} gives addresses")
    else:
        why = f"{qemu_vsock.DEVICE} gives no addresses"
        yield Check("vsock", PASS, f"not used by QEMU, whose machines are reached over virtio-serial: {why}")


def taps() -> Iterator[Check]:
    """Check what --net tap needs: iproute2, nftables, the right to make taps, and a subnet that nobody else has."""
    from banger_tools.net import taps as networks

    try:
        networks.foresee()
        lost = networks.unguarded()
    except errors.BangerError as error:
        yield lack("tap", error, "--net tap cannot be used, and Firecracker's machines have no network")
    else:
        yield _ruled(lost)


def _ruled(lost: list[str]) -> Check:
    """Return the check of the rules for machines on taps, which some bridges may have lost."""
    if not lost:
        return Check("tap", PASS, "taps can be made")
    bridges = ", ".join(f"'{name}'" for name in lost)
    cost = "its machines have no ports, no way out by NAT, and may reach what listens on 127.0.0.1 of this host"
    return Check("tap", WARN, f"{bridges} has lost its table of nftables: {cost}", "banger vm restart each of them")
