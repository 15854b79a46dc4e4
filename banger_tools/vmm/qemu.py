"""QEMU as a monitor: q35 with virtio devices, user network, and the agent over virtio-serial ports.

Why q35 and one CPU under TCG: `microvm` hangs in a boot of three there, and more CPUs are not faster. Why PVH is not
used: the bzImage is the way in that every QEMU and firmware has been tried with.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import errors, process
from banger_tools.vmm import fit, probe, qmp
from banger_tools.vmm import spec as specs

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

POWER = "off"
PORTS = 8
QMP_SOCKET = "qmp.sock"
AGENT_SOCKET = "agent.{}.sock"
_QMP_SECONDS = 2.0


class _Machine(NamedTuple):
    """What differs from one architecture to the next."""

    program: str
    machine: str
    console: str


_MACHINES = {
    "amd64": _Machine("qemu-system-x86_64", "q35", "ttyS0"),
    "arm64": _Machine("qemu-system-aarch64", "virt", "ttyAMA0"),
}
_HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}


def machine(architecture: str) -> _Machine:
    """Return the machine for an architecture; raises Unavailable if there is none."""
    if architecture not in _MACHINES:
        raise errors.Unavailable(f"there is no machine for the architecture '{architecture}'")
    return _MACHINES[architecture]


@functools.cache
def version(program: str) -> str:
    """Return the version text of a QEMU; raises Unavailable naming the package if it is not installed."""
    text = process.run([program, "--version"]).stdout.decode(errors="replace")
    match = re.search(r"version (\S+)", text)
    return match[1] if match else text.splitlines()[0]


@functools.cache
def has_option(program: str, option: str) -> bool:
    """Tell whether a QEMU was built with an option."""
    return f"\n{option} ".encode() in process.run([program, "-help"]).stdout


def check(spec: specs.Spec) -> None:
    """Raise Unavailable if QEMU for the machine's architecture is not installed."""
    process.find(machine(spec.architecture).program)


def accelerator(spec: specs.Spec) -> str:
    """Return `kvm` where a trial proved it, else `tcg`."""
    program = machine(spec.architecture).program
    if spec.architecture != _HOSTS.get(os.uname().machine):
        return "tcg"
    return "kvm" if probe.kvm(program, version(program), Path(spec.boot.vmlinuz or spec.boot.kernel)).usable else "tcg"


def command(spec: specs.Spec, folder: Path, accelerator: str) -> list[str]:
    """Return QEMU's command line, run in the machine's folder: sockets have relative, and so short, paths."""
    built = machine(spec.architecture)
    return [
        process.find(built.program),
        *_sandbox(built.program),
        *["-name", spec.name, "-uuid", spec.id, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-machine", f"{built.machine},accel={accelerator}", "-cpu", "max"],
        *["-smp", str(spec.cpus), "-m", str(spec.memory >> 20)],
        *[
            "-kernel",
            spec.boot.vmlinuz or spec.boot.kernel,
            *(["-initrd", spec.boot.initrd] if spec.boot.initrd else []),
        ],
        *["-append", kernel_line(spec, accelerator)],
        *["-chardev", f"file,id=console,path={specs.CONSOLE},append=on", "-serial", "chardev:console"],
        *["-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off", "-mon", "chardev=qmp,mode=control"],
        *["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
        *_disks(spec, folder),
        *_network(spec),
        *_agent_ports(),
    ]


def _sandbox(program: str) -> list[str]:
    if not has_option(program, "-sandbox"):
        return []
    return ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


def kernel_line(spec: specs.Spec, accelerator: str) -> str:
    """Return the kernel's command line.

    panic=-1 ends the machine instead of leaving it to hang; rootfstype since some kernels cannot tell. Without KVM
    the kernel's tests of its own ciphers are a sixth of the time to the agent.
    """
    words = [f"console={machine(spec.architecture).console}", "quiet", "loglevel=4", "panic=-1", "root=/dev/vda"]
    words += ["ro" if spec.guest.read_only else "rw", "rootfstype=ext4", "random.trust_cpu=on"]
    if accelerator == "tcg":
        words.append("cryptomgr.notests")
    if not spec.boot.initrd:
        words.append(f"init={fit.INIT}")
    return " ".join([*words, *spec.boot.append.split()])


def _disks(spec: specs.Spec, folder: Path) -> list[str]:
    """Return the disks, in the order in which the guest names them: root, work, config."""
    present = [(specs.ROOT_DISK, spec.guest.read_only)]
    if (folder / specs.WORK_DISK).exists():
        present.append((specs.WORK_DISK, False))
    present.append((specs.CONFIG_DISK, True))
    words: list[str] = []
    for number, (name, read_only) in enumerate(present):
        only = "on" if read_only else "off"
        words += ["-drive", f"if=none,id=disk{number},format=raw,file={name},readonly={only},discard=unmap"]
        words += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    return words


def _network(spec: specs.Spec) -> list[str]:
    if spec.net == "none":
        return []
    forwards = [f",hostfwd={f.protocol}:{f.host}:{f.host_port}-:{f.guest_port}" for f in spec.forwards]
    # romfile: the card needs no boot ROM, which some distributions package apart
    return ["-netdev", f"user,id=net0{''.join(forwards)}", "-device", "virtio-net-pci,netdev=net0,romfile="]


def _agent_ports() -> list[str]:
    words = ["-device", f"virtio-serial-pci,max_ports={PORTS + 1}"]
    for number in range(PORTS):
        path = AGENT_SOCKET.format(number)
        words += ["-chardev", f"socket,id=agent{number},path={path},server=on,wait=off"]
        words += ["-device", f"virtserialport,chardev=agent{number},name=banger.agent.{number}"]
    return words


def wait_started(folder: Path, deadline: float) -> bool:
    """Tell whether QEMU answers and runs the guest before the deadline."""
    from banger_tools.vmm import holder

    while time.monotonic() < deadline and holder.is_alive(folder):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            with qmp.Connection(folder / QMP_SOCKET, min(deadline, time.monotonic() + _QMP_SECONDS)) as connection:
                return bool(connection.execute("query-status")["running"])
        time.sleep(0.01)
    return False


def agent(folder: Path) -> Agent:
    """Return a client of the agent, over whichever serial port is free."""
    from banger_tools.agent import client, transport

    return client.Agent(transport.serial_ports(folder))


def press_power(folder: Path) -> None:
    """Press the power button."""
    _tell(folder, "system_powerdown")


def quit(folder: Path) -> None:
    """Ask QEMU to end."""
    _tell(folder, "quit")


def _tell(folder: Path, command: str) -> None:
    with contextlib.suppress(OSError, json.JSONDecodeError, errors.BangerError):
        with qmp.Connection(folder / QMP_SOCKET, time.monotonic() + _QMP_SECONDS) as connection:
            connection.execute(command)
