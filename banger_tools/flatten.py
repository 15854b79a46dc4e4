"""bg-flatten: merge the layers of an image into one tree.

Usage:
  bg-flatten [options] [--layer=PATH]... [--exclude=GLOB]... [INPUT]

Arguments:
  INPUT  A manifest with layers, a tar, a folder, or a tree.jsonl; the manifest comes from stdin without it.

Options:
  --layer=PATH             Put this tar or folder on top, as a layer; may be repeated, the last is the topmost.
  --exclude=GLOB           Leave out what matches, and all that is below it; may be repeated.
  --tar=FILE               Write the tree as a tar, too; - is stdout.
  --dir=DIR                Write the tree as a folder, too; it must be new or empty.
  --manifest=FILE          Write the manifest to this file instead of stdout.
  --verify                 Hash layers that bg-fetch has verified again.
  --limit-entries=N        Refuse archives with more entries than this [default: 10000000].
  @stage
  @talk

Description:
  Reads the headers of the layers, oldest first, and replays them on a tree in memory, as a container runtime would
  on a disk: whiteouts, opaque markers, hardlinks, symlinked folders, changes of type. Nothing is extracted, so
  nothing that an image says can touch this machine. Every layer is checked against its diff_id meanwhile, unless
  it has not been written to since bg-fetch did so.

  The artifact is tree.jsonl: a header, then one JSON object an entry, which grep, jq and an editor can work on. Its
  `data` says which layer holds the content of a file, and where: the layers must stay as long as the tree is used.

  A tar may be compressed by gzip, zstd, xz or bzip2: it is then laid out in the cache, as bg-fetch does. Of a folder,
  the tree names the files, which must not change while it is used; one that did is an error. An ordinary user's own
  files belong to root in the tree, as that user's namespace would show them; other owners are kept. Sockets, what other
  filesystems have mounted below, and labels of this machine (security.selinux, security.ima, security.evm) are left
  out. In a folder or tar given by --layer, .wh.NAME hides NAME of the layers below; in a folder or tree that is INPUT,
  it is a name like any other.

  GLOB is matched against paths of the merged tree, and of folders, as rsync does: * and ? match anything but a slash,
  ** slashes too, [a-z] one character, and \\ takes the next one as it is. One that begins with a slash must match the
  whole path, any other its last components; one that ends in a slash matches only folders. A file with several names
  stays as long as one of them does.

  The tar of --tar is a PAX tar with all that the tree holds; files with holes are GNU sparse files, version 1.0. When
  it goes to stdout no tree.jsonl is left, unless -o or --manifest asks for it.

  The folder of --dir is for looking and editing. As root it is exact. As an ordinary user, owners, devices, set-id bits
  and some xattrs cannot be set, and are counted in a warning; all is readable for its owner. What was edited goes back
  by bg-mkext4 DIR and bg-chown --from=tree.jsonl, which gives new files to 0:0 and lists them.

Examples:
  $ bg-fetch debian:bookworm | bg-flatten > flat.json
  $ bg-fetch alpine | bg-flatten --layer=overlay --exclude=/usr/share/doc --exclude='*.pyc' | bg-mkext4
  $ bg-flatten --tar=- rootfs.tar.gz | docker import - mine
  $ bg-flatten --dir=root -f < fetched.json && bg-mkext4 root | bg-chown --from=tree.jsonl
  $ grep -v '"path":"/usr/share/doc/' tree.jsonl > small.jsonl && bg-flatten --tar=small.tar -o t.jsonl small.jsonl
  $ jq -r 'select(.type == "file") | [.size, .path] | @tsv' tree.jsonl | sort -n | tail

Exit status:
  0   done
  64  the command line is wrong
  65  a manifest or a layer is not what it claims to be, or a file changed while it was read
  66  an input is missing
  73  an output exists already, or cannot be made
  74  the disk is full or failed
  77  a file may not be read

See also:
  bg-fetch(1), bg-mkext4(1), bg-chown(1), tar(1), banger-manifest(5)
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, globs, identify, lease, merging, stage

if TYPE_CHECKING:
    from banger_tools.contents import Contents
    from banger_tools.manifest import Manifest
    from banger_tools.tree import Tree, Written

STDOUT = "-"


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    layers: list[Path]
    excluded: list[str]
    tar: str | None
    folder: Path | None
    manifest: Path | None
    rules: merging.Rules

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        limit, excluded = arguments["--limit-entries"], arguments["--exclude"]
        if not limit.isdecimal() or int(limit) == 0:
            raise errors.BadUsage(f"--limit-entries: '{limit}' is not a positive number")
        if arguments["--tar"] == STDOUT and arguments["--path"]:
            raise errors.BadUsage("--path and --tar=- both want stdout")
        return cls(
            arguments["INPUT"],
            stage.Outputs.from_arguments(arguments),
            [_absolute(name) for name in arguments["--layer"]],
            excluded,
            arguments["--tar"],
            _absolute(arguments["--dir"]) if arguments["--dir"] else None,
            _absolute(arguments["--manifest"]) if arguments["--manifest"] else None,
            merging.Rules(int(limit), globs.matcher(excluded) if excluded else None, arguments["--verify"]),
        )

    @property
    def tar_file(self) -> Path | None:
        """The file of --tar, unless it is stdout."""
        return _absolute(self.tar) if self.tar and self.tar != STDOUT else None

    @property
    def keeps_tree(self) -> bool:
        """Whether anybody will know of a tree.jsonl."""
        return self.tar != STDOUT or self.outputs.output is not None or self.manifest is not None

    def record(self) -> dict[str, Any]:
        """Return the options that shape the tree."""
        wanted = {"layer": [str(path) for path in self.layers], "exclude": self.excluded}
        return {name: values for name, values in wanted.items() if values}


def _absolute(name: str) -> Path:
    return Path(os.path.abspath(name))


def refuse_outputs(options: Options, artifact: Path) -> None:
    """Raise CannotCreate or BadUsage, before any work, if something that is to be written cannot be."""
    targets = list(filter(None, [artifact if options.keeps_tree else None, options.tar_file, options.manifest]))
    for number, target in enumerate(targets):
        files.refuse_existing(target, force=options.outputs.force)
        if target in [*targets[:number], options.folder]:
            raise errors.BadUsage(f"'{target}' is to be two outputs", "give each a name of its own")
    if options.folder is not None:
        from banger_tools import unpack

        unpack.refuse_taken(options.folder)
    if options.tar == STDOUT and sys.stdout.isatty():
        raise errors.BadUsage("stdout is a terminal, which cannot show a tar", "give --tar a file, or pipe it on")


def merge(options: Options) -> tuple[Manifest, Tree]:
    """Return the manifest that INPUT is or stands for, and the tree of its layers and of those on top."""
    from banger_tools import layers, tree  # noqa: F401 - loaded while the stage before still works
    from banger_tools.manifest import Manifest

    kind, path = stage.open_input(options.input)
    given = path is not None and kind != identify.MANIFEST
    if given and path is not None:
        manifest, parts = Manifest(), [_given(path, kind)]
    else:
        manifest = stage.read_manifest(path)
        parts = merging.parts_of(manifest)
    for layer in options.layers:
        parts.append(merging.part_of(layer, identify.kind(layer), "a tar or a folder"))
    merged = merging.merge(parts, options.rules, literal=given and kind in (identify.FOLDER, identify.TREE))
    if given and path is not None and kind != identify.TREE:
        _describe(manifest, path, merged)
    return manifest, merged


def _given(path: Path, kind: str) -> merging.Part:
    if kind == identify.TREE:
        return merging.Part(f"'{path}'", str(path), kind)
    return merging.part_of(path, kind, "a manifest, a tar, a folder or a tree")


def _describe(manifest: Manifest, path: Path, merged: Tree) -> None:
    """Say in the manifest what was given instead of one."""
    from banger_tools.manifest import Layer, Source
    from banger_tools.oci import reference

    found = merged.sources[0]
    manifest.name = reference.friendly_name(reference.Rootfs(path))
    manifest.put("source", Source(requested=str(path), kind="rootfs", digest=found.diff_id))
    if found.diff_id is not None and found.size is not None:
        manifest.put("layers", [Layer(found.diff_id, found.path, found.size)])


def write(merged: Tree, options: Options, artifact: Path) -> Written | None:
    """Write the tree in all the forms that were asked for: first to stdout, then all others appear or none does."""
    from banger_tools import contents, tree

    with contextlib.ExitStack() as stack:
        if options.tar or options.folder:
            found = stack.enter_context(contents.opened(merged.sources, merged.entries))
            if options.tar == STDOUT:
                _write_tar(merged, found, sys.stdout.fileno())
            if options.tar_file:
                stack.enter_context(_tar_made(merged, found, options.tar_file, options.outputs))
            if options.folder:
                stack.enter_context(_folder_made(merged, found, options.folder))
        if not options.keeps_tree:
            return None
        with options.outputs.making(artifact) as temporary, console.step("wrote the tree"):
            return tree.write(temporary, merged)


@contextlib.contextmanager
def _tar_made(merged: Tree, found: Contents, path: Path, outputs: stage.Outputs) -> Iterator[None]:
    with outputs.making(path) as temporary:
        with open(temporary, "xb") as file:
            _write_tar(merged, found, file.fileno())
        yield


@contextlib.contextmanager
def _folder_made(merged: Tree, found: Contents, folder: Path) -> Iterator[None]:
    from banger_tools import unpack

    with unpack.new_folder(folder) as temporary:
        with console.step("wrote the folder"):
            missing = str(unpack.unpack(merged, found, temporary))
        if missing:
            console.warning(f"'{folder}' lacks what this user may not set: {missing}")
        yield


def _write_tar(merged: Tree, found: Contents, descriptor: int) -> None:
    from banger_tools import pax

    with console.step("wrote the tar"):
        pax.write(merged, found, descriptor)


def print_result(manifest: Manifest, options: Options, artifact: Path) -> None:
    """Leave the manifest where it was asked for."""
    if options.manifest is not None:
        options.outputs.write_manifest(manifest, options.manifest)
    if options.outputs.path_only or (options.manifest is None and options.tar != STDOUT):
        stage.print_result(manifest, artifact, path_only=options.outputs.path_only)


@lease.held()
def work(arguments: dict[str, Any]) -> None:
    """Read the manifest, merge its layers, write the tree, print the manifest."""
    options = Options.from_arguments(arguments)
    artifact = options.outputs.artifact("tree.jsonl")
    refuse_outputs(options, artifact)
    manifest, merged = merge(options)
    written = write(merged, options, artifact)
    from banger_tools.manifest import Tree

    if written is not None:
        manifest.put("tree", Tree(str(artifact), written.digest, written.size, written.entries, written.bytes))
    manifest.record("bg-flatten", options.record())
    print_result(manifest, options, artifact)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-flatten."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
