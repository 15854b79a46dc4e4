"""The kinds of images that there are, by what becomes process 1 in them: how each is made, and how it is spoken to."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests import support, trees

PIPE = ("bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed")
APPLETS = ("sh", "poweroff")  # Debian's static busybox has a shell that finds all others in itself
PERL = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalPort => 7777, Listen => 1) or die; sleep 600"


class Kind(NamedTuple):
    """One kind: `source` is a reference, or files of a tar; `farewell` is what only its own shutdown says."""

    source: str | Mapping[str, bytes | str]
    init: str
    farewell: str
    shell: tuple[str, ...] = ("sh", "-c")
    listen: str = "nc -l -p 7777"
    settled: str = ""  # what the console says when its init has nothing more to do
    options: tuple[str, ...] = ()


def debian(packages: str) -> str:
    return f"apt:bookworm?packages={packages}&variant=essential"


def busybox(folder: str, **files: str) -> dict[str, bytes | str]:
    """Return the files of an image of one static busybox: a text that begins with '>' is a link."""
    program = shutil.which("busybox", path=support.search_path())
    if program is None:
        support.cannot("not installed: busybox-static")
    links = dict.fromkeys((f"{folder}{name}" for name in APPLETS), ">busybox") if folder else {}
    return {f"{folder}busybox": Path(program).read_bytes(), **links, **files}


INITTAB = """\
::sysinit:/bin/busybox echo inittab was read
tty99::respawn:/bin/busybox getty 38400 tty99
::shutdown:/bin/busybox echo going down
"""


def table() -> dict[str, Kind]:
    """Return every kind by its name."""
    own = {"sbin/init": ">../bin/busybox", "etc/inittab": INITTAB}
    ours = "banger-init: powering down"
    perl = f"perl -e '{PERL}'"
    sysvinit = ("init", "Will now halt")
    return {
        "systemd": Kind("apt:bookworm", "systemd", "", listen=perl),
        "sysvinit": Kind(debian("sysvinit-core"), *sysvinit, listen=perl, settled="Entering runlevel: 2"),
        "openrc": Kind(debian("openrc,sysvinit-core"), *sysvinit, listen=perl, settled="Entering runlevel: 2"),
        "busybox-init": Kind(busybox("bin/", **own), "init", "going down", settled="inittab was read"),
        "one-binary": Kind(busybox(""), "banger-init", ours, ("/busybox", "sh", "-c")),
        "no-folders": Kind(busybox("bin/", **{"srv/www/index.html": "hello\n"}), "banger-init", ours),
        "read-only": Kind(busybox("bin/", **own), "init", "going down", settled="inittab", options=("--read-only",)),
    }


def _tar(path: Path, files: Mapping[str, bytes | str]) -> Path:
    with trees.new_tar(path) as out:
        for name, content in files.items():
            if isinstance(content, str) and content.startswith(">"):
                trees.add(out, name, tarfile.SYMTYPE, linkname=content[1:], mode=0o777)
            else:
                trees.add(out, name, data=content if isinstance(content, bytes) else content.encode(), mode=0o755)
    return path


def publish(name: str, kind: Kind, folder: Path) -> None:
    """Run the whole pipe, as somebody types it in a shell, to an image of the store."""
    if isinstance(kind.source, str):
        support.need("mmdebstrap", "apt-get")
    reference = kind.source if isinstance(kind.source, str) else f"rootfs:{_tar(folder / 'rootfs.tar', kind.source)}"
    script = " | ".join([f"bg-fetch '{reference}'", *PIPE, f"bg-publish --name {name}"])
    env = support.environment({"PATH": f"{support.BIN}:{support.search_path()}"})
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=env, capture_output=True, text=True)
    if "cannot download the package" in done.stderr:
        support.cannot(done.stderr)
    assert done.returncode == 0, done.stderr
