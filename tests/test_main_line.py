"""The main line, with nothing in it faked: Debian packages and a registry's image, each to a machine that answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import registry, support, trees

pytestmark = [pytest.mark.boot, pytest.mark.slow]

PIPE = ("bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed")


def pipe(reference: str, name: str) -> str:
    """Return the whole pipe as somebody types it in a shell."""
    return " | ".join([f"bg-fetch {reference}", *PIPE, f"bg-publish --name {name}"])


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the pipe ran by hand, from packages to a published image."""
    support.need("mmdebstrap", "apt-get")
    folder = tmp_path_factory.mktemp("debian")
    env = support.environment({"PATH": f"{support.BIN}:{support.search_path()}"})
    done = subprocess.run(["sh", "-c", pipe("apt:bookworm", "bookworm")], cwd=folder, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    (folder / "published.json").write_bytes(done.stdout)
    return folder


def test_pipe_by_hand_gives_an_image_that_e2fsck_and_bg_chown_find_right(debian: Path) -> None:
    trees.fsck(debian / "rootfs.ext4")
    trees.fsck(debian / "work-seed.ext4")
    support.run_ok("bg-chown", "--check", debian / "published.json")


def test_command_in_a_debian_machine_has_its_own_stdin_stdout_stderr_and_status(debian: Path) -> None:
    script = ". /etc/os-release; echo $ID $VERSION_ID; cat; echo to stderr >&2; exit 42"
    done = support.run(
        "banger", "vm", "run", "-q", "--image", "bookworm", "--rm", "--", "sh", "-c", script, stdin=b"from stdin\n"
    )
    assert done.stdout == b"debian 12\nfrom stdin\n", done.stderr.decode()
    assert done.stderr == b"to stderr\n"
    assert done.returncode == 42
    machines = Path(os.environ["BANGER_HOME"], "state/vms")
    assert not machines.exists() or not list(machines.glob("bookworm*"))


def test_ordinary_user_gets_the_same_bytes_from_the_whole_pipe_and_boots_them(
    debian: Path, user: support.OrdinaryUser
) -> None:
    folder = user.home / "pipe"
    user.run("mkdir", str(folder))
    script = f"cd {folder} && PATH={user.bin}:$PATH && {pipe('apt:bookworm', 'bookworm')}"
    done = user.run("sh", "-c", script)
    assert done.returncode == 0, done.stderr.decode()
    for name in ("rootfs.ext4", "work-seed.ext4"):
        done = subprocess.run(["cmp", folder / name, debian / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    done = user.run("banger", "vm", "run", "--image", "bookworm", "--rm", "--", "id", "-u")
    assert (done.returncode, done.stdout) == (0, b"0\n"), done.stderr.decode()


CAPABILITY = bytes.fromhex("0100000280000000000000000000000000000000")  # cap_setuid=ep


def layered_busybox(folder: Path) -> Path:
    """Return an OCI layout with a busybox of two layers: no init, no sshd, and one of everything that gets lost."""
    busybox = Path(shutil.which("busybox", path=support.search_path()) or "/bin/busybox").read_bytes()
    lower, upper = folder / "lower.tar", folder / "upper.tar"
    with trees.new_tar(lower) as out:
        trees.add(out, "bin", tarfile.DIRTYPE)
        trees.add(out, "bin/busybox", data=busybox, mode=0o755)
        for name in ("sh", "cat", "ls", "stat", "grep", "su", "id"):
            trees.add(out, f"bin/{name}", tarfile.SYMTYPE, linkname="busybox", mode=0o777)
        capability = CAPABILITY.decode("utf-8", "surrogateescape")
        trees.add(
            out, "capable/grep", data=busybox, mode=0o755, pax_headers={"SCHILY.xattr.security.capability": capability}
        )
        trees.add(out, "bin/setuid", data=b"#!/bin/sh\n", mode=0o4755)
        trees.add(out, "etc/passwd", data=b"root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/:/bin/sh\n")
        trees.add(out, "etc/group", data=b"root:x:0:\nme:x:1000:\n")
        trees.add(out, "srv/mine", data=b"mine", uid=1000, gid=1000, mode=0o640)
        trees.add(out, "srv/gone", data=b"gone")
        trees.add(out, "srv/kept", data=b"kept")
    with trees.new_tar(upper) as out:
        trees.add(out, "srv/.wh.gone")
        trees.add(out, "srv/new", data=b"new")
    return registry.umoci_layout(folder, [lower.read_bytes(), upper.read_bytes()])


def test_image_without_init_comes_from_a_registry_and_keeps_everything(tmp_path: Path) -> None:
    support.need("umoci", "skopeo", "busybox")
    layout = layered_busybox(tmp_path)
    with registry.serve(tmp_path) as served:
        reference = f"{served.host}/tiny:test"
        registry.push(layout, "v1", reference)
        support.run_ok("banger", "image", "pull", "--name", "tiny", reference)
    script = """
        stat -c '%n %a %u:%g' /srv/mine /bin/setuid /srv/new
        ls /srv
        su me -c '/capable/grep CapEff /proc/self/status'
    """
    done = support.run("banger", "vm", "run", "--image", "tiny", "--rm", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().split("\n")
    assert lines[:3] == ["/srv/mine 640 1000:1000", "/bin/setuid 4755 0:0", "/srv/new 644 0:0"]
    assert lines[3:6] == ["kept", "mine", "new"]
    assert lines[6].split() == ["CapEff:", "0000000000000080"]
