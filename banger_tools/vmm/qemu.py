"""QEMU as a monitor: virtio devices, user network or a tap, and the agent over vsock or virtio-serial ports.

Why PVH is not used: the bzImage is the way in that every QEMU and firmware has been tried with.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import errors, process
from banger_tools.store import vms
from banger_tools.vmm import disks, fit, guest_config, holder, kernel_line, qemu_machine, qemu_vsock, qmp
from banger_tools.vmm import spec as specs
from banger_tools.vmm.interface import Launch, Run
from banger_tools.vmm.qemu_machine import Machine, accelerator, version

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

__all__ = ["accelerator", "version"]  # the monitor's, too

POWER = "off"
OVERLAYS = True
PORTS = 8
QMP_SOCKET = "qmp.sock"
AGENT_SOCKET = "agent.{}.sock"
_STDOUT = "/proc/self/fd/1"  # `stdio` would read, too
_QMP_SECONDS = 2.0
_TOKEN_BYTES = 32


def check(spec: specs.Spec) -> None:
    """Raise Unavailable if QEMU for the machine's architecture is not installed, BadUsage for what it cannot do."""
    process.find(qemu_machine.usual(spec.architecture).program)
    for option, asked in (("--jail", spec.jail), ("--limit-net", spec.limits.net_bytes)):
        if asked:
            raise errors.BadUsage(f"{option}: QEMU cannot do that", "use --vmm firecracker")


def clear(folder: Path) -> None:
    """Remove the sockets of a run that has ended."""
    for path in folder.glob("*.sock"):
        path.unlink(missing_ok=True)


def prepare(run: Run) -> Launch:
    """Return QEMU's command line, run in the machine's folder: sockets have relative, and so short, paths.

    Raises BadInput if the root disk is an overlay whose base was changed.
    """
    disks.check_base(run.folder)
    built = qemu_machine.best(run.spec, run.accelerator)
    cid = qemu_vsock.free_cid(run.spec.id) if _hears_vsock(run.spec) else None
    token = None
    if cid is not None:  # which any user of the host may connect to
        token = secrets.token_hex(_TOKEN_BYTES)
        guest_config.write(run.spec, run.folder, run.network, power=POWER, token=token)
    return Launch(command(run, built, cid), built.name, cid, token)


def _hears_vsock(spec: specs.Spec) -> bool:
    """Tell whether the guest will have a driver for vsock when its agent starts."""
    from banger_tools.kernel.features import State

    state = fit.booted_kernel(spec.boot).features["vsock"]
    return state is State.BUILTIN or (state is State.MODULE and spec.boot.initrd is not None)


def command(run: Run, built: Machine, cid: int | None) -> list[str]:
    """Return QEMU's command line for a machine, whose agent is reached at a vsock address if there is one."""
    spec = run.spec
    return [
        process.find(built.program),
        *_sandbox(built.program),
        *["-name", spec.name, "-uuid", spec.id, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        *["-machine", f"{built.options},accel={run.accelerator}", *built.settings],
        *["-cpu", "host" if run.accelerator == "kvm" else "max"],
        *["-smp", str(spec.cpus), "-m", str(spec.memory >> 20)],
        *["-kernel", str(qemu_machine.kernel(spec)), *(["-initrd", spec.boot.initrd] if spec.boot.initrd else [])],
        *["-append", _kernel_line(spec, run.accelerator)],
        *["-chardev", f"file,id=console,path={_STDOUT}", "-serial", "chardev:console"],
        *["-chardev", f"socket,id=qmp,path={QMP_SOCKET},server=on,wait=off", "-mon", "chardev=qmp,mode=control"],
        *["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", f"virtio-rng-{built.bus},rng=rng"],
        *_disks(run, built),
        *_network(run, built),
        *(_agent_ports(built) if cid is None else ["-device", f"vhost-vsock-{built.bus},guest-cid={cid}"]),
    ]


def _sandbox(program: str) -> list[str]:
    if not qemu_machine.has_option(program, "-sandbox"):
        return []
    return ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]


def _kernel_line(spec: specs.Spec, accelerator: str) -> str:
    """Return the kernel's command line; without KVM its tests of its ciphers are a sixth of the time to the agent."""
    own = ["cryptomgr.notests"] if accelerator == "tcg" else []
    return kernel_line.line(spec, qemu_machine.usual(spec.architecture).console, own)


