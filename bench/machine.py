"""What is measured, and on what: versions of programs and libraries, and the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from banger_tools import __version__
from bench.inputs import ROOT

PROGRAMS = {
    "e2fsprogs": ["mke2fs", "-V"],
    "skopeo": ["skopeo", "--version"],
    "umoci": ["umoci", "--version"],
    "docker-registry": ["docker-registry", "--version"],
    "tar": ["tar", "--version"],
    "gzip": ["gzip", "--version"],
    "zstd": ["zstd", "--version"],
    "coreutils": ["cp", "--version"],
    "fakeroot": ["fakeroot", "--version"],
    "genext2fs": ["genext2fs", "--version"],
    "virt-make-fs": ["virt-make-fs", "--version"],
    "xfsprogs": ["mkfs.xfs", "-V"],
    "btrfs-progs": ["mkfs.btrfs", "--version"],
    "QEMU": ["qemu-system-x86_64", "--version"],
    "busybox": ["busybox"],
}
LIBRARIES = ("docopt-ng", "isal", "crc32c", "msgspec", "urllib3", "zstandard")


def versions() -> dict[str, str]:
    """Return the version of everything that may be measured and is installed."""
    found = {"banger": _own_version(), "Python": platform.python_version()}
    found |= {name: version for name, argv in PROGRAMS.items() if (version := _version(argv))}
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def _own_version() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--tags"]
    done = subprocess.run(git, capture_output=True, text=True) if shutil.which("git") else None
    return f"{__version__} ({done.stdout.strip()})" if done and done.returncode == 0 else __version__


def _version(argv: list[str]) -> str | None:
    if shutil.which(argv[0]) is None:
        return None
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    number = re.search(r"\d+(\.\d+)+", done.stdout)
    return number[0] if number else "of unknown version"


def describe(work: Path) -> dict[str, str]:
    """Return the machine: processors, memory, kernel, the filesystem of a folder, and how busy it is."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processors": f"{os.cpu_count()} × {_processor()}",
        "memory": f"{memory:.1f} GiB",
        "kernel": platform.release(),
        "filesystem": _filesystem(work),
        "load": f"{os.getloadavg()[0]:.2f}",
        "on": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _filesystem(folder: Path) -> str:
    argv = ["df", "--output=fstype", str(folder)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[-1]


def warn_of_load() -> None:
    """Say that the numbers will be poor, if others are at work on this machine."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"bench: warning: the load of this machine is {load:.1f}: trust no time, and ratios little", file=sys.stderr
        )
