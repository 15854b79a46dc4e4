"""The hands of a user: commands typed, what they print, and what is looked at afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests import support

PATIENCE = 120.0  # for what takes a second on an idle machine
TINY = ("vm", "run", "--rm", "--image=tiny")


def banger(*words: str, stdin: bytes = b"", status: int = 0) -> str:
    """Run banger, which must end with `status`, and return what it printed."""
    done = support.run("banger", *words, stdin=stdin, timeout=900)
    assert done.returncode == status, f"banger {' '.join(words)}: {done.returncode}\n{done.stderr.decode()}"
    return done.stdout.decode()


def refused(status: int, *words: str) -> str:
    """Run banger, which must refuse with `status` and print nothing, and return its complaint."""
    done = support.run("banger", *words)
    assert (done.returncode, done.stdout) == (status, b""), done.stderr.decode()
    return done.stderr.decode()


def typed(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which our programs are in PATH."""
    settings = support.environment({"PATH": f"{support.BIN}:{support.search_path()}", **env})
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=settings, timeout=900, check=False)


def inside(name: str, script: str, stdin: bytes = b"") -> str:
    """Run a script in a machine, and return what it printed."""
    return banger("vm", "exec", name, "--", "sh", "-c", script, stdin=stdin)


def shown(name: str) -> dict[str, Any]:
    """Return the section of a machine in its manifest."""
    vm = json.loads(banger("vm", "show", name))["vm"]
    assert isinstance(vm, dict)
    return vm


def listed(*words: str) -> dict[str, dict[str, Any]]:
    """Return the machines that are listed, by name."""
    return {row["name"]: row for row in json.loads(banger("vm", "list", "--json", *words))}


def machines(home: Path) -> list[str]:
    """Return all that stands where the machines are, unfinished ones, too."""
    folder = home / "state" / "vms"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"it never came true: {what}"
        time.sleep(0.1)


def kill(name: str) -> None:
    """Kill a machine's monitor as the kernel does when memory is short, and wait until it is gone."""
    pid = int(shown(name)["pid"])
    os.kill(pid, signal.SIGKILL)
    until(lambda: shown(name)["state"] != "running", f"'{name}' is dead")


@contextlib.contextmanager
def temporary(name: str, *options: str) -> Iterator[str]:
    """Make a machine, and delete it in the end if it is still there."""
    banger("vm", "create", "--image=tiny", f"--name={name}", *options)
    try:
        yield name
    finally:
        support.run("banger", "vm", "delete", "--force", name)


def fsck(disk: Path) -> int:
    """Replay a disk's journal and nothing else, as a mount does; then return the status of a full check."""
    replay = ["e2fsck", "-p", "-E", "journal_only", str(disk)]
    subprocess.run(replay, capture_output=True, env=support.environment(), check=False)
    return subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, env=support.environment()).returncode
