"""bg-publish: put an image or a kernel into the store under a name, whole or not at all, or write an image for others.

Usage:
  bg-publish [options] [INPUT]

Arguments:
  INPUT  A manifest with a root filesystem, or an ext4 file; the manifest on stdin if none is given or it is '-'.
         With --kernel, the manifest of a kernel.

Options:
  --name=NAME              Name in the store; the manifest's name if not given.
  --replace                Take the place of an image or a kernel of that name, in one step.
  --move                   Move the disks into the store instead of copying them.
  --kernel-ref=REF         Kernel to go with it: its name in the store or in a catalog, apt:PACKAGE, or a bundle's URL.
  --kernel-file=FILE       Kernel to go with it: a file, of which the store keeps no other copy.
  --initrd=FILE            Initrd for --kernel-file.
  --modules=DIR            Modules for --kernel-file: an initrd is made of those that it needs.
  --offline                Take only a kernel that is here or was fetched before.
  --no-kernel              Publish without a kernel; it is chosen at boot.
  --kernel                 Publish a kernel that bg-fetch kernel:REF brought, and no image.
  --bundle=FILE            Write the image as a bundle for catalogs: a .tar.zst, or a folder for it.
  --url=URL                Folder that the bundle will be served from, for its entry in a catalog.
  --tar=FILE               Write the files of the root filesystem as a tar; - is stdout.
  --qcow2=FILE             Write the root filesystem as a qcow2 disk.
  --raw=FILE               Write the root filesystem as it is, with its holes.
  -f, --force              Replace files that are there with those of --bundle, --tar, --qcow2 and --raw.
  --path                   Print the path of the published folder, or of each file, instead of the manifest.
  @talk

Description:
  The disks are copied (by reflink where the filesystem can, else without their holes) into a private folder beside
  where the image will stand; the kernel's files are hard links to the store's. Everything is flushed to the disk,
  and one rename that fails if the name is taken makes the image appear. Of two programs that publish under one name
  exactly one wins. With --replace the old image and the new one change places, and virtual machines keep the disks
  that they were made with. If the manifest cannot be printed, either, nothing was published. With --move the disks go
  from where they are when all is done; those on another filesystem are copied, and stay.

  Without --kernel-ref the kernel that this host's packages offer for virtual machines is used; it is fetched
  through apt the first time, and kept in the store.

  A kernel stands in the store as vmlinux (what Firecracker boots) and, as far as it has them, vmlinuz, initrd.img,
  modules/ and config, with kernel.json, which says what it is. The initrd is made of the modules that a boot needs. The
  very same kernel may be there already.

  With --bundle, --tar, --qcow2 or --raw those files are made, and the image is published only if --name is given, too.
  A bundle holds rootfs.ext4 and the manifest without what names files of this host. The same image makes the same
  bytes. In a folder its name has its own hash, so that no cache can serve an old one for it. The manifest's `bundle`
  has its path, sha256 and size, and its `entry` for a catalog, as banger-catalog(5) has it, with --kernel-ref: the
  bundle is at --url, or beside the catalog if there is none. The tar has owners, modes, times, xattrs, ACLs, devices,
  hardlinks and holes; an empty lost+found, and sockets, are left out. On stdout it takes the place of the manifest.

Examples:
  bg-fetch apt:bookworm | bg-flatten | bg-mkext4 | bg-chown | bg-inject | bg-seed | bg-publish --name bookworm
  bg-publish --replace --name web --kernel-ref apt:linux-image-cloud-amd64 web.json
  bg-fetch kernel:apt:linux-image-cloud-amd64 | bg-publish --kernel --name cloud
  bg-publish --bundle=. --url=https://example.org/images injected.json | jq .bundle.entry
  bg-publish --tar=- injected.json | docker import - mine

Exit status:
  0   the image is published, or written
  64  the command line is wrong
  65  a manifest, image or kernel is not what it claims to be
  66  an input is missing or cannot be read
  69  apt is not there or does not have the kernel, it is not here (--offline), the guest program is not built, or
      qemu-img is not installed
  73  the name is taken, or a file exists
  74  the disk is full or failed
  75  a lock stayed held
  77  access was refused
  130  interrupted; nothing is left behind
  143  terminated; nothing is left behind

See also:
  bg-seed(1), bg-boot(1), banger-manifest(5), banger-catalog(5), qemu-img(1)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Kernel, Manifest

_VALID = 1  # s_state, EXT4_VALID_FS
_FILES = ("--kernel-file", "--initrd", "--modules")
_RECOVER = 4  # s_feature_incompat: the journal is not replayed yet
_EXPORTS = ("--bundle", "--tar", "--qcow2", "--raw")
STDOUT = "-"


def _check_url(url: str) -> None:
    from banger_tools.oci import reference

    if not reference.is_http_url(url):
        raise errors.BadUsage(f"--url: '{url}' is no URL of the web", "for example https://example.org/images")


class Exports(NamedTuple):
    """The files to write an image to; the tar goes to stdout if it is '-'."""

    bundle: Path | None
    tar: str | None
    qcow2: Path | None
    raw: Path | None
    url: str | None
    force: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Exports:
        """Check the options; raises BadUsage naming the one that is wrong."""
        bundle, tar, url = arguments["--bundle"], arguments["--tar"], arguments["--url"]
        if bundle and not (bundle.endswith(".tar.zst") or Path(bundle).is_dir()):
            raise errors.BadUsage(f"--bundle: '{bundle}' does not end in .tar.zst, and is no folder")
        if url and not bundle:
            raise errors.BadUsage("--url goes with --bundle only")
        if url:
            _check_url(url)
        if tar == STDOUT and arguments["--path"]:
            raise errors.BadUsage("--path and --tar=- both want stdout")
        if tar == STDOUT and sys.stdout.isatty():
            raise errors.BadUsage("stdout is a terminal, which cannot show a tar", "give --tar a file, or pipe it on")
        qcow2, raw = (_path(arguments[option]) for option in ("--qcow2", "--raw"))
        return cls(_path(bundle), tar, qcow2, raw, url, bool(arguments["--force"]))

    @property
    def files(self) -> list[Path]:
        """The files whose names are known before the work, absolute."""
        tar = self.tar if self.tar != STDOUT else None
        given = [self.bundle if self.bundle and not self.bundle.is_dir() else None, _path(tar), self.qcow2, self.raw]
        return [Path(os.path.abspath(path)) for path in given if path]

    @property
    def wanted(self) -> bool:
        """Whether there is anything to write."""
        return any((self.bundle, self.tar, self.qcow2, self.raw))


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


class Options(NamedTuple):
    """The command line of bg-publish, checked."""

    input: str | None
    exports: Exports
    name: str | None
    replace: bool
    move: bool
    kernel_ref: str | None
    kernel_files: tuple[Path, Path | None, Path | None] | None
    offline: bool
    with_kernel: bool
    only_kernel: bool
    path_only: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the options; raises BadUsage naming the one that is wrong."""
        from banger_tools.store import names

        name, ref = arguments["--name"], arguments["--kernel-ref"]
        if name is not None:
            names.check(name)
        _refuse_together(arguments)
        return cls(
            arguments["INPUT"],
            Exports.from_arguments(arguments),
            name,
            bool(arguments["--replace"]),
            bool(arguments["--move"]),
            ref,
            _kernel_files(arguments),
            bool(arguments["--offline"]),
            not arguments["--no-kernel"],
            bool(arguments["--kernel"]),
            bool(arguments["--path"]),
        )

    @property
    def publishes(self) -> bool:
        """Whether an image goes into the store; one that is written to files does only under a name that was given."""
        return self.name is not None or not self.exports.wanted


