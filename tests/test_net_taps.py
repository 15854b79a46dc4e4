"""Taps of machines: whose they are, how they are told apart, and that nothing stays behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import netlab
from tests.netlab import HOST, OUTSIDE, Host, forward, wanted

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Host]:
    with netlab.host() as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a machine."""
    (tmp_path / "web").mkdir()
    return tmp_path / "web"


def settle(home: Path, text: str) -> None:
    """Write [network] of config.toml."""
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "config.toml").write_text(f"[network]\n{text}\n")


def taps(host: Host) -> list[str]:
    return sorted(name for name in host.links() if name.startswith("bg-"))


def test_tap_is_its_owners_and_tells_its_address(host: Host, folder: Path) -> None:
    got = host.attach(folder, wish="172.16.0.5/16")
    assert (got["tap"], got["address"], got["gateway"]) == ("bg-ac100005", "172.16.0.5/16", "172.16.0.1")
    link = host.links()["bg-ac100005"]
    assert (link["linkinfo"]["info_data"]["type"], link["linkinfo"]["info_data"]["user"]) == ("tap", "root")
    assert (link["master"], link["ifalias"]) == ("banger", f"banger vm {folder}")
    assert [f"{a['local']}/{a['prefixlen']}" for a in host.links()["banger"]["addr_info"]] == ["172.16.0.1/16"]


def test_hardware_address_belongs_to_the_address_and_is_no_makers(host: Host, folder: Path) -> None:
    first, second = host.attach(folder, wish="172.16.0.5"), host.attach("/", wish="172.16.0.6")
    assert first["mac"] != second["mac"]
    assert all(int(got["mac"][:2], 16) & 0b11 == 0b10 for got in (first, second))


def test_host_is_as_before_after_the_last_machine(host: Host, folder: Path) -> None:
    before = host.state()
    first = host.attach(folder, nat=True, forwards=[forward(8080, 80), forward(53, 53, protocol="udp")])
    second = host.attach("/")
    assert "table inet theirs" in (rules := host.run("nft", "list", "ruleset").stdout) and "table inet banger" in rules
    host.detach(first)
    assert host.links().keys() == {"lo", "banger", second["tap"]}
    assert "80" not in host.run("nft", "list", "map", "inet", "banger", "ports").stdout
    host.detach(second)
    assert host.state() == before


def test_host_is_told_that_it_forwards_until_the_last_machine(host: Host, folder: Path) -> None:
    got = host.attach(folder, nat=True)
    assert "net.ipv4.ip_forward" in got["said"]
    assert host.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "1\n"
    assert "ip_forward" not in host.attach("/", nat=True)["said"]
    host.detach(got)
    assert host.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "1\n"


@pytest.mark.parametrize("settings", [{}, {"forwards": [forward(8080, 80)]}])
def test_host_does_not_forward_for_those_who_need_it_not(host: Host, folder: Path, settings: dict[str, Any]) -> None:
    host.attach(folder, **settings)
    assert host.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "0\n"


def test_forwarding_that_was_on_stays_on(host: Host, folder: Path) -> None:
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    got = host.attach(folder, nat=True)
    assert "ip_forward" not in got["said"]
    host.detach(got)
    assert host.run("sysctl", "-n", "net.ipv4.ip_forward").stdout == "1\n"


def test_sixteen_at_once_get_addresses_of_their_own_and_leave_nothing(host: Host) -> None:
    before = host.state()
    folders = sorted(str(path) for path in Path("/usr/bin").iterdir())[:16]  # what is there
    got = host.at_once([wanted(one, nat=True) for one in folders])
    assert len({one["address"] for one in got}) == len({one["tap"] for one in got}) == 16
    assert taps(host) == sorted(one["tap"] for one in got)
    host.at_once([{"detach": one} for one in got])
    assert host.state() == before


