"""banger vm exec: run a command in a machine that runs.

Usage:
  banger vm exec [options] [--env=VAR]... NAME [COMMAND]...

Arguments:
  NAME     A machine of the store.
  COMMAND  A program of the guest and its arguments; options of ours come before NAME. A login shell if there is none.

Options:
  --env=VAR      NAME=VALUE for the command. Repeatable.
  --user=USER    User of the guest to run the command as; root if not given.
  --cwd=FOLDER   Folder of the guest to run the command in; / if not given.
  -t, --tty      Give the command a terminal, though we have none.
  -T, --no-tty   Give the command no terminal.
  @talk

Description:
  The command runs through the guest's agent: no network, no sshd and no key are needed. stdin is passed on, stdout
  and stderr stay apart, and the exit status is the command's. It gets a terminal if stdin and stdout are terminals;
  then what it writes to either comes on stdout, as terminals have it.

Examples:
  $ banger vm exec web sh -c 'exit 42'
  $ tar c src | banger vm exec --cwd /srv web tar x

Exit status:
  0   the command ended with 0
  64  the command line is wrong
  66  there is no such machine
  73  the machine does not run
  75  the guest went away

  Otherwise the command's own status, 128 and the signal's number if a signal ended it.

See also:
  banger-vm-run(1) banger-vm-ssh(1) banger-agent(7)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def work(arguments: cli.Arguments) -> int:
    """Run the command and return its status."""
    from banger_tools.vmm import inside

    words = arguments["COMMAND"]
    argv = words[1:] if words[:1] == ["--"] else words
    return inside.execute(arguments["NAME"], argv, inside.Settings.from_arguments(arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work, nested=True)
