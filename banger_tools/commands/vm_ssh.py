"""banger vm ssh: log into a machine that runs by ssh.

Usage:
  banger vm ssh [options] [--ssh-option=OPTION]... NAME [COMMAND]...

Arguments:
  NAME     A machine of the store.
  COMMAND  What to run there: one word is a line for the guest's shell, several are a program and its arguments, which
           arrive as they are. A login shell if there is none.

Options:
  --user=USER           User of the guest to log in as [default: root].
  --identity=FILE       Private key to log in with (else those that ssh knows).
  --ssh-option=OPTION   One more option for ssh(1), as in -A or -L8080:localhost:80. Repeatable.
  --timeout=SECONDS     How long to wait for the guest's sshd [default: 60].
  @talk

Description:
  Runs this host's own ssh, by the first way there is: the VM's address on the tap network, a port of this host that is
  forwarded to its port 22 (--publish), or an sshd that the guest's agent starts for this login alone, which needs no
  network. The guest needs an sshd in any case, and to know the key: `bg-boot --ssh-key`.

  The guest's host keys are read through its agent and written to `known_hosts` in the VM's folder, anew each time. So
  ssh never asks, and is never led astray; your own known_hosts is neither read nor written.

Examples:
  $ banger vm ssh web
  $ banger vm ssh web sh -c 'exit 42'
  $ banger vm ssh --ssh-option=-L8080:localhost:80 web 'cat /etc/*-release | sort'

Exit status:
  0   the command ended with 0
  64  the command line is wrong
  65  what the guest sends is no host key
  66  there is no such machine, or no sshd in it
  69  there is no ssh on this host, or it cannot be told of a folder's name
  73  the machine does not run
  75  sshd does not answer

  Otherwise the command's own status, or 255 if ssh could not log in.

See also:
  banger-vm-exec(1) bg-boot(1)
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

from banger_tools import cli, console


def work(arguments: cli.Arguments) -> None:
    """Become ssh, as soon as the guest's sshd answers."""
    import time

    from banger_tools import process
    from banger_tools.vmm import inside, ssh
    from banger_tools.vmm import spec as specs

    timeout = specs.parse_timeout(arguments["--timeout"])
    words = arguments["COMMAND"]
    record = inside.running(arguments["NAME"])
    program = process.find("ssh")
    ssh.wait(record, time.monotonic() + timeout)
    options = [*(["-i", arguments["--identity"]] if arguments["--identity"] else []), *arguments["--ssh-option"]]
    known = ssh.known_hosts(record.spec.name)
    way = ssh.command(record, known, arguments["--user"], options, words[1:] if words[:1] == ["--"] else words)
    console.command(shlex.join([program, *way]))
    sys.stdout.flush()
    os.execv(program, [program, *way])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work, nested=True)
