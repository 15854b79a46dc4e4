"""What the tests of bg-boot share: what they run, and what they look at afterwards."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

from tests import support

NO_END = "rdinit=/nothing root=/dev/nothing rootwait"  # for the kernel: a boot that comes to no end, good or bad


def boot(*words: str) -> dict[str, Any]:
    """Boot a machine that must come up, and return its section of the manifest."""
    vm = support.manifest_of(support.run_ok("bg-boot", "--image=tiny", *words))["vm"]
    assert isinstance(vm, dict)
    return vm


def guest(name: str, script: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return support.run("banger", "vm", "exec", name, "sh", "-c", script, stdin=stdin)


def said(name: str, script: str) -> str:
    done = guest(name, script)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def show(name: str) -> dict[str, Any]:
    vm = support.manifest_of(support.run_ok("banger", "vm", "show", name))["vm"]
    assert isinstance(vm, dict)
    return vm


def delete(name: str) -> None:
    support.run("banger", "vm", "delete", name, "--force")


def vm_folders(home: Path) -> list[str]:
    folder = home / "state" / "vms"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def monitors(home: Path) -> list[int]:
    """Return the monitors of the machines of this home, by the lock that is their stdin."""
    found = []
    for pid in processes(home):
        with contextlib.suppress(OSError):
            found += [pid] if os.readlink(f"/proc/{pid}/fd/0").endswith("/vmm.lock") else []
    return found


def processes(home: Path) -> list[int]:
    """Return the processes whose working folder is that of a machine of this home: monitors, and their recorders."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd").startswith(f"{home}/state/vms/"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def fsck(disk: Path, *flags: str) -> int:
    argv = ["e2fsck", "-f", *(flags or ["-n"]), str(disk)]
    return subprocess.run(argv, capture_output=True, env=support.environment()).returncode
