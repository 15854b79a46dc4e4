"""A folder with one of everything that a root filesystem can hold, made as root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ACL = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000400ffffffff")
DEFAULT_ACL = bytes.fromhex("0200000001000700ffffffff02000500e803000004000500ffffffff10000500ffffffff20000000ffffffff")
DEEP = "/".join(["d" * 90] * 4)


def make(folder: Path) -> Path:
    """Fill a new folder; needs root."""
    folder.mkdir()
    base = os.fsencode(folder)
    plain(folder)
    (folder / "set-id").write_bytes(b"x")
    os.chown(folder / "set-id", 0, 4_294_967_294)
    (folder / "set-id").chmod(0o6755)
    (folder / "many-ids").write_bytes(b"x")
    os.chown(folder / "many-ids", 4_000_000_000, 2_097_152)
    os.lchown(folder / "soft", 5, 6)
    os.setxattr(folder / "small", "security.capability", CAPABILITY)
    os.setxattr(folder / "small", "trusted.t", b"\0\n=%\xff")
    os.setxattr(folder / "acl", "system.posix_acl_access", ACL)
    os.setxattr(folder / "dir", "system.posix_acl_default", DEFAULT_ACL)
    os.setxattr(folder / "soft", "trusted.on-a-link", b"1", follow_symlinks=False)
    os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(folder / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70_000))
    os.link(folder / "disk", folder / "disk-again")
    (folder / "secret").write_bytes(b"nobody reads me")
    (folder / "secret").chmod(0)
    for name, seconds, nanoseconds in ((b"old", -2, 500_000_000), (b"late", 2**33, 123_456_789), (b"zero", 0, 0)):
        path = base + b"/" + name
        Path(os.fsdecode(path)).touch()
        os.utime(path, ns=(0, seconds * 10**9 + nanoseconds))
    return folder


def plain(folder: Path) -> None:
    """Fill a folder with what an ordinary user can make."""
    base = os.fsencode(folder)
    (folder / "small").write_bytes(b"hello\n")
    (folder / "empty").touch()
    (folder / "block").write_bytes(bytes(range(256)) * 16)
    (folder / "large").write_bytes(os.urandom(300_001))
    (folder / "dir").mkdir(mode=0o1777)
    (folder / "dir/hard").hardlink_to(folder / "small")
    (folder / "soft").symlink_to("dir/hard")
    os.link(folder / "soft", folder / "soft-again", follow_symlinks=False)
    (folder / "long-target").symlink_to("/" + "t" * 3000)
    (folder / DEEP).mkdir(parents=True)
    (folder / DEEP / "file").write_text("far down")
    (folder / "a-link-to-far-down").hardlink_to(folder / DEEP / "file")
    (folder / ("n" * 255)).write_text("long name")
    (folder / "new\nline 'quoted' \\ ümläut").touch()
    for name in (b"caf\xe9", b"\xff" * 200):
        with open(base + b"/" + name, "wb") as file:
            file.write(b"not UTF-8")
    os.symlink(b"\xff\xfe" * 100, base + b"/li\xf1k")
    os.mkfifo(folder / "pipe", 0o600)
    (folder / "acl").write_text("x")
    (folder / "acl").chmod(0o664)
    os.setxattr(folder / "small", "user.a=b", b"value")
    os.setxattr(folder / "small", "user.100%", b"")
    os.setxattr(folder / "dir", "user.on-a-folder", b"v" * 2000)
    (folder / "read-only").mkdir()
    (folder / "read-only/file").write_text("x")
    (folder / "read-only").chmod(0o555)
    sparse(folder / "hole-in-front", 1 << 20, {700_000: b"data"})
    sparse(folder / "hole-at-the-end", 1 << 20, {0: b"data"})
    sparse(folder / "holes", (1 << 20) + 7, {place: b"%d" % place for place in range(4096, 1 << 20, 65_536)})
    sparse(folder / "nothing-but-hole", 123_456, {})


def sparse(path: Path, size: int, data: dict[int, bytes]) -> None:
    """Make a file with holes."""
    with open(path, "wb") as file:
        file.truncate(size)
        for place, piece in data.items():
            file.seek(place)
            file.write(piece)
