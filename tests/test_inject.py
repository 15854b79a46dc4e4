"""bg-inject judged by debugfs, e2fsck and the guest's own kernel view."""

from __future__ import annotations

import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGm6Xp0bM2xvVtYq8m5mYt1S2mK3n0b0N1h6Z1n1b2c3 me@host"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    archive = tmp_path / "content.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "usr/lib/systemd/systemd", data=b"elf", mode=0o755)
        trees.add(out, "usr/sbin/sshd", data=b"elf", mode=0o755)
        trees.add(out, "lib", tarfile.SYMTYPE, linkname="usr/lib")
        trees.add(out, "etc", tarfile.DIRTYPE, mode=0o751, uid=3)
        trees.add(out, "etc/hostname", data=b"old\n", uid=7)
        trees.add(out, "root", tarfile.DIRTYPE, mode=0o700)
    return Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, "--size=16M", archive).decode().strip())


def cat(image: Path, path: str) -> bytes:
    return subprocess.run(["/sbin/debugfs", "-R", f'cat "{path}"', image], capture_output=True).stdout


def stat(image: Path, path: str) -> tuple[str, str, int, int]:
    said = subprocess.run(["/sbin/debugfs", "-R", f'stat "{path}"', image], capture_output=True, text=True).stdout
    match = re.search(r"Type: (.+?) +Mode: +(\d+).*User: +(\d+) +Group: +(\d+)", said, re.DOTALL)
    assert match, said
    return match[1], match[2], int(match[3]), int(match[4])


def test_agent_units_and_settings_are_put_in_for_systemd_and_sshd(image: Path) -> None:
    out = support.manifest_of(support.run_ok("bg-inject", image))
    trees.fsck(image)
    assert stat(image, "/usr/local/bin/banger-vsock-agent") == ("regular", "0755", 0, 0)
    assert stat(image, "/usr/local/libexec/banger-init") == ("regular", "0755", 0, 0)
    assert stat(image, "/etc/systemd/system/banger-vsock-agent.service") == ("regular", "0644", 0, 0)
    assert stat(image, "/etc/systemd/system/multi-user.target.wants/banger-vsock-agent.service")[0] == "symlink"
    assert stat(image, "/etc/ssh/sshd_config.d/99-banger.conf") == ("regular", "0644", 0, 0)
    assert stat(image, "/etc") == ("directory", "0751", 3, 0)  # what was there stays as it was
    assert cat(image, "/usr/local/bin/banger-vsock-agent")[:4] == b"\x7fELF"
    for path in out["guest"]["files"]:
        assert stat(image, path)[2:] == (0, 0)


def test_image_without_systemd_and_sshd_gets_the_program_only(tmp_path: Path) -> None:
    archive = tmp_path / "bare.tar"
    with trees.new_tar(archive) as out:
        trees.add(out, "hello", data=b"static", mode=0o755)
    image = Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, archive).decode().strip())
    out_manifest = support.manifest_of(support.run_ok("bg-inject", image))
    trees.fsck(image)
    folders = {"/dev": "0755", "/proc": "0555", "/run": "0755", "/sys": "0555"}  # what init mounts them on
    assert {path: stat(image, path) for path in folders} == {
        path: ("directory", mode, 0, 0) for path, mode in folders.items()
    }
    files = set(out_manifest["guest"]["files"]) - {*folders}
    assert files and all(path.startswith("/usr/local/") for path in files)


def test_running_it_twice_changes_nothing(image: Path, tmp_path: Path) -> None:
    key = tmp_path / "id.pub"
    key.write_text(KEY + "\n")
    support.run_ok("bg-inject", "--ssh-key", key, "--hostname=web", image)
    before = image.read_bytes()
    support.run_ok("bg-inject", "--ssh-key", key, "--hostname=web", image)
    assert image.read_bytes() == before
    assert cat(image, "/root/.ssh/authorized_keys").decode() == KEY + "\n"
    assert stat(image, "/root/.ssh") == ("directory", "0700", 0, 0)
    assert stat(image, "/root/.ssh/authorized_keys") == ("regular", "0600", 0, 0)
    assert (cat(image, "/etc/hostname"), stat(image, "/etc/hostname")[2]) == (b"web\n", 0)


def test_same_image_and_files_give_the_same_bytes(image: Path, tmp_path: Path) -> None:
    support.run_ok("bg-inject", "-o", tmp_path / "one", image)
    support.run_ok("bg-inject", "-o", tmp_path / "two", image)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_full_image_is_refused_before_the_first_write(image: Path, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(b"x" * (15 << 20))
    before = image.read_bytes()
    done = support.run("bg-inject", "--file", f"{source}:/large", image)
    assert done.returncode == 74
    assert "no room" in done.stderr.decode()
    assert image.read_bytes() == before


def test_image_of_an_architecture_without_guest_program_is_refused(image: Path, tmp_path: Path) -> None:
    text = f"""{{"schema": "banger-manifest/1", "image": {{"architecture": "s390x"}}, "rootfs": {{"path": "{image}",
        "size": {image.stat().st_size}, "uuid": "u", "label": "", "free_bytes": 1, "free_inodes": 1,
        "mediaType": "application/vnd.banger.ext4"}}}}"""
    before = image.read_bytes()
    done = support.run("bg-inject", stdin=text)
    assert done.returncode == 69
    assert "s390x" in done.stderr.decode()
    assert image.read_bytes() == before
