"""The first boot for real: a Debian image without init and sshd that gets both from Debian's mirror when it boots."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import boots, logins, support

pytestmark = [pytest.mark.boot, pytest.mark.slow]

MARKER = "/var/lib/banger/first-boot-pending"


class Machine(NamedTuple):
    """A machine, the key that it knows, and where its sshd will be."""

    name: str
    key: Path
    door: logins.Door
    folder: Path

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace").replace("\r", "")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something to happen in the machine."""
        deadline = time.monotonic() + logins.SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.console()[-3000:]}"
            time.sleep(1)

    def is_pending(self) -> bool:
        return boots.said(self.name, f"[ -e {MARKER} ] && echo pending || true") == "pending\n"

    def restart(self, **changes: object) -> None:
        """Stop the machine and start it again with changes to its spec, as if it had been made so."""
        support.run_ok("banger", "vm", "stop", self.name)
        record = json.loads((self.folder / "vm.json").read_text())
        record["spec"] |= changes
        (self.folder / "vm.json").write_text(json.dumps(record))
        support.run_ok("banger", "vm", "start", self.name, "--timeout=600", timeout=700)


def settings_of_apt(folder: Path) -> Path:
    """Return a file with what this host's apt needs to reach its mirrors, and what makes dpkg and apt quick."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")
    lines = [line for line in dump.splitlines() if line.startswith(wanted)]
    lines += ['Acquire::CompressionTypes::Order "gz";', 'Dpkg::Options:: "--force-unsafe-io";']
    path = folder / "apt.conf"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine of an image that has apt and nothing to boot with; it has no network yet."""
    support.need("mmdebstrap", "apt-get")
    folder = tmp_path_factory.mktemp("first-boot")
    private = logins.key(folder / "key")
    apt = settings_of_apt(folder)
    inject = f"bg-inject --first-boot sshd,systemd --ssh-key key.pub --file {apt}:/etc/apt/apt.conf.d/99host"
    fetch = "bg-fetch 'apt:bookworm?variant=apt&packages='"
    pipe = f"{fetch} | bg-flatten | bg-mkext4 | bg-chown | {inject} | bg-seed | bg-publish --name first"
    env = support.environment({"PATH": f"{support.BIN}:{support.search_path()}"})
    done = subprocess.run(["sh", "-c", pipe], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = support.run_ok("bg-boot", "--image=first", "--net=none", "--timeout=600", timeout=700)
    vm = support.manifest_of(out)["vm"]
    yield Machine(vm["name"], private, logins.Door(logins.free_port(), folder / "known_hosts"), Path(vm["path"]))
    boots.delete(vm["name"])


def test_first_boot_fails_aloud_without_a_network_and_installs_sshd_and_systemd_with_one(machine: Machine) -> None:
    machine.wait(lambda: "failed; trying again" in machine.console(), "the first try")
    assert "Temporary failure resolving" in machine.console()
    assert machine.is_pending()
    assert boots.said(machine.name, "cat /proc/1/comm; ls /usr/sbin/sshd 2>&1 || true").startswith("banger-init\nls: ")

    forward = {"host_port": machine.door.port, "guest_port": 22, "host": "127.0.0.1", "protocol": "tcp"}
    machine.restart(net="user", forwards=[forward])
    machine.wait(lambda: "banger-first-boot: done" in machine.console(), "the installation")
    assert not machine.is_pending()
    done = machine.door.login(machine.key, "cat /proc/1/comm; exit 42")
    assert (done.returncode, done.stdout) == (42, "banger-init\n"), done.stderr

    machine.restart()
    done = machine.door.login(machine.key, "cat /proc/1/comm; systemctl is-active ssh banger-vsock-agent; exit 42")
    assert (done.returncode, done.stdout) == (42, "systemd\nactive\nactive\n"), done.stderr
