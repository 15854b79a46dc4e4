"""What machines install on their first boot: the plans for real distributions, and how they are carried out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from banger_tools import guest
from tests import support

FIRST_BOOT = guest.FILES / "banger-first-boot"
KEYS = f"{FIRST_BOOT} --keys"
DAEMON = ["mkdir -p {root}/run/sshd", "{root}/usr/sbin/sshd"]
MARKER = "var/lib/banger/first-boot-pending"

# As the distributions ship them, cut to the lines that matter and with their own quoting; and what installs sshd there
APT = (
    "env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3"
    " -o Dpkg::Options::=--force-confold --no-install-recommends --fix-broken install openssh-server"
)
APK = "apk --wait 600 add --no-cache openssh"
DNF = "dnf install -y openssh-server"
PACMAN = "pacman -Syu --noconfirm --needed openssh"
ZYPPER = "env ZYPP_LOCK_TIMEOUT=600 zypper --non-interactive install --no-recommends openssh"
RELEASES = {
    "debian": ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\n', APT),
    "ubuntu": ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', APT),
    "mint": ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', APT),
    "pop": ('NAME="Pop!_OS"\nID=pop\nID_LIKE="ubuntu debian"\n', APT),
    "devuan": ('NAME="Devuan GNU/Linux"\nID=devuan\nID_LIKE=debian\n', APT),
    "alpine": ('NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.3\n', APK),
    "fedora": ('NAME="Fedora Linux"\nID=fedora\n', DNF),
    "rhel": ('NAME="Red Hat Enterprise Linux"\nID="rhel"\nID_LIKE="fedora"\n', DNF),
    "rocky": ('NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n', DNF),
    "amazon": ('NAME="Amazon Linux"\nID="amzn"\nID_LIKE="fedora"\n', DNF),
    "oracle": ("NAME='Oracle Linux Server'\nID='ol'\nID_LIKE='fedora'\n", DNF),
    "eurolinux": ('NAME="EuroLinux"\nID="eurolinux"\nID_LIKE="rhel fedora centos"\n', DNF),
    "arch": ('NAME="Arch Linux"\nID=arch\n', PACMAN),
    "endeavour": ('NAME="EndeavourOS"\nID=endeavouros\nID_LIKE=arch\n', PACMAN),
    "leap": ('NAME="openSUSE Leap"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n', ZYPPER),
    "tumbleweed": ('NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', ZYPPER),
    "sles": ('NAME="SLES"\nID="sles"\nID_LIKE="suse"\n', ZYPPER),
}


def image(folder: Path, release: str, marker: str | None = "") -> Path:
    """Make the few files of an image that the script looks at."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "os-release").write_text(release)
    (folder / MARKER).parent.mkdir(parents=True)
    if marker is not None:
        (folder / MARKER).write_text(marker)
    return folder


def program(path: Path, script: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def first_boot(
    root: Path, *options: str, script: Path = FIRST_BOOT, path: str = "/usr/bin:/bin"
) -> subprocess.CompletedProcess[str]:
    environment = {"BANGER_ROOT": str(root), "BANGER_PAUSE": "0", "PATH": path}
    argv = ["/bin/sh", str(script), *options]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


def plan(root: Path) -> list[str]:
    done = first_boot(root, "--print")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", RELEASES)
def test_plan_is_made_with_the_distribution_s_own_package_manager(tmp_path: Path, name: str) -> None:
    release, install = RELEASES[name]
    lines = plan(image(tmp_path, release))
    assert install in lines
    assert lines.index(KEYS) > lines.index(install)
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["etc", "os-release", "var", "lib", "banger", "first-boot-pending"]
    )


def test_work_that_was_interrupted_is_finished_first(tmp_path: Path) -> None:
    lines = plan(image(tmp_path, "ID=debian\n"))
    assert lines[0] == "env DEBIAN_FRONTEND=noninteractive dpkg --force-confold --configure -a"
    assert lines[1].endswith(" update") and "Error-Mode=any" in lines[1]


