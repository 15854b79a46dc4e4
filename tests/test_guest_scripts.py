"""The scripts and units that go into images: first boot's plans for real distributions, the network, the units."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger_tools import guest
from tests import support

FIRST_BOOT = guest.FILES / "banger-first-boot"
NETWORK = guest.FILES / "banger-network-bootstrap"

# As the distributions ship them, cut to the lines that matter and with their own quoting
RELEASES = {
    "debian": ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nID=debian\n', "apt-get"),
    "ubuntu": ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "apt-get"),
    "mint": ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt-get"),
    "pop": ('NAME="Pop!_OS"\nID=pop\nID_LIKE="ubuntu debian"\n', "apt-get"),
    "alpine": ('NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.3\n', "apk"),
    "fedora": ('NAME="Fedora Linux"\nID=fedora\n', "dnf"),
    "rocky": ('NAME="Rocky Linux"\nID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"),
    "amazon": ('NAME="Amazon Linux"\nID="amzn"\nID_LIKE="fedora"\n', "dnf"),
    "oracle": ("NAME='Oracle Linux Server'\nID='ol'\nID_LIKE='fedora'\n", "dnf"),
    "arch": ('NAME="Arch Linux"\nID=arch\n', "pacman"),
    "endeavour": ('NAME="EndeavourOS"\nID=endeavouros\nID_LIKE=arch\n', "pacman"),
    "leap": ('NAME="openSUSE Leap"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper"),
    "tumbleweed": ('NAME="openSUSE Tumbleweed"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "zypper"),
    "sles": ('NAME="SLES"\nID="sles"\nID_LIKE="suse"\n', "zypper"),
}


def first_boot(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", FIRST_BOOT, *options],
        env=support.environment({"BANGER_ROOT": str(root)}),
        capture_output=True,
        text=True,
        check=False,
    )


def image(folder: Path, release: str, marker: str | None = "") -> Path:
    (folder / "etc").mkdir()
    (folder / "etc" / "os-release").write_text(release)
    (folder / "var" / "lib" / "banger").mkdir(parents=True)
    if marker is not None:
        (folder / "var" / "lib" / "banger" / "first-boot-pending").write_text(marker)
    return folder


@pytest.mark.parametrize("name", RELEASES)
def test_plan_is_made_with_the_distribution_s_own_package_manager(tmp_path: Path, name: str) -> None:
    release, program = RELEASES[name]
    done = first_boot(image(tmp_path, release), "--print")
    assert done.returncode == 0 and done.stderr == ""
    install = next(
        line
        for line in done.stdout.splitlines()
        if (program in line and "install" in line) or " add " in line or "-Sy" in line
    )
    assert program in install and ("openssh-server" in install or install.endswith("openssh"))
    assert "ssh-keygen -A" in done.stdout


def test_id_comes_before_id_like(tmp_path: Path) -> None:
    assert "apk add" in first_boot(image(tmp_path, "ID=alpine\nID_LIKE=debian\n"), "--print").stdout


def test_yum_is_taken_where_there_is_no_dnf(tmp_path: Path) -> None:
    image(tmp_path, "ID=centos\n")
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "yum").write_text("")
    (tmp_path / "usr" / "bin" / "yum").chmod(0o755)
    assert first_boot(tmp_path, "--print").stdout.startswith("yum -y install openssh-server\n")


def test_marker_says_what_is_wanted(tmp_path: Path) -> None:
    done = first_boot(image(tmp_path, "ID=debian\n", "systemd\nsshd\n$(reboot)\n"), "--print")
    assert "install openssh-server systemd systemd-sysv\n" in done.stdout and "reboot" not in done.stdout


def test_systemd_where_it_cannot_be_had_is_said(tmp_path: Path) -> None:
    done = first_boot(image(tmp_path, "ID=alpine\n", "systemd\n"), "--print")
    assert done.returncode == 1 and "cannot be had" in done.stderr


def test_unknown_distribution_is_named_and_the_marker_stays(tmp_path: Path) -> None:
    done = first_boot(image(tmp_path, "ID=$(touch${IFS}x)void\n"))
    assert done.returncode == 1 and "unknown distribution" in done.stderr
    assert (tmp_path / "var/lib/banger/first-boot-pending").exists()


def fake_programs(folder: Path, *, failing: str = "") -> dict[str, str]:
    """Programs first in PATH that write down how they were called; one may fail."""
    folder.mkdir()
    for name in ("apt-get", "ssh-keygen", "systemctl"):
        status = 1 if name == failing else 0
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"{folder}/calls"\nexit {status}\n')
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("failing", "stays"), [("", False), ("systemctl", False), ("apt-get", True), ("ssh-keygen", True)]
)
def test_marker_goes_only_when_what_matters_went_well(tmp_path: Path, failing: str, *, stays: bool) -> None:
    root = tmp_path / "root"
    root.mkdir()
    image(root, "ID=debian\n")
    environment = {**fake_programs(tmp_path / "bin", failing=failing), "BANGER_ROOT": str(root)}
    done = subprocess.run(["sh", FIRST_BOOT], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == stays
    assert (root / "var/lib/banger/first-boot-pending").exists() == stays
    calls = (tmp_path / "bin" / "calls").read_text().splitlines()
    assert calls[0] == "apt-get -q update"
    if not failing:
        assert calls[1:3] == ["apt-get -q -y --no-install-recommends install openssh-server", "ssh-keygen -A"]


def test_nothing_pending_runs_nothing(tmp_path: Path) -> None:
    done = first_boot(image(tmp_path, "ID=debian\n", None))
    assert done.returncode == 0 and "nothing is pending" in done.stderr


def network(folder: Path, tool: str, *, has_address: bool) -> tuple[list[str], str]:
    """Run the network script with fake tools; return how these were called, and the resolver's file."""
    (folder / "bin").mkdir()
    (folder / "net" / "lo").mkdir(parents=True)
    (folder / "net" / "eth0" / "device").mkdir(parents=True)
    (folder / "net" / "aaa0").mkdir()
    shown = " inet 10.0.2.15/24 x" if has_address else ""
    for name in ["ip"] if tool == "ip" else ["ifconfig", "route"]:
        (folder / "bin" / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >>"{folder}/calls"\ncase "$*" in *addr\\ show*|eth0) echo "{shown}";; esac\n'
        )
        (folder / "bin" / name).chmod(0o755)
    for name in ("sleep", "grep", "rm", "sh", "cat"):
        (folder / "bin" / name).symlink_to(f"/bin/{name}")
    settings = "BANGER_ADDRESS='10.0.2.15/20'\nBANGER_GATEWAY='10.0.2.2'\nBANGER_DNS='10.0.2.3 9.9.9.9'\n"
    (folder / "network.env").write_text(settings.replace("/20", "/24") if tool == "ip" else settings)
    environment = {"PATH": str(folder / "bin"), "BANGER_NETWORK_ENV": str(folder / "network.env")}
    environment |= {"BANGER_SYS_CLASS_NET": str(folder / "net"), "BANGER_RESOLV_CONF": str(folder / "resolv.conf")}
    subprocess.run(["/bin/sh", NETWORK], env=environment, check=True)
    return (folder / "calls").read_text().splitlines(), (folder / "resolv.conf").read_text()


