"""The names of things in the store: safe as a folder, a host name and a word of a command line."""

from __future__ import annotations

import re

from banger_tools import errors

_OBJECT = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?")
_VM = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_RESERVED = re.compile(r".*\.(staging|tmp|old)(-.*)?")

_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit"
_VM_RULE = "1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit"


def check(name: str, what: str = "--name") -> str:
    """Return the name of an image or a kernel if it may be one.

    Raises BadUsage that says what a name is made of; `what` is the option it came from.
    """
    if not _OBJECT.fullmatch(name) or ".." in name or _RESERVED.fullmatch(name):
        raise errors.BadUsage(f"{what}: '{name}' is no name for the store", f"a name is {_RULE}")
    return name


def check_vm(name: str, what: str = "--name") -> str:
    """Return the name of a VM if it may be one: it becomes the guest's host name."""
    if not _VM.fullmatch(name):
        raise errors.BadUsage(f"{what}: '{name}' is no name for a VM", f"a name is {_VM_RULE}")
    return name


def derived(text: str) -> str:
    """Return the nearest valid name to any text, as `docker.io/library/debian:bookworm` → `debian-bookworm`."""
    last = text.rsplit("/", 1)[-1].lower()
    name = re.sub(r"[^a-z0-9._]+", "-", last)
    name = re.sub(r"\.\.+", ".", name)[:63].strip("-._") or "rootfs"
    return name.replace(".", "-") if _RESERVED.fullmatch(name) else name


def derived_vm(text: str) -> str:
    """Return the nearest valid VM name to any text."""
    return re.sub(r"[^a-z0-9]+", "-", derived(text)).strip("-")
