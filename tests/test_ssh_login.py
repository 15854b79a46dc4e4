"""ssh into a Debian machine with systemd: by key only, with a host key of its own; what stands on its work disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from banger_tools.store import vms
from banger_tools.vmm import ssh
from tests import boots, logins, support

pytestmark = [pytest.mark.boot, pytest.mark.slow]

NAME = 'Ada "the Countess" King'
MADE = "until [ -s /etc/ssh/ssh_host_ed25519_key.pub ]; do sleep 0.5; done; cat /etc/ssh/ssh_host_ed25519_key.pub"


class Machine(NamedTuple):
    """A running machine, and the keys that it knows: one of its image, and one of its own."""

    name: str
    door: logins.Door
    of_image: Path
    of_machine: Path
    folder: Path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, and in the store an image of Debian that knows it."""
    support.need("mmdebstrap", "apt-get")
    folder = tmp_path_factory.mktemp("sshd")
    logins.key(folder / "image-key")
    inject = "bg-inject --ssh-key image-key.pub"
    pipe = f"bg-fetch apt:bookworm | bg-flatten | bg-mkext4 | bg-chown | {inject} | bg-seed | bg-publish --name sshd"
    env = support.environment({"PATH": f"{support.BIN}:{support.search_path()}"})
    done = subprocess.run(["sh", "-c", pipe], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def machine(image: Path) -> Iterator[Machine]:
    door = logins.Door(logins.free_port(), image / "known_hosts")
    private = logins.key(image / "machine-key")
    options = [f"--ssh-key={private}.pub", f"--git-identity={NAME} <ada@host>", f"--publish={door.port}:22"]
    out = support.run_ok("bg-boot", "--image=sshd", "--name=login", "--timeout=600", *options, timeout=700)
    yield Machine("login", door, image / "image-key", private, Path(support.manifest_of(out)["vm"]["path"]))
    boots.delete("login")


def test_root_comes_in_with_the_keys_of_image_and_machine_and_gets_the_status(machine: Machine) -> None:
    for private in (machine.of_image, machine.of_machine):
        done = machine.door.login(private, "cat /proc/1/comm; exit 42")
        assert (done.returncode, done.stdout) == (42, "systemd\n"), done.stderr


def vm_ssh(machine: Machine, name: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    options = [f"--identity={machine.of_image}", "--ssh-option=-oBatchMode=yes", "--timeout=900"]
    return support.run("banger", "vm", "ssh", *options, name, *words, stdin=stdin, timeout=1000)


def test_our_own_ssh_passes_words_streams_and_status(machine: Machine) -> None:
    for words, status, printed in (
        (["sh", "-c", "exit 42"], 42, b""),
        (["cat; echo $((6 * 7)) | sort; exit 3"], 3, b"in\n42\n"),
        (["printf", "%s.", "a b", "$HOME", "'", '"', "", "*"], 0, b"a b.$HOME.'.\"..*."),
    ):
        done = vm_ssh(machine, machine.name, *words, stdin=b"in\n")
        assert (done.returncode, done.stdout, done.stderr) == (status, printed, b"")


def test_our_own_ssh_knows_the_machine_beforehand_and_nobody_else(machine: Machine, tmp_path: Path) -> None:
    known = machine.folder / "known_hosts"
    assert vm_ssh(machine, machine.name, "true").returncode == 0
    assert known.read_text().splitlines()[0].split()[:2] == [machine.name, "ssh-ed25519"]
    assert known.stat().st_mode & 0o777 == 0o600
    saved, another = known.read_text(), logins.key(tmp_path / "another").with_suffix(".pub").read_text()
    way = ssh.command(vms.load(machine.name), known, "root", ["-i", str(machine.of_image), "-oBatchMode=yes"], ["true"])
    try:
        known.write_text(f"{machine.name} {another}\n")
        done = subprocess.run(["ssh", *way], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    finally:
        known.write_text(saved)
    assert (done.returncode, "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr) == (255, True)


def test_nobody_comes_in_by_a_password_or_another_key(machine: Machine, tmp_path: Path) -> None:
    assert machine.door.login(machine.of_image, "echo root:secret | chpasswd").returncode == 0
    by_password = machine.door.ssh(
        machine.of_image, "true", PreferredAuthentications="password,keyboard-interactive", BatchMode="no"
    )
    stranger = machine.door.ssh(logins.key(tmp_path / "stranger"), "true")
    for done in (by_password, stranger):
        assert done.returncode == 255
        assert "Permission denied (publickey)" in done.stderr


def test_keys_and_git_identity_stand_on_the_work_disk(machine: Machine) -> None:
    home = boots.said(machine.name, "grep ' /root ' /proc/mounts; stat -c '%a %u:%g %n' /root /root/.ssh /root/.ssh/*")
    assert home.startswith("/dev/vdb /root ext4 ")
    assert "\n700 0:0 /root\n700 0:0 /root/.ssh\n600 0:0 /root/.ssh/authorized_keys\n" in home
    keys = boots.said(machine.name, "cat /root/.ssh/authorized_keys")
    assert [line.split()[-1] for line in keys.splitlines()] == ["image-key", "machine-key"]


def test_machines_of_one_image_have_host_keys_of_their_own_and_ssh_needs_no_network(machine: Machine) -> None:
    own = boots.said(machine.name, MADE)
    try:
        waits = ["--wait=ssh", "--timeout=900"]
        support.run_ok("bg-boot", "--image=sshd", "--name=other", "--net=none", *waits, timeout=2000)
        assert boots.said("other", MADE).split()[1] != own.split()[1]
        # no network leads there: the agent starts an sshd for this login alone
        done = vm_ssh(machine, "other", "sh", "-c", "ls /sys/class/net; exit 42")
        assert (done.returncode, done.stdout) == (42, b"lo\n"), done.stderr.decode()
    finally:
        boots.delete("other")


def test_stopped_machine_comes_back_with_its_host_keys_and_knows_who_may_come_in(machine: Machine, image: Path) -> None:
    assert machine.door.login(machine.of_image, "true").returncode == 0  # its host key is remembered from here on
    support.run_ok("banger", "vm", "stop", machine.name)
    config = debugfs(machine.folder / "work.ext4", "/.gitconfig-banger")
    read = ["git", "config", "--file", "-", "--get", "user.name"]
    assert subprocess.run(read, input=config, capture_output=True, check=True).stdout.decode() == f"{NAME}\n"
    assert debugfs(machine.folder / "work.ext4", "/.ssh/authorized_keys").count(b"ssh-ed25519") == 2
    support.run_ok("banger", "vm", "start", machine.name, "--timeout=600", timeout=700)
    for private in (machine.of_image, machine.of_machine):
        done = machine.door.login(private, "exit 42")
        assert done.returncode == 42, done.stderr
    assert boots.said(machine.name, "grep -c . /root/.ssh/authorized_keys /root/.gitconfig") == (
        "/root/.ssh/authorized_keys:2\n/root/.gitconfig:2\n"
    )


def debugfs(disk: Path, path: str) -> bytes:
    argv = ["debugfs", "-R", f"cat {path}", str(disk)]
    return subprocess.run(argv, capture_output=True, env=support.environment(), check=True).stdout
