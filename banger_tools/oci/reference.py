"""What names a source of layers: the one grammar of REF, and the friendly name that comes from it.

Registry references are read as Docker reads them (distribution/reference): `debian` is
`docker.io/library/debian:latest`. Everything else names its transport before a colon.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from banger_tools import errors
from banger_tools.oci import digest as digests

EXAMPLES = "debian:bookworm, oci:DIR:TAG, oci-archive:FILE, docker-archive:FILE, rootfs:FILE, bundle:FILE, apt:bookworm"
BUNDLE_EXAMPLE = "for example https://example.org/images/NAME.tar.zst#sha256:HEX"
DOCKER_HUB = "docker.io"
NAME_LIMIT = 63

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:.]+\])(?::(\d+))?")
_REPOSITORY_LIMIT = 255

_CATALOG_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_SUITE = re.compile(r"[a-z][a-z0-9+.-]*(?:/[a-z0-9+.-]+)?")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?(?:[=/][a-zA-Z0-9+.:~/-]+)?")
_VARIANTS = ("essential", "apt", "required", "minbase", "buildd", "important", "standard")


class Registry(NamedTuple):
    """An image in a registry; with a digest, the tag is only a remark."""

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def kind(self) -> str:
        """What `source.kind` of a manifest says."""
        return "registry"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


class Layout(NamedTuple):
    """An OCI image layout: a folder, or a tar of one."""

    path: Path
    tag: str | None = None
    digest: str | None = None
    archive: bool = False

    @property
    def kind(self) -> str:
        """The transport that it was written with."""
        return "oci-archive" if self.archive else "oci"

    def __str__(self) -> str:
        chosen = f":{self.tag}" if self.tag else f"@{self.digest}" if self.digest else ""
        return f"{self.kind}:{self.path}{chosen}"


class DockerArchive(NamedTuple):
    """A file made by `docker save` or `podman save`; `name` chooses among its images."""

    path: Path
    name: str | None = None

    @property
    def kind(self) -> str:
        """What `source.kind` of a manifest says."""
        return "docker-archive"

    def __str__(self) -> str:
        return f"docker-archive:{self.path}" + (f":{self.name}" if self.name else "")


class Daemon(NamedTuple):
    """An image in the store of docker or podman on this machine, by its name or id."""

    engine: str
    name: str

    @property
    def kind(self) -> str:
        """The transport that it was written with."""
        return "docker-daemon" if self.engine == "docker" else self.engine

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class Rootfs(NamedTuple):
    """A root filesystem as it is: a flat tar, compressed or not, or a folder; the path `-` is a tar on stdin."""

    path: Path

    @property
    def kind(self) -> str:
        """What `source.kind` of a manifest says."""
        return "rootfs"

    def __str__(self) -> str:
        return f"rootfs:{self.path}"


class Bundle(NamedTuple):
    """A finished image as a catalog offers it: a `.tar.zst` in a file or behind a URL, with its digest if known.

    `named_by` is the host whose catalog names it, None for the user.
    """

    location: str
    digest: str | None = None
    named_by: str | None = None

    @property
    def kind(self) -> str:
        """What `source.kind` of a manifest says."""
        return "bundle"

    @property
    def is_url(self) -> bool:
        """Whether it has to come over a network."""
        return "://" in self.location

    def __str__(self) -> str:
        return f"bundle:{self.location}" + (f"#{self.digest}" if self.digest else "")


class Apt(NamedTuple):
    """A root filesystem to be made of Debian packages."""

    suite: str
    include: tuple[str, ...] = ()
    packages: tuple[str, ...] | None = None
    variant: str = "minbase"

    @property
    def kind(self) -> str:
        """What `source.kind` of a manifest says."""
        return "apt"

    def __str__(self) -> str:
        lists = {"include": self.include, "packages": self.packages}
        query = [
            f"{key}={','.join(names)}" for key, names in lists.items() if names or (names is not None and key[0] == "p")
        ]
        query += [f"variant={self.variant}"] if self.variant != "minbase" else []
        return f"apt:{self.suite}" + ("?" + "&".join(query) if query else "")


Reference = Registry | Layout | DockerArchive | Daemon | Rootfs | Bundle | Apt


def parse(text: str) -> Reference:
    """Return what a REF names.

    Raises BadUsage saying what is wrong with it, and how one looks.
    """
    transport, colon, rest = text.partition(":")
    if not text or text != text.strip() or not text.isprintable():
        raise _wrong(text, "it is empty or has spaces or control characters in it")
    if transport in ("http", "https") and rest.startswith("//"):
        return _bundle(text)
    if transport == "docker" and rest.startswith("//"):
        if rest == "//":
            raise _wrong(text, "nothing follows 'docker://'")
        return parse_registry(rest[2:])
    if rest.startswith("//"):
        raise _wrong(text, f"'{transport}://' is not a transport")
    if not colon or transport not in _TRANSPORTS:
        return parse_registry(text)
    if not rest:
        raise _wrong(text, f"nothing follows '{transport}:'")
    return _TRANSPORTS[transport](rest)


def parse_bundle(url: str) -> Bundle:
    """Return a bundle behind a URL; raises BadUsage for anything else."""
    ref = parse(url)
    if not isinstance(ref, Bundle) or not ref.is_url:
        raise errors.BadUsage(f"'{url}' is not the URL of a bundle", BUNDLE_EXAMPLE)
    return ref


def is_tag(text: str) -> bool:
    """Tell whether an image in a registry may have this tag."""
    return _TAG.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Tell whether a text is a host of a registry, `NAME[:PORT]` or `[IPV6][:PORT]`."""
    try:
        return _HOST.fullmatch(text) is not None and urlsplit(f"//{text}").port != 0
    except ValueError:  # brackets that hold no address, or a port beyond 65535
        return False


