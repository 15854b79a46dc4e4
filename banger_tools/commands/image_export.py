"""banger image export: write an image of the store as a tar, a disk, or a bundle for catalogs.

Usage:
  banger image export [options] NAME FILE

Arguments:
  NAME  An image of the store.
  FILE  The file to make; or a folder for a bundle; or '-', stdout, for a tar.

Options:
  --format=FORMAT   bundle, tar, qcow2 or raw; if not given, what FILE ends with tells: .tar.zst, .tar, .qcow2, .raw,
                    .img or .ext4.
  --url=URL         Folder that a bundle will be served from, for its entry in a catalog.
  --kernel-ref=REF  Kernel that images made of a bundle are to have, for its entry; that of the image if it can be had
                    by its name elsewhere, as apt:PACKAGE.
  -f, --force       Replace a file that is there.
  --json            Print an object instead of the path: path, format, size, and of a bundle its sha256 and its entry.
  @talk

Description:
  A tar has the files of the root filesystem: owners, modes, times, xattrs, ACLs, devices, hardlinks, holes. raw is the
  disk as it is, with its holes, and qcow2 the same for QEMU. A bundle is an archive of the disk and the manifest, which
  `banger image pull` takes from a catalog: its entry, ready to be pasted, is as banger-catalog(5) has it. In a folder
  its name has its own hash, so that no cache on the way can serve an old one for it.

  The same image makes the same bytes. Work seed and kernel are not exported: a pull makes and fetches them.

Examples:
  $ banger image export web web.qcow2
  $ banger image export web - | docker import - web
  $ banger image export --json --url=https://example.org/images web . | jq .entry

Exit status:
  0   the file is there
  64  the command line is wrong
  65  the image is broken
  66  there is no such image
  69  qemu-img is not installed
  73  the file exists, or cannot be made
  74  the disk is full or failed
  77  access was refused

See also:
  banger-image-pull(1) bg-publish(1) banger-catalog(5)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, errors

if TYPE_CHECKING:
    from banger_tools.manifest import Bundle, Manifest

BUNDLE, TAR, QCOW2, RAW = FORMATS = ("bundle", "tar", "qcow2", "raw")
ENDINGS = {".tar.zst": BUNDLE, ".tar": TAR, ".qcow2": QCOW2, ".raw": RAW, ".img": RAW, ".ext4": RAW}
STDOUT = "-"


class Options(NamedTuple):
    """What is to be written where, and what a bundle's entry is to say."""

    name: str
    file: str
    format: str
    url: str | None
    kernel_ref: str | None
    force: bool
    as_json: bool

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check the options; raises BadUsage naming the one that is wrong."""
        form = _format(arguments["--format"], arguments["FILE"])
        for option in ("--url", "--kernel-ref"):
            if arguments[option] and form != BUNDLE:
                raise errors.BadUsage(f"{option} goes with a bundle only")
        if arguments["FILE"] == STDOUT:
            _check_stdout(form, as_json=bool(arguments["--json"]))
        return cls(
            arguments["NAME"],
            arguments["FILE"],
            form,
            arguments["--url"],
            arguments["--kernel-ref"],
            bool(arguments["--force"]),
            bool(arguments["--json"]),
        )


def _format(asked: str | None, file: str) -> str:
    """Return the format that is asked for, or else told by the file; raises BadUsage."""
    if asked:
        if asked not in FORMATS:
            raise errors.BadUsage(f"--format: '{asked}' is none of {', '.join(FORMATS)}")
        return asked
    if file == STDOUT:
        return TAR
    if Path(file).is_dir():
        return BUNDLE
    found = next((form for ending, form in ENDINGS.items() if file.endswith(ending)), None)
    if found is None:
        raise errors.BadUsage(f"what '{file}' is to be cannot be told by its name", f"--format={'|'.join(FORMATS)}")
    return found


def _check_stdout(form: str, *, as_json: bool) -> None:
    if form != TAR:
        raise errors.BadUsage(f"'-': a {form} cannot go to stdout", "name a file")
    if as_json:
        raise errors.BadUsage("--json and '-' both want stdout")
    if sys.stdout.isatty():
        raise errors.BadUsage("stdout is a terminal, which cannot show a tar", "name a file, or pipe it on")


def export(options: Options) -> dict[str, Any]:
    """Write the image while nobody replaces or removes it, and return what was made."""
    from banger_tools.manifest import Published
    from banger_tools.store import export as exports
    from banger_tools.store import images

    image = images.find(options.name, "NAME")
    with images.unchanging(image):
        disk = Path(image.get("published", Published).rootfs)
        if options.format == BUNDLE:
            return _described(_bundle(image, disk, options))
        if options.file == STDOUT:
            exports.tar_to(disk, sys.stdout.fileno())
            return {}
        write = {TAR: exports.tar, QCOW2: exports.qcow2, RAW: exports.raw}[options.format]
        write(disk, Path(options.file), force=options.force)
    path = os.path.abspath(options.file)
    return {"path": path, "format": options.format, "size": os.stat(path).st_size}


def _bundle(image: Manifest, disk: Path, options: Options) -> Bundle:
    from banger_tools.store import export as exports

    ref = options.kernel_ref or _kernel_ref(image)
    return exports.bundle(image, disk, Path(options.file), url=options.url, kernel_ref=ref, force=options.force)


def _kernel_ref(image: Manifest) -> str | None:
    """Return what names an image's kernel on other machines, too; None if nothing does."""
    from banger_tools.kernel import record
    from banger_tools.manifest import Published

    kernel = image.get("published", Published).kernel
    source = record.read(Path(kernel.kernel).parent).source if kernel else ""
    return source if source.startswith(("apt:", "https:", "http:")) else None


def _described(bundle: Bundle) -> dict[str, Any]:
    import msgspec

    return {"format": BUNDLE, **msgspec.to_builtins(bundle)}


def work(arguments: cli.Arguments) -> None:
    """Export the image, and print what was made."""
    options = Options.from_arguments(arguments)
    made = export(options)
    if made:
        sys.stdout.write(json.dumps(made, indent=2) + "\n" if options.as_json else f"{made['path']}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
