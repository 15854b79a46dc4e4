"""The pool of addresses: a subnet of our own, in which the name of a tap is its address.

So the kernel itself keeps the book: a name that is there is an address that is taken, on the whole host and for all
users, and it is free again as soon as the tap is gone.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import NamedTuple

from banger_tools import config, errors

_TAP = re.compile(r"bg-([0-9a-f]{8})")
_TUNNELS = 1  # a VPN takes everything over with two routes of this prefix length: as good as a default route


class Pool(NamedTuple):
    """What [network] of config.toml settles."""

    subnet: IPv4Network
    gateway: IPv4Address
    bridge: str

    def interface(self, address: IPv4Address) -> str:
        """Return an address with the length of the subnet's prefix."""
        return f"{address}/{self.subnet.prefixlen}"

    def candidates(self, owner: str, wish: str | None) -> Iterator[IPv4Address]:
        """Yield the addresses of machines: first the one that is wished for, then from a place that is the owner's.

        Not from the first: an address that was somebody else's a moment ago is still in caches.
        """
        if wish is not None and (before := _address(wish)) in self.subnet and self._is_guests(before):
            yield before
        count = self.subnet.num_addresses
        start = int.from_bytes(sha256(owner.encode("utf-8", "surrogateescape")).digest()[:8], "big") % count
        for offset in range(count):
            if self._is_guests(address := self.subnet[(start + offset) % count]):
                yield address

    def _is_guests(self, address: IPv4Address) -> bool:
        return address not in (self.subnet.network_address, self.subnet.broadcast_address, self.gateway)


def configured() -> Pool:
    """Return the pool of config.toml."""
    network = config.load().network
    subnet = IPv4Network(network.subnet)
    return Pool(subnet, IPv4Address(network.gateway) if network.gateway else subnet[1], network.bridge)


def tap_name(address: IPv4Address) -> str:
    """Return the name of the tap of an address."""
    return f"bg-{int(address):08x}"


def tap_address(name: str) -> IPv4Address | None:
    """Return the address that the name of a tap stands for; None if it is no name of ours."""
    match = _TAP.fullmatch(name)
    return IPv4Address(int(match[1], 16)) if match else None


def mac(address: IPv4Address) -> str:
    """Return the hardware address that belongs to an address: one administered locally (IEEE 802, bit 2 of octet 1)."""
    return ":".join(f"{octet:02x}" for octet in b"\x02\xb6" + address.packed)


def take(pool: Pool, owner: str, wish: str | None, taken: Container[str]) -> IPv4Address:
    """Return the first address whose tap is not there.

    Raises Unavailable if all are taken.
    """
    for address in pool.candidates(owner, wish):
        if tap_name(address) not in taken:
            return address
    raise errors.Unavailable(
        f"all addresses of '{pool.subnet}' are taken", "set a larger subnet under [network] in config.toml"
    )


def refuse_overlap(pool: Pool, routes: Iterable[tuple[str, str]]) -> None:
    """Raise Unavailable if the subnet is a part of what the host has a route to already, or the other way round."""
    for destination, device in routes:
        if destination == "default" or device == pool.bridge:
            continue
        there = IPv4Network(destination, strict=False)
        if there.prefixlen > _TUNNELS and there.overlaps(pool.subnet):
            via = f" by '{device}'" if device else ""
            raise errors.Unavailable(
                f"'{pool.subnet}' is not free for machines: this host has a route to '{there}'{via}",
                "set another subnet under [network] in config.toml, or use --net user",
            )


def _address(wish: str) -> IPv4Address:
    return IPv4Interface(wish).ip
