"""banger config: show the settings in effect, and where each comes from.

Usage:
  banger config [options]

Options:
  --json  Print an array of objects instead of a table: key, value, from.
  @talk

Description:
  Shows every key of banger-config(5) that has a value, the folders that things are kept in, and where each value
  comes from: a variable of the environment, config.toml, this host (computed from its processors and its memory), or
  built in. An option of a command line comes before all of them.

  config.toml is read whole, and an error names the key that is wrong.

Examples:
  $ banger config
  $ BANGER_MEMORY=4G banger config --json | jq -r '.[] | select(.key == "vm_defaults.memory").from'

Exit status:
  0   done
  64  the command line is wrong
  65  config.toml is wrong
  77  config.toml may not be read

See also:
  banger(1) banger-doctor(1) banger-config(5)
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from banger_tools import cli, config, console, locations, precedence

FOLDERS = {
    "cache": (locations.cache, "XDG_CACHE_HOME"),
    "state": (locations.state, "XDG_STATE_HOME"),
    "config": (locations.config, "XDG_CONFIG_HOME"),
}
FILE = "config.toml"


class Row(NamedTuple):
    """A key with its value, and where that comes from."""

    key: str
    value: Any
    origin: str


def folders() -> Iterator[Row]:
    """Yield the folders that things are kept in."""
    for name, (folder, variable) in FOLDERS.items():
        asked = "BANGER_HOME" if os.environ.get("BANGER_HOME") else variable
        heard = asked == "BANGER_HOME" or os.path.isabs(os.environ.get(variable, ""))
        yield Row(f"folders.{name}", str(folder()), asked if heard else "built in")


def machine() -> Iterator[Row]:
    """Yield what new machines have."""
    for setting in precedence.settings({}).values():
        if setting.value is not None:
            yield Row(f"vm_defaults.{setting.key}", setting.value, FILE if setting.is_configured else setting.origin)


def others(raw: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what config.toml has in other tables, and what is built in of the network."""
    import msgspec

    settled = msgspec.to_builtins(config.load())
    for table in (name for name in config.TABLES if name != "vm_defaults"):
        given = dict(_leaves(table, raw.get(table, {})))
        for key, value in _leaves(table, settled[table]):
            if key in given:
                yield Row(key, value, FILE)
            elif table == "network" and value not in (None, []):
                yield Row(key, value, "built in")


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values in a table, each by its key as it is written in TOML; an array of them by its number."""
    if isinstance(value, dict):
        for name, inner in value.items():
            plain = name.replace("-", "").replace("_", "").isalnum()
            yield from _leaves(f"{key}.{name}" if plain else f'{key}."{name}"', inner)
    elif isinstance(value, (list, tuple)) and any(isinstance(one, dict) for one in value):
        for number, one in enumerate(value):
            yield from _leaves(f"{key}[{number}]", one)
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def rows() -> list[Row]:
    """Return all that is settled.

    Raises BadInput naming the key that is wrong, Denied if config.toml may not be read.
    """
    config.load()  # raises what is wrong with it
    raw = tomllib.loads((config.read() or b"").decode())
    return [*folders(), *machine(), *others(raw)]


def work(arguments: cli.Arguments) -> None:
    """Print the table or the array."""
    found = rows()
    if arguments["--json"]:
        listed = [{"key": row.key, "value": row.value, "from": row.origin} for row in found]
        sys.stdout.write(json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
        return
    shown = [(row.key, row.value if isinstance(row.value, str) else json.dumps(row.value), row.origin) for row in found]
    sys.stdout.write(console.table([("KEY", "VALUE", "FROM"), *shown]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
