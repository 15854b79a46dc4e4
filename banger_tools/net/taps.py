"""Taps of machines: one each, its name its address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from banger_tools import errors
from banger_tools.net.attachment import Attachment, Owner

if TYPE_CHECKING:
    from banger_tools.vmm.spec import Forward


def check() -> None:
    """Raise the error that says why this host gives no taps."""
    raise errors.Unavailable("there are no tap networks here", "use --net user")


def attach(owner: Owner, *, wish: str | None, nat: bool, forwards: Sequence[Forward]) -> Attachment:
    """Give a machine a tap of its own, at the address that it wishes if that is free."""
    raise errors.Unavailable("there are no tap networks here", "use --net user")


def detach(attachment: Attachment) -> None:
    """Take a tap away, and with the last one all that was made for them."""