def is_http_url(text: str) -> bool:
    """Tell whether a text, which a server may have sent, is a URL that can be asked for."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that hold no address, or a port that is no number
        return False
    return usable and text.isprintable() and " " not in text


def may_be_catalog_name(text: str) -> bool:
    """Tell whether a REF may be the name of a catalog's entry, which goes before a repository of that name."""
    return _CATALOG_NAME.fullmatch(text) is not None and len(text) <= NAME_LIMIT


def _wrong(text: str, why: str, hint: str | None = None) -> errors.BadUsage:
    return errors.BadUsage(f"'{text}' is not a reference: {why}", hint or f"for example {EXAMPLES}")


def parse_registry(text: str) -> Registry:
    """Return a registry reference, filled in as Docker does.

    Raises BadUsage.
    """
    if text[:1] in ("/", ".", "~"):
        hint = f"for a file or folder write rootfs:{text}, oci:{text}, oci-archive:{text} or docker-archive:{text}"
        raise _wrong(text, "it looks like a path", hint)
    name, at, digest = text.partition("@")
    digest_or_none = _digest(text, digest) if at else None
    host, repository = _split_host(name)
    repository, tag = _split_tag(repository)
    if not is_host(host):
        raise _wrong(text, f"'{host}' is not a host name")
    if tag is not None and not _TAG.fullmatch(tag):
        raise _wrong(text, f"'{tag}' is not a tag")
    if not _REPOSITORY.fullmatch(repository):
        upper = "repository names are lower case" if repository.lower() != repository else "no such name is possible"
        raise _wrong(text, f"'{repository}' is not a repository: {upper}")
    if len(repository) > _REPOSITORY_LIMIT:
        raise _wrong(text, f"the repository name is longer than {_REPOSITORY_LIMIT} characters")
    if tag is None and digest_or_none is None:
        tag = "latest"
    return Registry(host, repository, tag, digest_or_none)


def _digest(text: str, digest: str) -> str:
    try:
        return digests.check(digest, "the digest")
    except errors.BadInput as error:
        raise _wrong(text, error.message, error.hint) from error


def _split_host(name: str) -> tuple[str, str]:
    """Tell a host from the first part of a name: only a host has a dot, a port or capitals, or is localhost."""
    first, slash, rest = name.partition("/")
    names_host = slash and (first == "localhost" or first != first.lower() or any(c in first for c in ".:["))
    if not names_host:
        first, rest = DOCKER_HUB, name
    if first in ("index.docker.io", "registry-1.docker.io"):
        first = DOCKER_HUB
    if first == DOCKER_HUB and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _split_tag(repository: str) -> tuple[str, str | None]:
    path, slash, last = repository.rpartition("/")
    last, colon, tag = last.partition(":")
    return path + slash + last, tag if colon else None


def _layout(rest: str, *, archive: bool = False) -> Layout:
    match = re.fullmatch(r"(.+)@([a-z0-9]+:[^@]*)", rest)
    if match and not archive:
        return Layout(Path(match.group(1)), None, _digest(rest, match.group(2)))
    path, _, tag = rest.partition(":")
    if not path:
        raise _wrong(rest, "the path is missing")
    return Layout(Path(path), tag or None, None, archive)


