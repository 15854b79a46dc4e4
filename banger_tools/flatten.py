"""bg-flatten: merge the layers of an image into one tree.

Usage:
  bg-flatten [options] [INPUT]

Arguments:
  INPUT  A manifest with layers, or a root filesystem as a plain tar; the manifest comes from stdin without it.

Options:
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

Examples:
  $ bg-fetch debian:bookworm | bg-flatten > flat.json
  $ bg-flatten --path rootfs.tar
  $ jq -r 'select(.type == "file") | [.size, .path] | @tsv' tree.jsonl | sort -n | tail

Exit status:
  0   done
  64  the command line is wrong
  65  a manifest or a layer is not what it claims to be
  66  an input is missing or cannot be read
  73  the tree exists already, or cannot be made
  74  the disk is full or failed

See also:
  bg-fetch(1), bg-mkext4(1), banger-manifest(5)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, identify, lease, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Layer, Manifest
    from banger_tools.tree import Tree

CHUNK = 1 << 20


class Options(NamedTuple):
    """What the command line asks for."""

    input: str | None
    outputs: stage.Outputs
    limit_entries: int
    thorough: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the command line's values."""
        limit = arguments["--limit-entries"]
        if not limit.isdecimal() or int(limit) == 0:
            raise errors.BadUsage(f"--limit-entries: '{limit}' is not a positive number")
        return cls(arguments["INPUT"], stage.Outputs.from_arguments(arguments), int(limit), arguments["--verify"])


def flatten(layers: Sequence[Layer], *, vouched: bool, limit_entries: int, thorough: bool = False) -> Tree:
    """Return the merged tree of layers, oldest first, each checked against its diff_id or known to be unchanged.

    `vouched` says that the diff_ids came with the image, so that a layer without an end marker is whole all the same.
    `thorough` hashes the layers that bg-fetch has hashed already, too.
    Raises BadInput naming the layer and the entry, NoInput if a layer is gone.
    """
    from banger_tools import tar
    from banger_tools.layers import Limits, merge
    from banger_tools.tree import SourceFile, Tree

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_open_layer(layer, number)) for number, layer in enumerate(layers)]
        pool = stack.enter_context(ThreadPoolExecutor(1))
        checks = [
            pool.submit(_digest, descriptor, layer.diff_id, thorough=thorough)
            for descriptor, layer in zip(opened, layers, strict=True)
        ]
        stack.callback(_cancel, checks)
        archives = [(_label(n), tar.members(descriptor, vouched=vouched)) for n, descriptor in enumerate(opened)]
        with console.step("replayed the layers"):
            entries = merge(archives, Limits(entries=limit_entries)).tree_entries()
        with console.step("checked the diff_ids"):
            for number, (check, layer) in enumerate(zip(checks, layers, strict=True)):
                _check_digest(check.result(), layer, number)
    return Tree([SourceFile(layer.path, layer.diff_id, layer.tar_size) for layer in layers], entries)


def _label(number: int) -> str:
    return f"layers[{number}]"


@contextlib.contextmanager
def _open_layer(layer: Layer, number: int) -> Iterator[int]:
    path = stage.check_artifact(layer.path, layer.tar_size, _label(number))
    lease.use_cached(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(descriptor: int, diff_id: str, *, thorough: bool) -> str:
    """Return the digest of a whole layer, or what its mark stands for; hashing leaves the interpreter free."""
    from banger_tools.oci import mark

    if not thorough and mark.stands(os.fstat(descriptor), diff_id):
        return diff_id
    algorithm = diff_id.partition(":")[0]
    digest = hashlib.new(algorithm)
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def _cancel(checks: Sequence[Future[str]]) -> None:
    for check in checks:
        check.cancel()


def _check_digest(found: str, layer: Layer, number: int) -> None:
    if found != layer.diff_id:
        raise errors.BadInput(
            f"{_label(number)}: '{layer.path}' is damaged: its digest is {found}, and its diff_id {layer.diff_id}",
            "remove that file and fetch the image again",
        )


def _manifest_of_tar(path: Path) -> Manifest:
    """Return a manifest whose one layer is a plain tar on disk."""
    from banger_tools.manifest import Layer, Manifest, Source

    with open(path, "rb") as file:
        diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    manifest = Manifest()
    manifest.name = path.name.removesuffix(".tar")
    manifest.put("source", Source(requested=str(path), kind="rootfs", digest=diff_id))
    manifest.put("layers", [Layer(diff_id, str(path), path.stat().st_size)])
    return manifest


def read_input(argument: str | None) -> Manifest:
    """Return the manifest that INPUT is or stands for."""
    kind, path = stage.open_input(argument)
    if kind == identify.TAR and path is not None:
        return _manifest_of_tar(path)
    if kind in ("gzip", "zstd", "xz", "bzip2"):
        raise errors.BadInput(f"'{path}' is compressed ({kind})", f"bg-fetch 'rootfs:{path}' | bg-flatten")
    if kind != identify.MANIFEST:
        raise stage.wrong_input(path, kind, "a manifest or a tar")
    return stage.read_manifest(path)


def _vouched(manifest: Manifest) -> bool:
    """Tell whether the diff_ids came with the image, or were only computed from the tar that was given."""
    from banger_tools.manifest import Source

    return not manifest.has("source") or manifest.get("source", Source).kind != "rootfs"


@lease.held()
def work(arguments: dict[str, Any]) -> None:
    """Read the manifest, merge its layers, write the tree, print the manifest."""
    options = Options.from_arguments(arguments)
    artifact = options.outputs.artifact("tree.jsonl")
    files.refuse_existing(artifact, force=options.outputs.force)
    manifest = read_input(options.input)
    from banger_tools import tree
    from banger_tools.manifest import Tree

    merged = flatten(
        manifest.layers(),
        vouched=_vouched(manifest),
        limit_entries=options.limit_entries,
        thorough=options.thorough,
    )
    with files.atomic(artifact, force=options.outputs.force) as temporary, console.step("wrote the tree"):
        written = tree.write(temporary, merged)
    manifest.put("tree", Tree(str(artifact), written.digest, written.size, written.entries, written.bytes))
    manifest.record("bg-flatten", {})
    stage.print_result(manifest, artifact, path_only=options.outputs.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-flatten."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