def test_pacman_has_a_key_of_its_own_before_it_checks_signatures(tmp_path: Path) -> None:
    assert plan(image(tmp_path, "ID=arch\n"))[:2] == ["pacman-key --init", "pacman-key --populate"]


def test_id_comes_before_id_like(tmp_path: Path) -> None:
    assert APK in plan(image(tmp_path, "ID=alpine\nID_LIKE=debian\n"))


def test_release_may_stand_below_usr_only(tmp_path: Path) -> None:
    image(tmp_path, "")
    (tmp_path / "etc" / "os-release").unlink()
    (tmp_path / "usr" / "lib").mkdir(parents=True)
    (tmp_path / "usr" / "lib" / "os-release").write_text("ID=fedora\n")
    assert DNF in plan(tmp_path)


@pytest.mark.parametrize("name", ["yum", "microdnf", "tdnf", "dnf"])
def test_package_manager_is_the_one_that_the_image_has(tmp_path: Path, name: str) -> None:
    program(image(tmp_path, "ID=centos\n") / "usr" / "bin" / name)
    assert plan(tmp_path)[0] == f"{name} install -y openssh-server"


@pytest.mark.parametrize(
    ("release", "files", "start"),
    [
        ("debian", {"sbin/init": "/lib/systemd/systemd"}, ["systemctl enable --now ssh.service"]),
        ("ubuntu", {"sbin/init": "../lib/systemd/systemd"}, ["systemctl enable --now ssh.service"]),
        ("fedora", {"sbin/init": "../lib/systemd/systemd"}, ["systemctl enable --now sshd.service"]),
        ("arch", {"lib/systemd/systemd": None}, ["systemctl enable --now sshd.service"]),
        ("devuan", {"sbin/init": None}, ["service ssh start"]),
        (
            "alpine",
            {"sbin/init": "/bin/busybox", "sbin/openrc": None},
            ["rc-update add sshd default", "rc-service sshd start"],
        ),
        ("alpine", {"sbin/init": "/bin/busybox"}, DAEMON),
        ("debian", {}, DAEMON),
        ("debian", {"sbin/init": "/usr/local/libexec/banger-init"}, DAEMON),
    ],
)
def test_sshd_is_started_by_what_process_one_is(
    tmp_path: Path, release: str, files: dict[str, str | None], start: list[str]
) -> None:
    image(tmp_path, RELEASES[release][0])
    for name, target in files.items():
        if target is None:
            program(tmp_path / name)
        else:
            link(tmp_path / name, target)
    lines = plan(tmp_path)
    assert lines[lines.index(KEYS) + 1 :] == [line.format(root=tmp_path) for line in start]


def test_marker_says_what_is_wanted(tmp_path: Path) -> None:
    lines = plan(image(tmp_path, "ID=debian\n", "systemd\nsshd\n$(reboot)\n"))
    assert lines[2].endswith(" install openssh-server systemd systemd-sysv udev dbus")
    assert "reboot" not in "".join(lines)


def test_systemd_alone_starts_no_sshd(tmp_path: Path) -> None:
    lines = plan(image(tmp_path, "ID=arch\n", "systemd\n"))
    assert lines[-1] == "pacman -Syu --noconfirm --needed systemd systemd-sysvcompat"


def test_systemd_where_it_cannot_be_had_is_said(tmp_path: Path) -> None:
    done = first_boot(image(tmp_path, "ID=alpine\n", "systemd\n"), "--print")
    assert done.returncode == 1 and "cannot be had with apk: systemd" in done.stderr


def test_unknown_distribution_is_named_and_the_marker_stays(tmp_path: Path) -> None:
    done = first_boot(image(tmp_path, "ID=$(touch${IFS}x)void\n"))
    assert done.returncode == 1 and "unknown distribution '$(touch${IFS}x)void'" in done.stderr
    assert (tmp_path / MARKER).exists()


