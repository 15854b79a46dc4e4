"""A part of this host that is a soak's alone: processes, network, mounts and shared memory of its own.

So whatever is in it is ours, and needs not be told from that of others; and all of it ends with the soak.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests import support

# The shell is process 1, which waits for processes whose parents are gone; with exec there would be none to do that.
_START = 'ip link set lo up && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && "$@"; exit $?'


class Places(NamedTuple):
    """The folders of a soak: those that programs write to, what images are made of, and one for each worker."""

    folder: Path

    def written(self) -> dict[str, Path]:
        """Return the folders in which programs could leave something, by what they are to them."""
        own = {name: self.folder / name for name in ("home", "tmp", "run", "user")}
        return {**own, "shm": Path("/dev/shm")}

    def make(self) -> None:
        for name in ("home", "tmp", "run", "user", "wares"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def wares(self) -> Path:
        return self.folder / "wares"

    def environment(self) -> dict[str, str]:
        """Return the environment in which programs write to these folders only."""
        own = {"BANGER_HOME": "home", "TMPDIR": "tmp", "XDG_RUNTIME_DIR": "run", "HOME": "user"}
        places = {key: str(self.folder / name) for key, name in own.items()}
        return support.environment({**places, "PYTHONPATH": str(support.ROOT)})


def argv(words: Sequence[str]) -> list[str]:
    """Return the command line that runs another one in a shelter, which ends with it."""
    support.need("unshare", "ip", "mount")
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    own = ["--net", "--mount", "--pid", "--ipc", "--mount-proc", "--fork", "--kill-child"]
    start = ["unshare", *rights, *own, "sh", "-c", _START, "sh"]
    tried = subprocess.run([*start, "true"], capture_output=True, text=True, env=support.environment())
    if tried.returncode:
        support.cannot(f"no namespaces of its own: {tried.stderr.strip()}")
    return [*start, *words]
