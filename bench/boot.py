"""From nothing to an agent that answers: an image of one static program, and Debian with systemd, in turns.

Usage: .venv/bin/python bench/boot.py [--rounds=N]

`bg-boot`, and beside it QEMU started by hand on the same kernel and disk: a copy of the disk, a command line that is
there already, and a program that waits for the agent. The clock runs from the start to the answer, copies of the
disks included; then the machine is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from banger_tools import guest
from bench import inputs, timing

PIPE = ("bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed")
MINIMAL, DEBIAN = "one static program", "Debian with systemd"
HOME = inputs.WORK / "boot-home"
ENVIRONMENT = {**os.environ, "BANGER_HOME": str(HOME), "PATH": f"{inputs.ROOT / 'bin'}:{os.environ['PATH']}"}


def publish(reference: str, name: str) -> None:
    """Run the pipe to an image of the store, unless it is there."""
    if (HOME / "state/images" / name).exists():
        return
    folder = inputs.WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    script = " | ".join([f"bg-fetch '{reference}'", *PIPE, f"bg-publish --name {name}"])
    subprocess.run(["sh", "-c", script], cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)


def busybox_tar() -> Path:
    """Return the tar of a root with a static busybox and nothing else."""
    program = shutil.which("busybox")
    if program is None:
        raise SystemExit("not installed: busybox-static")
    path = inputs.WORK / "busybox.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(program, "busybox")
    return path


def boot(name: str) -> timing.Run:
    """Boot a machine until its agent answers, and delete it."""
    argv = [inputs.program("bg-boot"), f"--image={name}", "--name=bench"]
    taken = timing.run(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    argv = [inputs.program("banger"), "vm", "delete", "--force", "bench"]
    subprocess.run(argv, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return taken


def by_hand(name: str) -> timing.Run:
    """Boot a copy of an image's disk with QEMU alone until its agent answers."""
    image = HOME / "state/images" / name
    with tempfile.TemporaryDirectory(dir=inputs.WORK) as folder:
        config = json.dumps({"schema": guest.CONFIG_SCHEMA, "hostname": "bench"}) + "\n"
        Path(folder, "config.img").write_text(config + "\n" * (-len(config) % 4096))
        script = " && ".join(
            [
                f"cp --sparse=always {image}/rootfs.ext4 root.ext4",
                f"{{ {shlex.join(_qemu(image))} & }}",
                f"{shlex.join([sys.executable, '-c', WAIT])}",
                "kill $!",
            ]
        )
        return timing.run(["sh", "-c", script], cwd=Path(folder), stdout=subprocess.DEVNULL)


WAIT = f"""
import sys, time
sys.path.insert(0, {str(inputs.ROOT)!r})
from pathlib import Path
from banger_tools.agent import client, transport
client.Agent(transport.serial_ports(Path())).wait_ready(time.monotonic() + 120, lambda: True)
"""


def _qemu(image: Path) -> list[str]:
    argv = ["qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-display", "none"]
    argv += ["-kernel", f"{image}/kernel/vmlinuz", "-initrd", f"{image}/kernel/initrd.img"]
    argv += ["-append", "console=ttyS0 quiet root=/dev/vda rw rootfstype=ext4", "-serial", "file:console.log"]
    argv += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-serial-pci"]
    argv += ["-chardev", "socket,id=a,path=agent.0.sock,server=on,wait=off"]
    argv += ["-device", "virtserialport,chardev=a,name=banger.agent.0"]
    for disk in ("root.ext4", "config.img"):
        argv += ["-drive", f"if=virtio,format=raw,file={disk}"]
    return argv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    inputs.WORK.mkdir(exist_ok=True)
    publish(f"rootfs:{busybox_tar()}", "minimal")
    publish("apt:bookworm", "debian")
    for title, name in ((MINIMAL, "minimal"), (DEBIAN, "debian")):
        ways = {f"bg-boot: {title}": partial(boot, name), "QEMU by hand": partial(by_hand, name)}
        print(timing.report(timing.in_turns(ways, options.rounds), "QEMU by hand"))


if __name__ == "__main__":
    main()
