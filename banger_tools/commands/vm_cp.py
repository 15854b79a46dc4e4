"""banger vm cp: copy files and folders between this host and machines that run.

Usage:
  banger vm cp [options] PATH PATH...

Arguments:
  PATH  The sources, and at last the target: NAME:PATH in a machine, or a path of this host. A '-' is a tar: on stdin
        in place of the sources, on stdout in place of the target.

Options:
  -a, --archive  Keep owners, set-id bits, devices and extended attributes.
  @talk

Description:
  Copies through the guest's agent: no network, no sshd and no key are needed. Paths of a machine are relative to
  /root. A file of this host whose name looks like NAME:PATH is written with its folder, as in ./NAME:PATH.

  Folders are copied with all that is in them, by the rules of cp(1): into the target if that is a folder, else to that
  very name; its folder must exist. PATH/. and PATH/.. are what is in a folder, without the folder. A folder that is
  there already gets what is new, and files are replaced. Symlinks are copied as such; a source that is one is followed
  only if a slash comes after it.

  Modes and the times of files are kept. In the guest all belongs to root, on this host to you, and nothing is set-id.
  --archive keeps owners, by their numbers, and the extended attributes that mean the same on both sides: those of users
  and of root (user, trusted), capabilities and ACLs.

  Nothing that a guest sends gets out of the target. It may be a million files and folders at most. It may leave no less
  free on the disk here than a twentieth of the disk, 1 GiB or half of what was free, whichever is least; it takes twice
  its size until it is unpacked. A stream to '-' has no bounds.

Examples:
  $ banger vm cp site/. web:/var/www
  $ banger vm cp web:/var/log/syslog web:/etc/hosts logs/
  $ banger vm cp web:/srv - | tar t

Exit status:
  0   done
  64  the command line is wrong
  65  what the guest sends cannot be unpacked
  66  there is no such machine or file
  73  the machine does not run, or the target cannot be made
  74  the disk here has no room for what the guest sends
  75  the guest does not answer
  77  access was refused

See also:
  banger-vm-exec(1) banger-agent(7)
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import cli


def work(arguments: cli.Arguments) -> None:
    """Copy what the command line says."""
    from banger_tools.vmm import transfer

    *sources, target = [transfer.place(text) for text in arguments["PATH"]]
    transfer.copy(sources, target, archive=bool(arguments["--archive"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
