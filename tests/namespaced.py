"""The guest program as process 1 without a virtual machine: in namespaces of its own, with a pipe as its console."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import guest_lab, machines, support


def make_root(folder: Path) -> Path:
    """Make a root of one static busybox and our program: no /etc, /proc, /dev, /run and /tmp."""
    machines.busybox_root(folder)
    shutil.copy(guest_lab.program(), folder / "init-of-ours")
    return folder


def program(root: Path, path: str, script: str) -> None:
    """Put an executable file into a root."""
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(script)
    target.chmod(0o755)


class Machine:
    """The program as process 1 of a folder; its console is a pipe."""

    def __init__(self, root: Path, **config: object) -> None:
        support.need("unshare")
        (root / "guest.json").write_text(json.dumps({"schema": "banger-guest/1", **config}))
        namespaces = ["--pid", "--mount", "--uts", "--net", "--ipc", "--fork", "--kill-child"]
        self.process = subprocess.Popen(
            ["unshare", *namespaces, "--root", str(root), "/init-of-ours"],
            env={"PATH": os.environ["PATH"], "BANGER_CONFIG": "/guest.json"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def pid(self) -> int:
        """Return the host's number of process 1."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        assert guest_lab.until(lambda: children.read_text().strip())
        return int(children.read_text().split()[0])

    def end(self) -> str:
        """Wait for the machine to end and return all that its console said."""
        output, _ = self.process.communicate(timeout=guest_lab.SECONDS)
        return output.decode()

    def until(self, mark: str) -> str:
        """Return what the console says, up to the line that holds a mark."""
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:
            said += line.decode()
            if mark in line.decode():
                return said
        raise AssertionError(f"the console never said {mark!r}, but {said!r}")

    def line(self, mark: str) -> str:
        """Return the next line of the console that holds a mark."""
        return self.until(mark).splitlines(keepends=True)[-1]


@contextlib.contextmanager
def machine(root: Path, **config: object) -> Iterator[Machine]:
    """Start a machine and make sure that it is gone afterwards."""
    made = Machine(root, **config)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def run(root: Path, script: str, **config: object) -> str:
    """Run a script as the image's command and return what the console said."""
    with machine(root, run=True, argv=["/bin/sh", "-c", script], **config) as made:
        return made.end()
