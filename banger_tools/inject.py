"""bg-inject: put the guest program, its units and keys into an ext4 image, in place.

Usage:
  bg-inject [options] [--ssh-key=FILE]... [--file=SPEC]... [--enable=UNIT]... [--disable=UNIT]... [INPUT]

Arguments:
  INPUT  A manifest with an image, or an ext4 image; the manifest comes from stdin without it.

Options:
  --ssh-key=FILE     Let the public keys in a file log in as root; may be repeated.
  --file=SPEC        HOST:GUEST[:MODE[:UID:GID]]: put a file in, 0644 and 0:0 by default; may be repeated.
  --hostname=NAME    Write /etc/hostname.
  --enable=UNIT      Let systemd start a unit of the image; may be repeated.
  --disable=UNIT     Let systemd start a unit no longer; may be repeated.
  --first-boot=LIST  Let the image install sshd, systemd, or both (sshd,systemd) on its first boot.
  --keep-host-keys   Leave sshd's host keys in the image.
  --no-agent         Put in only what the other options say.
  @stage
  @talk

Description:
  Every image becomes a good virtual machine by one small static program: as init where the image has none, and as
  the agent that answers the host. An image with systemd gets units that start the agent and the network. All files
  belong to 0:0, folders that exist stay as they are, and symlinked folders are followed inside the image.

  Everything is checked before the first write: the program's architecture, the paths, the room in the image. What
  is there already just so is not written, so running it twice is running it once. While it is edited the image is
  marked dirty; an image that is not clean is refused. With -o the image stays as it is, and a copy is edited.

  Where the image has sshd, root may log in by key only: a file in sshd_config.d says so, and where sshd would not hear
  it, lines at the top of sshd_config. Host keys that were made with the image are taken out, as everybody who has the
  image knows them; each machine makes its own. Where it has no sshd, --first-boot=sshd leaves a note in
  /var/lib/banger/first-boot-pending, and the machine installs sshd with the image's own package manager once it has a
  network.

  --file replaces what has the name, but no folder; other hard links of a file that is replaced keep its content. A
  GUEST that ends in a slash is a folder for it. Files come over those that are put in otherwise, and a unit that comes
  so can be enabled at once.

  --enable and --disable make and remove the links that systemctl(1) would, by the [Install] section of the unit: also
  those of its aliases, and of units that go along with it. A unit without a type is a service; an instance of a
  template, such as getty@tty1, is named whole.

Examples:
  $ bg-chown < made.json | bg-inject --ssh-key ~/.ssh/id_ed25519.pub > guest.json
  $ bg-inject --path --no-agent --file motd:/etc/motd rootfs.ext4
  $ bg-inject --file web.service:/etc/systemd/system/ --enable web --disable apt-daily.timer rootfs.ext4

Exit status:
  0   done
  64  the command line is wrong
  65  the input is not what it claims to be, a path leads out of it, or a unit is not there
  66  an input is missing or cannot be read
  69  debugfs is not installed, or the guest program is not built
  73  the copy exists already, or cannot be made (-o)
  74  the image or the disk is full, or failed
  75  another program edits the image
  77  the image may not be written

See also:
  bg-chown(1), bg-seed(1), bg-boot(1), systemctl(1), banger-manifest(5)
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, stage

if TYPE_CHECKING:
    from banger_tools.ext4.view import Placed, View
    from banger_tools.guest.plan import Wishes
    from banger_tools.guest.units import Name
    from banger_tools.manifest import Guest, Manifest

MAX_KEYS = 1 << 20
MAX_ID = 2**32 - 2
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_FILE = re.compile(r"(?P<source>.+):(?P<path>/[^:]*)(?::(?P<mode>[0-7]{3,4})(?::(?P<uid>\d+):(?P<gid>\d+))?)?")


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
    first_boot: list[str]
    enable: list[Name]
    disable: list[Name]
    keep_host_keys: bool
    agent: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        from banger_tools.guest.units import parse_name

        options = cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            [Path(key) for key in arguments["--ssh-key"]],
            [parse_file(spec) for spec in arguments["--file"]],
            check_hostname(arguments["--hostname"]),
            parse_first_boot(arguments["--first-boot"]),
            [parse_name(unit) for unit in arguments["--enable"]],
            [parse_name(unit) for unit in arguments["--disable"]],
            bool(arguments["--keep-host-keys"]),
            not arguments["--no-agent"],
        )
        options.refuse_contradictions()
        return options

    def refuse_contradictions(self) -> None:
        """Raise BadUsage where two options ask for different things."""
        paths = [file.path for file in self.files]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice:
            raise errors.BadUsage(f"--file: '{twice}' is put in twice")
        both = next((unit for unit in self.enable if unit in self.disable), None)
        if both:
            raise errors.BadUsage(f"'{both}' is to be both enabled and disabled")
        if self.first_boot and not self.agent:
            raise errors.BadUsage("--first-boot needs the guest's own files, and --no-agent leaves them out")


def check_hostname(name: str | None) -> str | None:
    """Return a host name. Raises BadUsage if it is none."""
    if name is not None and (len(name) > 64 or not re.fullmatch(rf"{_LABEL}(\.{_LABEL})*", name)):
        raise errors.BadUsage(f"--hostname: '{name}' is not a host name")
    return name


def parse_first_boot(value: str | None) -> list[str]:
    """Return the words of --first-boot. Raises BadUsage for one that is unknown."""
    from banger_tools.guest.plan import FIRST_BOOT

    words = [] if value is None else value.split(",")
    unknown = next((word for word in words if word not in FIRST_BOOT), None)
    if unknown is not None:
        raise errors.BadUsage(f"--first-boot: '{unknown}' is not one of {', '.join(FIRST_BOOT)}")
    return words


def parse_file(spec: str) -> HostFile:
    """Parse HOST:GUEST[:MODE[:UID:GID]]; only HOST may have colons in it.

    Raises BadUsage naming what is wrong.
    """
    match = _FILE.fullmatch(spec)
    if match is None:
        example = "for example --file=motd:/etc/motd:0644"
        raise errors.BadUsage(f"--file: '{spec}' is not HOST:GUEST[:MODE[:UID:GID]]", example)
    owner = int(match["uid"] or 0), int(match["gid"] or 0)
    if max(owner) > MAX_ID:
        raise errors.BadUsage(f"--file: owner {owner[0]}:{owner[1]} is out of range")
    source, path = Path(match["source"]), match["path"]
    if path.endswith("/"):
        path += source.name
    return HostFile(source, path, int(match["mode"] or "644", 8), *owner)


def snapshot(file: HostFile, target: Path) -> Placed:
    """Return a file of the host as it is now, copied to `target`: what is checked is what is written.

    Raises NoInput or Denied if it cannot be read, BadInput for a folder.
    """
    from banger_tools.ext4.view import Placed

    if file.source.is_dir():
        hint = "bg-flatten --layer puts whole folders into an image"
        raise errors.BadInput(f"--file: '{file.source}' is a folder, and a file is needed", hint)
    try:
        if file.source.is_file():
            files.copy(file.source, target)
        else:
            with open(file.source, "rb") as reader, open(target, "xb") as writer:
                shutil.copyfileobj(reader, writer)
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{file.source}'") from error
    return Placed(file.path, content=target, mode=file.mode, uid=file.uid, gid=file.gid)


def read_keys(paths: Sequence[Path]) -> list[bytes]:
    """Return the public keys in files. Raises BadInput naming a file, and a line of it, that is no public key."""
    from banger_tools.guest import ssh

    return [key for path in paths for key in ssh.parse_keys(files.read_small(path, MAX_KEYS, "public keys"), str(path))]


def read_program(architecture: str) -> bytes:
    """Return the guest program for an architecture.

    Raises Unavailable if there is none, BadInput if it is not a static program for it.
    """
    from banger_tools import guest

    path = guest.program(architecture)
    guest.check_program(path, architecture)
    return path.read_bytes()


def architecture_of(image: Path, manifest: Manifest) -> str:
    """Return the architecture of an image in OCI's word: what its manifest says, else what its programs are for.

    Raises BadInput if the two differ.
    """
    from banger_tools import guest
    from banger_tools.ext4.image import opened
    from banger_tools.ext4.view import View
    from banger_tools.guest import plan

    with opened(image) as opened_image:
        found = plan.architecture(View(opened_image))
    stated = manifest.image.get("architecture")
    if found and stated and found != stated and guest.architecture(str(stated)) != guest.architecture(found):
        raise errors.BadInput(f"the programs in '{image}' are for {found}, and the manifest says {stated}")
    return manifest.architecture if stated else found or manifest.architecture


def wishes(options: Options, program: bytes | None, scratch: Path) -> Wishes:
    """Return what is to be done to the image; files of the host are copied to `scratch`."""
    from banger_tools.guest.plan import Wishes

    return Wishes(
        program,
        [snapshot(file, scratch / f"file-{number}") for number, file in enumerate(options.files)],
        read_keys(options.keys),
        options.hostname,
        options.first_boot,
        options.enable,
        options.disable,
        options.keep_host_keys,
    )


def edit(path: Path, wanted: Wishes, scratch: Path) -> tuple[View, list[str]]:
    """Carry out wishes on the image at `path`; return it as it was, with what is to change, and the paths that did."""
    from banger_tools.ext4 import insert
    from banger_tools.ext4.image import opened
    from banger_tools.ext4.view import View
    from banger_tools.guest import plan

    with opened(path, alone=True) as image:
        view = View(image)
        plan.carry_out(wanted, view)
        written = insert.insert(image, view.placed.values(), scratch, removed=view.removed)
    for one in written:
        console.detail(f"written or removed: {one}")
    return view, written


def warn_of_hidden(manifest: Manifest, written: Sequence[str]) -> None:
    """Warn of files that no machine will show: its work disk, made of a seed from before, is mounted over them."""
    hidden = [path for path in written if path.startswith("/root/")]
    if hidden and manifest.raw.get("work_seed"):
        console.warning(f"no machine will show '{hidden[-1]}': the work seed, made before, comes over /root")
        console.hint("make the seed anew with bg-seed, after bg-inject")


def guest_section(manifest: Manifest, architecture: str, wanted: Wishes, view: View) -> Guest:
    """Return what the manifest says of the guest: what was put in now, and by runs before."""
    from banger_tools.manifest import Guest

    before = manifest.get("guest", Guest) if manifest.has("guest") else Guest(architecture, None, [])
    digest = before.agent if wanted.program is None else f"sha256:{hashlib.sha256(wanted.program).hexdigest()}"
    paths = {*before.files, *view.placed} - view.removed
    return Guest(architecture, digest, sorted(paths), before.ssh_keys or len(wanted.keys))


def record(options: Options) -> dict[str, Any]:
    """Return the options that shaped the image, for the manifest's history."""
    given = {
        "hostname": options.hostname,
        "first_boot": options.first_boot,
        "enable": [str(unit) for unit in options.enable],
        "disable": [str(unit) for unit in options.disable],
        "keep_host_keys": options.keep_host_keys,
        "no_agent": not options.agent,
    }
    return {key: value for key, value in given.items() if value}


def work(arguments: dict[str, Any]) -> None:
    """Put everything into the image, print the manifest."""
    options = Options.from_arguments(arguments)
    manifest, source = stage.input_image(options.input)
    architecture = architecture_of(source, manifest)
    program = read_program(architecture) if options.agent else None
    from msgspec import structs

    from banger_tools.ext4.image import opened
    from banger_tools.manifest import Rootfs

    with stage.edited(source, options.outputs) as (path, final):
        with files.temporary_folder(path) as scratch, console.step("put the guest's files in"):
            wanted = wishes(options, program, scratch)
            view, written = edit(path, wanted, scratch)
        with opened(path) as image:
            free = (
                image.superblock.s_free_blocks_count * image.geometry.block_size,
                image.superblock.s_free_inodes_count,
            )
    if manifest.has("rootfs"):
        rootfs = manifest.get("rootfs", Rootfs)
        manifest.put("rootfs", structs.replace(rootfs, path=str(final), free_bytes=free[0], free_inodes=free[1]))
    warn_of_hidden(manifest, written)
    manifest.put("guest", guest_section(manifest, architecture, wanted, view))
    manifest.record("bg-inject", record(options))
    stage.print_result(manifest, final, path_only=options.outputs.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-inject."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
