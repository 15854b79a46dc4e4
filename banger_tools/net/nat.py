"""A table of nftables for each bridge of ours: who may go out, and which ports of the host lead to whom.

The rules stand still; machines are elements of its sets and maps. Nobody else's table is touched. A verdict of ours
judges what comes from or goes to our bridge alone, and cannot undo what a rule of the host refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import console, errors, process
from banger_tools.net.links import USER_NETWORK
from banger_tools.net.pool import Pool

if TYPE_CHECKING:
    from banger_tools.vmm.spec import Forward

EVERY_ADDRESS = "0.0.0.0"
# guard: route_localnet, which ports at 127.0.0.1 need, must not let guests reach what listens there
# forward: only answers are let through because they are such; who may go out no longer is cut off in mid-connection
# postrouting: an answer has to come back through this host, or who asked would not know it
_RULES = """\
add table inet {bridge}
delete table inet {bridge}
table inet {bridge} {{
  set nat {{ type ipv4_addr
  }}
  map ports {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
  }}
  map every_address {{ type inet_proto . inet_service : ipv4_addr . inet_service
  }}
  chain guard {{ type filter hook prerouting priority -300; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    iifname "{bridge}" ip saddr 127.0.0.0/8 drop
  }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @ports
    fib daddr type local dnat ip to meta l4proto . th dport map @every_address
  }}
  chain output {{ type nat hook output priority -100; policy accept;
    dnat ip to ip daddr . meta l4proto . th dport map @ports
    fib daddr type local dnat ip to meta l4proto . th dport map @every_address
  }}
  chain postrouting {{ type nat hook postrouting priority 100; policy accept;
    oifname != "{bridge}" ip saddr @nat masquerade
    oifname "{bridge}" ct status dnat ip saddr {{ 127.0.0.0/8, {subnet} }} masquerade
  }}
  chain forward {{ type filter hook forward priority 0; policy accept;
    ct state established,related ct direction reply accept
    iifname "{bridge}" oifname "{bridge}" accept
    iifname "{bridge}" ip saddr @nat accept
    oifname "{bridge}" ct status dnat accept
    iifname "{bridge}" reject with icmpx admin-prohibited
    oifname "{bridge}" reject with icmpx admin-prohibited
  }}
}}
"""


class Port(NamedTuple):
    """A port of the host that leads to a machine: an element of one of the two maps."""

    host: str
    protocol: str
    number: int
    machine: str

    @property
    def place(self) -> str:
        """Return the map and the key in it, as nft reads them."""
        key = f"{{ {self.protocol} . {self.number}"
        return f"every_address {key}" if self.host == EVERY_ADDRESS else f"ports {{ {self.host} . {key[2:]}"

    def clashes(self, other: Port) -> bool:
        """Tell whether some connection would be led by both of them."""
        hosts = {self.host, other.host}
        return self[1:3] == other[1:3] and (len(hosts) == 1 or EVERY_ADDRESS in hosts)


class Table(NamedTuple):
    """Who is in a table."""

    nat: list[str]
    ports: list[Port]


def make(pool: Pool) -> None:
    """Make the table of a bridge anew."""
    _load(_RULES.format(bridge=pool.bridge, subnet=pool.subnet))


def remove(bridge: str) -> None:
    """Remove the table of a bridge, if it is there."""
    _load(f"add table inet {bridge}\ndelete table inet {bridge}\n")


def read(bridge: str) -> Table | None:
    """Return who is in the table of a bridge; None if it is not there, as after a `nft flush ruleset`.

    Raises Denied or Unavailable if nft cannot tell.
    """
    done = process.run(["nft", "-j", "list", "table", "inet", bridge], check=False)
    if done.status != 0:
        if b"No such file or directory" in done.stderr:
            return None
        raise _failure(done)
    sets = {name: one for raw in json.loads(done.stdout)["nftables"] for name, one in _named_set(raw)}
    if not {"nat", "ports", "every_address"} <= sets.keys():
        return None
    return Table([str(one) for one in sets["nat"]], [*_ports("ports", sets), *_ports("every_address", sets)])


def _named_set(raw: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for kind in ("set", "map"):
        if kind in raw:
            yield raw[kind]["name"], raw[kind].get("elem", [])


def _ports(name: str, sets: dict[str, list[Any]]) -> Iterator[Port]:
    for key, value in sets[name]:
        *host, protocol, number = key["concat"]
        yield Port(host[0] if host else EVERY_ADDRESS, str(protocol), int(number), str(value["concat"][0]))


def refuse_taken(table: Table, forwards: Sequence[Forward], machine: IPv4Address) -> None:
    """Raise CannotCreate if a port of the host leads to another machine already."""
    for forward in forwards:
        wanted = _port(forward, machine)
        for port in table.ports:
            if port.clashes(wanted) and port.machine != wanted.machine:
                raise errors.CannotCreate(
                    f"--publish: port {forward.host_port}: leads to the machine at {port.machine} already"
                )


def _port(forward: Forward, machine: IPv4Address) -> Port:
    return Port(forward.host, forward.protocol, forward.host_port, str(machine))


def put(pool: Pool, table: Table, machine: IPv4Address, *, nat: bool, forwards: Sequence[Forward]) -> None:
    """Have a table say this of a machine, and nothing that it said before."""
    lines = list(_forget(pool.bridge, table, str(machine)))
    if nat:
        lines.append(f"add element inet {pool.bridge} nat {{ {machine} }}")
    for forward in forwards:
        place = _port(forward, machine).place
        lines.append(f"add element inet {pool.bridge} {place} : {machine} . {forward.guest_port} }}")
    if lines:
        _load("\n".join([*lines, ""]))


def forget(bridge: str, machine: IPv4Address) -> None:
    """Have the table of a bridge know nothing of a machine."""
    table = read(bridge)
    lines = list(_forget(bridge, table, str(machine))) if table else []
    if lines:
        _load("\n".join([*lines, ""]))


def _forget(bridge: str, table: Table, machine: str) -> Iterator[str]:
    if machine in table.nat:
        yield f"delete element inet {bridge} nat {{ {machine} }}"
    for port in table.ports:
        if port.machine == machine:
            yield f"delete element inet {bridge} {port.place} }}"


def _load(text: str) -> None:
    """Have nft do all of this at once, or nothing of it."""
    done = process.run(["nft", "-f", "-"], stdin=text.encode(), check=False)
    if done.status != 0:
        raise _failure(done)


def _failure(done: process.Result) -> errors.BangerError:
    said = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.status}"]
    kind = errors.Denied if "not permitted" in said[0] else errors.Unavailable
    return kind(f"'nft' failed: {said[0]}", USER_NETWORK)


def warn_if_blocked(bridge: str) -> None:
    """Warn if a firewall of the host drops what is forwarded, unless it speaks of our bridge.

    A table of ours cannot help that: a packet has to pass all tables.
    """
    done = process.run(["nft", "-j", "list", "chains"], check=False)
    if done.status != 0:
        return
    for raw in json.loads(done.stdout)["nftables"]:
        chain = raw.get("chain", {})
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain["family"] in ("ip", "inet"):
            _warn(bridge, chain["family"], chain["table"], chain["name"])


def _warn(bridge: str, family: str, table: str, chain: str) -> None:
    rules = process.run(["nft", "list", "table", family, table], check=False).stdout.decode(errors="replace")
    if f'"{bridge}"' in rules:
        return
    console.warning(f"the firewall of this host drops what is forwarded ('{chain}' of the table '{family} {table}')")
    place = f"{family} {table} {'DOCKER-USER' if 'chain DOCKER-USER' in rules else chain}"
    console.hint(
        f"for machines to reach others: nft insert rule {place} iifname {bridge} accept; "
        f"nft insert rule {place} oifname {bridge} accept"
    )
