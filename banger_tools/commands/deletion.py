"""What the commands share that delete things of the store."""

from __future__ import annotations

from typing import Protocol

from banger_tools import cli


class Objects(Protocol):
    """The module of the store that knows these things."""

    def check_unused(self, name: str, *, force: bool = False) -> None:
        """Raise what is against deleting one."""

    def delete(self, name: str, *, force: bool = False) -> None:
        """Delete one."""


def delete(objects: Objects, arguments: cli.Arguments) -> None:
    """Delete what the command line names: all, or none if one may not be deleted."""
    names, force = dict.fromkeys(arguments["NAME"]), bool(arguments["--force"])
    for name in names:
        objects.check_unused(name, force=force)
    for name in names:
        objects.delete(name, force=force)
