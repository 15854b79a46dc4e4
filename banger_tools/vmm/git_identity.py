"""Who makes the commits of a machine: as written on the command line, or as this host's git has it."""

from __future__ import annotations

import re

from banger_tools import errors
from banger_tools.vmm.spec import GitIdentity

HOST = "host"
LONGEST = 255  # bytes; what the guest has room for
_FORM = "write --git-identity='Name <mail@host>', or host for that of this host's git"


def parse(text: str) -> GitIdentity:
    """Return the identity that `host` or `Name <mail>` stands for.

    Raises BadUsage for any other text, NoInput if this host's git knows none, Unavailable without git.
    """
    if text == HOST:
        return check(GitIdentity(_of_host("user.name"), _of_host("user.email")))
    match = re.fullmatch(r"([^<>]*[^<>\s])\s*<([^<>\s]+)>\s*", text)
    if match is None:
        raise errors.BadUsage(f"--git-identity: '{text}' is not a name and an address", _FORM)
    return check(GitIdentity(match[1].strip(), match[2]))


def check(identity: GitIdentity) -> GitIdentity:
    """Return an identity that git can put into a commit; raises BadUsage."""
    for value in (identity.name, identity.email):
        if re.search(r"[\x00-\x1f\x7f<>]", value):
            raise errors.BadUsage(f"--git-identity: {value!r} holds what git cannot keep in a commit")
        if len(value.encode("utf-8", "surrogateescape")) > LONGEST:
            raise errors.BadUsage(f"--git-identity: '{value[:20]}...' is longer than {LONGEST} bytes")
    return identity


def _of_host(key: str) -> str:
    """Return what git says here: of the repository that we are in, of the user, of the system."""
    from banger_tools import process

    said = process.run(["git", "config", "--get", key], check=False)
    value = said.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
    if said.status == 1 or (said.status == 0 and not value):
        raise errors.NoInput(f"--git-identity: this host's git has no {key}", f"git config --global {key} ...")
    if said.status != 0:
        raise process.explain("git", said)
    return value
