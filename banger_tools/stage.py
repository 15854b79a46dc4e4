"""What all stages of the pipe share: where a manifest comes from, where artifacts go, what is printed at the end."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, errors, files

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest


class Outputs(NamedTuple):
    """The shared options of a stage: where its artifact goes and what it prints."""

    directory: Path
    output: Path | None
    force: bool
    path_only: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Outputs:
        """Check -C, -o, --force and --path.

        Raises NoInput if the folder does not exist.
        """
        directory = Path(arguments["--directory"])
        if not directory.is_dir():
            raise errors.NoInput(f"'{directory}' is not a folder", f"mkdir -p '{directory}'")
        output = arguments["--output"]
        return cls(directory, Path(output) if output else None, bool(arguments["--force"]), bool(arguments["--path"]))

    def artifact(self, default: str) -> Path:
        """Return the absolute path of the artifact: -o as given, else `default` in the folder of -C.

        Raises BadUsage if no manifest can name it.
        """
        path = os.path.abspath(self.output or self.directory / default)
        if not self.path_only and path != path.encode(errors="ignore").decode():
            raise errors.BadUsage(f"'{path}' is no UTF-8, and a manifest could not name it", "choose another with -o")
        return Path(path)

    @contextlib.contextmanager
    def making(self, artifact: Path) -> Iterator[Path]:
        """Yield a temporary path that becomes an artifact when the body succeeds.

        Nothing is flushed to the disk, as by tar, mkfs or cc: what a crash damages is made again, and bg-publish
        flushes all that it publishes. An artifact that is there with the same bytes is not touched, so that make(1)
        runs nothing that depends on it.
        """
        with files.atomic(artifact, force=self.force, durable=False, keep_same=True) as temporary:
            yield temporary

    def write_manifest(self, manifest: Manifest, path: Path) -> None:
        """Write a manifest to a file, as any artifact."""
        with self.making(path) as temporary:
            temporary.write_text(manifest.dumps(), encoding="utf-8")


def open_input(argument: str | None) -> tuple[str, Path | None]:
    """Return what the INPUT argument is (as `identify` names it) and its path; (manifest, None) is stdin.

    Raises BadUsage if stdin is needed and is a terminal.
    """
    from banger_tools import identify

    if argument in (None, "-"):
        if sys.stdin.isatty():
            raise errors.BadUsage(
                "no manifest: stdin is a terminal", "name an INPUT, or pipe the stage before into this one"
            )
        return identify.MANIFEST, None
    path = Path(os.path.abspath(str(argument)))
    try:
        return identify.kind(path), path
    except errors.NoInput as error:
        if re.fullmatch(r"[a-z0-9._/-]+:[\w.-]+", str(argument)):  # alpine:3.20, where a file of that name is none
            raise errors.NoInput(error.message, f"for an image: bg-fetch {argument} | ...") from error
        raise


def read_manifest(path: Path | None) -> Manifest:
    """Read the manifest at `path`, or the one on stdin when it is None.

    Raises BadInput if it is empty (the stage before failed), too large, or no manifest.
    """
    from banger_tools import manifest

    if path is not None:
        return manifest.loads(files.read_small(path, manifest.LIMIT, "a manifest"), f"'{path}'")
    data = sys.stdin.buffer.read(manifest.LIMIT + 1)
    if not data.strip():
        raise errors.BadInput("stdin is empty: no manifest came", "the stage before this one failed, or printed none")
    if len(data) > manifest.LIMIT:
        raise errors.BadInput(f"stdin is too large for a manifest: more than {manifest.LIMIT} bytes")
    return manifest.loads(data, "stdin")


def input_image(argument: str | None) -> tuple[Manifest, Path]:
    """Return the manifest and the image's path of a stage that takes either a manifest with one or an ext4 image.

    Raises BadInput naming what INPUT is if it is neither.
    """
    from banger_tools import identify
    from banger_tools.manifest import Manifest, Rootfs

    kind, path = open_input(argument)
    if kind == identify.EXT4 and path is not None:
        return Manifest(), path
    if kind != identify.MANIFEST:
        raise wrong_input(path, kind, "a manifest or an ext4 image")
    manifest = read_manifest(path)
    rootfs = manifest.get("rootfs", Rootfs)
    return manifest, check_artifact(rootfs.path, rootfs.size, "the image")


@contextlib.contextmanager
def edited(source: Path, outputs: Outputs) -> Iterator[tuple[Path, Path]]:
    """Yield the image to edit and its name afterwards: `source` in place, or with -o a copy that appears when done."""
    if outputs.output is None:
        yield source, source
        return
    target = outputs.artifact(source.name)
    with outputs.making(target) as temporary:
        files.copy(source, temporary)
        temporary.chmod(temporary.stat().st_mode | 0o600)  # the source may be one that is only to be read
        yield temporary, target


# What to do with an artifact that came to the wrong program.
_TAKERS = {
    "tree": "bg-mkext4 makes an ext4 image of a tree",
    "folder": "bg-mkext4 makes an ext4 image of a folder",
    "tar": "bg-mkext4 makes an ext4 image of a tar",
    "ext4 image": "its tree is merged already: bg-chown, bg-inject, bg-seed and bg-publish go on with it",
}


def wrong_input(path: Path | None, kind: str, wanted: str) -> errors.BadInput:
    """Return the error for an INPUT of the wrong kind."""
    found = "of no known format" if kind == "unknown" else f"a {kind}" if kind[0] not in "aeiou" else f"an {kind}"
    return errors.BadInput(f"'{path}' is {found}, and {wanted} is needed", _TAKERS.get(kind))


def print_result(manifest: Manifest, artifact: str | Path, *, path_only: bool) -> None:
    """Print what a stage leaves on stdout: the manifest, or with --path the artifact's path."""
    cli.print_bytes(os.fsencode(f"{artifact}\n" if path_only else manifest.dumps()))


def check_artifact(path: str, size: int, what: str) -> Path:
    """Return the path of an artifact after checking that it is there with the size the manifest says.

    Raises NoInput or BadInput.
    """
    try:
        found = os.stat(path).st_size
    except OSError as error:
        raise errors.os_error(error, f"cannot read {what} '{path}'") from error
    if found != size:
        raise errors.BadInput(f"{what} '{path}' has {found} bytes, and the manifest says {size}")
    return Path(path)
