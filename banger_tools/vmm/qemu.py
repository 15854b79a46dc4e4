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
from banger_tools.store import vms
from banger_tools.vmm import fit, holder, probe, qmp
from banger_tools.vmm import spec as specs
from banger_tools.vmm.interface import Launch, Run

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


def clear(folder: Path) -> None:
    """Remove the sockets of a run that has ended."""
    for path in folder.glob("*.sock"):
        path.unlink(missing_ok=True)


def prepare(run: Run) -> Launch:
    """Return QEMU's command line, run in the machine's folder: sockets have relative, and so short, paths."""
    return Launch(command(run), holder.LOG, machine(run.spec.architecture).machine)


def command(run: Run) -> list[str]:
    """Return QEMU's command line."""
    spec = run.spec
    built = machine(spec.architecture)
    return [
        process.find(built.program),
        *_sandbox(built.program),
        *["-name", spec.name, "-uuid", spec.id, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-machine", f"{built.machine},accel={run.accelerator}", "-cpu", "max"],
        *["-smp", str(spec.cpus), "-m", str(spec.memory >> 20)],
        *[
            "-kernel",
            spec.boot.vmlinuz or spec.boot.kernel,
            *(["-initrd", spec.boot.initrd] if spec.boot.initrd else []),
        ],
        *["-append", kernel_line(spec, run.accelerator)],
        *["-chardev", f"file,id=console,path={specs.CONSOLE},append=on", "-serial", "chardev:console"],
        *["-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off", "-mon", "chardev=qmp,mode=control"],
        *["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
        *_disks(run),
        *_network(run),
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


def _disks(run: Run) -> list[str]:
    words: list[str] = []
    for number, disk in enumerate(specs.disks(run.folder, run.spec.guest)):
        only = "on" if disk.read_only else "off"
        words += [
            "-drive",
            f"if=none,id=disk{number},format={disk.format},file={disk.file},readonly={only},discard=unmap",
        ]
        words += ["-device", f"virtio-blk-pci,drive=disk{number}"]
    return words


def _network(run: Run) -> list[str]:
    if run.spec.net == "none":
        return []
    # romfile: the card needs no boot ROM, which some distributions package apart
    card = "virtio-net-pci,netdev=net0,romfile="
    if run.network:
        backend = f"tap,id=net0,ifname={run.network.tap},script=no,downscript=no"
        return ["-netdev", backend, "-device", f"{card},mac={run.network.mac}"]
    forwards = [f",hostfwd={f.protocol}:{f.host}:{f.host_port}-:{f.guest_port}" for f in run.spec.forwards]
    return ["-netdev", f"user,id=net0{''.join(forwards)}", "-device", card]


def _agent_ports() -> list[str]:
    words = ["-device", f"virtio-serial-pci,max_ports={PORTS + 1}"]
    for number in range(PORTS):
        path = AGENT_SOCKET.format(number)
        words += ["-chardev", f"socket,id=agent{number},path={path},server=on,wait=off"]
        words += ["-device", f"virtserialport,chardev=agent{number},name=banger.agent.{number}"]
    return words


def wait_started(record: specs.Record, deadline: float) -> bool:
    """Tell whether QEMU answers and runs the guest before the deadline."""
    folder = vms.folder(record.spec.name)
    while time.monotonic() < deadline and holder.is_alive(folder):
        with contextlib.suppress(OSError, json.JSONDecodeError):
            with qmp.Connection(folder / QMP_SOCKET, min(deadline, time.monotonic() + _QMP_SECONDS)) as connection:
                return bool(connection.execute("query-status")["running"])
        time.sleep(0.01)
    return False


def agent(record: specs.Record) -> Agent:
    """Return a client of the agent, over whichever serial port is free."""
    from banger_tools.agent import client, transport

    return client.Agent(transport.serial_ports(vms.folder(record.spec.name)))


def status(record: specs.Record) -> str:
    """Return QEMU's own word for what its guest does: running, paused, io-error, …"""
    answer = _told(record, "query-status")
    return str(answer["status"]) if isinstance(answer, dict) and "status" in answer else "unknown"


def press_power(record: specs.Record) -> None:
    """Press the power button."""
    _told(record, "system_powerdown")


def quit(record: specs.Record) -> None:
    """Ask QEMU to end."""
    _told(record, "quit")


def _told(record: specs.Record, command: str) -> object:
    """Return QEMU's answer to a command, None if there is none."""
    with contextlib.suppress(OSError, json.JSONDecodeError, errors.BangerError):
        path = vms.folder(record.spec.name) / QMP_SOCKET
        with qmp.Connection(path, time.monotonic() + _QMP_SECONDS) as connection:
            return connection.execute(command)
    return None