def _disks(run: Run, built: Machine) -> list[str]:
    """Return the disks.

    werror=enospc pauses the guest when the host's disk is full, instead of telling it of an error that no filesystem
    recovers from: when there is room again, `resume` loses nothing.
    """
    words: list[str] = []
    for number, disk in enumerate(specs.disks(run.folder, run.spec.guest)):
        only = "on" if disk.read_only else "off"
        drive = f"if=none,id=disk{number},format={disk.format},file={disk.file},readonly={only},discard=unmap"
        words += ["-drive", f"{drive},werror=enospc,rerror=report{_throttle(run.spec.limits)}"]
        words += ["-device", f"virtio-blk-{built.bus},drive=disk{number}"]
    return words


def _throttle(limits: specs.Limits) -> str:
    """Return the words that hold a disk to the machine's limits."""
    asked = {"bps-total": limits.disk_bytes, "iops-total": limits.disk_operations}
    return "".join(f",throttling.{name}={most}" for name, most in asked.items() if most)


def _network(run: Run, built: Machine) -> list[str]:
    if run.spec.net == "none":
        return []
    # romfile: a card for PCI needs no boot ROM, which some distributions package apart
    card = f"virtio-net-{built.bus},netdev=net0" + (",romfile=" if built.bus == "pci" else "")
    if run.network:
        backend = f"tap,id=net0,ifname={run.network.tap},script=no,downscript=no"
        return ["-netdev", backend, "-device", f"{card},mac={run.network.mac}"]
    forwards = [f",hostfwd={f.protocol}:{f.host}:{f.host_port}-:{f.guest_port}" for f in run.spec.forwards]
    return ["-netdev", f"user,id=net0{''.join(forwards)}", "-device", card]


def _agent_ports(built: Machine) -> list[str]:
    words = ["-device", f"virtio-serial-{built.bus},max_ports={PORTS + 1}"]
    for number in range(PORTS):
        path = AGENT_SOCKET.format(number)
        words += ["-chardev", f"socket,id=agent{number},path={path},server=on,wait=off"]
        words += ["-device", f"virtserialport,chardev=agent{number},name=banger.agent.{number}"]
    return words


def wait_started(record: specs.Record, deadline: float) -> bool:
    """Tell whether QEMU answers and runs the guest before the deadline."""
    folder = vms.folder(record.spec.name)
    while time.monotonic() < deadline and holder.is_alive(folder):
        with contextlib.suppress(OSError):
            with qmp.Connection(folder / QMP_SOCKET, min(deadline, time.monotonic() + _QMP_SECONDS)) as connection:
                return bool(connection.execute("query-status")["running"])
        time.sleep(0.01)
    return False


def agent(record: specs.Record) -> Agent:
    """Return a client of the agent, over vsock, or else over whichever serial port is free."""
    from banger_tools.agent import client, transport

    if record.process and record.process.cid is not None:
        return client.Agent(transport.vsock(record.process.cid, record.process.token))
    return client.Agent(transport.serial_ports(vms.folder(record.spec.name)))


def status(record: specs.Record) -> str:
    """Return QEMU's own word for what its guest does: running, paused, io-error, …"""
    answer = _told(record, "query-status")
    return str(answer["status"]) if isinstance(answer, dict) and "status" in answer else "unknown"


def resume(record: specs.Record) -> None:
    """Let the guest go on; if the host's disk is still full, it pauses again."""
    _told(record, "cont")


def press_power(record: specs.Record) -> None:
    """Press the power button."""
    _told(record, "system_powerdown")


def quit(record: specs.Record) -> bool:
    """Ask QEMU to end, and tell whether it answered."""
    return _told(record, "quit") is not None


def _told(record: specs.Record, command: str) -> object:
    """Return QEMU's answer to a command, None if there is none."""
    with contextlib.suppress(OSError, errors.BangerError):
        path = vms.folder(record.spec.name) / QMP_SOCKET
        with qmp.Connection(path, time.monotonic() + _QMP_SECONDS) as connection:
            return connection.execute(command)
    return None