def test_network_is_set_with_ip_where_there_is_one(tmp_path: Path) -> None:
    calls, resolver = network(tmp_path, "ip", has_address=False)
    assert "ip addr add 10.0.2.15/24 dev eth0" in calls
    assert "ip route add default via 10.0.2.2 dev eth0" in calls
    assert resolver == "nameserver 10.0.2.3\nnameserver 9.9.9.9\n"


def test_network_that_is_set_already_is_left_alone(tmp_path: Path) -> None:
    assert not [call for call in network(tmp_path, "ip", has_address=True)[0] if "addr add" in call]


def test_network_is_set_with_ifconfig_where_there_is_no_ip(tmp_path: Path) -> None:
    calls, _ = network(tmp_path, "ifconfig", has_address=False)
    assert "ifconfig eth0 10.0.2.15 netmask 255.255.240.0 up" in calls
    assert "route add default gw 10.0.2.2" in calls


def test_network_without_settings_does_nothing(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "BANGER_NETWORK_ENV": str(tmp_path / "none")}
    subprocess.run(["/bin/sh", NETWORK], env=environment, check=True)


def test_scripts_are_clean_posix_shell() -> None:
    support.need("shellcheck")
    subprocess.run(["shellcheck", "--shell=sh", "--severity=info", FIRST_BOOT, NETWORK], check=True)


def test_units_are_accepted_by_systemd(tmp_path: Path) -> None:
    support.need("systemd-analyze")
    root = tmp_path / "root"
    units = root / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    programs = set()
    for unit in guest.FILES.glob("*.service"):
        text = unit.read_text()
        programs |= {line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")}
        (units / unit.name).write_text(text)
    for program in programs:
        path = root / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    names = [unit.name for unit in sorted(guest.FILES.glob("*.service"))]
    command = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "banger" in line]
    assert complaints == []


def test_agent_unit_waits_for_nothing_and_holds_up_nothing() -> None:
    lines = (guest.FILES / "banger-vsock-agent.service").read_text().splitlines()
    keys = {line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")}
    assert not keys & {"After", "Requires", "BindsTo", "Requisite"}
    assert [line for line in lines if line.startswith("Before=")] == ["Before=shutdown.target"]
    assert "Restart=always" in lines and "StartLimitIntervalSec=0" in lines