def _refuse_together(arguments: dict[str, Any]) -> None:
    """Refuse options that contradict each other."""
    kernels = [word for word in ("--kernel", "--kernel-ref", "--kernel-file", "--no-kernel") if arguments[word]]
    if arguments["--kernel"] and arguments["--move"]:
        kernels = ["--kernel", "--move"]
    if len(kernels) > 1:
        raise errors.BadUsage(f"{kernels[0]} and {kernels[1]} exclude each other")
    for option in ("--initrd", "--modules"):
        if arguments[option] and not arguments["--kernel-file"]:
            raise errors.BadUsage(f"{option} goes with --kernel-file only")
    exports = [option for option in _EXPORTS if arguments[option]]
    for option in ("--replace", "--move") if exports and not arguments["--name"] else ():
        if arguments[option]:
            raise errors.BadUsage(f"{option} goes with --name where {exports[0]} is given: else nothing is published")
    if exports and arguments["--kernel"]:
        raise errors.BadUsage(f"{exports[0]} and --kernel exclude each other")
    if arguments["--force"] and not exports:
        raise errors.BadUsage(f"-f goes with {', '.join(_EXPORTS)}", "--replace takes the place of an image")


def _kernel_files(arguments: dict[str, Any]) -> tuple[Path, Path | None, Path | None] | None:
    kernel, initrd, modules = map(_path, map(arguments.get, _FILES))
    return (kernel, initrd, modules) if kernel else None