def _daemon(engine: str, name: str) -> Daemon:
    if not re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9._:/@\[\]-]*", name):
        raise _wrong(name, f"no image of {engine} can have this name")
    return Daemon(engine, name)


def _bundle(rest: str) -> Bundle:
    """Return a bundle; only a URL may carry a digest behind a `#`, for a file may have one in its name."""
    if "://" not in rest:
        return Bundle(rest)
    location, hash_sign, digest = rest.partition("#")
    if not is_http_url(location):
        raise _wrong(rest, "it is not the URL of a bundle", BUNDLE_EXAMPLE)
    parts = urlsplit(location)
    if not parts.path.endswith(".tar.zst"):
        raise _wrong(rest, "only bundles are fetched by URL, and their names end in .tar.zst", BUNDLE_EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise _wrong(rest, "a URL is no place for a password")
    return Bundle(location, _digest(rest, digest) if hash_sign else None)


def _docker_archive(rest: str) -> DockerArchive:
    path, _, name = rest.partition(":")
    if not path:
        raise _wrong(rest, "the path is missing")
    return DockerArchive(Path(path), str(parse_registry(name)) if name else None)


def _apt(rest: str) -> Apt:
    suite, _, query = rest.partition("?")
    if not _SUITE.fullmatch(suite):
        raise _wrong(f"apt:{rest}", f"'{suite}' is not a suite", "for example apt:bookworm?include=git,vim")
    fields = _query(rest, query)
    variant = fields.pop("variant", "minbase")
    if variant not in _VARIANTS:
        raise _wrong(f"apt:{rest}", f"'{variant}' is no variant", f"variants are {', '.join(_VARIANTS)}")
    packages = _packages(rest, fields.pop("packages")) if "packages" in fields else None
    include = _packages(rest, fields.pop("include", ""))
    if fields:
        hint = "known are include (packages to add), packages (in place of the default ones) and variant"
        raise _wrong(f"apt:{rest}", f"'{next(iter(fields))}' is not known", hint)
    return Apt(suite, include, packages, variant)


def _query(rest: str, query: str) -> dict[str, str]:
    """Return the fields of a query; unlike in forms, a plus sign is one (g++)."""
    fields: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key in fields:
            raise _wrong(f"apt:{rest}", f"'{key}' is there twice")
        fields[key] = unquote(value)
    return fields


def _packages(rest: str, text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(filter(None, text.split(","))))
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise _wrong(f"apt:{rest}", f"'{name}' is not a package name")
    return names


_TRANSPORTS: dict[str, Callable[[str], Reference]] = {
    "oci": _layout,
    "oci-archive": lambda rest: _layout(rest, archive=True),
    "docker-archive": _docker_archive,
    "docker-daemon": lambda rest: _daemon("docker", rest),
    "podman": lambda rest: _daemon("podman", rest),
    "bundle": _bundle,
    "rootfs": lambda rest: Rootfs(Path(rest)),
    "apt": _apt,
}


def friendly_name(reference: Reference) -> str:
    """Return the name that the artifacts of a reference get: 1 to 63 of `[a-z0-9-._]`, no dash at the ends."""
    match reference:
        case Registry(repository=repository, tag=tag, digest=digest):
            last = repository.rpartition("/")[2]
            text = f"{last}-{digests.short(digest)}" if digest else f"{last}-{tag}"
        case Layout(path=path, tag=tag, digest=digest):
            text = "-".join(filter(None, [_stem(path), _last(tag), digests.short(digest) if digest else None]))
        case DockerArchive(path=path, name=name):
            text = _last(name) or _stem(path)
        case Daemon(name=name):
            text = _last(name.partition("@")[0]) or name
        case Rootfs(path=path):
            text = _stem(path) if str(path) != "-" else "rootfs"
        case Bundle(location=location):
            text = _stem(Path(urlsplit(location).path if reference.is_url else location))
        case Apt(suite=suite):
            text = suite
    return clean_name(text)


def _last(name: str | None) -> str | None:
    """Return the last part of a name that may be a whole registry reference."""
    return name.rpartition("/")[2] if name else None


def _stem(path: Path) -> str:
    """Return a file's name without the endings of archives."""
    return re.sub(r"(\.(tar|tgz|txz|oci|gz|xz|zst|zstd|bz2))+$", "", path.name or path.resolve().name)


def clean_name(text: str) -> str:
    """Return text made into a name."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower())[:NAME_LIMIT].strip("-._")
    return name or "rootfs"
