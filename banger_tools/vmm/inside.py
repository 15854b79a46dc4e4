"""What is done inside a machine that runs, through its agent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from banger_tools import errors
from banger_tools.store import vms
from banger_tools.vmm import holder, interface

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

SHELL = ("/bin/sh",)


def agent(name: str) -> Agent:
    """Return a client of the agent in a machine.

    Raises CannotCreate if the machine does not run.
    """
    record = vms.load(name)
    if not holder.is_alive(vms.folder(name)):
        raise errors.CannotCreate(f"the VM '{name}' is not running", f"banger vm start {name}")
    return interface.monitor(record.spec.vmm).agent(record)


def execute(name: str, argv: Sequence[str], env: Sequence[str], *, user: str | None, cwd: str | None) -> int:
    """Run a command (none: a shell) on our own stdin, stdout and stderr, and return its status.

    It gets a terminal if stdin and stdout are one.
    """
    return agent(name).exec(
        argv or SHELL,
        env=env,
        cwd=cwd,
        user=user,
        tty=os.isatty(0) and os.isatty(1),
        stdin_fd=0 if _is_open(0) else None,
        stdout_fd=1,
        stderr_fd=2,
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
