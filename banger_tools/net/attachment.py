"""What ties a machine to the tap network."""

from __future__ import annotations

from msgspec import Struct


class Attachment(Struct, frozen=True):
    """A tap of the host and the guest's side of it: `address` with its prefix length, as 172.16.0.5/16."""

    tap: str
    mac: str
    address: str
    gateway: str
    dns: list[str]
    nat: bool


class Owner(Struct, frozen=True):
    """Whose a tap is: a machine by its name and its folder."""

    name: str
    folder: str
