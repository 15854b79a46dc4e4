"""What the user settled once: `config.toml` in ~/.config/banger, or in the folder config of BANGER_HOME.

[vm_defaults]                           # of machines that are made; what stands here is an example
image = "debian-bookworm"
cpus = 2
memory = "2G"
disk = "8G"                             # at least: an image that is larger stays so
work-disk = "4G"
vmm = "auto"
net = "user"
ssh-key = "~/.ssh/id_ed25519.pub"       # files are relative to config.toml; ~ is your home
git-identity = "host"
timeout = 120

[[file_sync]]                           # put on the work disk of every machine, each time before it starts
host = "~/.config/nvim/init.lua"
guest = "/root/.config/nvim/init.lua"
[[file_sync]]
host = "~/.netrc"
guest = "/root/.netrc"
mode = "0600"

[registries."registry.example.org:5000"]
mirrors = ["mirror.example.org/hub"]    # asked in this order before the registry itself
plain-http = true                       # without TLS
ca-file = "ca.pem"                      # trusted as well
cert-file = "client.pem"                # who we are, and
key-file = "client.key"                 # its key, if not in the same file

[[catalogs]]                            # asked in this order, after them the one that comes with banger
url = "https://example.org/catalog.json"
[[catalogs]]
file = "catalog.json"

[network]                               # of machines with --net tap; but for dns, what is used without it
subnet = "172.16.0.0/16"                # of no route of this host; machines get their addresses out of it
gateway = "172.16.0.1"                  # this host's own address in it
bridge = "banger"                       # the device that has it
dns = ["192.0.2.53"]                    # name servers for the machines

`banger config` shows what counts, and where it comes from: an option of the command line comes before a variable of
the environment (BANGER_CPUS for `cpus`, BANGER_WORK_DISK for `work-disk`, and so on for all of [vm_defaults]), that
before config.toml, and that before what is built in or suits this host.

A file of file_sync is copied as it is when the machine starts, and belongs to root there; what the machine made of its
own copy is lost then. One that this host does not have, or that the work disk has no room for, is warned of and
left out, and the machine starts without it.

Machines on taps see each other and this host at the gateway's address; with --nat they reach what this host reaches.
The bridge, a table of nftables with the bridge's name (family inet), and net.ipv4.ip_forward if it was 0, are set by
the first machine and put back after the last; what else the host has of rules and routes is not touched. The name
servers of this host are those of /etc/resolv.conf that are not the host itself, else those that systemd-resolved
asks, else 9.9.9.9 and 1.1.1.1.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from banger_tools import errors, locations, sizes, typed
from banger_tools.typed import about

LIMIT = 1 << 20
HOME = "/root"  # where the guest has its work disk
_BRIDGE = re.compile("banger[a-z0-9-]{0,9}")  # so that nobody else's is taken for it; 15 bytes are the kernel's limit
_LARGEST, _SMALLEST = 8, 29
_MODE = "^0?[0-7]{3}$"
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_Kind = TypeVar("_Kind")


class VmDefaults(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """What a new machine has where its command line does not say otherwise."""

    image: Annotated[str | None, about("What --image takes; debian-bookworm if not given.")] = None
    cpus: Annotated[
        Annotated[int, Meta(ge=1, le=255)] | None,
        about("Virtual CPUs; half as many as this host has if not given, 1 to 4."),
    ] = None
    memory: Annotated[str | None, about("Memory, as in 2G; an eighth of this host's if not given, 1G to 4G.")] = None
    disk: Annotated[str | None, about("Size that root disks are grown to, if they are smaller.")] = None
    work_disk: Annotated[
        str | None, about("Size of work disks; 1G if not given and the image has a work seed, else none.")
    ] = None
    vmm: Annotated[Literal["auto", "firecracker", "qemu"] | None, about("Monitor; auto if not given.")] = None
    net: Annotated[Literal["user", "tap", "none"] | None, about("Network; user if not given.")] = None
    ssh_key: Annotated[str | None, about("File of public keys that may log in as root; none if not given.")] = None
    git_identity: Annotated[str | None, about("Who root's commits are by, as --git-identity takes it.")] = None
    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=86400)] | None, about("Seconds to wait for a machine; 120 if not given.")
    ] = None


class FileSync(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """A file of this host that machines get onto their work disks."""

    host: Annotated[str, about("The file here.")]
    guest: Annotated[str, about("Its path in the machine; below /root.")]
    mode: Annotated[
        Annotated[str, Meta(pattern=_MODE)], about("Its permissions there, in octal; 0600 if not given.")
    ] = "0600"


class Registry(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """How one registry is reached; HOST is its name, with a port if it needs one."""

    mirrors: Annotated[tuple[str, ...], about("Asked in this order before the registry itself.")] = ()
    plain_http: Annotated[bool, about("Whether to speak without TLS.")] = False
    ca_file: Annotated[str | None, about("Certificates that are trusted as well, in PEM.")] = None
    cert_file: Annotated[str | None, about("The certificate that says who we are, in PEM.")] = None
    key_file: Annotated[str | None, about("Its key, if not in the same file.")] = None


class Catalog(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """Where a catalog is: a file or a URL."""

    file: Annotated[str | None, about("A file; what it names is relative to it.")] = None
    url: Annotated[str | None, about("An address; a copy of what is there is kept for a day.")] = None


class Network(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """Where machines on taps have their addresses from."""

    subnet: Annotated[str, about("An IPv4 network that no route of this host leads to.")] = "172.16.0.0/16"
    bridge: Annotated[str, about("The device that has it; its name begins with banger.")] = "banger"
    gateway: Annotated[str | None, about("This host's own address in it; the first one if not given.")] = None
    dns: Annotated[tuple[str, ...], about("Name servers for the machines; this host's if not given.")] = ()


class Config(Struct, forbid_unknown_fields=True, frozen=True):
    """All of it may be left out, and the file, too."""

    vm_defaults: Annotated[VmDefaults, about("What new machines have.")] = VmDefaults()
    file_sync: Annotated[tuple[FileSync, ...], about("Files for every machine.")] = ()
    registries: Annotated[dict[str, Registry], about("By the names of their hosts.")] = field(default_factory=dict)
    catalogs: Annotated[tuple[Catalog, ...], about("Asked in this order.")] = ()
    network: Annotated[Network, about("Of machines with --net tap.")] = Network()


TABLES: dict[str, type[Struct]] = {
    "vm_defaults": VmDefaults,
    "file_sync": FileSync,
    "registries": Registry,
    "catalogs": Catalog,
    "network": Network,
}


def path() -> Path:
    """Return where config.toml is, or would be."""
    return locations.config() / "config.toml"


@cache
def load() -> Config:
    """Return the configuration, with absolute paths.

    Raises BadInput naming the key that is wrong, Denied if the file cannot be read.
    """
    data = read()
    return Config() if data is None else parse(data, path())


def read() -> bytes | None:
    """Return the bytes of config.toml; None if there is none.

    Raises Denied, or another error of its being read.
    """
    try:
        return path().read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path()}'") from error


def parse(data: bytes, where: Path) -> Config:
    """Return the configuration that the bytes of a config.toml hold.

    Raises BadInput.
    """
    raw: dict[str, Any] = {}
    try:
        raw = tomllib.loads(data[:LIMIT].decode())
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        _refuse(error, raw, where)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.BadInput(f"'{where}' is not TOML: {error}") from error
    try:
        _check(config)
    except (ValueError, errors.BadUsage) as error:
        raise errors.BadInput(f"'{where}': {error}") from error
    return _absolute(config, where.parent)


def _refuse(error: msgspec.ValidationError, raw: dict[str, Any], where: Path) -> NoReturn:
    """Raise BadInput naming the key that is wrong, and for one that is unknown the nearest one that is not."""
    text, _, _ = str(error).partition(" - at ")
    place = str(error).partition(" - at ")[2].strip("`").removeprefix("$").lstrip(".")
    place = place.replace("registries[...]", _wrong_registry(raw))
    unknown = _UNKNOWN.fullmatch(text)
    if unknown is None:
        problem = typed.problem(msgspec.ValidationError(text), {_MODE: "must be a mode in octal, as in 0600"})
        raise errors.BadInput(f"'{where}': {place}: {problem}") from error
    table = TABLES.get(re.split(r"[.\[]", place)[0], Config)
    key = f"{place}.{unknown[1]}" if place else unknown[1]
    raise errors.BadInput(f"'{where}': {key}: there is no such key", _nearest(unknown[1], table)) from error


def _nearest(key: str, table: type[Struct]) -> str:
    import difflib

    known = [one.encode_name for one in msgspec.structs.fields(table)]
    near = difflib.get_close_matches(key, known, 1)
    return f"did you mean '{near[0]}'?" if near else f"the keys here are {', '.join(known)}"


def _check(config: Config) -> None:
    """Raise ValueError or BadUsage that begins with the key that is wrong."""
    for key in ("memory", "disk", "work-disk"):
        value = getattr(config.vm_defaults, key.replace("-", "_"))
        if value is not None:
            sizes.parse(value, f"vm_defaults.{key}")
    seen: set[str] = set()
    for number, one in enumerate(config.file_sync):
        _check_guest_path(f"file_sync[{number}].guest", one.guest, seen)
    if config.registries:
        _check_registries(config.registries)
    for number, catalog in enumerate(config.catalogs):
        if (catalog.file is None) == (catalog.url is None):
            raise ValueError(f"catalogs[{number}]: needs either 'file' or 'url'")
    try:
        _check_network(config.network)
    except ValueError as error:
        raise ValueError(f"network.{error}") from error


def _check_registries(registries: Mapping[str, Registry]) -> None:
    """Raise ValueError naming the first name that is no host's."""
    from banger_tools.oci import reference

    for host in registries:
        if not reference.is_host(host):
            raise ValueError(f"registries: '{host}' is not a host; one is written NAME or NAME:PORT")


def _check_guest_path(key: str, guest: str, seen: set[str]) -> None:
    """Raise ValueError unless a path is one of a file below /root, and the first of that name."""
    if not guest.startswith(f"{HOME}/") or posixpath.normpath(guest) != guest:
        raise ValueError(f"{key}: '{guest}' is no path of a file below {HOME}")
    if guest in seen:
        raise ValueError(f"{key}: '{guest}' is there twice")
    seen.add(guest)


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
        return name and str(folder / os.path.expanduser(name))

    registries = {
        host: msgspec.structs.replace(
            one, ca_file=joined(one.ca_file), cert_file=joined(one.cert_file), key_file=joined(one.key_file)
        )
        for host, one in config.registries.items()
    }
    return msgspec.structs.replace(
        config,
        vm_defaults=msgspec.structs.replace(config.vm_defaults, ssh_key=joined(config.vm_defaults.ssh_key)),
        file_sync=tuple(msgspec.structs.replace(one, host=joined(one.host)) for one in config.file_sync),
        registries=registries,
        catalogs=tuple(Catalog(joined(one.file), one.url) for one in config.catalogs),
    )
