"""bg-inject: put the guest program, its units and keys into an ext4 image, in place.

Usage:
  bg-inject [options] [--ssh-key=FILE]... [--file=SPEC]... [INPUT]

Arguments:
  INPUT  A manifest with an image, or an ext4 image; the manifest comes from stdin without it.

Options:
  --ssh-key=FILE         Let this public key log in as root; may be repeated.
  --file=SPEC            HOST:GUEST[:MODE[:UID:GID]]: put a file in, 0644 and 0:0 by default; may be repeated.
  --hostname=NAME        Write /etc/hostname.
  --no-agent             Put in only what --ssh-key, --file and --hostname say.
  @stage
  @talk

Description:
  Every image becomes a good virtual machine by one small static program: as init where the image has none, and as
  the agent that answers the host. An image with systemd gets units that start the agent and the network. All files
  belong to 0:0, folders that exist stay as they are, and symlinked folders are followed inside the image.

  Everything is checked before the first write: the program's architecture, the paths, the room in the image. What
  is there already just so is not written, so running it twice is running it once. While it is edited the image is
  marked dirty; an image that is not clean is refused. With -o the image stays as it is, and a copy is edited.

Examples:
  $ bg-chown < made.json | bg-inject --ssh-key ~/.ssh/id_ed25519.pub > guest.json
  $ bg-inject --path --no-agent --file motd:/etc/motd rootfs.ext4

Exit status:
  0   done
  64  the command line is wrong
  65  the input is not what it claims to be, or a path leads out of it
  66  an input is missing or cannot be read
  69  debugfs is not installed, or the guest program is not built
  73  the copy exists already, or cannot be made (-o)
  74  the image or the disk is full, or failed
  77  the image may not be written

See also:
  bg-chown(1), bg-seed(1), bg-boot(1), banger-manifest(5)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, stage

if TYPE_CHECKING:
    from banger_tools.ext4.image import Image
    from banger_tools.ext4.insert import Placed

MAX_FILE = 1 << 30
MAX_KEY = 16 << 10
MAX_ID = 2**32 - 2

AGENT = "/usr/local/bin/banger-vsock-agent"
LIBEXEC = "/usr/local/libexec"
UNITS = "/etc/systemd/system"
KEYS = "/root/.ssh/authorized_keys"
SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
SSHD = ("/usr/sbin/sshd", "/usr/bin/sshd")


class HostFile(NamedTuple):
    """A file of the host that is to be put into the image."""

    source: Path
    path: str
    mode: int
    uid: int
    gid: int


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    keys: list[Path]
    files: list[HostFile]
    hostname: str | None
    agent: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        hostname = arguments["--hostname"]
        if hostname is not None and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", hostname):
            raise errors.BadUsage(f"--hostname: '{hostname}' is not a host name")
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            [Path(key) for key in arguments["--ssh-key"]],
            [parse_file(spec) for spec in arguments["--file"]],
            hostname,
            not arguments["--no-agent"],
        )


def parse_file(spec: str) -> HostFile:
    """Parse HOST:GUEST[:MODE[:UID:GID]].

    Raises BadUsage naming what is wrong.
    """
    match = re.fullmatch(r"([^:]+):(/[^:]+)(?::([0-7]{3,4})(?::(\d+):(\d+))?)?", spec)
    if match is None:
        example = "for example --file=motd:/etc/motd:0644"
        raise errors.BadUsage(f"--file: '{spec}' is not HOST:GUEST[:MODE[:UID:GID]]", example)
    source, path, mode, uid, gid = match.groups()
    owner = int(uid or 0), int(gid or 0)
    if max(owner) > MAX_ID:
        raise errors.BadUsage(f"--file: owner {uid}:{gid} is out of range")
    return HostFile(Path(source), path, int(mode or "644", 8), *owner)


def agent_files(image: Image, program: bytes) -> list[Placed]:
    """Return what makes an image a guest: the program, and with systemd or sshd what these need."""
    from banger_tools import guest
    from banger_tools.ext4.insert import Placed

    placed = [Placed(AGENT, content=program, mode=0o755), Placed(f"{LIBEXEC}/banger-init", content=program, mode=0o755)]
    for name in ("banger-network-bootstrap", "banger-first-boot"):
        placed.append(Placed(f"{LIBEXEC}/{name}", content=(guest.FILES / name).read_bytes(), mode=0o755))
    if _has_any(image, SYSTEMD):
        for unit in ("banger-network", "banger-vsock-agent", "banger-host-keys", "banger-first-boot"):
            name = f"{unit}.service"
            placed.append(Placed(f"{UNITS}/{name}", content=(guest.FILES / name).read_bytes()))
            wants = f"{UNITS}/multi-user.target.wants/{name}"
            placed.append(Placed(wants, "symlink", f"{UNITS}/{name}".encode()))
        modules = (guest.FILES / "banger-vsock.conf").read_bytes()
        placed.append(Placed("/etc/modules-load.d/banger-vsock.conf", content=modules))
    if _has_any(image, SSHD):
        settings = (guest.FILES / "99-banger.conf").read_bytes()
        placed.append(Placed("/etc/ssh/sshd_config.d/99-banger.conf", content=settings))
    return placed


def _has_any(image: Image, paths: Sequence[str]) -> bool:
    return any(image.lookup(path.encode()) is not None for path in paths)


def key_files(image: Image, keys: Sequence[bytes]) -> list[Placed]:
    """Return the authorized_keys of root with these keys added to those that the image has."""
    from banger_tools.ext4.insert import Placed

    number = image.lookup(KEYS.encode())
    old = image.read(image.inode(number), 1 << 20) if number is not None else b""
    lines = old.splitlines()
    lines += [key for key in keys if key not in lines]
    return [
        Placed("/root/.ssh", "dir", mode=0o700),
        Placed(KEYS, content=b"\n".join(lines) + b"\n", mode=0o600),
    ]


def read_key(path: Path) -> bytes:
    """Return the one line of a public key file.

    Raises BadInput if it is none; a private key is named as such and never read into an image.
    """
    text = files.read_small(path, MAX_KEY, "a public key").strip()
    if b"PRIVATE KEY" in text:
        raise errors.BadInput(f"'{path}' is a private key", f"did you mean '{path}.pub'?")
    if not re.fullmatch(rb"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?", text):
        raise errors.BadInput(f"'{path}' is not a public key of OpenSSH")
    return text


def contents(options: Options, source: Path, architecture: str) -> tuple[list[Placed], str]:
    """Return everything that is to be in the image, and the digest of the guest program."""
    from banger_tools import guest
    from banger_tools.ext4.image import opened
    from banger_tools.ext4.insert import Placed

    program = b""
    keys = [read_key(key) for key in options.keys]
    placed = [
        Placed(f.path, content=files.read_small(f.source, MAX_FILE, "an image"), mode=f.mode, uid=f.uid, gid=f.gid)
        for f in options.files
    ]
    if options.hostname:
        placed.append(Placed("/etc/hostname", content=f"{options.hostname}\n".encode()))
    with opened(source) as image:
        if options.agent:
            path = guest.program(architecture)
            guest.check_program(path, architecture)
            program = path.read_bytes()
            placed += agent_files(image, program)
        if keys:
            placed += key_files(image, keys)
    return placed, f"sha256:{hashlib.sha256(program).hexdigest()}"


def work(arguments: dict[str, Any]) -> None:
    """Put everything into the image, print the manifest."""
    options = Options.from_arguments(arguments)
    manifest, source = stage.input_image(options.input)
    placed, digest = contents(options, source, manifest.architecture)
    from msgspec import structs

    from banger_tools.ext4 import insert
    from banger_tools.ext4.image import opened
    from banger_tools.manifest import Guest, Rootfs

    with stage.edited(source, options.outputs) as (path, final):
        with files.temporary_folder(path) as scratch, console.step("put the guest's files in"):
            insert.insert(path, placed, scratch)
        with opened(path) as image:
            free = (
                image.superblock.s_free_blocks_count * image.geometry.block_size,
                image.superblock.s_free_inodes_count,
            )
    if manifest.has("rootfs"):
        rootfs = manifest.get("rootfs", Rootfs)
        manifest.put("rootfs", structs.replace(rootfs, path=str(final), free_bytes=free[0], free_inodes=free[1]))
    paths = sorted(one.path for one in placed)
    manifest.put("guest", Guest(manifest.architecture, digest, paths, len(options.keys)))
    manifest.record("bg-inject", {"hostname": options.hostname} if options.hostname else {})
    stage.print_result(manifest, final, path_only=options.outputs.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-inject."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
