"""Reading the headers of large tars ahead, in a process beside the one that replays them."""

from __future__ import annotations

import contextlib
import marshal
import os
from collections.abc import Iterator, Sequence
from typing import IO

from banger_tools import beside, collection, errors, tar
from banger_tools.tar import Member

BATCH = 512
WEIGHT = 256 << 10  # a hostile header may carry a megabyte: so many bytes of names and the like make a batch, too
_LENGTH = 4

Batch = list[tuple[object, ...]]


@contextlib.contextmanager
def members(tars: Sequence[tuple[int, bool]]) -> Iterator[list[Iterator[Member]]]:
    """Yield what `tar.members` gives for each of some tars, to be taken in this order.

    A tar is its descriptor, and whether its length is vouched for. Taking raises BadInput for what Corrupt stands for.
    """
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe, open(writer, "wb", buffering=0) as out:

        def send() -> None:
            pipe.close()  # else writing would not end with the one that reads
            with out:  # or who reads would wait for more, while an error waits to be read
                _send(tars, out)

        with beside.running(send) as wait:
            out.close()
            yield [_received(pipe, wait) for _ in tars]


@collection.paused()
def _send(tars: Sequence[tuple[int, bool]], out: IO[bytes]) -> None:
    """Write the members of all tars in batches, after each tar None."""
    for descriptor, vouched in tars:
        for batch in _batches(tar.members(descriptor, vouched=vouched)):
            _write(out, batch)
        _write(out, None)


def _write(out: IO[bytes], batch: Batch | None) -> None:
    data = marshal.dumps(batch)
    rest = memoryview(len(data).to_bytes(_LENGTH, "big") + data)
    while rest:
        rest = rest[out.write(rest) :]


def _batches(found: Iterator[Member]) -> Iterator[Batch]:
    batch: Batch = []
    weight = 0
    try:
        for member in found:
            batch.append(tuple(member))
            weight += len(member.name) + len(member.link)
            if member.xattrs or member.segments:
                weight += sum(map(len, (member.xattrs or {}).values())) + 24 * len(member.segments or ())
            if len(batch) >= BATCH or weight >= WEIGHT:
                yield batch
                batch, weight = [], 0
    except errors.BadInput:
        yield batch  # what stands before a corrupt header may be wrong itself, and is told first
        raise
    yield batch


def _received(pipe: IO[bytes], wait: beside.Wait) -> Iterator[Member]:
    while data := _whole(pipe):
        batch: Batch | None = marshal.loads(data)
        if batch is None:
            return
        yield from map(Member._make, batch)
    wait()
    raise errors.IOFailure("the headers of a tar have no end")


def _whole(pipe: IO[bytes]) -> bytes:
    """Return the bytes of the next batch, none if it is not whole: who sends it has ended, and `wait` knows why."""
    size = int.from_bytes(pipe.read(_LENGTH), "big")
    data = pipe.read(size)
    return data if len(data) == size else b""
