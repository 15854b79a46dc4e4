"""banger vm logs: show what a machine wrote to its console.

Usage:
  banger vm logs [options] NAME

Arguments:
  NAME  A machine of the store.

Options:
  -f, --follow   Go on until the machine ends; ^C leaves it running.
  -n, --lines=N  The last lines only.
  --vmm          Show what the monitor had to say instead.
  @talk

Description:
  The console has what the kernel says, the image's init, and the machine's own command (--run). It begins anew at each
  start of the machine, and of what a machine prints the last 16 MiB are kept, or up to twice as much. On a terminal,
  control characters are shown as escapes; elsewhere every byte is as it was written.

Examples:
  $ banger vm logs -f web
  $ banger vm logs -n 20 web

Exit status:
  0   done
  64  the command line is wrong
  66  there is no such machine, or it was never started

See also:
  banger-vm-show(1) bg-boot(1)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from banger_tools import cli, errors


def parse_lines(text: str | None) -> int | None:
    """Return a number of lines, None for all; raises BadUsage."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        raise errors.BadUsage(f"--lines: '{text}' is no number")
    return int(text)


def work(arguments: cli.Arguments) -> None:
    """Write the log to stdout."""
    from banger_tools.vmm import logs

    log = logs.MONITOR if arguments["--vmm"] else logs.CONSOLE
    follow, lines = bool(arguments["--follow"]), parse_lines(arguments["--lines"])
    logs.show(arguments["NAME"], log, follow=follow, lines=lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
