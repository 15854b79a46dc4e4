"""banger cache list: list what is in the cache.

Usage:
  banger cache list [options]

Options:
  --json  Print an object: path, size and entries, each with kind, name, digest, size, own, used (a time in UTC), files.
  @talk

Description:
  An entry is what `banger cache prune` keeps or removes as a whole: an image by its reference, packages made into a
  layer, a bundle or a catalog by its URL; and what belongs to none of them: a layer of a file or a folder, a blob
  whose tag has moved on, a transfer that broke off. SIZE is what its files take on the disk, OWN what would be free
  without it: layers are shared. The entry that was used last comes first.

Examples:
  $ banger cache list
  $ banger cache list --json | jq -r '.entries[] | select(.own > 1e9) | .name'

Exit status:
  0   done
  64  the command line is wrong
  77  the cache may not be read

See also:
  banger-cache-prune(1) bg-fetch(1)
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from banger_tools import cli, console, inventory, locations, sizes
from banger_tools.inventory import Entry, Inventory
from banger_tools.oci.cache import Cache


def described(found: Inventory, entry: Entry, root: Path) -> dict[str, Any]:
    """Return an entry as JSON shows it; paths are relative to the cache, times are UTC."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "digest": entry.digest,
        "size": found.size(entry.files),
        "own": found.own(entry),
        "used": moment(entry.used, "%Y-%m-%dT%H:%M:%SZ"),
        "files": [
            {"path": str(path.relative_to(root)), "kind": found.files[path].kind, "size": found.files[path].size}
            for path in entry.files
        ],
    }


def moment(used: int, form: str) -> str | None:
    """Return a time in ns as text, None for never."""
    return time.strftime(form, time.gmtime(used // 10**9)) if used else None


def shown(found: Inventory) -> str:
    """Return the list as a table for people, with the total."""
    head = ("KIND", "NAME", "SIZE", "OWN", "LAST USED")
    rows = [
        (
            entry.kind,
            entry.name,
            sizes.show(found.size(entry.files)),
            sizes.show(found.own(entry)),
            moment(entry.used, "%Y-%m-%d %H:%M") or "-",
        )
        for entry in found.entries
    ]
    return console.table([head, *rows, ("total", "", sizes.show(found.size(found.files)), "", "")])


def work(arguments: cli.Arguments) -> None:
    """Print the list."""
    root = locations.cache()
    found = inventory.take(Cache(root))
    if not arguments["--json"]:
        sys.stdout.write(shown(found))
        return
    entries = [described(found, entry, root) for entry in found.entries]
    whole = {"path": str(root), "size": found.size(found.files), "entries": entries}
    sys.stdout.write(json.dumps(whole, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