def read_input(argument: str | None) -> Manifest:
    """Return the manifest to publish; a bare ext4 file becomes one."""
    from banger_tools import identify
    from banger_tools.manifest import Manifest

    kind, path = stage.open_input(argument)
    if kind == identify.MANIFEST:
        return stage.read_manifest(path)
    if kind != identify.EXT4 or path is None:
        raise stage.wrong_input(path, kind, "a manifest or an ext4 image")
    from banger_tools.ext4 import described

    image = Manifest()
    image.name = path.stem
    image.put("rootfs", described.rootfs(path))
    return image


def _read_manifest(argument: str | None) -> Manifest:
    from banger_tools import identify

    kind, path = stage.open_input(argument)
    if kind != identify.MANIFEST:
        raise stage.wrong_input(path, kind, "the manifest of a kernel")
    return stage.read_manifest(path)


def _superblock(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(2048)[1024:]


def check_rootfs(path: Path) -> None:
    """Check that a disk is an ext4 filesystem that was left whole.

    Raises BadInput for one that a program was stopped in the middle of editing.
    """
    superblock = _superblock(path)
    if superblock[56:58] != b"\x53\xef":
        raise errors.BadInput(f"'{path}' is no ext4 image")
    state = int.from_bytes(superblock[58:60], "little")
    incompatible = int.from_bytes(superblock[96:100], "little")
    if not state & _VALID or incompatible & _RECOVER:
        raise errors.BadInput(f"'{path}' was not left clean", f"make it again, or repair it: e2fsck -fy '{path}'")


def refuse_outputs(options: Options) -> None:
    """Raise CannotCreate or BadUsage, before any work, if a file cannot be made or the name in the store is taken."""
    outputs = options.exports.files
    for number, target in enumerate(outputs):
        files.refuse_existing(target, force=options.exports.force)
        if target in outputs[:number]:
            raise errors.BadUsage(f"'{target}' is to be two outputs", "give each a name of its own")
    if options.name is not None and not options.only_kernel:
        _refuse_taken(options.name, options)


def _refuse_taken(name: str, options: Options) -> None:
    from banger_tools.store import images, staging

    staging.refuse_taken(images.root() / name, replace=options.replace, what=images.WHAT)


def disk_of(image: Manifest) -> Path:
    """Return the path of an image's disk after a look at it; raises NoInput, BadInput."""
    from banger_tools.manifest import Rootfs

    rootfs = image.get("rootfs", Rootfs)
    disk = stage.check_artifact(rootfs.path, rootfs.size, "root filesystem")
    check_rootfs(disk)
    return disk


def write_files(image: Manifest, options: Options) -> list[Path]:
    """Write an image in the forms that were asked for and return the files; the manifest gets its `bundle`."""
    from banger_tools.store import export

    disk, wanted, made = disk_of(image), options.exports, []
    if wanted.bundle:
        if not image.has("guest"):
            console.warning("the image has no guest agent: machines that are made of its bundle will not answer")
            console.hint("run bg-inject before this tool")
        with console.step("bundle written"):
            told = {"url": wanted.url, "kernel_ref": options.kernel_ref}
            bundle = export.bundle(image, disk, wanted.bundle, **told, force=wanted.force)
        image.put("bundle", bundle)
        made.append(Path(bundle.path))
    for form, target in ((export.qcow2, wanted.qcow2), (export.raw, wanted.raw)):
        if target:
            with console.step(f"'{target}' written"):
                form(disk, target, force=wanted.force)
            made.append(Path(os.path.abspath(target)))
    return made + _write_tar(disk, wanted)


def _write_tar(disk: Path, wanted: Exports) -> list[Path]:
    from banger_tools.store import export

    if not wanted.tar:
        return []
    with console.step("tar written"):
        if wanted.tar == STDOUT:
            export.tar_to(disk, sys.stdout.fileno())
            return []
        export.tar(disk, Path(wanted.tar), force=wanted.force)
        return [Path(os.path.abspath(wanted.tar))]


def publish(image: Manifest, options: Options, announce: Callable[[Manifest], object]) -> None:
    """Publish the image of a manifest; `announce` gets the manifest as it stands in the store."""
    from banger_tools.manifest import WorkSeed
    from banger_tools.store import images, names

    name = options.name or names.check(names.derived(image.name))
    _refuse_taken(name, options)
    disk, seed = disk_of(image), None
    if image.has("work_seed"):
        section = image.get("work_seed", WorkSeed)
        seed = stage.check_artifact(section.path, section.size, "work seed")
    parts = images.Parts(disk, seed, _kernel(image, options), options.move)
    image.record("bg-publish", {"kernel": parts.kernel.name if parts.kernel else None})
    images.publish(image, name, parts, replace=options.replace, announce=announce)


def _kernel(image: Manifest, options: Options) -> Kernel | None:
    if not options.with_kernel:
        return None
    from banger_tools.store import kernels

    if options.kernel_files:
        return kernels.of_files(*options.kernel_files)
    ref = options.kernel_ref or kernels.default_ref(image.architecture)
    return kernels.obtain(ref, offline=options.offline)


def publish_kernel(given: Manifest, options: Options, announce: Callable[[Manifest], object]) -> None:
    """Publish the kernel of a manifest; `announce` gets the manifest with it as it stands in the store."""
    from banger_tools.manifest import Kernel
    from banger_tools.store import kernels, names

    def tell(kept: Kernel) -> None:
        given.name = kept.name
        given.put("kernel", kept)
        given.record("bg-publish", {"kernel": kept.name})
        announce(given)

    kernel = given.get("kernel", Kernel)
    name = options.name or names.check(names.derived(kernel.name))
    kernels.keep(kernel, name, replace=options.replace, announce=tell)


def work(arguments: dict[str, Any]) -> None:
    """Publish, or write, what the command line says."""
    options = Options.from_arguments(arguments)
    refuse_outputs(options)
    if options.only_kernel:
        publish_kernel(_read_manifest(options.input), options, partial(_print, options))
        return
    image = read_input(options.input)
    made = write_files(image, options) if options.exports.wanted else []
    if options.publishes:
        publish(image, options, partial(_print, options))
    elif options.path_only:
        sys.stdout.writelines(f"{path}\n" for path in made)
    else:
        _print(options, image)


def _print(options: Options, image: Manifest) -> None:
    """Print the manifest, or the path of what was published, to the last byte: what cannot be told is not done."""
    if options.exports.tar == STDOUT:
        return
    section = image.raw.get("published", {})
    place = Path(image.raw["kernel"]["kernel"]).parent if options.only_kernel else section.get("path", "")
    stage.print_result(image, place, path_only=options.path_only)
    cli.flush_stdout()


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-publish and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
