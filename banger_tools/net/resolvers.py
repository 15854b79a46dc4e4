"""The name servers that a machine on a tap asks: those of this host, as far as a guest can reach them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from banger_tools import config, console

# systemd-resolved and others put themselves, at an address of loopback, into the first; the second has who they ask
FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
FALLBACK = ("9.9.9.9", "1.1.1.1")
_MOST = 3  # MAXNS of resolv.conf(5)


def servers(files: Sequence[Path] = FILES) -> list[str]:
    """Return the servers of config.toml, else of the first file that has any which is not this host's loopback."""
    if configured := config.load().network.dns:
        return list(configured)
    for path in files:
        if found := _usable(path):
            return found
    console.detail(f"this host's name servers are its own alone: machines ask {' and '.join(FALLBACK)}")
    return list(FALLBACK)


def _usable(path: Path) -> list[str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    named = re.findall(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE)
    return [server for server in named if _is_reachable(server)][:_MOST]


def _is_reachable(server: str) -> bool:
    """Tell whether a guest, which has IPv4 alone, can ask a server."""
    try:
        address = IPv4Address(server)
    except AddressValueError:
        return False
    return not (address.is_loopback or address.is_unspecified)
