"""QEMU with KVM and vhost-vsock, on a host that has both: the outer machine in which Firecracker is tested, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import firecracker_host, firecracker_lab
from tests.firecracker_host import CHECKOUT, DEBIAN, HOME, Host

pytestmark = [pytest.mark.boot, pytest.mark.slow]

# Everything takes fifty times as long there as on a host, and the trial of KVM only as long as on one: that a kernel
# boots with KVM there is said, not found out. Whether it does on microvm is found out, and goes now this way, now that.
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


# What a connection to the agent of a CID gives for some first words: `closed`, or the answer's first line.
KNOCK = """
import socket, sys
with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
    stream.settimeout(300)
    stream.connect((int(sys.argv[1]), 10240))
    try:
        stream.sendall(sys.stdin.buffer.read())
        stream.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: guest\\r\\nConnection: close\\r\\n\\r\\n")
        print(stream.recv(4096).decode().partition("\\r\\n")[0] or "closed")
    except (ConnectionResetError, BrokenPipeError):
        print("closed")
"""


def knock(host: Host, cid: int, words: str) -> str:
    """Return what the agent of a guest answers to another program of the host."""
    done = host.run("python3", "-c", KNOCK, str(cid), stdin=words.encode())
    assert done.status == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def check_that_only_who_knows_the_token_gets_in(host: Host, process: dict[str, Any]) -> None:
    cid, token = process["cid"], process["token"]
    assert len(token) == 64
    assert knock(host, cid, "") == "closed"
    assert knock(host, cid, f"TOKEN {'0' * 64}\n") == "closed"
    assert knock(host, cid, f"TOKEN {token}\n") == "HTTP/1.1 200 OK"
    folder = f"{HOME}/state/vms/seen"
    assert host.sh(f"stat -c %a {folder} {folder}/vm.json {folder}/config.img") == "700\n600\n600\n"
    assert token not in host.sh(f"tr '\\0' ' ' < /proc/{process['pid']}/cmdline; cat {folder}/*.log")
    # in the guest, its root alone can read what holds it: a file and a disk
    look = f"busybox grep -rl {token} /run; busybox ls -ln /run/banger/config.json; busybox ls -ln /dev/vdb"
    found = host.inside("seen", look).splitlines()
    assert found[0] == "/run/banger/config.json"
    assert [line.split()[0] for line in found[1:]] == ["-rw-------", "brw-------"]


def test_guest_with_kvm_is_reached_by_vsock_alone_and_stops_by_it(host: Host) -> None:
    words = "--image=tiny --name=seen --vmm=qemu --net=none --memory=128M --timeout=900"
    done = host.run("python3", "-P", "-c", PATIENT, *words.split())
    assert done.status == 0, done.stderr.decode()
    process = host.record("seen")["process"]
    assert process["accelerator"] == "kvm"
    bus = {"q35": "pci", "microvm": "device"}[process["machine"]]
    assert 2 < process["cid"] < 0xFFFFFFFF
    command = host.sh(f"tr '\\0' ' ' < /proc/{process['pid']}/cmdline")
    assert f"vhost-vsock-{bus},guest-cid={process['cid']}" in command and "virtserialport" not in command
    assert host.inside("seen", "hostname") == "seen\n"
    check_that_only_who_knows_the_token_gets_in(host, process)
    host.sh("banger vm stop -q --timeout=300 seen")
    host.sh(f"e2fsck -fn {HOME}/state/vms/seen/root.ext4")
    assert "Power down" in host.sh(f"cat {HOME}/state/vms/seen/console.log")
