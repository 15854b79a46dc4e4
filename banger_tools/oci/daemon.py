"""Images in the stores of docker and podman on this machine, as their own programs save them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from banger_tools import console, errors, process
from banger_tools.oci import container, local, reference

_SAVE = {"docker": ("save",), "podman": ("save", "--quiet", "--format=docker-archive")}


@contextlib.contextmanager
def opened(ref: reference.Daemon, folder: Path, limit: int) -> Iterator[container.TarFile]:
    """Yield the archive that an engine saves of an image, laid out in `folder` meanwhile.

    It is asked for by its id, since a name without a tag would give all of its tags, and a name may change meanwhile.
    Raises NoInput if there is no such image, Unavailable if the engine is not there, Denied if it refuses.
    """
    found = process.run([ref.engine, "image", "inspect", "--format={{.Id}}", ref.name], check=False)
    if found.status != 0:
        raise explain(ref, found)
    identifier = found.stdout.decode().strip()
    with console.step(f"save '{ref}'"), process.Stream([ref.engine, *_SAVE[ref.engine], identifier]) as stream:
        with local.laid_out(_all(stream, ref), folder, Path(str(ref)), limit) as archive:
            yield archive


def _all(stream: process.Stream, ref: reference.Daemon) -> Iterator[bytes]:
    """Yield what an engine saves; the end comes only if it succeeded."""
    yield from stream.chunks()
    result = stream.end()
    if result.status != 0:
        raise explain(ref, result)


def explain(ref: reference.Daemon, result: process.Result) -> errors.BangerError:
    """Return the error that says why an engine failed, in its own words: what it says last counts."""
    lines = [line.strip() for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    said = (lines or [""])[-1].removeprefix("Error: ").removeprefix("Error response from daemon: ")
    words = said.lower()
    if result.status < 0:
        return process.explain(ref.engine, result)
    if "permission denied" in words:
        hint = "as root: usermod --append --groups docker USER" if ref.engine == "docker" else None
        return errors.Denied(f"'{ref.engine}' may not be used: {said}", hint)
    if "no such image" in words or "image not known" in words or "no such object" in words:
        return errors.NoInput(f"'{ref}' is not there: {said}", f"{ref.engine} image ls")
    return errors.Unavailable(f"'{ref.engine}' cannot give '{ref}': {said or f'status {result.status}'}")
