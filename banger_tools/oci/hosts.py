"""Names of hosts as registries use them, and what the environment says of the way to them.

A host is `NAME[:PORT]`, an IPv6 address in brackets, and the port left out where it is the scheme's own.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import SplitResult, urlsplit

from banger_tools import errors
from banger_tools.oci import reference

HUB_ENDPOINT = "registry-1.docker.io"
_PORTS = {"http": 80, "https": 443}
# Where clouds tell a machine its secrets, beside 169.254.169.254: Alibaba, Oracle, Azure, Amazon and Google
_METADATA = frozenset(
    map(ipaddress.ip_address, ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"))
)


def endpoint(host: str) -> str:
    """Return the host that answers for a registry: Docker Hub is reached by another name than it is called."""
    return HUB_ENDPOINT if host == reference.DOCKER_HUB else host


def of_url(url: str) -> str:
    """Return the host of a URL, by the name that a user would write in config.toml."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    if host.endswith(f":{_PORTS.get(parts.scheme)}"):
        host = host.rpartition(":")[0]
    return reference.DOCKER_HUB if host == HUB_ENDPOINT else host


def named(host: str, scheme: str) -> str:
    """Return the name of a host that is reached by a scheme, as `of_url` gives it: `A.Example:443` is `a.example`."""
    return of_url(f"{scheme}://{host}")


def is_loopback(host: str) -> bool:
    """Tell whether a host (with or without a port) is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def is_near(host: str) -> bool:
    """Tell whether a host is this machine or on its link, by name or by any spelling of an address.

    There is what trusts this machine: its own services, or the metadata service of a cloud.
    """
    name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or is_near_address(name)


def is_near_address(text: str) -> bool:
    """Tell whether an address, in any spelling, is one of this machine or of its link."""
    address = _address(text) or _old_spelling(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address is None:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified or address in _METADATA


def _old_spelling(name: str) -> ipaddress.IPv4Address | None:
    """Return the address that inet_aton(3), and so every resolver, sees in `127.1`, `0x7f.1` or `2130706433`."""
    try:
        return ipaddress.IPv4Address(socket.inet_aton(name))
    except (OSError, UnicodeEncodeError):
        return None


def proxy(url: str) -> str | None:
    """Return the proxy for a URL by the variables of the environment, as programs written in Go read them.

    HTTP_PROXY or HTTPS_PROXY by the URL's scheme, lower case first; none for this machine, and for what NO_PROXY
    lists. Raises BadUsage for one that is no URL.
    """
    parts = urlsplit(url)
    found = _variable(f"{parts.scheme}_proxy")
    if not found or is_loopback(parts.netloc) or _is_excepted(parts, _variable("no_proxy")):
        return None
    found = found if "://" in found else f"http://{found}"
    if not reference.is_http_url(found):
        shown = found.rpartition("@")[2]  # what stands before it may be a password
        raise errors.BadUsage(f"{parts.scheme}_proxy: '{shown}' is not the URL of a proxy", "http://HOST:PORT")
    return found


def _variable(name: str) -> str:
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def _is_excepted(parts: SplitResult, no_proxy: str) -> bool:
    name, port = parts.hostname or "", _port(parts)
    return any(_excepts(word.strip().lower(), name, port) for word in no_proxy.split(",") if word.strip())


def _excepts(word: str, name: str, port: int) -> bool:
    """Tell whether one word of NO_PROXY means a host: `*`, an address, a network, or a domain and all below it."""
    if word == "*":
        return True
    address = _address(name)
    if "/" in word:
        try:
            return address is not None and address in ipaddress.ip_network(word, strict=False)
        except ValueError:
            return False
    try:
        except_parts = urlsplit(f"//{word}" if word.count(":") < 2 or word[0] == "[" else f"//[{word}]")
        excepted, only_port = except_parts.hostname or "", except_parts.port
    except ValueError:
        return False
    if only_port not in (None, port):
        return False
    if address is not None:
        return address == _address(excepted)
    if excepted.startswith((".", "*.")):  # only what is below the domain
        return name.endswith(excepted.removeprefix("*"))
    return name == excepted or name.endswith(f".{excepted}")


def _port(parts: SplitResult) -> int:
    return parts.port or _PORTS.get(parts.scheme, 0)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
