"""What machines on taps leave behind, and what is known of their networks before they are made."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.net import rights, taps
from banger_tools.store import vms
from banger_tools.vmm import spec as specs
from tests import machines, netlab, support
from tests.netlab import Host, forward

SPEC = specs.Spec(
    "id",
    "web",
    "tiny",
    "amd64",
    "qemu",
    1,
    256 << 20,
    "tap",
    specs.Boot("/k/vmlinux"),
    specs.Guest(),
)


@pytest.fixture
def host() -> Iterator[Host]:
    with netlab.host() as one:
        yield one


@pytest.fixture
def stored(banger_home: Path) -> Path:
    """The folder of a machine of the store that does not run."""
    folder = vms.folder("web")
    folder.mkdir(parents=True)
    vms.save(specs.Record(specs.SCHEMA, SPEC))
    return folder


@pytest.mark.root
def test_tap_whose_machines_starter_was_killed_is_taken_away(host: Host, stored: Path) -> None:
    before = host.state()
    host.attach(stored, nat=True)
    (stored / "qmp.sock").touch()
    other = host.attach("/")
    host.call(settle="web")
    assert host.links().keys() == {"lo", "banger", other["tap"]}
    assert not (stored / "qmp.sock").exists()
    host.detach(other)
    assert host.state() == before


@pytest.mark.root
def test_tap_of_a_machine_whose_record_is_broken_goes_with_it(host: Host, stored: Path) -> None:
    before = host.state()
    host.attach(stored, nat=True)
    (stored / specs.RECORD).write_text("{")
    host.call(delete="web")
    assert (host.state(), stored.exists()) == (before, False)


# The host ---------------------------------------------------------------------


@pytest.mark.root
def test_machine_cannot_become_the_hosts_router(host: Host, stored: Path) -> None:
    host.attach(stored)
    assert host.run("sysctl", "-n", "net.ipv6.conf.banger.disable_ipv6").stdout == "1\n"
    assert {one["family"] for one in host.links()["banger"]["addr_info"]} == {"inet"}


def localnet(host: Host) -> str:
    return host.run("sysctl", "-n", "net.ipv4.conf.banger.route_localnet").stdout.strip()


@pytest.mark.root
def test_rules_that_were_flushed_are_told_of_and_loopback_is_closed(host: Host, stored: Path) -> None:
    first = host.attach(stored, nat=True, forwards=[forward(8080, 80)])
    assert localnet(host) == "1"
    host.run("nft", "flush", "ruleset")
    second = host.attach("/")
    assert "banger vm restart web" in second["said"]
    assert localnet(host) == "0"
    assert "warning" not in host.attach("/usr")["said"]
    assert first["address"].partition("/")[0] not in host.run("nft", "list", "table", "inet", "banger").stdout
    host.lead(first, nat=True, forwards=[forward(8080, 80)])
    assert first["address"].partition("/")[0] in host.run("nft", "list", "set", "inet", "banger", "nat").stdout
    assert "8080" in host.run("nft", "list", "map", "inet", "banger", "ports").stdout
    assert localnet(host) == "1"


@pytest.mark.root
def test_machine_that_alone_lost_its_rules_is_not_told_of(host: Host, stored: Path) -> None:
    first = host.attach(stored, nat=True)
    host.run("nft", "flush", "ruleset")
    assert "warning" not in host.lead(first, nat=True)["said"]


@pytest.mark.root
def test_rules_are_not_taken_for_gone_when_they_cannot_be_read(host: Host, stored: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "nft"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$2" = list ] && echo "Error: cache: busy" >&2 && exit 1\nexec /usr/sbin/nft "$@"\n')
    fake.chmod(0o755)
    host.attach("/", nat=True)
    before = host.run("nft", "list", "ruleset").stdout
    got = host.attach(stored, env={"PATH": f"{fake.parent}:{os.environ['PATH']}"})
    assert (got["error"], host.run("nft", "list", "ruleset").stdout) == ("Unavailable", before)
    assert "busy" in got["message"]


def test_lock_of_the_network_that_stays_held_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").touch()
    monkeypatch.setattr(rights, "NAMESPACE", str(tmp_path / "net"))
    monkeypatch.setattr(taps, "LOCK_SECONDS", 0.1)
    with open(tmp_path / "net") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(errors.Retry, match="the tap network is in use"), taps._locked():
            pass
    with taps._locked():
        pass


# Before anything is made ----------------------------------------------------------


@pytest.mark.root
def test_network_that_cannot_be_is_refused_before_anything_is_made(host: Host, banger_home: Path) -> None:
    disk = machines.mke2fs(banger_home.parent / "disk.ext4")
    host.ip("link add other type bridge", "link set other up", "addr add 172.16.9.1/24 dev other")
    words = support.argv("bg-boot", "--net=tap", str(disk))
    taken = host.run(*words, check=False)
    assert (taken.returncode, "'172.16.0.0/16' is not free" in taken.stderr) == (69, True)
    denied = host.run("setpriv", "--bounding-set=-all", "--inh-caps=-all", *words, check=False)
    assert (denied.returncode, "--net user" in denied.stderr) == (77, True)
    assert not (banger_home / "state").exists()