def test_last_to_go_and_first_to_come_do_not_meet(host: Host) -> None:
    before, last = host.state(), host.attach("/")
    for number in range(6):
        _, last = host.at_once([{"detach": last}, wanted(f"/{'usr' if number % 2 else 'etc'}", nat=True)])
        assert host.links()[last["tap"]]["master"] == "banger"
        assert last["address"].partition("/")[0] in host.run("nft", "list", "set", "inet", "banger", "nat").stdout
    host.detach(last)
    assert host.state() == before


def test_several_wish_for_one_address(host: Host) -> None:
    got = host.at_once([wanted(one, wish="172.16.3.4/16") for one in ("/", "/usr", "/etc", "/var")])
    assert len({one["address"] for one in got}) == 4 and "172.16.3.4/16" in {one["address"] for one in got}


def test_address_that_is_wished_is_given_only_if_it_is_one_of_the_pool(host: Host, folder: Path) -> None:
    for wish in ("10.0.0.5/8", "172.16.0.1/16", "172.16.0.0/16", "172.16.255.255/16"):
        got = host.attach(folder, wish=wish)
        assert got["address"] != wish and got["address"].startswith("172.16.")


def test_machine_that_starts_anew_gets_the_address_that_it_had(host: Host, folder: Path) -> None:
    first = host.attach(folder, nat=True, forwards=[forward(8080, 80)])
    again = host.attach(folder, wish=first["address"])
    assert (again["tap"], taps(host)) == (first["tap"], [first["tap"]])
    assert "8080" not in host.run("nft", "list", "table", "inet", "banger").stdout


def test_small_pool_ends_with_an_error(host: Host, banger_home: Path) -> None:
    settle(banger_home, 'subnet = "10.9.9.0/29"\ngateway = "10.9.9.6"')
    got = [host.attach(one) for one in ("/", "/usr", "/etc", "/var", "/dev", "/proc")]
    assert sorted(one.get("address", "") for one in got) == ["", *(f"10.9.9.{last}/29" for last in range(1, 6))]
    assert got[5]["error"] == "Unavailable" and "all addresses of '10.9.9.0/29' are taken" in got[5]["message"]


@pytest.mark.parametrize("subnet", ["192.0.2.0/28", "192.0.0.0/16", "198.51.100.64/26"])
def test_subnet_that_the_host_has_a_route_to_is_refused(host: Host, banger_home: Path, subnet: str) -> None:
    settle(banger_home, f'subnet = "{subnet}"')
    with netlab.world(host):
        host.ip(f"route add 198.51.100.0/24 via {OUTSIDE}", f"route add 128.0.0.0/1 via {OUTSIDE}")
        before = host.state()
        got = host.attach("/", nat=True)
        assert (got["error"], host.state()) == ("Unavailable", before)
        assert f"'{subnet}' is not free" in got["message"] and "config.toml" in got["hint"]


def test_device_of_another_is_left_alone(host: Host, folder: Path) -> None:
    host.ip("link add banger type bridge")
    before = host.state()
    got = host.attach(folder)
    assert (got["error"], host.state()) == ("CannotCreate", before)


def test_bridge_with_another_address_is_left_alone(host: Host, banger_home: Path) -> None:
    host.attach("/")
    before = host.state()
    settle(banger_home, 'subnet = "10.9.0.0/16"')
    got = host.attach("/usr")
    assert (got["error"], host.state()) == ("CannotCreate", before)


def test_bridges_of_two_users_live_side_by_side(host: Host, banger_home: Path) -> None:
    first = host.attach("/", nat=True)
    settle(banger_home, 'subnet = "10.9.0.0/16"\nbridge = "banger-two"')
    second = host.attach("/usr", nat=True)
    host.detach(first)
    assert host.links().keys() == {"lo", "banger-two", second["tap"]}
    assert "10.9." in host.run("nft", "list", "set", "inet", "banger-two", "nat").stdout


