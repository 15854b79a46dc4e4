"""Firecracker as a monitor: virtio devices over mmio, a tap or no network, and the agent over vsock.

The machine is told by a configuration file; the API is there for its state and its power button. Firecracker's own
seccomp filters stay on. In a jail (`jailer`) the same names stand in the jail's folder.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from banger_tools import errors, process
from banger_tools.store import vms
from banger_tools.vmm import firecracker_api, holder, jailer, kernel_line, probe
from banger_tools.vmm import spec as specs
from banger_tools.vmm.interface import Launch, Run

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

POWER = "reboot"  # `poweroff` stops the guest's processor and never ends Firecracker
OVERLAYS = False
NETWORKS = ("tap", "none")
PROGRAM = "firecracker"
LEAST_VERSION = (1, 5)
MOST_CPUS = 32
GUEST_CID = 3  # of the guest's side alone: each Firecracker has a vsock of its own
CONFIG, LOG, METRICS = "firecracker.json", "firecracker.log", "firecracker.metrics"
PIPES = {"log.pipe": LOG, "metrics.pipe": METRICS}  # what Firecracker writes to, which guests have a say in
LOG_PIPE, METRICS_PIPE = PIPES
API_SOCKET, VSOCK_SOCKET = "api.sock", "v.sock"
_SECOND = 1000  # ms, after which a rate limiter's bucket is full again
_STATS_SECONDS = 5
_POLL = 0.02
_HOSTS = {"x86_64": "amd64", "aarch64": "arm64"}
_OTHERWISE = "--vmm qemu can"
_RELEASES = "it is one file of https://github.com/firecracker-microvm/firecracker/releases; --vmm qemu does without"


def find() -> str:
    """Return the full path of Firecracker; raises Unavailable saying where it comes from."""
    try:
        return process.find(PROGRAM)
    except errors.Unavailable as error:
        error.hint = _RELEASES
        raise


@functools.cache
def version() -> str:
    """Return the version of Firecracker, as in 1.12.1; raises Unavailable if it is not installed."""
    text = process.run([PROGRAM, "--version"]).stdout.decode(errors="replace")
    match = re.search(r"Firecracker v(\d+(?:\.\d+)+)", text)
    if match is None:
        raise errors.Unavailable(f"'{PROGRAM}' does not say which version it is")
    return match[1]


def check(spec: specs.Spec) -> None:
    """Raise BadUsage for what Firecracker never does, Unavailable for what this host lacks, Denied without the right.

    Whether it boots a kernel here is tried, by Firecracker itself.
    """
    _check_asked(spec)
    program = find()
    if tuple(int(part) for part in version().split(".")) < LEAST_VERSION:
        least = ".".join(map(str, LEAST_VERSION))
        raise errors.Unavailable(f"Firecracker {version()} is too old", f"install version {least} or later")
    if spec.jail:
        jailer.check()
    answer = probe.firecracker(program, version(), Path(spec.boot.kernel))
    if not answer.usable:
        raise errors.Unavailable(answer.reason, "--vmm qemu does without KVM")


def _check_asked(spec: specs.Spec) -> None:
    """Raise the error for a machine that no Firecracker of this host's architecture could be."""
    host = os.uname().machine
    if spec.architecture != _HOSTS.get(host):
        raise errors.Unavailable(f"Firecracker on {host} cannot run a machine of {spec.architecture}", _OTHERWISE)
    if spec.net not in NETWORKS:
        hint = "use --net tap or --net none, or --vmm qemu"
        raise errors.BadUsage(f"Firecracker has no network of the kind '{spec.net}'", hint)
    if spec.cpus > MOST_CPUS:
        raise errors.BadUsage(f"--cpus: Firecracker has {MOST_CPUS} at most, not {spec.cpus}", _OTHERWISE)


def accelerator(spec: specs.Spec) -> str:
    """Return `kvm`: Firecracker knows nothing else."""
    return "kvm"


def clear(folder: Path) -> None:
    """Remove the sockets, the pipes and the jail of a run that has ended."""
    jailer.clear(folder)
    for name in (API_SOCKET, VSOCK_SOCKET, *PIPES):
        (folder / name).unlink(missing_ok=True)


def prepare(run: Run) -> Launch:
    """Write Firecracker's configuration into the machine's folder, make its jail if it has one, and return its start.

    Raises Unavailable if a disk is none that Firecracker reads.
    """
    spec, folder = run.spec, run.folder
    clear(folder)  # a start that was killed before it was recorded left what nobody knows of
    for disk in specs.disks(folder, spec.guest):
        if disk.format != "raw":
            raise errors.Unavailable(f"Firecracker cannot read the disk '{disk.file}': it is {disk.format}", _OTHERWISE)
    for name in PIPES:
        os.mkfifo(folder / name, 0o600)
    if spec.jail:
        _write(folder / CONFIG, json.dumps(configuration(run, jailer.KERNEL, jailer.INITRD), indent=1))
        jail = jailer.Jail(find(), _jailed(run), options())
        return Launch(jailer.prepare(run, jail), "firecracker in a jail", pipes=PIPES)
    _write(folder / CONFIG, json.dumps(configuration(run, spec.boot.kernel, spec.boot.initrd), indent=1))
    return Launch([find(), "--id", spec.id, *options()], "firecracker", pipes=PIPES)


