"""What the user settled once: `config.toml` in ~/.config/banger, or in the folder config of BANGER_HOME.

[registries."registry.example.org:5000"]
mirrors = ["mirror.example.org/hub"]    # asked in this order before the registry itself
plain-http = true                       # without TLS
ca-file = "ca.pem"                      # trusted as well; files are relative to config.toml
cert-file = "client.pem"                # who we are, and
key-file = "client.key"                 # its key, if not in the same file

[[catalogs]]                            # asked in this order, after them the one that comes with banger
url = "https://example.org/catalog.json"
[[catalogs]]
file = "catalog.json"

[network]                               # of machines with --net tap; what stands here is what is used without it
subnet = "172.16.0.0/16"                # of no route of this host; machines get their addresses out of it
gateway = "172.16.0.1"                  # this host's own address in it; the first one if not given
bridge = "banger"                       # the device that has it; its name begins with banger
dns = ["192.0.2.53"]                    # name servers for the machines; those of this host if not given

Machines on taps see each other and this host at the gateway's address; with --nat they reach what this host reaches.
The bridge, a table of nftables with the bridge's name (family inet), and net.ipv4.ip_forward if it was 0, are set by
the first machine and put back after the last; what else the host has of rules and routes is not touched. The name
servers of this host are those of /etc/resolv.conf that are not the host itself, else those that systemd-resolved
asks, else 9.9.9.9 and 1.1.1.1.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, field

from banger_tools import errors, locations, typed

LIMIT = 1 << 20
_BRIDGE = re.compile("banger[a-z0-9-]{0,9}")  # so that nobody else's is taken for it; 15 bytes are the kernel's limit
_LARGEST, _SMALLEST = 8, 29
_Kind = TypeVar("_Kind")


class Registry(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """How one registry is reached."""

    mirrors: tuple[str, ...] = ()
    plain_http: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Catalog(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """Where a catalog is: a file or a URL."""

    file: str | None = None
    url: str | None = None


class Network(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """Where machines on taps have their addresses from."""

    subnet: str = "172.16.0.0/16"
    bridge: str = "banger"
    gateway: str | None = None
    dns: tuple[str, ...] = ()


class Config(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """All of it may be left out, and the file, too."""

    registries: dict[str, Registry] = field(default_factory=dict)
    catalogs: tuple[Catalog, ...] = ()
    network: Network = Network()


def path() -> Path:
    """Return where config.toml is, or would be."""
    return locations.config() / "config.toml"


@cache
def load() -> Config:
    """Return the configuration, with absolute paths.

    Raises BadInput naming the key that is wrong, Denied if the file cannot be read.
    """
    where = path()
    try:
        data = where.read_bytes()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{where}'") from error
    return parse(data, where)


def parse(data: bytes, where: Path) -> Config:
    """Return the configuration that the bytes of a config.toml hold.

    Raises BadInput.
    """
    raw: dict[str, Any] = {}
    try:
        raw = tomllib.loads(data[:LIMIT].decode())
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        problem = typed.problem(error, {}).replace("registries[...]", _wrong_registry(raw))
        raise errors.BadInput(f"'{where}': {problem}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.BadInput(f"'{where}' is not TOML: {error}") from error
    for number, catalog in enumerate(config.catalogs):
        if (catalog.file is None) == (catalog.url is None):
            raise errors.BadInput(f"'{where}': catalogs[{number}]: needs either 'file' or 'url'")
    try:
        _check_network(config.network)
    except ValueError as error:
        raise errors.BadInput(f"'{where}': network.{error}") from error
    return _absolute(config, where.parent)


def _check_network(network: Network) -> None:
    """Raise ValueError naming the key that is wrong."""
    if network == Network():
        return
    from ipaddress import IPv4Address, IPv4Network

    if not _BRIDGE.fullmatch(network.bridge):
        raise ValueError(f"bridge: '{network.bridge}' is not 'banger', or that and up to 9 of a-z, 0-9 and '-'")
    subnet = _checked("subnet", network.subnet, IPv4Network, "no IPv4 network")
    if not _SMALLEST >= subnet.prefixlen >= _LARGEST:
        raise ValueError(f"subnet: '{subnet}' is not between /{_LARGEST} and /{_SMALLEST}")
    for server in network.dns:
        _checked("dns", server, IPv4Address, "no IPv4 address")
    if network.gateway is not None:
        gateway = _checked("gateway", network.gateway, IPv4Address, "no IPv4 address")
        if gateway not in subnet or gateway in (subnet.network_address, subnet.broadcast_address):
            raise ValueError(f"gateway: '{gateway}' is no host's address in '{subnet}'")


def _checked(key: str, text: str, kind: Callable[[str], _Kind], what: str) -> _Kind:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{key}: '{text}' is {what}") from error


def _wrong_registry(raw: dict[str, Any]) -> str:
    """Return the key of the first registry that is wrong, which msgspec does not tell."""
    registries = raw.get("registries")
    for host, one in registries.items() if isinstance(registries, dict) else ():
        try:
            msgspec.convert(one, Registry)
        except msgspec.ValidationError:
            return f'registries."{host}"'
    return "registries"


def _absolute(config: Config, folder: Path) -> Config:
    def joined(name: str | None) -> str | None:
        return name and str(folder / Path(name).expanduser())

    registries = {
        host: msgspec.structs.replace(
            one, ca_file=joined(one.ca_file), cert_file=joined(one.cert_file), key_file=joined(one.key_file)
        )
        for host, one in config.registries.items()
    }
    catalogs = tuple(Catalog(joined(one.file), one.url) for one in config.catalogs)
    return msgspec.structs.replace(config, registries=registries, catalogs=catalogs)
