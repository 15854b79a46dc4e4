"""Platforms of images, and which of them a machine can run: as containerd matches them.

Source: OCI image specification 1.1, image index; the variants of arm and amd64 are those of Go's GOARM and GOAMD64.
"""

from __future__ import annotations

import re

from msgspec import Struct

from banger_tools import console, errors
from banger_tools.manifest import Platform

_VARIANTS = {"arm": ("v8", "v7", "v6", "v5"), "arm64": ("v9", "v8"), "amd64": ("v4", "v3", "v2", "v1")}
_DEFAULT_VARIANT = {"arm64": "v8", "amd64": "v1", "arm": "v7"}
_ALSO_RUNS = {"amd64": Platform("386"), "arm64": Platform("arm", variant="v8")}


class IndexPlatform(Struct):
    """The platform of an entry of an index."""

    architecture: str = ""
    os: str = ""
    variant: str | None = None


def runnable(wanted: Platform | None) -> tuple[Platform, ...]:
    """Return the platforms to accept, the best first: the one asked for, or all that this machine can run.

    As containerd has it: an amd64 machine also runs 386, an arm64 one also arm; but who names a platform means it.
    """
    if wanted is not None:
        return (wanted,)
    own = host()
    also = _ALSO_RUNS.get(own.architecture)
    return (own, also) if also else (own,)


def warn_of_another(found: Platform | None, wanted: Platform | None, subject: str) -> None:
    """Say that something that nobody chose a platform for is for machines of another kind."""
    own = runnable(None)
    if wanted is None and found is not None and found.architecture not in {one.architecture for one in own}:
        console.warning(f"{subject} is for {show(found)}, and this machine is {show(own[0])}")


def rank(found: IndexPlatform, wanted: Platform) -> int | None:
    """Return how many steps of variant a platform is below the wanted one, None if it cannot run there."""
    if found.os != wanted.os_name or found.architecture != wanted.architecture:
        return None
    default = _DEFAULT_VARIANT.get(wanted.architecture, "")
    have, want = found.variant or default, wanted.variant or default
    order = _VARIANTS.get(wanted.architecture, (want,))
    if have == want:
        return 0
    if have not in order or want not in order or order.index(have) < order.index(want):
        return None
    return order.index(have) - order.index(want)


def host() -> Platform:
    """Return the platform of this machine."""
    import platform

    machine = platform.machine()
    if arm := re.fullmatch(r"armv([5-8]).*", machine):
        return Platform("arm", "linux", f"v{arm[1]}")
    names = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "i586": "386", "i386": "386"}
    return Platform(names.get(machine, machine), "linux")


def parse(text: str) -> Platform:
    """Return the platform that `os/arch[/variant]` or `arch` names.

    Raises BadUsage.
    """
    parts = text.split("/") if "/" in text else ["linux", text]
    if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
        raise errors.BadUsage(f"--platform: '{text}' is not a platform", "for example linux/amd64 or linux/arm/v7")
    names = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}
    return Platform(names.get(parts[1], parts[1]), parts[0], parts[2] if len(parts) == 3 else None)


def show(platform: Platform) -> str:
    """Return a platform as people write it."""
    return "/".join(filter(None, (platform.os_name, platform.architecture, platform.variant)))


def show_index(platform: IndexPlatform) -> str:
    """Return the platform of an index entry as people write it."""
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))
