"""The host's apt sources, as sources.list(5) writes them: one-line and deb822, of all files that apt reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, process

_KEPT_OPTIONS = ("signed-by", "trusted", "check-valid-until", "allow-insecure", "allow-weak")
_NO_WORDS = ("no", "false", "without", "off", "disable", "0")
_IGNORED_SCHEMES = ("cdrom",)


class Source(NamedTuple):
    """One suite of one archive: what a `deb` line says."""

    uri: str
    suite: str
    components: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        options = " ".join(f"{key}={value}" for key, value in self.options)
        return " ".join(
            filter(None, ["deb", f"[{options}]" if options else "", self.uri, self.suite, *self.components])
        )

    @property
    def keyrings(self) -> tuple[str, ...]:
        """The key files that it is to be checked with, if it names some."""
        value = dict(self.options).get("signed-by", "")
        return tuple(path for path in value.split(",") if path.startswith("/"))


def configured() -> list[Source]:
    """Return the binary sources that this host's apt is set up with, in its order.

    Raises Unavailable where there is no apt.
    """
    setting = process.run(["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"])
    found = dict(re.findall(r"^(\w+)='(.*)'$", setting.stdout.decode(), re.MULTILINE))
    paths = [Path(found["LIST"])] if "LIST" in found else []
    if "PARTS" in found:
        paths += sorted(path for path in Path(found["PARTS"]).glob("*") if path.suffix in (".list", ".sources"))
    return [source for path in paths if path.is_file() for source in read(path)]


def read(path: Path) -> list[Source]:
    """Return the binary sources of one file.

    Raises Denied or NoInput if it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error
    return list(parse_deb822(text) if path.suffix == ".sources" else parse_lines(text))


def parse_lines(text: str) -> Iterator[Source]:
    """Yield the `deb` lines of a one-line-style file."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*(.*)", line.split("#", 1)[0].strip())
        if match:
            options, uri, suite, components = match.groups()
            pairs = [option.partition("=")[::2] for option in (options or "").split()]
            yield from _sources([uri], [suite], components.split(), pairs)


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the binary sources of a deb822-style file."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        enabled = fields.get("enabled", "yes").strip().lower() not in _NO_WORDS
        if enabled and "deb" in fields.get("types", "").split():
            pairs = [(key, _option(key, value)) for key, value in fields.items()]
            uris, suites, components = (fields.get(key, "").split() for key in ("uris", "suites", "components"))
            yield from _sources(uris, suites, components, pairs)


def _option(key: str, value: str) -> str:
    """Return a field as the option of a line: lists are joined by commas there."""
    return value.strip() if "BEGIN PGP" in value else ",".join(value.split())


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            fields[key] = fields.get(key, "") + "\n" + line.strip()
        elif ":" in line:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


def _sources(
    uris: Iterable[str], suites: Iterable[str], components: Sequence[str], options: Sequence[tuple[str, str]]
) -> Iterator[Source]:
    kept = tuple(sorted((key.lower(), value) for key, value in options if key.lower() in _KEPT_OPTIONS))
    for uri in uris:
        if uri.partition(":")[0] not in _IGNORED_SCHEMES:
            for suite in suites:
                yield Source(_plain(uri), suite, tuple(components), kept)


def _plain(uri: str) -> str:
    """Return the first mirror of a `mirror+file:` list, which nobody but this host could read, or the URI itself."""
    match = re.fullmatch(r"mirror\+file:(?://)?(/.*)", uri)
    if match is None or not Path(match.group(1)).is_file():
        return uri
    lines = Path(match.group(1)).read_text(encoding="utf-8", errors="replace").splitlines()
    mirrors = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    return mirrors[0] if mirrors else uri


def choose(sources: Sequence[Source], suite: str, own_suite: str | None) -> list[Source]:
    """Return the sources of a suite: with its updates and security; or those of the host's own suite, renamed.

    Raises Unavailable if this host knows none.
    """
    found = [source for source in sources if _belongs(source.suite, suite)]
    if not any(source.suite == suite for source in found) and own_suite:
        found = [
            source._replace(suite=suite + source.suite[len(own_suite) :])
            for source in sources
            if _belongs(source.suite, own_suite)
        ]
    if not found:
        raise errors.Unavailable(f"this host's apt has no source for '{suite}'", "add one to /etc/apt/sources.list.d")
    for source in found:
        if "BEGIN PGP" in dict(source.options).get("signed-by", ""):
            raise errors.Unavailable(f"the source '{source.uri}' holds its key inline", "put the key into a file")
    return found


def _belongs(found: str, suite: str) -> bool:
    return found == suite or found.startswith((f"{suite}-", f"{suite}/"))
