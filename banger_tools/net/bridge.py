"""The bridge that taps are ports of: this host's own address among its machines.

What the first machine changed of the host is noted on the bridge itself, so that the note lives as long as the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from banger_tools import console, errors
from banger_tools.net import links, nat, pool
from banger_tools.net.links import Link
from banger_tools.net.pool import Pool

MARK = "banger bridge"
_FORWARDING_WAS_OFF = f"{MARK}, ip_forward was 0"
_SYSCTL = Path("/proc/sys/net")


def ensure(settled: Pool, there: Mapping[str, Link]) -> None:
    """Make the bridge unless it is there; a failure is undone.

    Raises Unavailable if its subnet is not free, CannotCreate if another device has its name or it another address.
    """
    if is_there(settled, there):
        return
    address = settled.interface(settled.gateway)
    name, mac = settled.bridge, pool.mac(settled.gateway)
    # a hardware address of its own, or it would change to that of a new tap, and guests remember the old one
    links.change([f"link add {name} address {mac} type bridge"])
    try:
        _keep_ipv6_out(name)
        links.change([f'link set {name} alias "{MARK}"', f"addr add {address} dev {name}", f"link set {name} up"])
        nat.make(settled)
    except BaseException:
        remove(name, MARK)
        raise


def is_there(settled: Pool, there: Mapping[str, Link]) -> bool:
    """Tell whether the bridge is there already; raise what `ensure` does if it cannot be ours, or be made."""
    if link := there.get(settled.bridge):
        _refuse_other(link, settled.interface(settled.gateway))
        return True
    pool.refuse_overlap(settled, links.routes())
    return False


def _refuse_other(link: Link, address: str) -> None:
    another = "set another bridge under [network] in config.toml"
    if not is_ours(link):
        raise errors.CannotCreate(f"the device '{link.name}' is there and is not banger's", another)
    if link.addresses != (address,):
        has = " ".join(link.addresses) or "none"
        problem = f"the bridge '{link.name}' has the address {has}, and config.toml says {address}"
        raise errors.CannotCreate(problem, f"stop all machines on taps, or {another}")


def is_ours(link: Link) -> bool:
    """Tell whether a link is a bridge that we made."""
    return link.kind == "bridge" and link.alias.startswith(MARK)


def remove(name: str, alias: str) -> None:
    """Remove a bridge that has no tap any more, its table, and what its alias says that was changed for it."""
    nat.remove(name)
    if alias == _FORWARDING_WAS_OFF and _forwards():
        _write("ipv4/ip_forward", "0")
    links.change([f"link del {name}"])


def _keep_ipv6_out(name: str) -> None:
    """Have the bridge hear no IPv6: a machine that says it is a router would become that of this host."""
    if (_SYSCTL / f"ipv6/conf/{name}").is_dir():  # a host without IPv6 has no such place
        _write(f"ipv6/conf/{name}/disable_ipv6", "1")


def let_forward(name: str) -> None:
    """Have this host forward packets, until the bridge is removed if it did not before."""
    if _forwards():
        return
    links.change([f'link set {name} alias "{_FORWARDING_WAS_OFF}"'])
    _write("ipv4/ip_forward", "1")
    console.note("this host forwards packets between its networks (net.ipv4.ip_forward) until the last such VM ends")


def _forwards() -> bool:
    return (_SYSCTL / "ipv4/ip_forward").read_text().strip() != "0"


def let_loopback_out(name: str) -> None:
    """Have connections to 127.0.0.1 led to machines: the table keeps the machines themselves away from there."""
    _write(f"ipv4/conf/{name}/route_localnet", "1")


def keep_loopback_in(name: str) -> None:
    """Take that back, as long as there is no table that keeps the machines away."""
    _write(f"ipv4/conf/{name}/route_localnet", "0")


def _write(sysctl: str, value: str) -> None:
    try:
        (_SYSCTL / sysctl).write_text(value)
    except OSError as error:
        name = f"net.{sysctl.replace('/', '.')}"
        raise errors.Unavailable(f"cannot set '{name}': {errors.reason(error)}", f"sysctl -w {name}={value}") from error
