"""A host for Firecracker that our own pipeline made: Debian with this package, Firecracker and its jailer.

It is the outer machine of `firecracker_lab`, with a network to the tests' web server; its store has one image and one
kernel, and what a test does in it are the commands that a user would give.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests import machines, support
from tests.firecracker_lab import DIGESTS, Kernel, Outer
from tests.guest_lab import Result, execute

PACKAGES = ("python3", "kmod", "mount", "iproute2", "nftables", "e2fsprogs", "util-linux")
DEBIAN = f"apt:bookworm?packages={','.join(PACKAGES)}&variant=essential"
MODULES = ("kvm_amd", "tun", "bridge", "nf_tables", "nft_chain_nat", "nft_masq")
HOME = "/banger"
CHECKOUT = "/opt/banger"
SETUP = f"""
    for module in {" ".join(MODULES)}; do modprobe $module; done
    mkdir -p /sys/fs/cgroup; mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
    bg-publish -q --name=tiny --kernel-ref={machines.KERNEL} --path /lab/rootfs.ext4
"""
_ROOT = Path(__file__).parents[1]


def disk(folder: Path, kernel: Kernel, binaries: Path, guest_disk: Path, debian: str = DEBIAN) -> Path:
    """Make the host's disk: Debian's packages, and a layer of ours on top."""
    home = {"BANGER_HOME": str(folder / "home")}
    fetched = support.run("bg-fetch", debian, env=home, timeout=900)
    if fetched.returncode != 0:
        support.cannot(fetched.stderr.decode()[-500:])
    top = layer(folder / "layer", kernel, binaries, guest_disk)
    said = fetched.stdout
    for words in (["bg-flatten", f"--layer={top}"], ["bg-mkext4", "--size=2G"], ["bg-inject"]):
        said = support.run_ok(*words, f"--directory={folder}", stdin=said, env=home)
    return Path(support.manifest_of(said)["rootfs"]["path"])


def layer(top: Path, kernel: Kernel, binaries: Path, guest_disk: Path) -> Path:
    """Lay out what Debian has not: this package and what it needs, Firecracker, the modules, the store's kernel."""
    local = top / "usr" / "local" / "bin"
    local.mkdir(parents=True)
    for name in DIGESTS:
        shutil.copy(binaries / name, local / name)
    checkout = top / CHECKOUT.lstrip("/")
    for part in ("bin", "banger_tools"):
        shutil.copytree(_ROOT / part, checkout / part)
    for program in (checkout / "bin").iterdir():
        (local / program.name).symlink_to(f"{CHECKOUT}/bin/{program.name}")
    install(top / "usr" / "lib" / "python3" / "dist-packages")
    version = kernel.modules.name
    shutil.copytree(kernel.modules, top / "usr" / "lib" / "modules" / version, ignore=shutil.ignore_patterns("build"))
    subprocess.run(["depmod", "-b", str(top / "usr"), version], check=True, env=support.environment())
    shutil.copytree(kernel.stored, top / HOME.lstrip("/") / "state" / "kernels" / kernel.stored.name)
    (top / "lab").mkdir()
    subprocess.run(["cp", "--sparse=always", guest_disk, top / "lab" / "rootfs.ext4"], check=True)
    return top


def install(target: Path) -> None:
    """Install what this package needs for Debian's Python, whichever runs the tests."""
    needed = _ROOT / "requirements.txt"
    options = ["--python-version=3.11", "--only-binary=:all:", "--no-deps", "--disable-pip-version-check", "--quiet"]
    argv = [sys.executable, "-m", "pip", "install", f"--target={target}", *options, f"--requirement={needed}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        support.cannot(f"the Python packages cannot be installed: {done.stderr.strip()[-300:]}")


class Host(NamedTuple):
    """A host that runs, and what is asked of it."""

    outer: Outer

    def run(self, *argv: str, stdin: bytes = b"") -> Result:
        """Run a program there, and return what it left."""
        return execute(self.outer.agent, "env", f"BANGER_HOME={HOME}", *argv, stdin=stdin)

    def sh(self, script: str) -> str:
        """Run a script that must succeed there, and return what it prints."""
        return self.outer.sh(f"export BANGER_HOME={HOME}\n{script}")

    def record(self, name: str) -> dict[str, Any]:
        """Return what stands in a machine's record."""
        found: dict[str, Any] = json.loads(self.sh(f"cat {HOME}/state/vms/{name}/vm.json"))
        return found

    def inside(self, name: str, script: str) -> str:
        """Run a script that must succeed in a guest, and return what it prints."""
        return self.sh(f"banger vm exec {name} -- /bin/sh -ec {shlex.quote(script)}")
