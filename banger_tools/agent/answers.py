"""What the guest's agent answers, in types: banger-agent(7) describes them.

A guest may send anything. What gets through here has bounds, and a member that this version does not know is no error.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from banger_tools import errors, typed

T = TypeVar("T")

Text = Annotated[str, Meta(max_length=4096)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # bytes
Count = Annotated[int, Meta(ge=0)]
Number = Annotated[float, Meta(ge=0, le=1e12)]


class Health(Struct, frozen=True):
    """What the agent says of itself; `uptime` in seconds."""

    name: Text
    version: Text | None = None
    boot_id: Text | None = None
    uptime: Number | None = None
    ready: bool = False
    first_boot_pending: bool = False


class Memory(Struct, frozen=True):
    """The guest's memory, in bytes."""

    total: Size
    free: Size
    available: Size
    swap_total: Size
    swap_free: Size


class Disk(Struct, frozen=True):
    """A filesystem of the guest; sizes in bytes."""

    path: Text
    device: Text
    type: Text
    size: Size
    free: Size
    available: Size
    inodes: Count
    inodes_free: Count


class Stats(Struct, frozen=True):
    """What the guest uses; `load` is the average of one, five and fifteen minutes."""

    memory: Memory
    load: tuple[Number, Number, Number]
    cpus: Count
    disks: Annotated[list[Disk], Meta(max_length=1024)]


class Port(Struct, frozen=True):
    """Who listens in the guest."""

    protocol: Literal["tcp", "udp"]
    address: Text
    port: Annotated[int, Meta(ge=0, le=65535)]
    pid: Count | None = None
    program: Text | None = None

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.address)


class Ports(Struct, frozen=True):
    """All who listen in the guest."""

    ports: Annotated[list[Port], Meta(max_length=4096)]


class Unpacked(Struct, frozen=True):
    """How many entries of an archive were unpacked."""

    entries: Count = 0


def read(answer: dict[str, Any], kind: type[T]) -> T:
    """Return an answer in its type; raises BadInput if it is not of that type."""
    try:
        return cast(T, typed.convert(answer, kind))
    except msgspec.ValidationError as error:
        raise errors.BadInput("the guest's agent sends an answer that makes no sense", str(error)) from error
