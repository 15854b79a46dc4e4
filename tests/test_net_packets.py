"""Where a machine's packets go, tried with real ones: out by NAT, in by published ports, and nowhere else."""

from __future__ import annotations

import contextlib
import select
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests import guest_lab, netlab
from tests.netlab import HOST, OUTSIDE, Host, Namespace, forward

pytestmark = pytest.mark.root
GATEWAY = "172.16.0.1"
PORTS = [
    forward(8000, 80),
    forward(8001, 80, host=HOST),
    forward(8002, 80, host="0.0.0.0"),
    forward(8003, 53, host="0.0.0.0", protocol="udp"),
    forward(8004, 53, protocol="udp"),
]


class Lab(NamedTuple):
    """A host, what is outside, one guest with NAT and ports, and one without."""

    host: Host
    outside: Namespace
    web: Namespace
    plain: Namespace
    web_address: str
    plain_address: str


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Everywhere somebody listens at port 80; on the host, at 8080 of loopback alone, too."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(netlab.host())
        outside = stack.enter_context(netlab.world(host))
        web = host.attach("/", nat=True, forwards=PORTS)
        plain = host.attach("/usr", nat=False)
        guests = [stack.enter_context(netlab.guest(host, one)) for one in (web, plain)]
        for one in (host, outside, *guests):
            one.serves(80)
        host.serves(8080, bind="127.0.0.1")
        guests[0].serves(53, udp=True)
        yield Lab(host, outside, *guests, *(_address(one) for one in (web, plain)))


def _address(attached: dict[str, Any]) -> str:
    return str(attached["address"]).partition("/")[0]


def test_machine_with_nat_goes_out_by_the_hosts_address(lab: Lab) -> None:
    assert lab.web.asks(OUTSIDE, 80) == HOST


def test_machine_without_nat_is_told_that_it_may_not_go_out(lab: Lab) -> None:
    asked = lab.plain.run("socat", "-", f"TCP4:{OUTSIDE}:80", check=False)
    assert asked.returncode != 0 and "No route to host" in asked.stderr


def test_machines_reach_the_host_and_each_other(lab: Lab) -> None:
    assert lab.plain.asks(GATEWAY, 80) == lab.plain_address
    assert lab.plain.asks(lab.web_address, 80) == lab.plain_address
    assert lab.web.asks(lab.plain_address, 80) == lab.web_address


def test_host_reaches_machines(lab: Lab) -> None:
    assert lab.host.asks(lab.web_address, 80) == GATEWAY


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1"])
def test_port_of_loopback_leads_the_host_to_the_machine(lab: Lab, address: str) -> None:
    expected = GATEWAY if address == "127.0.0.1" else ""
    assert lab.host.asks(address, 8000) == expected


def test_port_of_loopback_is_not_open_to_others(lab: Lab) -> None:
    assert lab.outside.asks(HOST, 8000) == ""
    assert lab.plain.asks(GATEWAY, 8000) == ""


def test_port_of_an_address_is_open_there_alone_and_shows_who_asks(lab: Lab) -> None:
    assert lab.outside.asks(HOST, 8001) == OUTSIDE
    assert lab.host.asks(HOST, 8001) == HOST
    assert lab.host.asks("127.0.0.1", 8001) == ""


def test_port_of_every_address_is_open_to_all(lab: Lab) -> None:
    assert lab.outside.asks(HOST, 8002) == OUTSIDE
    assert lab.host.asks("127.0.0.1", 8002) == GATEWAY
    assert lab.host.asks(HOST, 8002) == HOST
    assert lab.plain.asks(GATEWAY, 8002) == GATEWAY  # its answer has to come by way of the host


def test_ports_of_udp_lead_to_the_machine(lab: Lab) -> None:
    # nobody repeats a datagram that is lost
    assert guest_lab.until(lambda: lab.outside.asks(HOST, 8003, udp=True, seconds=5) == OUTSIDE, 60)
    assert guest_lab.until(lambda: lab.host.asks("127.0.0.1", 8004, udp=True, seconds=5) == GATEWAY, 60)


def test_port_is_not_led_away_on_other_hosts(lab: Lab) -> None:
    lab.outside.serves(8002)
    assert lab.host.asks(OUTSIDE, 8002) == HOST
    assert lab.web.asks(OUTSIDE, 8002) == HOST


def test_nobody_outside_gets_to_a_machine_by_its_own_address(lab: Lab) -> None:
    lab.outside.ip(f"route add 172.16.0.0/16 via {HOST}")
    for address in (lab.web_address, lab.plain_address):
        asked = lab.outside.run("socat", "-", f"TCP4:{address}:80", check=False)
        assert asked.returncode != 0 and "No route to host" in asked.stderr
    lab.outside.ip(f"route del 172.16.0.0/16 via {HOST}")


def test_machine_does_not_get_to_the_hosts_loopback(lab: Lab) -> None:
    lab.plain.run("sysctl", "-qw", "net.ipv4.conf.eth0.route_localnet=1")
    lab.plain.ip("addr flush dev lo", f"route add 127.0.0.0/8 via {GATEWAY} src {lab.plain_address}")
    assert lab.plain.asks("127.0.0.1", 8080, seconds=3) == ""
    # what keeps it away is the table alone
    lab.host.run("nft", "flush", "chain", "inet", "banger", "guard")
    assert lab.plain.asks("127.0.0.1", 8080) == lab.plain_address


def test_machine_that_loses_nat_is_cut_off_in_mid_connection_and_its_ports_stay() -> None:
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(netlab.host())
        outside = stack.enter_context(netlab.world(host))
        ports = [forward(8001, 80, host=HOST)]
        attached = host.attach("/", nat=True, forwards=ports)
        guest = stack.enter_context(netlab.guest(host, attached))
        guest.serves(80)
        outside.echoes(7)
        with subprocess.Popen(
            guest.argv("socat", "-", f"TCP4:{OUTSIDE}:7"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as talk:
            assert talk.stdin and talk.stdout
            talk.stdin.write(b"one\n")
            assert talk.stdout.readline() == b"one\n"
            host.lead(attached, nat=False, forwards=ports)
            talk.stdin.write(b"two\n")
            assert select.select([talk.stdout], [], [], 2.0)[0] == []
            assert outside.asks(HOST, 8001) == OUTSIDE
            host.lead(attached, nat=True, forwards=ports)
            assert talk.stdout.readline() == b"two\n"  # what is not answered is sent again
            talk.stdin.close()
