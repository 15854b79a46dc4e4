"""banger image show: tell what an image is, what it runs, and who uses it.

Usage:
  banger image show [options] NAME

Arguments:
  NAME  An image of the store.

Options:
  --json      Print an object: name, path, managed, architecture, source, disks (each with path, size, used, digest),
              work_seed_reason, kernel, process, agent, history, used_by.
  --manifest  Print the image's manifest, which bg-boot and other stages read.
  @talk

Description:
  Prints where the image came from, its disks with their sizes and what they take, its kernel, the process that it runs
  of itself, and the machines that were made from it. Of an image that is not managed it tells where the disks are.

Examples:
  $ banger image show debian-bookworm
  $ banger image show --json debian-bookworm | jq .used_by
  $ banger image show --manifest web | jq '.image.config.Env += ["DEBUG=1"]' | bg-boot

Exit status:
  0   done
  64  the command line is wrong
  65  the image is broken
  66  there is no such image
  77  the image may not be read

See also:
  banger-image-list(1) banger-image-verify(1) banger-manifest(5)
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from banger_tools import cli, console, errors, sizes

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest


def look(name: str) -> dict[str, Any]:
    """Return what is known of an image; raises what `images.find` raises."""
    import msgspec

    from banger_tools import manifest
    from banger_tools.store import images

    image = images.find(name, "NAME")
    published = image.get("published", manifest.Published)
    process = image.process
    return {
        "name": name,
        "path": published.path,
        "managed": images.is_managed(name),
        "architecture": image.architecture,
        "source": image.raw.get("source"),
        "disks": {disk: described for disk in images.DISKS if (described := _disk(image, disk))},
        "work_seed_reason": None if published.work_seed else image.raw.get("work_seed_reason"),
        "kernel": published.kernel and msgspec.to_builtins(published.kernel),
        "process": {key: process.get(key) for key in ("Entrypoint", "Cmd", "Env", "User", "WorkingDir")},
        "agent": (image.raw.get("guest") or {}).get("agent"),
        "history": [entry.get("tool") for entry in image.raw.get("history", []) if isinstance(entry, dict)],
        "used_by": images.users(name),
    }


def _disk(image: Manifest, disk: str) -> dict[str, Any] | None:
    """Return what is known of one of an image's disks, None if it has none such; sizes in bytes."""
    from banger_tools import manifest

    published = image.get("published", manifest.Published)
    path = Path(published.path, disk)
    if not path.exists():
        return None
    status, where = path.stat(), os.readlink(path) if path.is_symlink() else str(path)
    taken = status.st_blocks * 512
    return {"path": where, "size": status.st_size, "used": taken, "digest": published.digests.get(disk)}


def shown(found: dict[str, Any]) -> str:
    """Return what is known of an image as text for people."""
    return console.table(list(_facts(found)))


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    source = found["source"] or {}
    yield "name", found["name"]
    yield "source", source.get("requested") or "-"
    yield "digest", source.get("digest") or "-"
    yield "architecture", found["architecture"]
    yield "managed", "yes" if found["managed"] else "no: its disks are where they were registered"
    for disk in found["disks"].values():
        yield "disk", f"{disk['path']} {sizes.show(disk['size'])}, takes {sizes.show(disk['used'])}"
    if found["work_seed_reason"]:
        yield "work seed", f"none: {found['work_seed_reason']}"
    kernel = found["kernel"]
    yield "kernel", f"{kernel['name']} ({kernel['version']})" if kernel else "chosen at boot"
    yield "agent", found["agent"] or "not injected"
    yield "command", shlex.join(_words(found)) or "-"
    yield "user", found["process"]["User"] or "-"
    yield "path", found["path"]
    yield "used by", ", ".join(found["used_by"]) or "-"


def _words(found: dict[str, Any]) -> list[str]:
    return [str(word) for key in ("Entrypoint", "Cmd") for word in found["process"][key] or []]


def work(arguments: cli.Arguments) -> None:
    """Print what is known of the image."""
    if arguments["--json"] and arguments["--manifest"]:
        raise errors.BadUsage("--json and --manifest exclude each other")
    if arguments["--manifest"]:
        from banger_tools.store import images

        sys.stdout.write(images.find(arguments["NAME"], "NAME").dumps())
        return
    found = look(arguments["NAME"])
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if arguments["--json"] else shown(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
