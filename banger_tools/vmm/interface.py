"""What a monitor offers; each is a module that has these functions, found by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from banger_tools import errors
from banger_tools.vmm import spec as specs

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

MONITORS = ("qemu",)
AUTO = "auto"


class Monitor(Protocol):
    """A virtual machine monitor: how one is started, reached and ended."""

    POWER: str  # how a guest that is done tells its monitor: "off" or "reboot"

    def check(self, spec: specs.Spec) -> None:
        """Raise the error that says why this monitor cannot run a machine."""

    def accelerator(self, spec: specs.Spec) -> str:
        """Return what runs the guest's code, found out by trying."""

    def command(self, spec: specs.Spec, folder: Path, accelerator: str) -> Sequence[str]:
        """Return the command line; it is run in the machine's folder, so its paths may be relative."""

    def wait_started(self, folder: Path, deadline: float) -> bool:
        """Tell whether the monitor answers before the deadline."""

    def agent(self, folder: Path) -> Agent:
        """Return a client of the agent in the guest."""

    def press_power(self, folder: Path) -> None:
        """Ask the guest to power off the way that a button would; do nothing if that cannot be."""

    def quit(self, folder: Path) -> None:
        """Ask the monitor to end at once; do nothing if it does not answer."""


def monitor(name: str) -> Monitor:
    """Return a monitor by name; `auto` takes the best one that is installed.

    Raises BadUsage for a name that is none.
    """
    from banger_tools.vmm import qemu

    if name in (AUTO, "qemu"):
        return qemu
    raise errors.BadUsage(f"--vmm: '{name}' is none of {', '.join((AUTO, *MONITORS))}")
