"""bg-publish: put an image and its kernel, or a kernel alone, into the store, under a name, whole or not at all.

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
  --path                   Print the path of the published folder instead of the manifest.
  @talk

Description:
  The disks are copied (by reflink where the filesystem can, else without their holes) into a private folder beside
  where the image will stand; the kernel's files are hard links to the store's. Everything is flushed to the disk,
  and one rename that fails if the name is taken makes the image appear. Of two programs that publish under one name
  exactly one wins. With --replace the old image and the new one change places, and virtual machines keep the disks
  that they were made with.

  Without --kernel-ref the kernel that this host's packages offer for virtual machines is used; it is fetched
  through apt the first time, and kept in the store.

  A kernel stands in the store as vmlinux (what Firecracker boots) and, as far as it has them, vmlinuz, initrd.img,
  modules/ and config, with kernel.json, which says what it is. The initrd is made of the modules that a boot needs. The
  very same kernel may be there already.

Examples:
  bg-fetch apt:bookworm | bg-flatten | bg-mkext4 | bg-chown | bg-inject | bg-seed | bg-publish --name bookworm
  bg-publish --replace --name web --kernel-ref apt:linux-image-cloud-amd64 web.json
  bg-fetch kernel:apt:linux-image-cloud-amd64 | bg-publish --kernel --name cloud

Exit status:
  0   the image is published
  64  the command line is wrong
  65  a manifest, image or kernel is not what it claims to be
  66  an input is missing or cannot be read
  69  apt is not there or does not have the kernel, it is not here (--offline), or the guest program is not built
  73  the name is taken
  74  the disk is full or failed
  75  a lock stayed held
  77  access was refused
  130  interrupted; nothing is left behind
  143  terminated; nothing is left behind

See also:
  bg-seed(1), bg-boot(1), banger-manifest(5)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, errors, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Kernel, Manifest

_VALID = 1  # s_state, EXT4_VALID_FS
_FILES = ("--kernel-file", "--initrd", "--modules")
_RECOVER = 4  # s_feature_incompat: the journal is not replayed yet


class Options(NamedTuple):
    """The command line of bg-publish, checked."""

    input: str | None
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


def _kernel_files(arguments: dict[str, Any]) -> tuple[Path, Path | None, Path | None] | None:
    kernel, initrd, modules = (Path(text) if text else None for text in map(arguments.get, _FILES))
    return (kernel, initrd, modules) if kernel else None


def read_input(argument: str | None) -> Manifest:
    """Return the manifest to publish; a bare ext4 file becomes one."""
    from banger_tools import identify
    from banger_tools.manifest import Manifest, Rootfs

    kind, path = stage.open_input(argument)
    if kind == identify.MANIFEST:
        return stage.read_manifest(path)
    if kind != identify.EXT4 or path is None:
        raise stage.wrong_input(path, kind, "a manifest or an ext4 image")
    image = Manifest()
    image.name = path.stem
    image.put("rootfs", Rootfs(str(path), path.stat().st_size, _uuid(path), path.stem[:16], 0, 0))
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


def _uuid(path: Path) -> str:
    import uuid

    return str(uuid.UUID(bytes=_superblock(path)[104:120]))


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


def publish(image: Manifest, options: Options) -> Manifest:
    """Publish the image of a manifest and return the manifest as it stands in the store."""
    from banger_tools.manifest import Rootfs, WorkSeed
    from banger_tools.store import images, names, staging

    name = options.name or names.check(names.derived(image.name))
    staging.refuse_taken(images.root() / name, replace=options.replace, what=images.WHAT)
    rootfs = image.get("rootfs", Rootfs)
    disk = stage.check_artifact(rootfs.path, rootfs.size, "root filesystem")
    check_rootfs(disk)
    seed = None
    if image.has("work_seed"):
        section = image.get("work_seed", WorkSeed)
        seed = stage.check_artifact(section.path, section.size, "work seed")
    parts = images.Parts(disk, seed, _kernel(image, options), options.move)
    image.record("bg-publish", {"kernel": parts.kernel.name if parts.kernel else None})
    return images.publish(image, name, parts, replace=options.replace)


def _kernel(image: Manifest, options: Options) -> Kernel | None:
    if not options.with_kernel:
        return None
    from banger_tools.store import kernels

    if options.kernel_files:
        return kernels.of_files(*options.kernel_files)
    ref = options.kernel_ref or kernels.default_ref(image.architecture)
    return kernels.obtain(ref, offline=options.offline)


def publish_kernel(given: Manifest, options: Options) -> Manifest:
    """Publish the kernel of a manifest and return the manifest with it as it stands in the store."""
    from banger_tools.manifest import Kernel
    from banger_tools.store import kernels, names

    kernel = given.get("kernel", Kernel)
    kept = kernels.keep(kernel, options.name or names.check(names.derived(kernel.name)), replace=options.replace)
    given.name = kept.name
    given.put("kernel", kept)
    given.record("bg-publish", {"kernel": kept.name})
    return given


def work(arguments: dict[str, Any]) -> None:
    """Publish what the command line says."""
    options = Options.from_arguments(arguments)
    if options.only_kernel:
        published = publish_kernel(_read_manifest(options.input), options)
        stage.print_result(published, Path(published.raw["kernel"]["kernel"]).parent, path_only=options.path_only)
        return
    image = publish(read_input(options.input), options)
    stage.print_result(image, image.raw["published"]["path"], path_only=options.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-publish and return its exit status."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
