"""The Release files of apt sources: fetched and checked by apt itself, and nothing else downloaded."""

from __future__ import annotations

import email.utils
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, files, process
from banger_tools.apt.sources import Source

_NO_INDEXES = [f"Acquire::IndexTargets::deb::{target}::DefaultEnabled=false" for target in ("Packages", "Translations")]
_BEGINNING = 64 << 10


class Release(NamedTuple):
    """What a signed Release file says of a suite: who makes it, of when it is, and its own hash."""

    source: Source
    origin: str
    date: int
    sha256: str


def fetch(sources: Sequence[Source], architecture: str, workspace: Path) -> list[Release]:
    """Return the Release of every source, using the host's keys, proxies and passwords.

    Raises Unavailable or NoInput saying what apt said.
    """
    with files.temporary_folder(workspace / "lists") as folder:
        (folder / "partial").mkdir()
        listing = folder / "sources.list"
        listing.write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
        command = _command(folder, listing, architecture)
        names = _names(process.run([*command, "--print-uris"]).stdout.decode())
        result = process.run(command, check=False)
        if result.status != 0:
            raise _failure(result)
        return [_read(source, folder, names) for source in sources]


def _command(folder: Path, listing: Path, architecture: str) -> list[str]:
    options = [
        f"Dir::State::lists={folder}",
        f"Dir::Etc::sourcelist={listing}",
        "Dir::Etc::sourceparts=/dev/null",
        f"APT::Architecture={architecture}",
        f"APT::Architectures={architecture}",
        "APT::Update::Error-Mode=any",  # else a suite that cannot be had is only a warning
        "APT::Sandbox::User=root",  # the sandbox user cannot enter our folder
        *_NO_INDEXES,
    ]
    return ["apt-get", "update", *(word for option in options for word in ("-o", option))]


def _names(listed: str) -> dict[str, str]:
    """Return the file name that apt keeps each URI under."""
    return dict(re.findall(r"^'(\S+)' (\S+) ", listed, re.MULTILINE))


def _read(source: Source, folder: Path, names: dict[str, str]) -> Release:
    for ending in ("InRelease", "Release"):
        name = names.get(f"{source.uri.rstrip('/')}/dists/{source.suite}/{ending}")
        if name is None:
            continue
        for candidate in (folder / name, folder / re.sub("InRelease$", "Release", name)):
            if candidate.is_file():
                return parse(source, candidate.read_bytes())
    raise errors.Unavailable(f"apt fetched no Release file of '{source.suite}' from '{source.uri}'")


def parse(source: Source, data: bytes) -> Release:
    """Return what a Release file says.

    Raises BadInput if it has no date.
    """
    text = data[:_BEGINNING].decode(errors="replace")
    fields = dict(re.findall(r"^(Origin|Date): *(.+?) *$", text, re.MULTILINE))
    try:
        date = int(email.utils.parsedate_to_datetime(fields["Date"]).timestamp())
    except (KeyError, ValueError) as error:
        raise errors.BadInput(f"the Release file of '{source.suite}' from '{source.uri}' has no date") from error
    return Release(source, fields.get("Origin", ""), date, hashlib.sha256(data).hexdigest())


def _failure(result: process.Result) -> errors.BangerError:
    """Return the error that says why apt could not fetch the Release files, in apt's own words."""
    lines = [line for line in result.stderr.decode(errors="replace").splitlines() if line[:2] in ("E:", "W:")]
    said = lines[0][2:].strip() if lines else f"status {result.status}"
    if "does not have a Release file" in result.stderr.decode(errors="replace"):
        return errors.NoInput(f"the suite is not there: {said}")
    return errors.Unavailable(f"'apt-get update' failed: {said}")


def of_distribution(found: Sequence[Release], suite: str, identifiers: Sequence[str]) -> list[Release]:
    """Return the releases of the distribution alone, without those that others make for the same suite."""
    exact = [release for release in found if release.source.suite == suite] or list(found)
    own = [release for release in exact if release.origin.lower() in identifiers]
    origin = (own or exact)[0].origin
    return [release for release in found if release.origin == origin]
