"""banger vm start: start a machine that does not run.

Usage:
  banger vm start [options] NAME

Arguments:
  NAME  A machine of the store.

Options:
  --wait=WHAT        Return when the agent answers, or at once: agent or none [default: agent].
  --timeout=SECONDS  How long to wait for the agent [default: 120].
  @talk

Description:
  The machine goes on with the disks that it has. One whose agent does not answer in time is ended again.

Examples:
  $ banger vm start web

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such machine
  69  the machine did not start
  73  it runs already
  75  the agent did not answer in time

See also:
  banger-vm-stop(1) bg-boot(1)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def start(name: str, timeout: float, *, wait: bool) -> None:
    """Start a machine and wait for its agent; one that does not answer is ended, its disks are kept."""
    import time

    from banger_tools import console
    from banger_tools.vmm import life

    with life.held(name):
        began = time.monotonic()
        record = life.start(name)
        try:
            if wait:
                with console.step(f"agent of '{name}' answered"):
                    life.wait_ready(record, began, timeout)
        except BaseException:
            life.stop(record, 1.0)
            raise


def work(arguments: cli.Arguments) -> None:
    """Start what the command line says."""
    from banger_tools.vmm import spec as specs

    start(arguments["NAME"], specs.parse_timeout(arguments["--timeout"]), wait=arguments["--wait"] != "none")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
