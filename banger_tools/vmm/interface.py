"""What a monitor offers; each is a module that has these functions, found by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from banger_tools.net.attachment import Attachment
from banger_tools.vmm import spec as specs

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

MONITORS = ("firecracker", "qemu")  # in the order in which `auto` tries them


class Run(NamedTuple):
    """One run of a machine: all that a monitor needs to know; its process will run in `folder`."""

    spec: specs.Spec
    folder: Path
    accelerator: str
    network: Attachment | None


class Launch(NamedTuple):
    """What to start: a command line whose paths may be relative to the folder; the guest's console is its stdout.

    `machine` is what it runs in the monitor's own words, `cid` the guest's vsock address if it is reached by that,
    `token` what its agent then asks for; `pipes` are named pipes of the folder that it writes to, with their logs.
    """

    argv: Sequence[str]
    machine: str
    cid: int | None = None
    token: str | None = None
    pipes: Mapping[str, str] = MappingProxyType({})


class Monitor(Protocol):
    """A virtual machine monitor: how one is started, reached and ended."""

    POWER: str  # how a guest that is done tells its monitor: "off" or "reboot"
    OVERLAYS: bool  # whether it runs a root disk that holds only what differs from its base

    def check(self, spec: specs.Spec) -> None:
        """Raise the error that says why this monitor cannot run a machine."""

    def accelerator(self, spec: specs.Spec) -> str:
        """Return what runs the guest's code, found out by trying."""

    def clear(self, folder: Path) -> None:
        """Remove what a run left that has ended: sockets, a jail; do nothing if there is nothing."""

    def prepare(self, run: Run) -> Launch:
        """Write what the monitor reads into the machine's folder, and return what to start."""

    def wait_started(self, record: specs.Record, deadline: float) -> bool:
        """Tell whether the monitor answers and runs the guest before the deadline."""

    def agent(self, record: specs.Record) -> Agent:
        """Return a client of the agent in the guest."""

    def status(self, record: specs.Record) -> str:
        """Return what the monitor says that its guest does: `running`, `paused`, …; `unknown` if it says nothing."""

    def resume(self, record: specs.Record) -> None:
        """Let a guest go on that the monitor paused; do nothing to one that runs."""

    def press_power(self, record: specs.Record) -> None:
        """Ask the guest to power off the way that a button would; do nothing if that cannot be."""

    def quit(self, record: specs.Record) -> bool:
        """Ask the monitor to end at once; tell whether it heard: it may not answer, or know no such order."""


def monitor(name: str) -> Monitor:
    """Return one of MONITORS."""
    return cast(Monitor, importlib.import_module(f"banger_tools.vmm.{name}"))