class Laboratory:
    """An image, and programs first in PATH that write down how they were called; of one the first calls fail."""

    def __init__(self, folder: Path, release: str = "ID=debian\n", *, failing: str = "", times: int = 99) -> None:
        self.root = image(folder / "root", release)
        self.bin, self.log = folder / "bin", folder / "calls"
        for name in ("apt-get", "dpkg", "zypper", "systemctl"):
            fails = f'[ "$(grep -c "^{name}" {self.log})" -gt {times} ] || exit 100' if name == failing else ""
            program(self.bin / name, f'echo {name} "$@" >>"{self.log}"\n{fails}')
        self.script = folder / "first-boot"
        shutil.copy(FIRST_BOOT, self.script)
        self.script.chmod(0o755)
        link(self.root / "sbin" / "init", "/lib/systemd/systemd")
        with_sshd(self.root)  # as after its installation

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return first_boot(self.root, *options, script=self.script, path=f"{self.bin}:/usr/bin:/bin")

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def is_pending(self) -> bool:
        return (self.root / MARKER).exists()


def test_marker_goes_when_all_went_well(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    done = laboratory.run()
    assert done.returncode == 0, done.stderr
    assert not laboratory.is_pending()
    words = [call.split()[0] for call in laboratory.calls()]
    assert words == ["dpkg", "apt-get", "apt-get", "systemctl"]
    assert (laboratory.root / "etc/ssh/ssh_host_ed25519_key.pub").exists()


@pytest.mark.parametrize("failing", ["dpkg", "apt-get", "systemctl"])
def test_marker_stays_and_the_failure_is_said_when_something_failed(tmp_path: Path, failing: str) -> None:
    laboratory = Laboratory(tmp_path, failing=failing)
    done = laboratory.run()
    assert done.returncode == 1
    assert laboratory.is_pending()
    assert f"{failing} " in done.stderr and "ended with 100" in done.stderr
    assert done.stderr.endswith("it is tried again at the next boot\n")
    assert len([call for call in laboratory.calls() if call.startswith(failing)]) == 3


def test_what_fails_at_first_is_tried_again(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, failing="apt-get", times=2)
    done = laboratory.run()
    assert done.returncode == 0 and not laboratory.is_pending()
    assert done.stderr.count("trying again") == 2


def test_zypper_that_wants_a_restart_has_not_failed(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, 'ID="opensuse-leap"\n')
    program(laboratory.bin / "zypper", "exit 102")
    assert laboratory.run().returncode == 0
    assert not laboratory.is_pending()


def test_image_without_its_package_manager_is_told_so(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path, "ID=alpine\n")
    done = laboratory.run()
    assert done.returncode == 1 and "this image has no apk" in done.stderr
    assert laboratory.is_pending() and laboratory.calls() == []


def test_clock_that_nobody_set_is_waited_for_and_named(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    program(laboratory.bin / "date", f'echo date >>"{laboratory.log}"\necho 1970')
    done = laboratory.run()
    assert done.returncode == 0
    assert done.stderr.count("waiting for it to be set") == 3
    assert laboratory.calls()[0] == "date"


def test_nothing_pending_runs_nothing(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    (laboratory.root / MARKER).unlink()
    done = laboratory.run()
    assert done.returncode == 0 and "nothing is pending" in done.stderr
    assert laboratory.calls() == []


@pytest.mark.parametrize(
    ("marker", "init", "failing", "starts"),
    [
        (None, None, "", 1),
        ("sshd\n", None, "", 1),
        ("sshd\n", None, "apt-get", 1),
        ("systemd\n", None, "", 1),
        (None, "/lib/sysvinit/init", "", 0),
        (None, "/bin/busybox", "", 1),
    ],
)
def test_boot_without_systemd_starts_sshd_once_unless_the_image_s_init_does(
    tmp_path: Path, marker: str | None, init: str | None, failing: str, starts: int
) -> None:
    laboratory = Laboratory(tmp_path, failing=failing)
    (laboratory.root / MARKER).unlink()
    (laboratory.root / "sbin/init").unlink()
    if marker:
        (laboratory.root / MARKER).write_text(marker)
    if init:
        program(laboratory.root / init.lstrip("/"))
        link(laboratory.root / "sbin/init", f"{laboratory.root}{init}")
    program(laboratory.root / "usr/sbin/sshd", f'echo sshd >>"{laboratory.log}"')
    done = laboratory.run("--boot")
    assert done.returncode == 0, done.stderr
    assert laboratory.calls().count("sshd") == starts
    assert laboratory.is_pending() == bool(failing)


# Host keys --------------------------------------------------------------------


def with_sshd(root: Path) -> Path:
    program(root / "usr" / "sbin" / "sshd")
    (root / "etc" / "ssh").mkdir()
    return root / "etc" / "ssh"


def test_host_keys_are_made_once_and_each_machine_s_are_its_own(tmp_path: Path) -> None:
    support.need("ssh-keygen")
    public = []
    for name in ("one", "two"):
        root = image(tmp_path / name, "ID=debian\n")
        folder = with_sshd(root)
        assert first_boot(root, "--keys").returncode == 0
        made = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert "ssh_host_ed25519_key" in made
        assert first_boot(root, "--keys").returncode == 0
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
        public.append(made["ssh_host_ed25519_key.pub"].split()[1])
    assert public[0] != public[1]


def test_host_key_that_a_crash_left_empty_or_half_made_is_made_anew(tmp_path: Path) -> None:
    support.need("ssh-keygen")
    key = with_sshd(image(tmp_path, "ID=debian\n")) / "ssh_host_ed25519_key"
    key.write_bytes(b"")
    key.with_name(key.name + ".new").write_bytes(b"half")
    assert first_boot(tmp_path, "--keys").returncode == 0
    shown = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == key.with_name(key.name + ".pub").read_text().split()[:2]
    assert key.stat().st_mode & 0o777 == 0o600
    assert not list(key.parent.glob("*.new*"))


def test_rsa_key_is_made_only_for_an_sshd_that_is_told_to_have_one(tmp_path: Path) -> None:
    support.need("ssh-keygen")
    for name, line in (("plain", "#HostKey /etc/ssh/ssh_host_rsa_key"), ("told", "HostKey /etc/ssh/ssh_host_rsa_key")):
        folder = with_sshd(image(tmp_path / name, "ID=rocky\n"))
        (folder / "sshd_config").write_text(f"Port 22\n{line}\n")
        assert first_boot(tmp_path / name, "--keys").returncode == 0
        kinds = {path.name.split("_")[2] for path in folder.glob("ssh_host_*_key")}
        assert kinds == {"ed25519", "ecdsa"} | ({"rsa"} if name == "told" else set())


def test_only_key_that_the_owner_wants_stays_the_only_one(tmp_path: Path) -> None:
    folder = with_sshd(image(tmp_path, "ID=debian\n"))
    (folder / "ssh_host_ed25519_key").write_text("a key\n")
    assert first_boot(tmp_path, "--keys").returncode == 0
    assert [path.name for path in folder.iterdir()] == ["ssh_host_ed25519_key"]


def test_image_without_sshd_gets_no_host_keys(tmp_path: Path) -> None:
    (image(tmp_path, "ID=debian\n") / "etc" / "ssh").mkdir()
    assert first_boot(tmp_path, "--keys").returncode == 0
    assert list((tmp_path / "etc" / "ssh").iterdir()) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [("!", "*"), ("!!", "*"), ("*", "*"), ("", ""), ("!$6$salt$hash", "!$6$salt$hash"), ("$6$salt$hash",) * 2],
)
def test_root_without_a_password_may_come_in_by_key(tmp_path: Path, before: str, after: str) -> None:
    """An sshd without PAM takes `!` for an account that is locked; a password that somebody locked stays locked."""
    folder = with_sshd(image(tmp_path, "ID=alpine\n"))
    (folder / "ssh_host_rsa_key").write_text("a key\n")
    shadow = tmp_path / "etc" / "shadow"
    shadow.write_text(f"root:{before}:19000:0:::::\nbin:!:19000:0:::::\n")
    assert first_boot(tmp_path, "--keys").returncode == 0
    assert shadow.read_text() == f"root:{after}:19000:0:::::\nbin:!:19000:0:::::\n"
