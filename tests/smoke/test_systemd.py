"""A machine of Debian packages, with systemd and sshd: booted once, and used as one uses a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import logins, support
from tests.smoke.user import banger, inside, shown, typed, until

pytestmark = pytest.mark.slow

NAME = "debian"


@pytest.fixture(scope="module", autouse=True)
def home() -> Iterator[Path]:
    """The home that the tests share which build Debian: its packages are made into a layer once."""
    import os

    yield Path(os.environ["BANGER_HOME"])


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logins.key(tmp_path_factory.mktemp("key") / "id")


@pytest.fixture(scope="module")
def machine(home: Path, key: Path) -> Iterator[str]:
    support.need("mmdebstrap", "apt-get", "ssh")
    banger("image", "pull", "--replace", f"--name={NAME}", "apt:bookworm")
    port = logins.free_port()
    options = (f"--ssh-key={key}.pub", f"--publish={port}:22", "--memory=512M", "--timeout=900", "--wait=ssh")
    banger("vm", "create", f"--image={NAME}", f"--name={NAME}", *options)
    yield NAME
    banger("vm", "delete", "--force", NAME)


def test_systemd_is_process_one_and_finds_nothing_failed(machine: str) -> None:
    assert inside(machine, "cat /proc/1/comm") == "systemd\n"
    until(lambda: inside(machine, "systemctl list-jobs --no-legend") == "", "systemd has booted")
    assert inside(machine, "systemctl list-units --failed --no-legend") == ""
    assert inside(machine, "systemctl is-enabled banger-vsock-agent") == "enabled\n"


def test_key_opens_the_door_and_the_status_comes_back(machine: str, key: Path) -> None:
    done = support.run("banger", "vm", "ssh", f"--identity={key}", machine, "sh", "-c", "id -u; exit 42", timeout=900)
    assert (done.returncode, done.stdout) == (42, b"0\n"), done.stderr.decode()


def test_ssh_has_a_pipe_of_its_own(machine: str, key: Path) -> None:
    done = typed(f"seq 1000 | banger vm ssh --identity '{key}' {machine} 'sort -rn | head -n 1'")
    assert (done.stdout, done.returncode) == ("1000\n", 0), done.stderr


def test_server_in_the_guest_is_listed_among_its_ports(machine: str) -> None:
    assert 22 in {port["port"] for port in json.loads(banger("vm", "ports", "--json", machine))}


def test_files_come_and_go_with_their_modes(machine: str, tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("#!/bin/sh\necho hello from $(hostname)\n")
    (tmp_path / "hello").chmod(0o755)
    banger("vm", "cp", str(tmp_path / "hello"), f"{machine}:/usr/local/bin/")
    assert inside(machine, "hello") == f"hello from {NAME}\n"
    banger("vm", "cp", f"{machine}:/usr/lib/os-release", str(tmp_path))
    assert "bookworm" in (tmp_path / "os-release").read_text()


def test_stop_is_a_shutdown_that_services_notice_and_start_boots_again(machine: str) -> None:
    unit = "[Service]\nExecStart=sleep infinity\nExecStop=sh -c 'echo stopped in order >/stopped'\n"
    script = "cat >/run/systemd/system/witness.service && systemctl start witness"
    inside(machine, script, stdin=unit.encode())
    banger("vm", "stop", machine)
    assert shown(machine)["state"] == "stopped"
    banger("vm", "start", "--timeout=900", machine)
    assert inside(machine, "cat /stopped; hostname") == f"stopped in order\n{NAME}\n"
