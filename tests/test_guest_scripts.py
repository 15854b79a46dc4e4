"""The network script and the units that go into images, and what linters say of the scripts."""

from __future__ import annotations

import subprocess
from pathlib import Path

from banger_tools import guest
from tests import support

FIRST_BOOT = guest.FILES / "banger-first-boot"
NETWORK = guest.FILES / "banger-network-bootstrap"


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
    for name in ("sleep", "grep", "rm", "sh", "cat", "readlink"):
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


def test_resolver_of_the_image_gives_way_to_the_host_s(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\nsearch build.example\n")
    assert network(tmp_path, "ip", has_address=True)[1] == "nameserver 10.0.2.3\nnameserver 9.9.9.9\n"


def test_link_to_resolved_that_init_left_stays(tmp_path: Path) -> None:
    stub = tmp_path / "run" / "systemd" / "resolve" / "stub-resolv.conf"
    stub.parent.mkdir(parents=True)
    stub.write_text("nameserver 127.0.0.53\n")
    (tmp_path / "resolv.conf").symlink_to(stub)
    assert network(tmp_path, "ip", has_address=True)[1] == "nameserver 127.0.0.53\n"
    assert (tmp_path / "resolv.conf").is_symlink()


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
    (units / "banger-wrong.service").write_text("[Service]\nExecStart=/no/such/program\n")
    names = sorted(unit.name for unit in units.iterdir())
    command = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "banger" in line]
    assert complaints, "of the wrong unit, at least"
    assert [line for line in complaints if "banger-wrong" not in line] == []


def test_agent_unit_waits_for_nothing_and_holds_up_nothing() -> None:
    lines = (guest.FILES / "banger-vsock-agent.service").read_text().splitlines()
    keys = {line.partition("=")[0] for line in lines if "=" in line and not line.startswith("#")}
    assert not keys & {"After", "Requires", "BindsTo", "Requisite"}
    assert [line for line in lines if line.startswith("Before=")] == ["Before=shutdown.target"]
    assert "Restart=always" in lines and "StartLimitIntervalSec=0" in lines
