"""What is merged into one tree: the layers of an image, tars and folders, oldest first, each tar hashed to its end.

A tar is hashed by a thread beside the replay of its headers, or not at all where the mark of bg-fetch says that nobody
wrote to it since.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from banger_tools import collection, console, errors, identify, lease, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.tar import Member
    from banger_tools.tree import Entry, SourceFile, Tree

CHUNK = 1 << 20
LARGE = 16 << 20  # tars for which another process is worth its start
COMPRESSED = ("gzip", "zstd", "xz", "bzip2")


class Part(NamedTuple):
    """One thing to merge: a plain tar, a folder, or a tree; `kind` is identify's word. `label` is what errors say.

    diff_id: what a tar must be, if it was said; `vouched` that it came with the image, so that a tar without an end
    marker is whole all the same.
    """

    label: str
    path: str
    kind: str = identify.TAR
    size: int | None = None
    diff_id: str | None = None
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
        Part(f"layers[{number}]", layer.path, identify.TAR, layer.tar_size, layer.diff_id, vouched)
        for number, layer in enumerate(manifest.layers())
    ]


def part_of(path: Path, kind: str, wanted: str) -> Part:
    """Return a tar or a folder as a part; a compressed tar is laid out in the cache, as bg-fetch does.

    Raises BadInput saying what is `wanted` for anything else.
    """
    if kind == identify.FOLDER:
        return Part(f"'{path}'", str(path), kind)
    if kind in COMPRESSED:
        return _laid_out(path)
    if kind != identify.TAR:
        raise stage.wrong_input(path, kind, wanted)
    return Part(f"'{path}'", str(path), kind, path.stat().st_size)


def _laid_out(path: Path) -> Part:
    from banger_tools import locations
    from banger_tools.oci import pull, reference
    from banger_tools.oci.cache import Cache

    ref = reference.Rootfs(path)
    (layer,) = pull.fetch(ref, str(ref), Cache(locations.cache()), pull.Wants()).layers
    return Part(f"'{path}'", layer.path, identify.TAR, layer.tar_size, layer.diff_id)


class Reader(Protocol):
    """What reads a part that is no tar: its members, whose offsets are numbers that `place` knows."""

    def members(self) -> Iterator[Member]: ...

    def place(self, entry: Entry, number: int, source: int) -> None:
        """Say in an entry where its data is, if the sources of this part begin with `source`."""


class Base:
    """A tree that was made before, as the members of a part."""

    def __init__(self, found: Tree) -> None:
        self.found = found

    def members(self) -> Iterator[Member]:
        """Yield the entries as members, hardlinks after all else."""
        later = []
        for number, entry in enumerate(self.found.entries):
            if entry.type == "hardlink":
                later.append(entry)
            else:
                yield _member(entry, number)
        for entry in later:
            yield _member(entry, 0)

    def place(self, entry: Entry, number: int, source: int) -> None:
        """Give an entry the data of the one that it was."""
        was = self.found.entries[number]
        assert was.data is not None  # else the size is 0, and there is nothing to place
        entry.data, entry.segments, entry.origin = (source + was.data[0], was.data[1]), was.segments, was.origin


def _member(entry: Entry, number: int) -> Member:
    from banger_tools import tar, tree

    link = tree.target_bytes(entry)
    return tar.Member(
        tree.path_bytes(entry)[1:],
        entry.type,
        int(entry.mode, 8),
        entry.uid,
        entry.gid,
        entry.mtime,
        entry.size,
        link[1:] if entry.type == "hardlink" else link,
        entry.rdev,
        tree.xattr_values(entry) or None,
        number,
        None,
    )


def merge(parts: Sequence[Part], rules: Rules, *, literal: bool = False) -> Tree:
    """Return the merged tree of parts, oldest first, each tar checked against its diff_id or known to be unchanged.

    With `literal` the names in the first part are taken as they are: it has no whiteouts. Raises BadInput naming the
    part and the entry, NoInput or Denied for what cannot be read.
    """
    from banger_tools import layers, tree

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_opened(part)) for part in parts]
        unknown = _unknown(opened, parts, thorough=rules.thorough)
        digest_of = stack.enter_context(_hashing(opened, parts, unknown))
        readers = {n: _reader(part, rules) for n, part in enumerate(parts) if part.kind != identify.TAR}
        tars = {n: (opened[n], part.vouched) for n, part in enumerate(parts) if part.kind == identify.TAR}
        # A thread that hashes keeps the other processor busy, and is not to be forked.
        members = stack.enter_context(_members(tars, is_alone=not unknown))
        archives = [(part.label, readers[n].members() if n in readers else members[n]) for n, part in enumerate(parts)]
        with collection.paused(), console.step("replayed the layers"):
            replay = layers.merge(archives, layers.Limits(entries=rules.entries), literal=literal)
            if rules.excluded is not None:
                replay.exclude(rules.excluded)
            entries = replay.tree_entries()
        if any(part.kind == identify.TAR and not part.vouched for part in parts):
            _warn_of_image(entries)
        with console.step("checked the diff_ids"):
            digests = [digest_of(number) for number in range(len(parts))]
    sources = [_sources(part, digests[n], readers.get(n)) for n, part in enumerate(parts)]
    if readers:
        _place(entries, readers, [len(found) for found in sources])
    return tree.Tree([source for found in sources for source in found], entries)


def _warn_of_image(entries: Sequence[Entry]) -> None:
    """Warn if a tar that is to be a root filesystem seems to hold an image instead."""
    top = {entry.path for entry in entries if entry.path.count("/") == 1}
    if top & {"/oci-layout", "/repositories"} and top & {"/index.json", "/manifest.json"}:
        console.warning("this looks like an archive of an image, and not like a root filesystem")
        console.hint("bg-fetch docker-archive:FILE, or oci-archive:FILE, gets the layers of the image in it")


def _reader(part: Part, rules: Rules) -> Reader:
    from banger_tools import folder, tree

    path = Path(part.path)
    return Base(tree.read(path)) if part.kind == identify.TREE else folder.Scan(path, rules.excluded)


@contextlib.contextmanager
def _members(tars: dict[int, tuple[int, bool]], *, is_alone: bool) -> Iterator[dict[int, Iterator[Member]]]:
    """Yield the members of tars, each a descriptor and whether it is vouched for, by the numbers of their parts."""
    from banger_tools import tar

    if is_alone and sum(os.fstat(descriptor).st_size for descriptor, _ in tars.values()) >= LARGE:
        from banger_tools import ahead

        with ahead.members(list(tars.values())) as found:
            yield dict(zip(tars, found, strict=True))
    else:
        yield {n: tar.members(descriptor, vouched=vouched) for n, (descriptor, vouched) in tars.items()}


def _place(entries: Sequence[Entry], readers: dict[int, Reader], counts: Sequence[int]) -> None:
    """Turn the numbers of parts in entries into those of sources, of which each part has so many."""
    starts = [sum(counts[:number]) for number in range(len(counts))]
    for entry in entries:
        if entry.data is None:
            continue
        part, number = entry.data
        if part in readers:
            readers[part].place(entry, number, starts[part])
        else:
            entry.data = (starts[part], number)


@contextlib.contextmanager
def _opened(part: Part) -> Iterator[int]:
    """Open a tar, which must have the size that is known of it; what else there is opens itself."""
    if part.kind != identify.TAR:
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


def _unknown(descriptors: Sequence[int], parts: Sequence[Part], *, thorough: bool) -> list[int]:
    """Return the numbers of the tars that are to be hashed: those that carry no mark, or all."""
    tars = [number for number, part in enumerate(parts) if part.kind == identify.TAR]
    return [number for number in tars if thorough or not _is_marked(descriptors[number], parts[number])]


@contextlib.contextmanager
def _hashing(
    descriptors: Sequence[int], parts: Sequence[Part], unknown: Sequence[int]
) -> Iterator[Callable[[int], str | None]]:
    """Hash some tars in a thread while the body runs; it leaves the interpreter free.

    Yield what waits for the digest of a part by its number, and knows without hashing what a mark stands for.
    """
    if not unknown:  # as usual, and threads take long to load
        yield lambda number: parts[number].diff_id
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        checks = {number: pool.submit(_digest, descriptors[number], parts[number].diff_id) for number in unknown}
        try:
            yield lambda number: checks[number].result() if number in checks else parts[number].diff_id
        finally:
            for check in checks.values():
                check.cancel()


def _is_marked(descriptor: int, part: Part) -> bool:
    from banger_tools.oci import mark

    return part.diff_id is not None and mark.stands(os.fstat(descriptor), part.diff_id)


def _digest(descriptor: int, diff_id: str | None) -> str:
    """Return the digest of a whole tar, by the algorithm of its diff_id."""
    algorithm = (diff_id or "sha256").partition(":")[0]
    digest = hashlib.new(algorithm)
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    return f"{algorithm}:{digest.hexdigest()}"


def _sources(part: Part, digest: str | None, reader: Reader | None) -> list[SourceFile]:
    """Return what a part has as sources of data, after checking its digest."""
    from banger_tools.tree import SourceFile

    if isinstance(reader, Base):
        for source in reader.found.sources:
            lease.use_cached(Path(source.path))
        return reader.found.sources

    if part.diff_id is not None and digest != part.diff_id:
        raise errors.BadInput(
            f"{part.label}: '{part.path}' is damaged: its digest is {digest}, and its diff_id {part.diff_id}",
            "remove that file and fetch the image again",
        )
    return [SourceFile(part.path, digest, part.size, part.kind == identify.FOLDER)]
