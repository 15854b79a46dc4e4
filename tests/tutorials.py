"""What tests of the manual's examples share: a stand-in for Docker Hub, and the commands of a page run in one shell."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests import machines, pulls, registry, support


@contextlib.contextmanager
def hub(folder: Path, home: Path) -> Iterator[None]:
    """Serve a small `alpine:3.20` of our own; the home's config.toml leads there all that asks for docker.io."""
    with registry.serve(folder) as server:
        tag = f"{server.host}/library/alpine:3.20"
        layer = folder / "layer.tar"
        command = ["tar", "--owner=0", "--group=0", "-cf", layer, "-C", _root(folder / "root"), "."]
        subprocess.run(command, check=True)
        layout = registry.umoci_layout(folder, [layer.read_bytes()])
        registry.push(layout, "v1", tag)
        pulls.configured(home, **{"docker.io": f'mirrors = ["{server.host}"]', server.host: "plain-http = true"})
        yield


def _root(folder: Path) -> Path:
    """Make what the pages look at: a busybox, a few files that alpine has as well, and documentation."""
    machines.busybox_root(folder)
    (folder / "bin" / "uname").symlink_to("busybox")
    (folder / "srv").mkdir()
    files = {
        "etc/os-release": 'NAME="Alpine Linux"\nID=alpine\n',
        "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        "etc/group": "root:x:0:\n",
        "usr/share/man/man1/x.1": ".TH X 1\n",
        "usr/share/doc/x/README": "x\n",
        "root/.profile": "PS1='# '\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def shell(script: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run commands as a user who types them into a bash, our programs in its PATH; the first that fails ends it."""
    path = f"{support.BIN}:{support.search_path()}"
    env = support.environment({"BANGER_HOME": str(home), "PATH": path, "HOME": str(cwd)})
    command = ["bash", "--norc", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=600, check=False)
