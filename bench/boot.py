"""From nothing to an agent that answers: an image of one static program, and Debian with systemd.

`bg-boot`, and beside it QEMU started by hand on the same kernel and disk: a copy of the disk, a command line that is
there already, and a program that waits for the agent. The clock runs from the start to the answer, copies of the
disks included; then the machine is deleted. Monitors do not count for the peak.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from banger_tools import guest
from bench import inputs, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way

PIPE = ("bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed")
NAME = "bench"
CONSOLE = "console.log"


def boot(scale: Scale) -> Table:
    """Compare boots of an image that is one static program."""
    image = published(scale, f"rootfs:{inputs.busybox_tar(scale)}", "minimal")
    return _compare(scale, "boot", "one static program", image)


def boot_debian(scale: Scale) -> Table:
    """Compare boots of Debian with systemd."""
    return _compare(scale, "boot-debian", "Debian with systemd", published(scale, "apt:bookworm", "debian"))


def _compare(scale: Scale, slug: str, what: str, image: Path) -> Table:
    accelerator = tried(scale, image.name)
    ways = {
        "QEMU by hand": Way(partial(by_hand, scale, image, accelerator), ["qemu-system-x86_64"]),
        "bg-boot": Way(partial(ours, scale, image.name), ["qemu-system-x86_64"]),
    }
    return timing.compare(slug, f"{what}, to an agent that answers, with {accelerator}", ways, scale.rounds)


def environment(scale: Scale) -> Mapping[str, str]:
    return inputs.environment(scale.work / "boot-home")


def published(scale: Scale, reference: str, name: str) -> Path:
    """Return an image of the store, made by the pipe unless it is there with the guest program of today."""
    image = scale.work / "boot-home/state/images" / name
    if image.exists() and image.stat().st_mtime > guest.program("x86_64").stat().st_mtime:
        return image
    stages = [[inputs.program("bg-fetch"), "-q", reference], *([inputs.program(stage), "-q"] for stage in PIPE)]
    stages.append([inputs.program("bg-publish"), "-q", "--replace", f"--name={name}"])
    folder = scale.fresh(name)
    script = " | ".join(map(shlex.join, stages))
    subprocess.run(["sh", "-c", script], cwd=folder, env=environment(scale), check=True, stdout=subprocess.DEVNULL)
    return image


def tried(scale: Scale, name: str) -> str:
    """Boot once before the clock runs, for what bg-boot finds out about the host; return the accelerator."""
    argv = [inputs.program("bg-boot"), "-q", "--vmm=qemu", f"--image={name}", f"--name={NAME}"]
    delete(scale)
    done = subprocess.run(argv, env=environment(scale), check=True, stdout=subprocess.PIPE)
    delete(scale)
    return str(json.loads(done.stdout)["vm"]["accelerator"])


def delete(scale: Scale) -> None:
    """Delete the machine, if it is there."""
    if (scale.work / "boot-home/state/vms" / NAME).exists():
        argv = [inputs.program("banger"), "vm", "delete", "-q", "--force", NAME]
        subprocess.run(argv, env=environment(scale), check=True, stdout=subprocess.DEVNULL)


def ours(scale: Scale, name: str) -> Run:
    """Boot a machine until its agent answers, and delete it."""
    argv = [inputs.program("bg-boot"), "-q", "--vmm=qemu", f"--image={name}", f"--name={NAME}"]
    try:
        return timing.run(argv, env=environment(scale))
    finally:
        delete(scale)


def by_hand(scale: Scale, image: Path, accelerator: str) -> Run:
    """Boot a copy of an image's disk with QEMU alone until its agent answers."""
    folder = scale.fresh("by-hand")
    config = json.dumps({"schema": guest.CONFIG_SCHEMA, "hostname": NAME}) + "\n"
    (folder / "config.img").write_text(config + "\n" * (-len(config) % 4096))
    script = [
        "trap 'kill $!' EXIT; trap 'exit 130' INT TERM",
        shlex.join(["cp", "--sparse=always", str(image / "rootfs.ext4"), "root.ext4"]),
        f"{shlex.join(_qemu(image, accelerator))} &",
        shlex.join([sys.executable, "-P", "-c", WAIT]),
    ]
    return timing.run(["sh", "-ec", "\n".join(script)], cwd=folder)


WAIT = f"""
import sys, time
sys.path.insert(0, {str(inputs.ROOT)!r})
from pathlib import Path
from banger_tools.agent import client, transport
client.Agent(transport.serial_ports(Path())).wait_ready(time.monotonic() + 120, lambda: True)
"""


def _qemu(image: Path, accelerator: str) -> list[str]:
    processor = "host" if accelerator == "kvm" else "max"
    argv = ["qemu-system-x86_64", "-M", f"q35,accel={accelerator}", "-cpu", processor, "-m", "1024"]
    argv += ["-nodefaults", "-display", "none", "-serial", f"file:{CONSOLE}"]
    argv += ["-kernel", f"{image}/kernel/vmlinuz", "-initrd", f"{image}/kernel/initrd.img"]
    argv += ["-append", "console=ttyS0 quiet root=/dev/vda rw rootfstype=ext4"]
    argv += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-serial-pci"]
    argv += ["-chardev", "socket,id=a,path=agent.0.sock,server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=a,name=banger.agent.0"]
    for disk in ("root.ext4", "config.img"):
        argv += ["-drive", f"if=virtio,format=raw,file={disk}"]
    return argv
