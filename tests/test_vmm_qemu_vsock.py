"""QEMU with KVM and vhost-vsock, on a host that has both: the outer machine in which Firecracker is tested, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import firecracker_host, firecracker_lab
from tests.firecracker_host import CHECKOUT, DEBIAN, HOME, Host

pytestmark = [pytest.mark.boot, pytest.mark.slow]

# Everything takes fifty times as long there as on a host, and the trial of KVM only as long as on one: that a kernel
# boots with KVM there is said, not found out. That it hangs on microvm is found out.
PATIENT = f"""
import sys
sys.path.insert(0, "{CHECKOUT}")
from banger_tools import boot
from banger_tools.vmm import life, probe
life.START_SECONDS = 600
probe.kvm = lambda *_: probe.Answer(True, "")
sys.exit(boot.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def host(pytestconfig: pytest.Config, bootable_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with QEMU, KVM, vhost-vsock, a kernel and an image."""
    assert pytestconfig.cache
    binaries = firecracker_lab.programs(pytestconfig.cache.mkdir("firecracker-1.12.1"))
    kernel = firecracker_lab.kernel(bootable_home, tmp_path_factory.mktemp("kernel"))
    guest = firecracker_lab.inner_image(tmp_path_factory.mktemp("inner"), kernel)
    debian = DEBIAN.replace("packages=", "packages=qemu-system-x86,")
    disk = firecracker_host.disk(tmp_path_factory.mktemp("host"), kernel, binaries, guest, debian)
    with firecracker_lab.outer_machine(tmp_path_factory.mktemp("vm"), kernel, disk) as outer:
        made = Host(outer)
        made.sh(f"modprobe vhost_vsock\n{firecracker_host.SETUP}")
        yield made


def test_guest_with_kvm_is_reached_by_vsock_alone_and_stops_by_it(host: Host) -> None:
    words = "--image=tiny --name=seen --vmm=qemu --net=none --memory=128M --timeout=900"
    done = host.run("python3", "-P", "-c", PATIENT, *words.split())
    assert done.status == 0, done.stderr.decode()
    process = host.record("seen")["process"]
    assert (process["accelerator"], process["machine"]) == ("kvm", "q35")
    assert 2 < process["cid"] < 0xFFFFFFFF
    command = host.sh(f"tr '\\0' ' ' < /proc/{process['pid']}/cmdline")
    assert f"vhost-vsock-pci,guest-cid={process['cid']}" in command and "virtserialport" not in command
    assert host.inside("seen", "hostname") == "seen\n"
    host.sh("banger vm stop -q --timeout=300 seen")
    host.sh(f"e2fsck -fn {HOME}/state/vms/seen/root.ext4")
    assert "Power down" in host.sh(f"cat {HOME}/state/vms/seen/console.log")
