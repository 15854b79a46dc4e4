"""What tests of the manual's examples share: a stand-in for Docker Hub, and the commands of a page run in one shell."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import machines, pulls, registry, support

IMAGE = "debian:bookworm-slim"


@contextlib.contextmanager
def hub(folder: Path, home: Path) -> Iterator[None]:
    """Serve a small image of our own as IMAGE; the home's config.toml leads there all that asks for docker.io."""
    with registry.serve(folder) as server:
        layer = folder / "layer.tar"
        command = ["tar", "--owner=0", "--group=0", "-cf", layer, "-C", _root(folder / "root"), "."]
        subprocess.run(command, check=True)
        layout = registry.umoci_layout(folder, [layer.read_bytes()])
        registry.push(layout, "v1", f"{server.host}/library/{IMAGE}")
        pulls.configured(home, **{"docker.io": f'mirrors = ["{server.host}"]', server.host: "plain-http = true"})
        yield


def _root(folder: Path) -> Path:
    """Make what the pages look at: a busybox, and a few files that the real image has as well, a home among them."""
    machines.busybox_root(folder)
    (folder / "bin" / "uname").symlink_to("busybox")
    (folder / "srv").mkdir()
    files = {
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\n",
        "usr/share/doc/base-files/README": "x\n",
        "root/.bashrc": "# ~/.bashrc\n",
        "root/.profile": "PS1='# '\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def shell(script: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run commands as a user who types them into a bash, our programs in its PATH; the first that fails ends it.

    The administrator's programs are not in that PATH, as in an ordinary user's.
    """
    ordinary = [folder for folder in support.search_path().split(os.pathsep) if not folder.endswith("/sbin")]
    path = os.pathsep.join([str(support.BIN), *ordinary])
    env = support.environment({"BANGER_HOME": str(home), "PATH": path, "HOME": str(cwd)})
    command = ["bash", "--norc", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=600, check=False)