def options() -> list[str]:
    """Return Firecracker's options; the log is one, or its first lines would be on the guest's console."""
    files = ["--api-sock", API_SOCKET, "--config-file", CONFIG]
    return [*files, "--log-path", LOG_PIPE, "--level", "Info", "--metrics-path", METRICS_PIPE]


def _jailed(run: Run) -> jailer.Files:
    """Return what a jail is to hold: what Firecracker writes, and what it only reads."""
    disks = specs.disks(run.folder, run.spec.guest)
    return jailer.Files(
        written=[*(disk.file for disk in disks if not disk.read_only), *PIPES],
        read=[*(disk.file for disk in disks if disk.read_only), CONFIG],
    )


def _write(path: Path, text: str) -> None:
    """Write a private file, anew: a jail of before may have had the old one."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def configuration(run: Run, kernel: str, initrd: str | None) -> dict[str, Any]:
    """Return the machine as Firecracker's configuration file says it; `kernel` and `initrd` are paths for it."""
    spec = run.spec
    boot = {"kernel_image_path": kernel, "boot_args": _kernel_line(spec)}
    if spec.boot.initrd and initrd:
        boot["initrd_path"] = initrd
    config: dict[str, Any] = {
        "boot-source": boot,
        "machine-config": {"vcpu_count": spec.cpus, "mem_size_mib": spec.memory >> 20},
        "drives": [_drive(disk, spec.limits) for disk in specs.disks(run.folder, spec.guest)],
        "vsock": {"guest_cid": GUEST_CID, "uds_path": VSOCK_SOCKET},
        "entropy": {},
        "balloon": {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": _STATS_SECONDS},
    }
    if run.network:
        config["network-interfaces"] = [_card(run.network.tap, run.network.mac, spec.limits.net_bytes)]
    return config


def _kernel_line(spec: specs.Spec) -> str:
    """Return the kernel's command line.

    reboot=k ends Firecracker with the guest; the words of i8042, the keyboard that the reset is made with, and of PCI
    spare the kernel the search for devices that are never there.
    """
    own = ["reboot=k"]
    if spec.architecture == "amd64":
        own += ["pci=off", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd"]
    return kernel_line.line(spec, "ttyS0", own)


def _drive(disk: specs.Disk, limits: specs.Limits) -> dict[str, Any]:
    """Return a disk in Firecracker's words; the root is named on the kernel's line, not by `is_root_device`."""
    drive = {"drive_id": disk.file.partition(".")[0], "path_on_host": disk.file, "is_root_device": False}
    buckets = {"bandwidth": limits.disk_bytes, "ops": limits.disk_operations}
    return {**drive, "is_read_only": disk.read_only, **_limiter("rate_limiter", buckets)}


def _card(tap: str, mac: str, most: int | None) -> dict[str, Any]:
    both = {**_limiter("rx_rate_limiter", {"bandwidth": most}), **_limiter("tx_rate_limiter", {"bandwidth": most})}
    return {"iface_id": "eth0", "host_dev_name": tap, "guest_mac": mac, **both}


def _limiter(name: str, buckets: dict[str, int | None]) -> dict[str, Any]:
    """Return a rate limiter: a bucket of tokens for each second, for those that are limited."""
    limited = {kind: {"size": size, "refill_time": _SECOND} for kind, size in buckets.items() if size is not None}
    return {name: limited} if limited else {}


def _place(record: specs.Record) -> Path:
    """Return the folder that has Firecracker's sockets."""
    folder = vms.folder(record.spec.name)
    return jailer.root(folder) if record.spec.jail else folder


def wait_started(record: specs.Record, deadline: float) -> bool:
    """Tell whether Firecracker answers and runs the guest before the deadline."""
    folder = vms.folder(record.spec.name)
    while time.monotonic() < deadline and holder.is_alive(folder):
        if status(record) == "running":
            return True
        time.sleep(_POLL)
    return False


def agent(record: specs.Record) -> Agent:
    """Return a client of the agent, over Firecracker's end of the vsock."""
    from banger_tools.agent import client, transport

    return client.Agent(transport.firecracker(_place(record) / VSOCK_SOCKET))


def status(record: specs.Record) -> str:
    """Return Firecracker's own word for what its guest does: running, paused, not started."""
    with contextlib.suppress(OSError, ValueError, errors.BangerError):
        answer = firecracker_api.ask(_place(record) / API_SOCKET, "GET", "/")
        return str(answer["state"]).lower()
    return "unknown"


def resume(record: specs.Record) -> None:
    """Do nothing: Firecracker pauses no guest by itself, and hands an error of a disk on to it."""


def press_power(record: specs.Record) -> None:
    """Press Ctrl-Alt-Del, which is all that there is; on arm64 there is no keyboard."""
    if record.spec.architecture != "amd64":
        return
    with contextlib.suppress(OSError, ValueError, errors.BangerError):
        action = {"action_type": "SendCtrlAltDel"}
        firecracker_api.ask(_place(record) / API_SOCKET, "PUT", "/actions", action)


def quit(record: specs.Record) -> bool:
    """Tell that nothing was asked: Firecracker knows no such order, and is killed instead."""
    return False
