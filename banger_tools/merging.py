"""What is merged into one tree: the layers of an image, tars and folders, oldest first, each tar hashed to its end.

A tar is hashed by a thread beside the replay of its headers, or not at all where the mark of bg-fetch says that nobody
wrote to it since.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import console, errors, identify, lease, stage

if TYPE_CHECKING:
    from banger_tools.folder import Scan
    from banger_tools.manifest import Manifest
    from banger_tools.tar import Member
    from banger_tools.tree import SourceFile, Tree

CHUNK = 1 << 20
COMPRESSED = ("gzip", "zstd", "xz", "bzip2")


class Part(NamedTuple):
    """One thing to merge: a plain tar, or a folder. `label` is what errors say.

    diff_id: what a tar must be, if it was said; `vouched` that it came with the image, so that a tar without an end
    marker is whole all the same.
    """

    label: str
    path: str
    size: int | None = None
    diff_id: str | None = None
    folder: bool = False
    vouched: bool = False


class Rules(NamedTuple):
    """How to merge: the most entries, what to leave out, whether to hash what carries a mark."""

    entries: int = 10_000_000
    excluded: Callable[[bytes, bool], bool] | None = None
    thorough: bool = False


def parts_of(manifest: Manifest) -> list[Part]:
    """Return the layers of a manifest."""
    from banger_tools.manifest import Source

    vouched = not manifest.has("source") or manifest.get("source", Source).kind != "rootfs"
    return [
        Part(f"layers[{number}]", layer.path, layer.tar_size, layer.diff_id, vouched=vouched)
        for number, layer in enumerate(manifest.layers())
    ]


def part_of(path: Path, kind: str, wanted: str) -> Part:
    """Return a tar or a folder as a part; a compressed tar is laid out in the cache, as bg-fetch does.

    Raises BadInput saying what is `wanted` for anything else.
    """
    if kind == identify.FOLDER:
        return Part(f"'{path}'", str(path), folder=True)
    if kind in COMPRESSED:
        return _laid_out(path)
    if kind != identify.TAR:
        raise stage.wrong_input(path, kind, wanted)
    return Part(f"'{path}'", str(path), path.stat().st_size)


def _laid_out(path: Path) -> Part:
    from banger_tools import locations
    from banger_tools.oci import pull, reference
    from banger_tools.oci.cache import Cache

    ref = reference.Rootfs(path)
    (layer,) = pull.fetch(ref, str(ref), Cache(locations.cache()), pull.Wants()).layers
    return Part(f"'{path}'", layer.path, layer.tar_size, layer.diff_id)


def merge(parts: Sequence[Part], rules: Rules, *, literal: bool = False) -> Tree:
    """Return the merged tree of parts, oldest first, each tar checked against its diff_id or known to be unchanged.

    With `literal` the names in the first part are taken as they are: it has no whiteouts. Raises BadInput naming the
    part and the entry, NoInput or Denied for what cannot be read.
    """
    from banger_tools import folder, layers, tree

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_opened(part)) for part in parts]
        pool = stack.enter_context(ThreadPoolExecutor(1))
        checks = [pool.submit(_digest, *pair, thorough=rules.thorough) for pair in zip(opened, parts, strict=True)]
        stack.callback(_cancel, checks)
        scans = {n: folder.Scan(Path(part.path), rules.excluded) for n, part in enumerate(parts) if part.folder}
        archives = [(part.label, _members(part, opened[n], scans.get(n))) for n, part in enumerate(parts)]
        with console.step("replayed the layers"):
            replay = layers.merge(archives, layers.Limits(entries=rules.entries), literal=literal)
            if rules.excluded is not None:
                replay.exclude(rules.excluded)
            entries = replay.tree_entries()
            folder.locate(entries, scans)
        with console.step("checked the diff_ids"):
            sources = [_source(part, check.result()) for part, check in zip(parts, checks, strict=True)]
    return tree.Tree(sources, entries)


def _members(part: Part, descriptor: int, scan: Scan | None) -> Iterator[Member]:
    from banger_tools import tar

    return tar.members(descriptor, vouched=part.vouched) if scan is None else scan.members()


@contextlib.contextmanager
def _opened(part: Part) -> Iterator[int]:
    """Open a tar, which must have the size that is known of it; a folder is opened by its scan."""
    if part.folder:
        yield -1
        return
    if part.size is not None:
        stage.check_artifact(part.path, part.size, part.label)
    lease.use_cached(Path(part.path))
    descriptor = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(descriptor: int, part: Part, *, thorough: bool) -> str | None:
    """Return the digest of a whole tar, or what its mark stands for; hashing leaves the interpreter free."""
    from banger_tools.oci import mark

    if part.folder:
        return None
    if part.diff_id and not thorough and mark.stands(os.fstat(descriptor), part.diff_id):
        return part.diff_id
    algorithm = (part.diff_id or "sha256").partition(":")[0]
    digest = hashlib.new(algorithm)
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def _cancel(checks: Sequence[Future[str | None]]) -> None:
    for check in checks:
        check.cancel()


def _source(part: Part, digest: str | None) -> SourceFile:
    """Return a part as a source of data, after checking its digest."""
    from banger_tools.tree import SourceFile

    if part.diff_id is not None and digest != part.diff_id:
        raise errors.BadInput(
            f"{part.label}: '{part.path}' is damaged: its digest is {digest}, and its diff_id {part.diff_id}",
            "remove that file and fetch the image again",
        )
    return SourceFile(part.path, digest, part.size, part.folder)
