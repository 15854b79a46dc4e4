"""banger kernel show: tell what a kernel is, what it has, and what it boots.

Usage:
  banger kernel show [options] NAME

Arguments:
  NAME  A kernel of the store.

Options:
  --json  Print an object: what kernel.json has, and features, path, files (sizes by name), machines (by their kind:
          boots, lacks, by_initrd) and used_by.
  @talk

Description:
  Prints where the kernel came from, which of the features that a virtual machine uses are built in, modules, or
  missing, and for each kind of machine whether an image boots on it, or what is lacking. A module needs an initrd to
  load it, which the store makes of those modules. What cannot be told, for there is no configuration of the kernel, is
  unknown, and does not count as missing.

Examples:
  $ banger kernel show cloud-amd64
  $ banger kernel show --json cloud-amd64 | jq .features.vsock

Exit status:
  0   done
  64  the command line is wrong
  65  the kernel is broken
  66  there is no such kernel
  77  the kernel may not be read

See also:
  banger-kernel-list(1) banger-kernel-pull(1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from banger_tools import cli, console, sizes


def look(name: str) -> dict[str, Any]:
    """Return what is known of a kernel; raises what `kernels.find` raises."""
    import msgspec

    from banger_tools.kernel import bootable, features, record
    from banger_tools.store import kernels

    stored = kernels.find(name)
    folder = kernels.root() / name
    known = kernels.beside(folder / "vmlinux")
    verdicts = bootable.verdicts(known) if known else []
    return {
        **msgspec.to_builtins(stored),
        "features": features.record(features.from_record(stored.features)),
        "path": str(folder),
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in record.listed(folder)},
        "machines": {
            one.machine: {"boots": not one.lacks, "lacks": list(one.lacks), "by_initrd": list(one.by_initrd)}
            for one in verdicts
        },
        "used_by": kernels.users(name),
    }


def shown(found: dict[str, Any]) -> str:
    """Return what is known of a kernel as text for people."""
    from banger_tools.kernel.bootable import MACHINES

    told = found["evidence"] or "nothing: its record is of an older time"
    features = console.table([("FEATURE", f"STATE (by {told})"), *found["features"].items()])
    rows = [(MACHINES[name].text, _verdict(one)) for name, one in found["machines"].items()]
    machines = console.table([("MACHINE", "BOOTS AN IMAGE"), *rows])
    return "\n".join([console.table(list(_facts(found))), features, machines])


def _facts(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    compression = f", {found['compression']}" if found["compression"] else ""
    pvh = ", PVH entry" if found["pvh"] else ""
    yield "name", found["name"]
    yield "version", found["version"]
    yield "architecture", found["architecture"]
    yield "format", f"{found['format'] or 'unknown'}{compression}{pvh}"
    yield "banner", found["banner"] or "-"
    yield "source", found["source"]
    for package, version in found["packages"].items():
        yield "package", f"{package} {version}"
    for name, size in found["files"].items():
        if not name.startswith("modules/") and Path(name).suffix != ".json":
            yield "file", f"{name} {sizes.show(size)}"
    yield "modules", " ".join(found["modules"]) or "-"
    yield "path", found["path"]
    yield "used by", ", ".join(found["used_by"]) or "-"


def _verdict(one: dict[str, Any]) -> str:
    if not one["boots"]:
        return f"no: lacks {', '.join(one['lacks'])}"
    return f"yes, its initrd loads {', '.join(one['by_initrd'])}" if one["by_initrd"] else "yes"


def work(arguments: cli.Arguments) -> None:
    """Print what is known of the kernel."""
    found = look(arguments["NAME"])
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if arguments["--json"] else shown(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
