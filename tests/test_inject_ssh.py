"""What bg-inject does for sshd and the first boot: judged by Debian's own sshd, by ssh-keygen, and by debugfs."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support, trees

INCLUDE = "Include /etc/ssh/sshd_config.d/*.conf\n"
WANTED = {"permitrootlogin": "without-password", "passwordauthentication": "no", "kbdinteractiveauthentication": "no"}


@pytest.fixture(scope="module")
def sshd() -> Iterator[Path]:
    """Debian's sshd with the library that it needs, taken out of their packages: installing it would start it."""
    support.need("apt-get", "dpkg-deb", "ssh-keygen", "setpriv")
    with tempfile.TemporaryDirectory(prefix="banger-sshd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        argv = ["apt-get", "download", "openssh-server", "libwrap0"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
        packages = list(folder.glob("*.deb"))
        if len(packages) != 2:
            support.cannot(f"the package of sshd cannot be had: {done.stderr.strip()[-200:]}")
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
        (folder / "key").chmod(0o644)
        yield folder


def effective(sshd: Path, image: Path) -> dict[str, str]:
    """Return the settings that sshd takes from the files of an image: as nobody, as for root it wants a user."""
    where = sshd / "dumped"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    subprocess.run(["/sbin/debugfs", "-R", f"rdump /etc/ssh {where}", image], capture_output=True, check=True)
    config = where / "ssh" / "sshd_config"
    config.write_text(config.read_text().replace("/etc/ssh", str(where / "ssh")))
    subprocess.run(["chmod", "-R", "a+rX", where], check=True)
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"] if os.geteuid() == 0 else []
    library = next((sshd / "root/usr/lib").glob("*-linux-gnu"))
    done = subprocess.run(
        [*user, sshd / "root/usr/sbin/sshd", "-T", "-f", config, "-h", sshd / "key"],
        capture_output=True,
        text=True,
        env=support.environment({"LD_LIBRARY_PATH": str(library)}),
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def image_with(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o640 if name.endswith("sshd_config") else 0o755)
    arguments = ["--path", "--size=8M", "-C", folder, folder / "root"]
    return Path(support.run_ok("bg-mkext4", *arguments).decode().strip())


def cat(image: Path, path: str) -> str:
    return subprocess.run(["/sbin/debugfs", "-R", f"cat {path}", image], capture_output=True, text=True).stdout


def stat(image: Path, path: str) -> str:
    return subprocess.run(["/sbin/debugfs", "-R", f"stat {path}", image], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("config", "others", "edited"),
    [
        (INCLUDE + "UsePAM yes\nPasswordAuthentication yes\n", {}, False),
        ("Include /etc/ssh/sshd_config.d/9*.conf\n", {}, False),
        ("# Include /etc/ssh/sshd_config.d/*.conf\nPermitRootLogin yes\n", {}, True),
        ("PermitRootLogin yes\nPasswordAuthentication yes\n" + INCLUDE, {}, True),
        ("Match User somebody\n" + INCLUDE, {}, True),
        (INCLUDE, {"50-cloud-init.conf": "PasswordAuthentication yes\n"}, True),
        (INCLUDE, {"50-other.conf": "X11Forwarding no\nMatch User somebody\n  PasswordAuthentication yes\n"}, False),
        (INCLUDE, {"0-a.conf": 'permitrootlogin = "yes"\n', "b.txt": "PermitRootLogin no\n"}, True),
        (INCLUDE, {"00-same.conf": "PermitRootLogin without-password\nChallengeResponseAuthentication no\n"}, False),
    ],
)
def test_root_comes_in_by_key_only_whatever_the_image_says(
    sshd: Path, tmp_path: Path, config: str, others: dict[str, str], edited: bool
) -> None:
    files = {"usr/sbin/sshd": "elf", "etc/ssh/sshd_config": config}
    image = image_with(tmp_path, files | {f"etc/ssh/sshd_config.d/{name}": text for name, text in others.items()})
    support.run_ok("bg-inject", image)
    trees.fsck(image)
    found = effective(sshd, image)
    assert {key: found[key] for key in WANTED} == WANTED
    assert (cat(image, "/etc/ssh/sshd_config") != config) == edited
    assert cat(image, "/etc/ssh/sshd_config").endswith(config)
    assert "Mode:  0640" in stat(image, "/etc/ssh/sshd_config")
    before = image.read_bytes()
    support.run_ok("bg-inject", image)
    assert image.read_bytes() == before


def make_key(folder: Path, kind: str) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"me at {kind}", "-f", folder / kind], check=True)
    return (folder / f"{kind}.pub").read_text()


