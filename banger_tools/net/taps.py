"""Taps of machines: one each, its name its address, and its alias whose it is.

Nothing of this is written down anywhere but in the kernel: what is there is what is taken. Whoever changes it holds
the lock of the network namespace for the few milliseconds that it takes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from banger_tools import console, errors, files
from banger_tools.net import attachment, bridge, links, nat, pool, resolvers, rights
from banger_tools.net.attachment import Attachment, Owner
from banger_tools.net.links import Link
from banger_tools.net.pool import Pool

if TYPE_CHECKING:
    from banger_tools.vmm.spec import Forward

check = rights.check
LOCK_SECONDS = 60.0


class Tap(NamedTuple):
    """A tap of ours: `folder` is its machine's, None if the tap does not tell."""

    name: str
    address: IPv4Address
    mark: str
    folder: str | None
    bridge: str
    used: bool


def foresee() -> None:
    """Raise what `attach` would raise of the right, the bridge and the subnet; nothing is made."""
    check()
    bridge.is_there(pool.configured(), links.listed())


def attach(owner: Owner, *, wish: str | None, nat: bool, forwards: Sequence[Forward]) -> Attachment:
    """Give a machine a tap of its own, at the address that it wishes (with or without a prefix) if that is free.

    The first one brings the bridge with it. A failure is undone. Raises what `check` does, Unavailable if the subnet is
    not free or has no address left, CannotCreate if a port leads to another machine, Retry if the lock stays held.
    """
    check()
    settled, servers = pool.configured(), resolvers.servers()
    with _locked():
        try:
            there = links.listed()
            for tap in _stale(owner.mark(), there):
                _remove(tap)
                del there[tap.name]
            bridge.ensure(settled, there)
            address = pool.take(settled, owner.folder, wish, there)
            _plug(settled, owner, address)
            _lead(settled, address, through=nat, forwards=forwards, there=there)
        except BaseException:
            _undo(owner.mark())
            raise
    return Attachment(
        tap=pool.tap_name(address),
        mac=pool.mac(address),
        address=settled.interface(address),
        gateway=str(settled.gateway),
        dns=servers,
        nat=nat,
        mark=owner.mark(),
    )


def lead(attached: Attachment, *, nat: bool, forwards: Sequence[Forward]) -> Attachment:
    """Let a machine that has its tap reach what the host reaches, or no longer, and return how it stands then.

    Raises what `attach` does, and NoInput if the tap is not its own any more.
    """
    check()
    with _locked():
        there = links.listed()
        tap = next((tap for tap in _ours(there) if (tap.name, tap.mark) == (attached.tap, attached.mark)), None)
        if tap is None or tap.bridge not in there:
            raise errors.NoInput(f"the tap '{attached.tap}' is gone")
        # what config.toml says by now may be something else
        own = IPv4Interface(attached.address)
        settled = Pool(own.network, IPv4Address(attached.gateway), tap.bridge)
        _lead(settled, own.ip, through=nat, forwards=forwards, there=there)
    return structs.replace(attached, nat=nat)


def _stale(mark: str, there: dict[str, Link]) -> list[Tap]:
    """Return the taps that this machine had, which is only just starting, and those of machines that are gone."""
    return [tap for tap in _ours(there) if tap.mark == mark or _is_left(tap, _may_be_there)]


def _may_be_there(folder: str) -> bool:
    """Tell whether a folder is there; one that we may not look for is."""
    try:
        os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _plug(settled: Pool, owner: Owner, address: IPv4Address) -> None:
    """Make a tap that we may open without any right, and put it into the bridge."""
    name = pool.tap_name(address)
    links.change(
        [
            f"tuntap add dev {name} mode tap user {os.getuid()}",
            f'link set {name} alias "{owner.mark()}"',
            f"link set {name} master {settled.bridge} up",
        ]
    )


def _lead(
    settled: Pool, address: IPv4Address, *, through: bool, forwards: Sequence[Forward], there: Mapping[str, Link]
) -> None:
    """Lead a machine's packets out, and those to the host's ports in; `there` are the links, of which it may be one."""
    table = nat.read(settled.bridge)
    if table is None:
        bridge.keep_loopback_in(settled.bridge)
        nat.make(settled)
        table = nat.Table([], [])
        _warn_of_lost_rules([tap for tap in _ours(there) if tap.bridge == settled.bridge and tap.address != address])
    nat.refuse_taken(table, forwards, address)
    from_outside = [forward for forward in forwards if not forward.host.startswith("127.")]
    if through or from_outside:
        bridge.let_forward(settled.bridge)
        nat.warn_if_blocked(settled.bridge)
    if len(from_outside) < len(forwards) or any(forward.host == nat.EVERY_ADDRESS for forward in forwards):
        bridge.let_loopback_out(settled.bridge)
    nat.put(settled, table, address, nat=through, forwards=forwards)


