"""The links of this host's network, as iproute2 shows and changes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from banger_tools import errors, process

USER_NETWORK = "use --net user, which needs no right"


class Link(NamedTuple):
    """A network device: its kind (`bridge`, `tun`, …; '' for hardware), and its addresses as 172.16.0.1/16.

    `used` tells of a tap that a program has opened.
    """

    name: str
    kind: str
    alias: str
    bridge: str
    addresses: tuple[str, ...]
    used: bool


def listed() -> dict[str, Link]:
    """Return all links by name."""
    return {link.name: link for link in map(_link, _json(["-d", "addr", "show"]))}


def _link(raw: dict[str, Any]) -> Link:
    return Link(
        raw["ifname"],
        raw.get("linkinfo", {}).get("info_kind", ""),
        raw.get("ifalias", ""),
        raw.get("master", ""),
        tuple(f"{one['local']}/{one['prefixlen']}" for one in raw.get("addr_info", ()) if one.get("family") == "inet"),
        "LOWER_UP" in raw.get("flags", ()),
    )


def routes() -> list[tuple[str, str]]:
    """Return the IPv4 destinations that this host has a route to, as (172.16.0.0/16, device), of all its tables."""
    return [(raw["dst"], raw.get("dev", "")) for raw in _json(["-4", "route", "show", "table", "all"]) if "dst" in raw]


def change(commands: Sequence[str]) -> None:
    """Run commands of ip(8) in turn, as in `link set x up`; the first that fails is the last.

    Raises Denied or Unavailable saying what the kernel said.
    """
    done = process.run(["ip", "-batch", "-"], stdin="\n".join([*commands, ""]).encode(), check=False)
    if done.status != 0:
        raise _failure(done)


def _json(words: Sequence[str]) -> list[dict[str, Any]]:
    done = process.run(["ip", "-j", *words], check=False)
    if done.status != 0:
        raise _failure(done)
    return list(json.loads(done.stdout or b"[]"))


def _failure(done: process.Result) -> errors.BangerError:
    """Return the error for a failure of ip(8), whose last line names the number of a line only."""
    lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines()]
    said = next((line for line in lines if line and not line.startswith("Command failed")), f"status {done.status}")
    kind = errors.Denied if "not permitted" in said or "denied" in said else errors.Unavailable
    return kind(f"'ip' failed: {said}", USER_NETWORK)
