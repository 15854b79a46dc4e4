"""What is done inside a machine that runs, through its agent."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, console, errors
from banger_tools.store import records, vms
from banger_tools.vmm import holder, interface
from banger_tools.vmm import spec as specs

if TYPE_CHECKING:
    from banger_tools.agent.client import Agent

# The best shell there is; bash reads no profile of root's where it is started as sh
SHELL = ("/bin/sh", "-c", "command -v bash > /dev/null && exec bash -l; exec sh -l")


class Settings(NamedTuple):
    """How a command runs: variables, user and folder; `tty` None: on a terminal if stdin and stdout are one."""

    env: Sequence[str] = ()
    user: str | None = None
    cwd: str | None = None
    tty: bool | None = None
    stdin: bool = True

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Settings:
        """Check the options of commands that run another one; raises BadUsage."""
        if arguments["--tty"] and arguments["--no-tty"]:
            raise errors.BadUsage("--tty and --no-tty exclude each other")
        tty = True if arguments["--tty"] else False if arguments["--no-tty"] else None
        return cls(specs.parse_environment(arguments["--env"]), arguments["--user"], arguments["--cwd"], tty)


def running(name: str) -> specs.Record:
    """Return the record of a machine that runs.

    Raises CannotCreate if it does not.
    """
    record = vms.load(name)
    if not holder.is_alive(vms.folder(name)):
        raise errors.CannotCreate(f"the VM '{name}' is not running", f"banger vm start {name}")
    return record


def agent(name: str) -> Agent:
    """Return a client of the agent in a machine.

    Raises CannotCreate if the machine does not run.
    """
    record = running(name)
    return interface.monitor(record.spec.vmm).agent(record)


def execute(name: str, argv: Sequence[str], settings: Settings) -> int:
    """Run a command (none: a shell) on our own stdin, stdout and stderr, and return its status."""
    stdin = 0 if settings.stdin and _is_open(0) else None
    tty = settings.tty if settings.tty is not None else stdin is not None and os.isatty(0) and os.isatty(1)
    env = [f"TERM={os.environ['TERM']}"] if tty and os.environ.get("TERM") else []
    return agent(name).exec(
        argv or SHELL,
        env=[*env, *settings.env],
        cwd=settings.cwd,
        user=settings.user,
        tty=tty,
        stdin_fd=stdin,
        stdout_fd=1,
        stderr_fd=2,
    )


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def remove(name: str) -> None:
    """Delete a machine whose command has ended, running or not, if it is still there; nothing interrupts that."""
    from banger_tools.vmm import life

    with cli.signals_later(), contextlib.suppress(records.Missing), life.held(name):
        life.delete(name, force=True)


def tell_it_runs_on(name: str) -> None:
    """Say how to go on with a machine that was not to be deleted, if it still runs."""
    if holder.is_alive(vms.folder(name)):
        console.note(f"'{name}' runs on: banger vm exec {name}, banger vm stop {name}, banger vm delete {name}")