def test_keys_of_every_kind_with_options_and_comments_are_put_in(tmp_path: Path) -> None:
    support.need("ssh-keygen")
    image = image_with(tmp_path, {"etc/passwd": "root", "root/.ssh/authorized_keys": "# mine\nold line"})
    kinds = ["ed25519", "ecdsa", "rsa"]
    keys = [make_key(tmp_path, kind) for kind in kinds]
    # ssh-keygen makes keys of this kind only with the hardware; what is in them is RFC 4253's: string after string
    strings = [b"sk-ssh-ed25519@openssh.com", bytes(range(32)), b"ssh:"]
    blob = base64.b64encode(b"".join(len(one).to_bytes(4, "big") + one for one in strings)).decode()
    security = f"sk-ssh-ed25519@openssh.com {blob} fido\n"
    many = tmp_path / "many.pub"
    many.write_text(
        f"# a comment\n\n{keys[1]}\r\n  {keys[2]}{security}" + f'from="10.0.0.*",command="echo \\"a b\\"" {keys[0]}'
    )
    options = [f"--ssh-key={tmp_path / 'ed25519.pub'}", f"--ssh-key={many}"]
    out = support.manifest_of(support.run_ok("bg-inject", "--no-agent", *options, image))
    trees.fsck(image)
    text = cat(image, "/root/.ssh/authorized_keys")
    assert text.splitlines()[:2] == ["# mine", "old line"]
    assert text.count("ssh-ed25519 ") == 2 and 'command="echo \\"a b\\""' in text and "\r" not in text
    listed = tmp_path / "authorized_keys"
    listed.write_text(text.replace("old line\n", ""))
    said = subprocess.run(["ssh-keygen", "-l", "-f", listed], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in said.splitlines()] == [
        "(ED25519)", "(ECDSA)", "(RSA)", "(ED25519-SK)", "(ED25519)",
    ]  # fmt: skip
    assert out["guest"]["ssh_keys"] == 5
    assert "Mode:  0600" in stat(image, "/root/.ssh/authorized_keys")
    assert "Mode:  0700" in stat(image, "/root/.ssh")
    before = image.read_bytes()
    support.run_ok("bg-inject", "--no-agent", *options, image)
    assert image.read_bytes() == before


def test_keys_are_found_through_links_and_a_missing_home_is_private(tmp_path: Path) -> None:
    support.need("ssh-keygen")
    make_key(tmp_path, "ed25519")
    image = image_with(tmp_path, {"etc/passwd": "root"})
    support.run_ok("bg-inject", "--no-agent", f"--ssh-key={tmp_path / 'ed25519.pub'}", image)
    assert "Mode:  0700" in stat(image, "/root")
    (tmp_path / "root/var/home/keys").mkdir(parents=True)
    (tmp_path / "root/root").symlink_to("var/home")
    (tmp_path / "root/var/home/.ssh").symlink_to("keys")
    (tmp_path / "root/var/home/keys/authorized_keys").write_text("old\n")
    image.unlink()
    image = image_with(tmp_path, {})
    support.run_ok("bg-inject", "--no-agent", f"--ssh-key={tmp_path / 'ed25519.pub'}", image)
    trees.fsck(image)
    assert cat(image, "/var/home/keys/authorized_keys") == "old\n" + (tmp_path / "ed25519.pub").read_text()
    assert "Mode:  0700" in stat(image, "/var/home/keys")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "is a private key"),
        ("", "has no public key"),
        ("# only this\n", "has no public key"),
        ("{key}nonsense\n", "line 2 of"),
        ("ssh-ed25519 AAAA me\n", "line 1 of"),
        ("ssh-rsa {blob} of another type\n", "line 1 of"),
        ("{cut}\n", "line 1 of"),
        ('command="unclosed {key}', "line 1 of"),
        ("{key}\x00\n", "line 2 of"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\n", "line 1 of"),
    ],
)
def test_what_is_no_public_key_is_refused_and_the_image_untouched(tmp_path: Path, text: str, words: str) -> None:
    support.need("ssh-keygen")
    key = make_key(tmp_path, "ed25519")
    image = image_with(tmp_path, {"etc/passwd": "root"})
    before = image.read_bytes()
    file = tmp_path / "file.pub"
    file.write_text(text.format(key=key, blob=key.split()[1], cut=key.split(" me")[0][:-8]))
    done = support.run("bg-inject", f"--ssh-key={file}", image)
    assert done.returncode == 65
    assert words in done.stderr.decode()
    assert image.read_bytes() == before


SHELL = {"bin/sh": "#!", "usr/bin/apt-get": "elf", "etc/passwd": "root"}
SYSTEMD = {"usr/lib/systemd/systemd": "elf"}
SSHD = {"usr/sbin/sshd": "elf", "etc/ssh/sshd_config": INCLUDE}


