"""From `bg-boot` to an agent that answers: an image of one static program, and Debian with systemd, in turns.

Usage: .venv/bin/python bench/boot.py [--rounds=N]

The clock runs from the start of the program to its end, copies of the disks included; then the machine is deleted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    inputs.WORK.mkdir(exist_ok=True)
    publish(f"rootfs:{busybox_tar()}", "minimal")
    publish("apt:bookworm", "debian")
    ways = {MINIMAL: lambda: boot("minimal"), DEBIAN: lambda: boot("debian")}
    print(timing.report(timing.in_turns(ways, options.rounds), MINIMAL))


if __name__ == "__main__":
    main()
