"""banger doctor: look whether this host has what banger needs.

Usage:
  banger doctor [options]

Options:
  --json    Print an array of objects, one a check: check, result, detail, hint.
  --online  Read the catalogs behind URLs now, too.
  @talk

Description:
  Each check prints one line: PASS; WARN for a feature that this host lacks, or for what works but many times slower;
  or FAIL for what must be mended first. The last two say what that costs, and where it is known how to mend it.

  Looked at are the programs and their versions; what VMs run on, their network and how they are reached; the
  room where the store and the cache are; whether every image, kernel and VM of the store is whole, and what
  programs left there that died; and whether the image and the kernel that are taken when none is named are here or
  can be had. Whether KVM really boots a kernel is tried by each monitor, which takes up to half a minute where it
  does not. Nobody on the network is asked but with --online.

  Nothing is changed on this host, save that the answers of KVM are noted in the cache, as by any start of a VM.

Examples:
  $ banger doctor
  $ banger doctor --json | jq -r '.[] | select(.result != "PASS") | .hint'

Exit status:
  0   no check failed
  1   a check failed
  64  the command line is wrong

See also:
  banger(1) bg-fetch(1) bg-boot(1)
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator, Sequence

from banger_tools import cli, console, errors
from banger_tools.doctor import programs
from banger_tools.doctor.result import FAIL, Check

# Each is imported when its turn comes, so that one whose Python package is missing says so alone.
CHECKS = {
    "python": "programs.python",
    "packages": "programs.packages",
    "guest": "programs.guest_program",
    "e2fsprogs": "programs.e2fsprogs",
    "qemu": "machines.qemu",
    "firecracker": "machines.firecracker",
    "kvm": "machines.kvm",
    "vsock": "machines.vsock",
    "tap": "machines.taps",
    "ssh": "programs.ssh",
    "mmdebstrap": "programs.debian_builds",
    "config": "places.configuration",
    "store": "places.store",
    "cache": "places.cache",
    "reflink": "places.reflink",
    "images": "stored.images",
    "work seeds": "stored.seeds",
    "kernels": "stored.kernels",
    "machines": "stored.machines",
    "leftovers": "stored.leftovers",
    "default image": "defaults.image",
    "default kernel": "defaults.kernel",
}
_WIDTH = max(map(len, CHECKS))


def looked(name: str, place: str) -> Iterator[Check]:
    """Yield what a check finds; what it cannot look at is a failure of it, and of no other one."""
    module, _, function = place.partition(".")
    try:
        yield from getattr(importlib.import_module(f"banger_tools.doctor.{module}"), function)()
    except (errors.BangerError, OSError) as error:
        known = errors.os_error(error) if isinstance(error, OSError) else error
        yield Check(name, FAIL, known.message, known.hint)
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] not in programs.PACKAGES:  # those were told by their own check
            raise


def checks(*, online: bool) -> Iterator[Check]:
    """Run every check, the ones that all need first."""
    for name, place in {**CHECKS, **({"catalogs": "defaults.catalogs"} if online else {})}.items():
        yield from looked(name, place)


def shown(check: Check) -> str:
    """Return one check as a line for people, its hint on a line of its own."""
    text = console.printable(f"{check.result}  {check.check:<{_WIDTH}}  {check.detail}") + "\n"
    hint = " ".join((check.hint or "").split("\n"))
    return text + (console.printable(f"      {'':<{_WIDTH}}  hint: {hint}") + "\n" if hint else "")


def work(arguments: cli.Arguments) -> int:
    """Print the checks, and tell by the status whether one failed."""
    found = []
    for check in checks(online=bool(arguments["--online"])):
        found.append(check)
        if not arguments["--json"]:
            sys.stdout.write(shown(check))
            sys.stdout.flush()
    if arguments["--json"]:
        sys.stdout.write(json.dumps([check._asdict() for check in found], indent=2) + "\n")
    return errors.Negative.status if any(check.result == FAIL for check in found) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
