"""What bg-inject does for an image's sshd: root comes in by key only, with keys of its own, and each machine makes its
host keys itself.

Sources: sshd(8): "AUTHORIZED_KEYS FILE FORMAT"; sshd_config(5); RFC 4253, section 6.6, for what is in a key.
"""

from __future__ import annotations

import base64
import fnmatch
import posixpath
import re
import stat
import struct
from collections.abc import Iterator, Sequence

from banger_tools import errors, guest
from banger_tools.ext4.view import Placed, View

SSHD = ("/usr/sbin/sshd", "/usr/bin/sshd", "/sbin/sshd")
FOLDER = "/etc/ssh"
CONFIG = "/etc/ssh/sshd_config"
DROP_IN = "/etc/ssh/sshd_config.d/99-banger.conf"
KEYS = "/root/.ssh/authorized_keys"
MAX_CONFIG = 1 << 20
_BEGIN, _END = b"# put here by bg-inject: begin\n", b"# put here by bg-inject: end\n"
_MAX_INCLUDES = 16  # as in sshd

_HOST_KEY = re.compile(r"ssh_host_[A-Za-z0-9_-]+_key(?:\.pub)?")
_KEY_TYPE = (
    rb"ssh-(?:rsa|dss|ed25519)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com"
)
# Options may hold spaces between quotes, and quotes behind a backslash there.
_KEY_LINE = re.compile(
    rb"(?:(?P<options>(?:[^\s\"]|\"(?:[^\"\\]|\\.)*\")+)[ \t]+)?"
    rb"(?P<type>" + _KEY_TYPE + rb")[ \t]+(?P<key>[A-Za-z0-9+/]+={0,2})(?:[ \t].*)?"
)
# Words that mean the same to sshd
_KEYWORDS = {"challengeresponseauthentication": "kbdinteractiveauthentication"}
_VALUES = {"without-password": "prohibit-password"}


def parse_keys(text: bytes, origin: str) -> list[bytes]:
    """Return the lines of a file of public keys as they go into authorized_keys; comments and empty lines are left out.

    Options before a key are kept. Raises BadInput naming the line that is no public key; a private key is named as
    such.
    """
    if b"PRIVATE KEY" in text:
        raise errors.BadInput(f"'{origin}' is a private key", f"did you mean '{origin}.pub'?")
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith(b"#"):
            if not _is_key(line):
                raise errors.BadInput(f"line {number} of '{origin}' is not a public key of OpenSSH")
            found.append(line)
    if not found:
        raise errors.BadInput(f"'{origin}' has no public key in it")
    return found


def _is_key(line: bytes) -> bool:
    """Tell whether a line is a whole key: what is encoded in it begins with its type, and is not cut."""
    match = _KEY_LINE.fullmatch(line)
    if match is None or any(byte < 32 and byte != 9 for byte in line):
        return False
    try:
        parts = list(_strings(base64.b64decode(match["key"], validate=True)))
    except (ValueError, struct.error):
        return False
    return len(parts) > 1 and parts[0] == match["type"]


def _strings(data: bytes) -> Iterator[bytes]:
    """Yield the strings that a key is made of, each behind its length.

    Raises ValueError if one is cut.
    """
    while data:
        (length,) = struct.unpack_from(">I", data)
        if len(data) < 4 + length:
            raise ValueError
        yield data[4 : 4 + length]
        data = data[4 + length :]


def authorized_keys(view: View, keys: Sequence[bytes]) -> list[Placed]:
    """Return the authorized_keys of root with these keys added to those that the image has."""
    lines = (view.read(KEYS, MAX_CONFIG) or b"").splitlines()
    lines += [key for key in dict.fromkeys(keys) if key not in lines]
    return [
        *_home(view),
        Placed("/root/.ssh", "dir", mode=0o700),
        Placed(KEYS, content=b"\n".join(lines) + b"\n", mode=0o600),
    ]


def _home(view: View) -> list[Placed]:
    """Return what makes root's home one that sshd trusts: its owner is root, and nobody else may write to it."""
    found = view.find("/root")
    if found is None:
        return [Placed("/root", "dir", mode=0o700)]
    if found.kind != "dir" or found.inode is None or not (found.inode.i_uid or found.inode.i_mode & 0o022):
        return []
    return [Placed("/root", "dir", mode=stat.S_IMODE(found.inode.i_mode) & ~0o022)]


def host_keys(view: View) -> list[str]:
    """Return the host keys that the image has, by their paths without symlinks; those to be placed are none of them."""
    names = [name for name in view.names(FOLDER) if _HOST_KEY.fullmatch(name)]
    paths = [view.real_parent(f"{FOLDER}/{name}") for name in names]
    return [path for path in paths if path not in view.placed and (found := view.at(path)) and found.kind != "dir"]


def settings(view: View) -> Iterator[Placed]:
    """Yield what makes sshd let root in by key only: a drop-in, and where that is not heard, lines in sshd_config.

    sshd takes the first value that it meets; old ones read no drop-ins, and others may come before ours.
    """
    ours = (guest.FILES / "99-banger.conf").read_bytes()
    drop_in = Placed(DROP_IN, content=ours)
    yield drop_in
    view.place(drop_in)
    found = view.find(CONFIG)
    if found is None or found.kind != "file" or _is_heard(view, ours):
        return
    config = re.sub(re.escape(_BEGIN) + b".*?" + re.escape(_END), b"", view.content(found, MAX_CONFIG), flags=re.DOTALL)
    owner = (stat.S_IMODE(found.inode.i_mode), found.inode.i_uid, found.inode.i_gid) if found.inode else (0o644, 0, 0)
    yield Placed(view.real(CONFIG, clamp=True), "file", _BEGIN + ours + _END + config, *owner)


def _is_heard(view: View, ours: bytes) -> bool:
    """Tell whether each of our settings is the first that sshd meets."""
    first: dict[str, str] = {}
    for keyword, value in _read(view, CONFIG, []):
        first.setdefault(keyword, value)
    return all(first.get(keyword) == value for keyword, value in _parsed(ours))


def _read(view: View, path: str, inside: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the settings of a file that hold for everybody, those of included files in their place."""
    for keyword, value in _parsed(view.read(path, MAX_CONFIG) or b""):
        if keyword == "match":
            return
        if keyword == "include" and len(inside) < _MAX_INCLUDES:
            for included in _matching(view, value.split()):
                yield from _read(view, included, [*inside, path])
        else:
            yield keyword, value


def _matching(view: View, patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        folder, last = posixpath.split(posixpath.join(FOLDER, pattern.strip('"')))
        for name in view.names(folder):
            if fnmatch.fnmatchcase(name, last) and not (name.startswith(".") and last.startswith("*")):
                yield posixpath.join(folder, name)


def _parsed(text: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keywords of a configuration in small letters, each with its value."""
    for line in text.decode(errors="replace").splitlines():
        match = re.fullmatch(r"\s*([A-Za-z0-9]+)\s*(?:=|\s)\s*\"?(.*?)\"?\s*", line)
        if match is not None:
            keyword, value = match[1].lower(), match[2]
            value = value if keyword == "include" else value.lower()
            yield _KEYWORDS.get(keyword, keyword), _VALUES.get(value, value)