def _warn_of_lost_rules(others: Sequence[Tap]) -> None:
    if not others:
        return
    console.warning("the rules for machines on taps were gone: those that run have no ports and no way out by NAT")
    names = [Path(tap.folder).name if tap.folder else tap.name for tap in others]
    console.hint(f"banger vm restart {shlex.join(names)}")


def unguarded() -> list[str]:
    """Return the bridges of ours whose table is gone, as after a `nft flush ruleset`; raises what `nat.read` does."""
    return [link.name for link in links.listed().values() if bridge.is_ours(link) and nat.read(link.name) is None]


def _undo(mark: str) -> None:
    """Take back what a machine got, without hiding what went wrong."""
    with contextlib.suppress(errors.BangerError):
        for tap in _ours(links.listed()):
            if tap.mark in (mark, ""):
                _remove(tap)
    with contextlib.suppress(errors.BangerError):
        _sweep()


def detach(attached: Attachment) -> None:
    """Take a machine's tap away, and with the last one all that was made for them.

    Does nothing, and needs no right, if nothing is left of it; leaves alone what belongs to another by now.
    """
    _take_away(lambda tap: (tap.name, tap.mark) == (attached.tap, attached.mark))


def release(owner: Owner) -> None:
    """Take the taps of a machine away of which nobody knows more than whose they are, as `detach` does."""
    _take_away(lambda tap: tap.mark == owner.mark())


def _take_away(which: Callable[[Tap], bool]) -> None:
    if not any(pool.tap_address(name) or _may_be_bridge(name) for name in _names()):
        return
    with _locked():
        for tap in filter(which, _ours(links.listed())):
            _remove(tap)
        _sweep()


def leftovers(alive: Callable[[str], bool]) -> list[Tap]:
    """Return the taps that no program has open, and of whose machine's folder `alive` says no."""
    if not any(map(pool.tap_address, _names())):
        return []
    return [tap for tap in _ours(links.listed()) if _is_left(tap, alive)]


def discard(tap: Tap, alive: Callable[[str], bool]) -> bool:
    """Remove one of those taps, and with the last one all that was made for them; tell whether it still was one."""
    with _locked():
        left = [one for one in _ours(links.listed()) if (one.name, one.mark) == (tap.name, tap.mark)]
        left = [one for one in left if _is_left(one, alive)]
        for one in left:
            _remove(one)
        _sweep()
    return bool(left)


def _is_left(tap: Tap, alive: Callable[[str], bool]) -> bool:
    """Tell whether a tap has no machine any more, or was being made when its maker was killed."""
    return not tap.used and (tap.mark == "" or (tap.folder is not None and not alive(tap.folder)))


def _names() -> list[str]:
    """Return the names of all links, without another program."""
    return [name for _, name in socket.if_nameindex()]


def _may_be_bridge(name: str) -> bool:
    return name.startswith("banger")


def _ours(there: Mapping[str, Link]) -> list[Tap]:
    """Return the taps among some links that are machines'; one without a mark is only just being made."""
    return [
        Tap(link.name, address, link.alias, attachment.folder_of(link.alias), link.bridge, link.used)
        for link in there.values()
        if link.kind == "tun" and (address := pool.tap_address(link.name)) and attachment.is_mark(link.alias)
    ]


def _remove(tap: Tap) -> None:
    try:
        if tap.bridge:
            nat.forget(tap.bridge, tap.address)
    finally:
        links.change([f"link del {tap.name}"])


def _sweep() -> None:
    """Remove the bridges of ours that have no tap any more."""
    there = links.listed()
    for link in there.values():
        if bridge.is_ours(link) and not any(other.bridge == link.name for other in there.values()):
            bridge.remove(link.name, link.alias)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of the network that we are in: one on its namespace, for all users, which goes with the process."""
    descriptor = os.open(rights.NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        files.take_lock(descriptor, LOCK_SECONDS, "the tap network")
        yield
    finally:
        os.close(descriptor)
