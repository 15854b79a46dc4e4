"""banger image register: register existing disk files as an image, without copying.

Usage:
  banger image register [options] ROOTFS

Arguments:
  ROOTFS  A root filesystem: an ext4 file.

Options:
  --name=NAME       Name in the store; that of the file if not given.
  --work-seed=FILE  What the guest's /root begins with: an ext4 file.
  --manifest=FILE   What the image is (its architecture, environment, command): a manifest that a stage printed.
  --kernel-ref=REF  Kernel to go with it: its name in the store or in a catalog, apt:PACKAGE, or a bundle's URL.
  --kernel=FILE     Kernel to go with it: a file; without a kernel it is chosen at boot.
  --initrd=FILE     Initrd for --kernel.
  --modules=DIR     Modules for --kernel: an initrd is made of those that it needs.
  --offline         Take only a kernel that is here or was fetched before.
  --replace         Take the place of an image of that name, in one step.
  --json            Print the image's manifest instead of its name.
  @talk

Description:
  The image is not managed: its disks are symlinks to the files, which are never written to, and which you may write
  anew as long as no machine is being made from them. A machine gets disks of its own, as from any image. `banger image
  promote` copies the disks into the store, `banger image delete` removes the name alone. The kernel's files are copied.

  Injecting the guest's agent is up to you: bg-inject edits an ext4 file in place.

Examples:
  $ bg-inject --path build/rootfs.ext4
  $ banger image register --name=mine --kernel=build/bzImage build/rootfs.ext4
  $ banger vm run --image=mine

Exit status:
  0   the image has its name
  64  the command line is wrong
  65  a disk is no ext4 or was not left clean, or a kernel or the manifest is not what it must be
  66  a file is missing or cannot be read
  69  apt is not there or does not have the kernel, or it is not here (--offline)
  73  the name is taken
  74  the disk is full or failed
  77  access was refused

See also:
  banger-image-promote(1) banger-image-pull(1) bg-publish(1)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, errors

if TYPE_CHECKING:
    from banger_tools.manifest import Kernel, Manifest


class Options(NamedTuple):
    """The files of an image, and the name that it is to have."""

    name: str
    rootfs: Path
    work_seed: Path | None
    manifest: Path | None
    kernel_ref: str | None
    kernel_files: tuple[Path, Path | None, Path | None] | None
    offline: bool
    replace: bool
    as_json: bool

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check the options; raises BadUsage naming the one that is wrong."""
        from banger_tools.store import names

        if arguments["--kernel"] and arguments["--kernel-ref"]:
            raise errors.BadUsage("--kernel-ref and --kernel exclude each other")
        for option in ("--initrd", "--modules"):
            if arguments[option] and not arguments["--kernel"]:
                raise errors.BadUsage(f"{option} goes with --kernel only")
        rootfs, seed, manifest = map(_path, (arguments["ROOTFS"], arguments["--work-seed"], arguments["--manifest"]))
        kernel, initrd, modules = map(_path, (arguments["--kernel"], arguments["--initrd"], arguments["--modules"]))
        assert rootfs is not None
        return cls(
            names.check(arguments["--name"] or names.derived(rootfs.stem)),
            rootfs,
            seed,
            manifest,
            arguments["--kernel-ref"],
            (kernel, initrd, modules) if kernel else None,
            bool(arguments["--offline"]),
            bool(arguments["--replace"]),
            bool(arguments["--json"]),
        )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def register(options: Options) -> Manifest:
    """Give an image's files a name in the store, and return its manifest."""
    from banger_tools import manifest
    from banger_tools.ext4 import described
    from banger_tools.store import images, staging

    staging.refuse_taken(images.root() / options.name, replace=options.replace, what=images.WHAT)
    image = _read(options.manifest) if options.manifest else manifest.Manifest()
    image.put("rootfs", described.rootfs(options.rootfs.absolute()))
    image.raw.pop("work_seed", None)
    if options.work_seed:
        described.rootfs(options.work_seed.absolute())  # it would be refused
    kernel = _kernel(options)
    image.record("banger image register", {"kernel": kernel.name if kernel else None})
    parts = images.Parts(options.rootfs, options.work_seed, kernel, link=True)
    return images.publish(image, options.name, parts, replace=options.replace)


def _read(path: Path) -> Manifest:
    from banger_tools import files, manifest

    return manifest.loads(files.read_small(path, manifest.LIMIT, "a manifest"), f"'{path}'")


def _kernel(options: Options) -> Kernel | None:
    from banger_tools.store import kernels

    if options.kernel_files:
        return kernels.of_files(*options.kernel_files)
    return kernels.obtain(options.kernel_ref, offline=options.offline) if options.kernel_ref else None


def work(arguments: cli.Arguments) -> None:
    """Register the image and print its name or its manifest."""
    options = Options.from_arguments(arguments)
    image = register(options)
    sys.stdout.write(image.dumps() if options.as_json else f"{image.name}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
