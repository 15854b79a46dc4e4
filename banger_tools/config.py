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
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct, field

from banger_tools import errors, locations, typed

LIMIT = 1 << 20


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


class Config(Struct, rename="kebab", forbid_unknown_fields=True, frozen=True):
    """All of it may be left out, and the file, too."""

    registries: dict[str, Registry] = field(default_factory=dict)
    catalogs: tuple[Catalog, ...] = ()


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
    return _absolute(config, where.parent)


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
    return Config(registries, tuple(Catalog(joined(one.file), one.url) for one in config.catalogs))