def test_port_that_leads_to_another_machine_is_refused(host: Host, folder: Path) -> None:
    host.attach("/", forwards=[forward(8080, 80), forward(8081, 80, host="0.0.0.0"), forward(8082, 80, host=HOST)])
    before = host.state()
    for taken in (forward(8080, 1), forward(8081, 1), forward(8081, 1, host=HOST), forward(8082, 1, host="0.0.0.0")):
        got = host.attach(folder, forwards=[forward(9000, 1), taken])
        assert (got["error"], host.state()) == ("CannotCreate", before)
        assert str(taken["host_port"]) in got["message"]
    free = [forward(8080, 1, protocol="udp"), forward(8080, 1, host=HOST), forward(8082, 1)]
    assert "error" not in host.attach(folder, forwards=free)


def test_failure_leaves_nothing(host: Host, folder: Path, tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "nft"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\ncat >"$0.in"\ngrep -q "add element" "$0.in" && exit 1\nexec /usr/sbin/nft "$@" <"$0.in"\n'
    )
    fake.chmod(0o755)
    before = host.state()
    got = host.attach(folder, nat=True, env={"PATH": f"{fake.parent}:{os.environ['PATH']}"})
    assert (got["error"], host.state()) == ("Unavailable", before)


def test_tap_that_is_gone_already_is_no_error(host: Host, folder: Path) -> None:
    before, got = host.state(), host.attach(folder, nat=True)
    host.ip(f"link del {got['tap']}")
    assert [host.detach(got), host.detach(got)] == [None, None]
    assert host.state() == before


def test_tap_that_is_anothers_by_now_is_left_alone(host: Host, folder: Path) -> None:
    old = host.attach(folder, wish="172.16.0.5")
    host.detach(old)
    host.attach("/", wish="172.16.0.5", nat=True)
    before = host.state()
    host.detach(old)
    assert host.state() == before


def test_taps_of_machines_that_are_gone_are_removed_by_the_next(host: Host, folder: Path) -> None:
    gone = host.attach(folder, nat=True)
    folder.rmdir()
    host.ip("tuntap add dev bg-ac100007 mode tap")  # whose maker was killed at once
    assert set(host.call(alive=["/"])) == {gone["tap"], "bg-ac100007"}
    got = host.attach("/")
    assert taps(host) == [got["tap"]]
    assert gone["address"].partition("/")[0] not in host.run("nft", "list", "table", "inet", "banger").stdout


def test_tap_that_a_program_has_open_is_no_leftover(host: Host, folder: Path) -> None:
    got = host.attach(folder)
    folder.rmdir()
    with host.opened(got["tap"]):
        host.attach("/")
        assert got["tap"] in taps(host)
    host.attach("/")
    assert got["tap"] not in taps(host)


@pytest.mark.parametrize("name", ["a b", "quote\"d'", "ümläut", "x" * 250, "-", "%41", "\udcff"])
def test_odd_names_of_folders_survive(host: Host, tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    odd.mkdir()
    got = host.attach(odd)
    assert host.call(alive=[str(odd)]) == []
    assert host.attach("/")["tap"] in taps(host) and got["tap"] in taps(host)
    host.detach(got)
    assert got["tap"] not in taps(host)


def test_rules_that_were_flushed_are_made_anew(host: Host, folder: Path) -> None:
    host.attach("/", nat=True)
    host.run("nft", "flush", "ruleset")
    got = host.attach(folder, nat=True)
    assert got["address"].partition("/")[0] in host.run("nft", "list", "set", "inet", "banger", "nat").stdout


def test_firewall_that_drops_what_is_forwarded_is_told_of(host: Host, folder: Path) -> None:
    rules = "table ip filter {\nchain FORWARD { type filter hook forward priority 0; policy drop;\n}\n}\n"
    host.run("nft", "-f", "-", input=rules)
    said = host.attach(folder, nat=True)["said"]
    assert "'FORWARD' of the table 'ip filter'" in said
    for command in ("iifname", "oifname"):
        assert f"nft insert rule ip filter FORWARD {command} banger accept" in said
        host.run(*f"nft insert rule ip filter FORWARD {command} banger accept".split())
    assert "warning" not in host.attach(folder, nat=True)["said"]
    assert "warning" not in host.attach(folder)["said"]
