"""banger ssh-config: let `ssh NAME.vm` log into machines.

Usage:
  banger ssh-config [options]

Options:
  --install       Have your ssh know these names.
  --uninstall     Have your ssh forget them.
  --file=FILE     Configuration of ssh to change; ~/.ssh/config if not given.
  --connect=NAME  For ssh alone, which runs it: connect to the machine NAME.vm, and hand the connection over.
  @talk

Description:
  Without an option it prints a configuration for ssh(1), by which `ssh NAME.vm`, and whatever else runs ssh (scp,
  rsync, git, editors), reaches the machine of that name. --install writes it to the file ssh_config in banger's
  folder of configuration, and puts a marked block at the beginning of ~/.ssh/config that includes it; --uninstall takes
  both away. Either may be done again and again, and no other byte of your configuration changes.

  Nothing has to be written anew when machines come and go. ssh asks banger at each login where the machine is: at its
  address on the tap network, at a port that is forwarded to its port 22, or, with no network at all, behind its
  agent. The connection waits until the machine's sshd answers. The host keys are read through the agent each time, so
  ssh never asks, an address or a name that another machine had before is no trouble, and your known_hosts is not used.

  The guest needs an sshd, and to know your key: `bg-boot --ssh-key`. The user is root unless you say another.

Examples:
  $ banger ssh-config --install
  $ ssh web.vm uname -a
  $ rsync -a src/ web.vm:/srv/

Exit status:
  0   done
  64  the command line is wrong
  65  the block in ssh's configuration is damaged, or what the guest sends is no host key
  66  there is no such machine, or no sshd in it
  69  the machine ended, or ssh cannot be told of a folder's name
  73  the machine does not run
  74  the disk is full or failed
  75  the machine's sshd does not answer
  77  access was refused

See also:
  banger-vm-ssh(1) banger-vm-list(1) bg-boot(1) ssh_config(5)
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import cli, console, errors, fence, files, locations

if TYPE_CHECKING:
    from banger_tools.vmm.ssh import Address

SUFFIX = ".vm"
BLOCK = "banger"
_COMMENT = "names of machines; `banger ssh-config --uninstall` takes this away"
_SECONDS = 60.0
# what ssh runs us with later has to find the same machines, and the same program
_CARRIED = ("BANGER_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "PYTHONPATH")
# A name with a quote in it would end that around %n: only since version 9.6 does ssh refuse such names itself.
_STANZA = """\
# Made by `banger ssh-config`.
Host *{suffix} "!*'*"
  User root
  ProxyCommand {command} '%n'
  ProxyUseFdpass yes
  UserKnownHostsFile {known}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  CheckHostIP no
  UpdateHostKeys no
"""


def stanza() -> str:
    """Return the configuration for ssh."""
    from banger_tools.vmm import ssh

    carried = [f"{name}={os.environ[name]}" for name in _CARRIED if os.environ.get(name)]
    argv = [*(["env", *carried] if carried else []), sys.executable, "-P", "-m", "banger_tools.banger"]
    command = shlex.join([*argv, "-q", "ssh-config", "--connect"]).replace("%", "%%")
    known = ssh.quoted(str(_known_hosts()), "/%n")
    return _STANZA.format(suffix=SUFFIX, command=command, known=known)


def _known_hosts() -> Path:
    """Return the folder of the host keys, in which ssh looks for a file of the machine's name with SUFFIX."""
    return locations.state() / "ssh"


def _included() -> Path:
    return locations.config() / "ssh_config"


def install(path: Path) -> None:
    """Have ssh read our configuration."""
    included = _included()
    text = f"Include {_pattern(included)}\n"
    included.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(included, stanza(), force=True, mode=0o600)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    changed = fence.put(path, BLOCK, text, _COMMENT)
    console.note(f"'{path}' {'now includes' if changed else 'includes'} '{included}'")


def _pattern(path: Path) -> str:
    """Return a word of ssh's configuration that matches this file alone: it is one of glob(7).

    A percent sign is doubled for the versions of ssh that read tokens here, and means the same to the others so.
    """
    from banger_tools.vmm import ssh

    return re.sub(r"%%|[*?[]", r"[\g<0>]", ssh.quoted(str(path)))


def uninstall(path: Path) -> None:
    """Have ssh forget our configuration, and what it remembers of machines."""
    changed = fence.take_out(path, BLOCK)
    _included().unlink(missing_ok=True)
    for known in _known_hosts().glob(f"*{SUFFIX}"):
        known.unlink(missing_ok=True)
    console.note(f"'{path}' {'no longer includes' if changed else 'does not include'} anything of banger's")


def connect(host: str) -> None:
    """Give ssh, which is at the other end of our stdout, a connection to a machine's sshd (ProxyUseFdpass).

    Raises BadUsage if ssh is not there, Retry if sshd does not answer in time.
    """
    from banger_tools.store import names
    from banger_tools.vmm import inside, ssh

    name = names.check_vm(host.removesuffix(SUFFIX))
    try:
        to_ssh = socket.socket(fileno=os.dup(1))
    except OSError as error:
        raise errors.BadUsage("--connect is for ssh to run, with a socket as stdout", f"ssh {name}{SUFFIX}") from error
    record = inside.running(name)
    ssh.wait(record, time.monotonic() + _SECONDS)
    remember(name, ssh.host_keys(name))
    place = ssh.address(record)
    with to_ssh, _dialled(place) if place else _relayed(ssh.relay(name)) as connection:
        socket.send_fds(to_ssh, [b"\0"], [connection.fileno()])


def remember(name: str, keys: Sequence[str]) -> None:
    """Write a machine's host keys where ssh looks for them, and forget those of machines that are gone."""
    from banger_tools.store import vms

    folder = _known_hosts()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    host = name + SUFFIX
    files.write_text(folder / host, "".join(f"{host} {key}\n" for key in keys), force=True, mode=0o600)
    there = set(vms.listed())
    for known in folder.glob(f"*{SUFFIX}"):
        if known.name.removesuffix(SUFFIX) not in there:
            known.unlink(missing_ok=True)


def _dialled(place: Address) -> socket.socket:
    try:
        return socket.create_connection(place, _SECONDS)
    except OSError as error:
        raise errors.os_error(error, f"cannot connect to {place.host}, port {place.port}") from error


def _relayed(argv: Sequence[str]) -> socket.socket:
    """Return a connection to a program's stdin and stdout; it lives as long as the connection does."""
    import subprocess

    ours, theirs = socket.socketpair()
    with theirs:
        subprocess.Popen(argv, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True)
    return ours


def work(arguments: cli.Arguments) -> None:
    """Do what the command line says."""
    actions = [name for name in ("--install", "--uninstall", "--connect") if arguments[name]]
    if len(actions) > 1:
        raise errors.BadUsage(f"{actions[0]} and {actions[1]} exclude each other")
    if arguments["--file"] and actions[:1] not in (["--install"], ["--uninstall"]):
        raise errors.BadUsage("--file goes with --install and --uninstall only")
    path = Path(arguments["--file"] or "~/.ssh/config").expanduser().absolute()
    if arguments["--install"]:
        install(path)
    elif arguments["--uninstall"]:
        uninstall(path)
    elif arguments["--connect"]:
        connect(arguments["--connect"])
    else:
        sys.stdout.write(stanza())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