@pytest.mark.parametrize(
    ("files", "asked", "marker", "warned"),
    [
        (SHELL | SYSTEMD, "sshd", "sshd\n", ""),
        (SHELL, "systemd,sshd", "sshd\nsystemd\n", ""),
        (SHELL | SYSTEMD, "sshd,systemd", "sshd\n", "has systemd already"),
        (SHELL | SYSTEMD | SSHD, "sshd,systemd", "", "has sshd already"),
        ({"hello": "elf"}, "sshd", "sshd\n", "has no shell"),
        ({"bin/sh": "#!"}, "sshd", "sshd\n", "none of apt-get, apk"),
        ({"bin/sh": "#!", "sbin/apk": "elf"}, "sshd", "sshd\n", ""),
    ],
)
def test_first_boot_leaves_a_marker_for_what_the_image_lacks(
    tmp_path: Path, files: dict[str, str], asked: str, marker: str, warned: str
) -> None:
    image = image_with(tmp_path, files)
    done = support.run("bg-inject", f"--first-boot={asked}", image)
    assert done.returncode == 0, done.stderr.decode()
    trees.fsck(image)
    assert cat(image, "/var/lib/banger/first-boot-pending") == marker
    assert (warned in done.stderr.decode()) if warned else done.stderr == b""
    if marker:
        assert "Mode:  0644" in stat(image, "/var/lib/banger/first-boot-pending")
        assert "prohibit-password" in cat(image, "/etc/ssh/sshd_config.d/99-banger.conf")
    has_units = "systemd" in marker or "usr/lib/systemd/systemd" in files
    assert ("ExecStart" in cat(image, "/etc/systemd/system/banger-first-boot.service")) == has_units
    before = image.read_bytes()
    support.run_ok("bg-inject", f"--first-boot={asked}", image)
    assert image.read_bytes() == before


def test_what_is_pending_already_stays_pending(tmp_path: Path) -> None:
    image = image_with(tmp_path, SHELL)
    support.run_ok("bg-inject", "--first-boot=sshd", image)
    support.run_ok("bg-inject", "--first-boot=systemd", image)
    support.run_ok("bg-inject", image)
    trees.fsck(image)
    assert cat(image, "/var/lib/banger/first-boot-pending") == "sshd\nsystemd\n"


@pytest.mark.parametrize("options", [["--first-boot=docker"], ["--first-boot="], ["--first-boot=sshd", "--no-agent"]])
def test_first_boot_that_cannot_be_is_a_usage_error(tmp_path: Path, options: list[str]) -> None:
    image = image_with(tmp_path, SHELL)
    assert support.run("bg-inject", *options, image).returncode == 64


def test_script_of_the_first_boot_reads_the_marker_as_it_is_written(tmp_path: Path) -> None:
    image = image_with(tmp_path, SHELL | {"etc/os-release": "ID=debian\n"})
    support.run_ok("bg-inject", "--first-boot=systemd,sshd", image)
    (tmp_path / "dumped").mkdir()
    subprocess.run(["/sbin/debugfs", "-R", f"rdump / {tmp_path / 'dumped'}", image], capture_output=True, check=True)
    script = tmp_path / "dumped/usr/local/libexec/banger-first-boot"
    environment = {**os.environ, "BANGER_ROOT": str(tmp_path / "dumped")}
    said = subprocess.run(["sh", script, "--print"], env=environment, capture_output=True, text=True, check=True).stdout
    assert "openssh-server" in said and "systemd" in said


def test_home_that_others_may_write_to_is_made_one_that_sshd_trusts(tmp_path: Path) -> None:
    archive, key = tmp_path / "content.tar", tmp_path / "key"
    with trees.new_tar(archive) as out:
        trees.add(out, "root", tarfile.DIRTYPE, mode=0o1777, uid=5, gid=5)
        trees.add(out, "root/.ssh", tarfile.DIRTYPE, mode=0o777, uid=5, gid=5)
        trees.add(out, "root/.ssh/authorized_keys", data=b"", mode=0o666, uid=5)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    image = Path(support.run_ok("bg-mkext4", "--path", "-C", tmp_path, archive).decode().strip())
    support.run_ok("bg-inject", "--no-agent", f"--ssh-key={key}.pub", image)
    trees.fsck(image)
    for path, mode in (("/root", "01755"), ("/root/.ssh", "0700"), ("/root/.ssh/authorized_keys", "0600")):
        assert re.search(rf"Mode:  {mode} .*User: +0 +Group: +0 ", stat(image, path), re.DOTALL), path


def test_keys_that_come_after_the_work_seed_are_warned_of(tmp_path: Path) -> None:
    archive, key = tmp_path / "content.tar", tmp_path / "key"
    with trees.new_tar(archive) as out:
        trees.add(out, "root/.profile", data=b"A=1\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    made = support.run_ok("bg-mkext4", "-C", tmp_path, archive)
    seeded = support.run_ok("bg-seed", "-C", tmp_path, stdin=made)
    inject = ["bg-inject", "--no-agent", f"--ssh-key={key}.pub"]
    late = support.run(*inject, stdin=seeded)
    assert late.returncode == 0
    assert b"warning: no machine will show '/root/.ssh/authorized_keys'" in late.stderr
    assert b"hint: make the seed anew with bg-seed" in late.stderr
    assert support.run(*inject, stdin=late.stdout).stderr == b""  # nothing was written, so nothing more is hidden
    elsewhere = support.run("bg-inject", "--no-agent", "--hostname=web", stdin=seeded)
    assert (elsewhere.returncode, elsewhere.stderr) == (0, b"")
