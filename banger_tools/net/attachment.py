"""What ties a machine to the tap network."""

from __future__ import annotations

import os
from urllib.parse import quote, unquote

from msgspec import Struct

_MARK = "banger vm "
_LONGEST = 255  # bytes of a link's alias, IFALIASZ less its end


class Attachment(Struct, frozen=True):
    """A tap of the host and the guest's side of it: `address` with its prefix length, as 172.16.0.5/16.

    `mark` says on the tap itself whose it is: what another machine made under the same name is not ours to remove.
    """

    tap: str
    mac: str
    address: str
    gateway: str
    dns: list[str]
    nat: bool
    mark: str = ""


class Owner(Struct, frozen=True):
    """Whose a tap is: a machine, by its folder."""

    folder: str

    def mark(self) -> str:
        """Return the owner as a link's alias: printable, without blanks in the folder, and not too long."""
        mark = _MARK + quote(os.fsencode(self.folder))
        if len(mark) <= _LONGEST:
            return mark
        from hashlib import sha256

        return f"{_MARK}sha256:{sha256(os.fsencode(self.folder)).hexdigest()}"


def folder_of(mark: str) -> str | None:
    """Return the folder that a link's alias names; None if it was too long for one, or the link is not ours."""
    text = mark.removeprefix(_MARK)
    return os.fsdecode(unquote(text, errors="surrogateescape")) if text != mark and text.startswith("/") else None


def is_mark(alias: str) -> bool:
    """Tell whether a link's alias is a mark of ours, or is not set yet."""
    return alias == "" or alias.startswith(_MARK)
