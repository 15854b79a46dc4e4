"""`ssh NAME.vm` with the host's own ssh into real machines, by each of the ways that there are."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import guest_lab, logins, machines, netlab, support

pytestmark = [pytest.mark.boot, pytest.mark.root]

SSHD_CONFIG = "HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nPermitRootLogin prohibit-password\n"


def sshd_root(folder: Path) -> Path:
    """Make a root of busybox with this host's sshd."""
    support.need("sshd", "ldd", "ssh-keygen")
    machines.busybox_root(folder)
    sshd = shutil.which("sshd", path=support.search_path())
    libraries = subprocess.run(["ldd", str(sshd)], capture_output=True, text=True, check=True).stdout
    for path in (str(sshd), *re.findall(r"(/\S+) \(0x", libraries)):
        target = folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (folder / "etc/ssh").mkdir(parents=True)
    (folder / "etc/ssh/sshd_config").write_text(SSHD_CONFIG)
    key = folder / "etc/ssh/ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (folder / "etc/passwd").write_text("root:*:0:0:root:/root:/bin/sh\nsshd:*:100:65534::/run/sshd:/bin/false\n")
    (folder / "root").mkdir(mode=0o700, exist_ok=True)
    return folder


class Door(NamedTuple):
    """A machine by its name, and how ssh is run where it is: the words before, and its configuration."""

    name: str
    before: list[str]
    config: Path
    key: Path

    def ssh(self, *words: str, host: str = "", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [
            *self.before,
            "ssh",
            "-F",
            str(self.config),
            "-i",
            str(self.key),
            "-oIdentitiesOnly=yes",
            "-oBatchMode=yes",
        ]
        return subprocess.run(
            [*argv, *options, host or f"{self.name}.vm", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            env=support.environment(),
        )


@pytest.fixture(scope="module")
def lab(bootable_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A home whose image has an sshd, ssh's configuration for it, and a key."""
    folder = tmp_path_factory.mktemp("ssh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANGER_HOME", str(bootable_home))
        disk = machines.mke2fs(folder / "disk.ext4", sshd_root(folder / "root"), "96M", "-E", "root_owner=0:0")
        image = {"architecture": "amd64", "config": {}}
        support.run_ok("bg-publish", "--name=sshd", stdin=machines.manifest(disk, name="sshd", image=image))
        support.run_ok("banger", "ssh-config", "--install", f"--file={folder / 'config'}")
        yield folder / "config", logins.key(folder / "key")


@pytest.fixture(scope="module", params=["user", "none", "tap"])
def door(request: pytest.FixtureRequest, lab: tuple[Path, Path]) -> Iterator[Door]:
    config, key = lab
    name = f"door-{request.param}"
    more = [f"--publish={logins.free_port()}:22"] if request.param == "user" else []
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(netlab.host()).argv() if request.param == "tap" else []

        def run(program: str, *words: str) -> None:
            subprocess.run(
                [*before, *support.argv(program, *words)],
                check=True,
                env=support.environment(),
                stdout=subprocess.DEVNULL,
            )

        run("bg-boot", "--image=sshd", f"--name={name}", f"--net={request.param}", f"--ssh-key={key}.pub", *more)
        stack.callback(run, "banger", "vm", "delete", name, "--force")
        run("banger", "vm", "exec", name, "sh", "-c", "mkdir -p /run/sshd && /usr/sbin/sshd")
        yield Door(name, before, config, key)


def test_ssh_leads_into_the_machine_as_root_with_streams_and_status_its_own(door: Door) -> None:
    done = door.ssh("hostname; id -u; echo err >&2; exit 42")
    assert (done.returncode, done.stdout, done.stderr) == (42, f"{door.name}\n0\n", "err\n")


def test_many_bytes_arrive_and_the_way_ends_with_ssh(door: Door) -> None:
    assert len(door.ssh("head -c 3000000 /dev/zero | tr '\\0' x").stdout) == 3_000_000
    assert guest_lab.until(lambda: not on_the_way(door.name))


def on_the_way(name: str) -> list[str]:
    """Return the programs of ours that are on the way to a machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "banger_tools.banger" in words and any(word in (name, f"{name}.vm") for word in words):
                found.append(" ".join(words))
    return found


def test_machine_with_another_key_is_not_let_in(door: Door, lab: tuple[Path, Path], tmp_path: Path) -> None:
    """What answers has to have the host key that the agent tells of."""
    other = logins.key(tmp_path / "other")
    known = tmp_path / "known"
    known.write_text(f"{door.name}.vm {' '.join(other.with_suffix('.pub').read_text().split()[:2])}\n")
    done = door.ssh("true", options=(f"-oUserKnownHostsFile={known}",))
    assert done.returncode == 255 and "Host key verification failed" in done.stderr


def test_machine_that_is_not_there_is_told(door: Door) -> None:
    done = door.ssh("true", host="nobody.vm")
    assert done.returncode == 255 and "'nobody'" in done.stderr
