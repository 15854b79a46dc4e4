"""A real machine on a tap: its address, its way out, its ports, its name servers; and what is left when it ends."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import guest_lab, netlab, support
from tests.netlab import HOST, OUTSIDE, Host, Namespace

pytestmark = [pytest.mark.boot, pytest.mark.root]


class Lab(NamedTuple):
    """A host with the world outside, and a machine on it with NAT and a port; `before` is the host without it."""

    host: Host
    outside: Namespace
    vm: dict[str, Any]
    before: tuple[str, ...]


def banger(host: Host, *words: str, check: bool = True) -> str:
    program, *rest = words
    return host.run(*support.argv(program, *rest), check=check, timeout=600).stdout


@pytest.fixture(scope="module")
def lab(bootable_home: Path) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("BANGER_HOME", str(bootable_home))
        host = stack.enter_context(netlab.host())
        outside = stack.enter_context(netlab.world(host))
        outside.serves(80)
        before = host.state()
        words = ["--image=tiny", "--name=tapped", "--net=tap", "--nat", "--publish=0.0.0.0:8080:80"]
        booted = json.loads(banger(host, "bg-boot", *words))["vm"]
        yield Lab(host, outside, booted, before)
        banger(host, "banger", "vm", "delete", "tapped", "--force", check=False)


def said(lab: Lab, script: str) -> str:
    return banger(lab.host, "banger", "vm", "exec", "tapped", "sh", "-c", script)


def test_machine_has_the_address_of_its_tap(lab: Lab) -> None:
    address = lab.vm["address"].partition("/")[0]
    assert f"inet addr:{address}  Bcast:172.16.255.255  Mask:255.255.0.0" in said(lab, "ifconfig eth0")
    link = next(link for name, link in lab.host.links().items() if name.startswith("bg-"))
    assert "LOWER_UP" in link["flags"] and link["ifalias"].endswith("/vms/tapped")


def test_machine_asks_the_hosts_name_servers(lab: Lab) -> None:
    from banger_tools.net import resolvers

    assert [f"nameserver {one}" for one in resolvers.servers()] == said(
        lab, "grep nameserver /etc/resolv.conf"
    ).splitlines()


def test_machine_reaches_what_the_host_reaches(lab: Lab) -> None:
    assert said(lab, f"nc {OUTSIDE} 80 </dev/null").strip() == HOST


def test_way_out_is_taken_and_given_back_while_the_machine_runs(lab: Lab) -> None:
    ask = f"nc -w 10 {OUTSIDE} 80 </dev/null || echo cannot"
    banger(lab.host, "banger", "vm", "set", "tapped", "--nat=off")
    assert said(lab, ask).strip() == "cannot"
    banger(lab.host, "banger", "vm", "set", "tapped", "--nat=on")
    assert said(lab, ask).strip() == HOST


def test_port_of_the_host_leads_into_the_machine(lab: Lab) -> None:
    said(lab, "setsid nc -ll -p 80 -e echo from the guest </dev/null >/dev/null 2>&1 &")
    assert guest_lab.until(lambda: lab.outside.asks(HOST, 8080) == "from the guest")
    assert lab.host.asks("127.0.0.1", 8080) == "from the guest"


def test_machine_keeps_its_address_and_leaves_nothing(lab: Lab) -> None:
    banger(lab.host, "banger", "vm", "stop", "tapped")
    assert lab.host.state() == lab.before
    banger(lab.host, "banger", "vm", "start", "tapped")
    shown = json.loads(banger(lab.host, "banger", "vm", "show", "tapped"))["vm"]
    assert shown["address"] == lab.vm["address"]
    banger(lab.host, "banger", "vm", "delete", "tapped", "--force")
    assert lab.host.state() == lab.before
