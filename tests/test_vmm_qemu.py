"""QEMU's command line: which machine, which devices, and which channel to the agent."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from msgspec import structs

from banger_tools import errors
from banger_tools.agent import transport
from banger_tools.kernel import bootable
from banger_tools.kernel.features import FEATURES, State
from banger_tools.vmm import fit, interface, probe, qemu, qemu_machine, qemu_vsock
from banger_tools.vmm import spec as specs
from tests import support

BOOT = specs.Boot("/k/vmlinux", None, "/k/initrd.img")
ID = "0580f416-9a01-4b34-8662-80f05a24dab6"
SPEC = specs.Spec(ID, "web", "tiny", "amd64", "qemu", 2, 512 << 20, "user", BOOT, specs.Guest())
Q35 = qemu_machine.usual("amd64")


def command(
    spec: specs.Spec = SPEC,
    folder: Path = Path("/nowhere"),
    accelerator: str = "tcg",
    *,
    built: qemu_machine.Machine = Q35,
    cid: int | None = None,
) -> str:
    support.need("qemu-system-x86_64")
    return " ".join(qemu.command(interface.Run(spec, folder, accelerator, None), built, cid))


def test_qemu_is_started_with_nothing_but_what_is_asked() -> None:
    line = command()
    for words in ("-nodefaults", "-no-user-config", "-no-reboot", "-smp 2 -m 512", "q35,accel=tcg", "-sandbox on"):
        assert words in line
    assert line.count("virtserialport") == qemu.PORTS
    assert "accel=kvm -cpu host" in command(accelerator="kvm")
    assert "-netdev" not in command(structs.replace(SPEC, net="none"))


def test_disks_come_in_the_order_that_the_guest_is_told(tmp_path: Path) -> None:
    assert command(folder=tmp_path).count("-drive") == 2
    (tmp_path / specs.WORK_DISK).touch()
    line = command(folder=tmp_path)
    assert line.index("root.ext4") < line.index("work.ext4") < line.index("config.img")
    assert "file=config.img,readonly=on" in line


def test_ports_are_forwarded_on_loopback_only_unless_asked() -> None:
    spec = structs.replace(SPEC, forwards=[specs.Forward(8080, 80), specs.Forward(53, 5353, "0.0.0.0", "udp")])
    assert "hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:53-:5353" in command(spec)


def test_kernel_without_an_initrd_starts_the_init_in_the_image() -> None:
    assert "init=" not in command(SPEC)
    bare = structs.replace(SPEC, boot=specs.Boot("/k", append="debug  x=1"))
    assert " init=/usr/local/libexec/banger-init debug x=1 " in command(bare)


def test_unknown_architecture_is_refused() -> None:
    with pytest.raises(errors.Unavailable, match="riscv"):
        qemu.check(structs.replace(SPEC, architecture="riscv"))


def test_limits_are_those_of_every_disk() -> None:
    line = command(structs.replace(SPEC, limits=specs.Limits(disk_bytes=1 << 20, disk_operations=50)))
    assert line.count("throttling.bps-total=1048576,throttling.iops-total=50") == 2
    assert "throttling" not in command()


@pytest.mark.parametrize(
    ("option", "changed"),
    [
        ("--limit-net", structs.replace(SPEC, limits=specs.Limits(net_bytes=1))),
        ("--jail", structs.replace(SPEC, jail=True)),
    ],
)
def test_what_qemu_cannot_do_is_refused_with_the_monitor_that_can(option: str, changed: specs.Spec) -> None:
    support.need("qemu-system-x86_64")
    with pytest.raises(errors.BadUsage, match=option) as caught:
        qemu.check(changed)
    assert "--vmm firecracker" in (caught.value.hint or "")


# Machines without PCI ---------------------------------------------------------


def accepted(line: list[str], folder: Path) -> bool:
    """Tell whether a real QEMU takes a command line: it sets the machine up and waits, stopped, for QMP."""
    for name in ("root.ext4", "config.img"):
        (folder / name).write_bytes(bytes(4096))
    argv = [*line, "-S", "-monitor", "none"]
    running = subprocess.Popen(argv, cwd=folder, stderr=subprocess.PIPE, env=support.environment())
    try:
        deadline = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(folder / qemu.QMP_SOCKET)) == 0 and client.recv(64):
                    return True
            time.sleep(0.02)
        return False
    finally:
        running.kill()
        assert running.communicate()[1] == b""


@pytest.mark.parametrize(
    "built", [Q35, qemu_machine.MICROVM, qemu_machine.usual("arm64")], ids=lambda built: built.name
)
def test_machine_has_its_devices_on_its_own_bus(
    built: qemu_machine.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.need(built.program)
    monkeypatch.chdir(tmp_path)  # the socket's path has to be short
    spec = structs.replace(SPEC, boot=specs.Boot("vmlinuz"), forwards=[])
    line = qemu.command(interface.Run(spec, tmp_path, "tcg", None), built, None)
    other = "pci" if built.bus == "device" else "device"
    virtio = [word for word in line if word.startswith("virtio-") and "-mmio" not in word]
    assert virtio and not any(word.split(",")[0].endswith(f"-{other}") for word in virtio)
    without_kernel = line[: line.index("-kernel")] + line[line.index("-append") + 2 :]
    assert accepted(without_kernel, tmp_path)


def booted(**states: State) -> bootable.Kernel:
    """Return a kernel that has all built in but what is said of it."""
    return bootable.Kernel("amd64", {**dict.fromkeys(FEATURES, State.BUILTIN), **states}, True)


@pytest.mark.parametrize(
    ("kernel", "accelerator", "usable", "expected"),
    [
        (booted(), "kvm", True, "microvm"),
        (booted(), "kvm", False, "q35"),
        (booted(), "tcg", True, "q35"),
        (booted(virtio_mmio=State.MISSING), "kvm", True, "q35"),
        (booted(virtio_mmio=State.MODULE), "kvm", True, "microvm"),
    ],
)
def test_microvm_is_for_kernels_that_a_trial_with_kvm_booted_on_it(
    kernel: bootable.Kernel, accelerator: str, usable: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    support.need("qemu-system-x86_64")
    monkeypatch.setattr(fit, "booted_kernel", lambda boot: kernel)
    monkeypatch.setattr(probe, "microvm", lambda *_: probe.Answer(usable, ""))
    assert qemu_machine.best(SPEC, accelerator).name == expected


# Vsock ------------------------------------------------------------------------


def test_agent_is_reached_by_vsock_in_place_of_serial_ports() -> None:
    line = command(cid=77)
    assert "-device vhost-vsock-pci,guest-cid=77" in line
    assert "virtio-serial" not in line
    assert "vhost-vsock-device,guest-cid=77" in command(cid=77, built=qemu_machine.MICROVM)


@pytest.mark.parametrize(
    ("state", "initrd", "expected"),
    [
        (State.BUILTIN, None, True),
        (State.MODULE, "/k/initrd.img", True),
        (State.MODULE, None, False),
        (State.MISSING, "/k/initrd.img", False),
        (State.UNKNOWN, "/k/initrd.img", False),
    ],
)
def test_vsock_is_only_for_guests_whose_kernel_will_have_it(
    state: State, initrd: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "booted_kernel", lambda boot: booted(vsock=state))
    assert qemu._hears_vsock(structs.replace(SPEC, boot=specs.Boot("/k/vmlinux", None, initrd))) is expected


def test_host_without_vhost_vsock_has_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("/no/such/device", os.devnull):  # not there, and there in name only
        monkeypatch.setattr(qemu_vsock, "DEVICE", Path(device))
        assert qemu_vsock.free_cid("id") is None


def test_address_that_no_guest_has_ends_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(errors.Retry, match="does not answer"):
        transport.vsock(0x7FFFFFF0)(began + 0.5)
    assert time.monotonic() - began < 60


def test_taken_address_is_passed_over_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [qemu_vsock.candidate("id", attempt) for attempt in range(3)]
    monkeypatch.setattr(qemu_vsock, "_is_free", lambda cid: cid == wanted[2])
    assert qemu_vsock.free_cid("id") == wanted[2]


def test_addresses_are_distinct_and_none_that_is_reserved() -> None:
    found = {qemu_vsock.candidate(str(number), attempt) for number in range(1000) for attempt in range(2)}
    assert len(found) == 2000
    assert all(2 < cid < 0xFFFFFFFF for cid in found)
