"""Kernels out of the host's own package manager: apt downloads and checks signatures, nothing is installed.

A meta package is followed to the real one, and a kernel whose modules are a package of their own (Ubuntu) to that.
A package of another architecture comes out of lists of our own, made by the host's sources and keys: which
architectures the host installs is not changed for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, process

ARCHITECTURES = ("amd64", "arm64")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
_FOLLOWED = re.compile(r"linux-(image|modules)-[a-z0-9+.-]+")
_MOST_PACKAGES = 6
# as root, apt would try to hand the work to a user who cannot write here, and say so
_AS_US = ("-o", "APT::Sandbox::User=root")


class Unpacked(NamedTuple):
    """What the packages held: the kernel, the folder of its modules, its configuration; and their versions."""

    vmlinuz: Path
    modules: Path | None
    config: Path | None
    packages: dict[str, str]


def check_name(package: str) -> str:
    """Return a package name after checking it: it goes onto apt's command line.

    Raises BadUsage.
    """
    if not _PACKAGE.fullmatch(package):
        raise errors.BadUsage(f"'{package}' is no name of a Debian package")
    return package


def architecture_of(package: str) -> str | None:
    """Return the architecture that a package's name speaks of: NAME:arm64, or linux-image-cloud-arm64; None if none."""
    name, _, qualifier = package.partition("=")[0].partition(":")
    return next((known for known in ARCHITECTURES if qualifier == known or name.endswith(f"-{known}")), None)


def native() -> str:
    """Return the architecture of this host's own packages."""
    return process.run(["dpkg", "--print-architecture"]).stdout.decode().strip()


def foreign_lists(architecture: str, folder: Path) -> list[str]:
    """Fetch the lists of another architecture's packages into `folder`, and return the options for apt to use them.

    They come from the host's own sources and are checked with its keys. Raises Unavailable if there is nothing.
    """
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "state/status").touch()  # nothing is installed there
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    result = process.run(["apt-get", "update", "-q", *_AS_US, *options], check=False)
    if not any((folder / "state/lists").glob("*Packages*")):
        said = _complaint(result) or f"apt-get failed with status {result.status}"
        raise errors.Unavailable(f"cannot get the package lists of {architecture}: {said}")
    return options


def unpack(package: str, folder: Path) -> Unpacked:
    """Download a kernel package and what it needs into `folder`, and unpack it there.

    Raises Unavailable if apt does not know or cannot get it, BadInput if there is no kernel in it.
    """
    root = folder / "root"
    options = _lists_for(check_name(package), folder)
    packages: dict[str, str] = {}
    waiting = [package]
    while waiting and len(packages) < _MOST_PACKAGES and not (packages and _complete(root)):
        archive = _download(waiting.pop(0), folder, options)
        fields = _fields(archive)
        packages[fields["Package"]] = fields["Version"]
        waiting += [name for name in _needed(fields) if name.partition("=")[0] not in packages]
        process.run(["dpkg-deb", "-x", str(archive), str(root)])
        archive.unlink()
    vmlinuz = _only(root.glob("boot/vmlinu[xz]-*"))
    if vmlinuz is None:
        raise errors.BadInput(f"the package '{package}' holds no kernel")
    return Unpacked(vmlinuz, _modules(root), _only(root.glob("boot/config-*")), packages)


def _lists_for(package: str, folder: Path) -> list[str]:
    """Return the options that let apt find a package: none for one of the host's own architecture."""
    process.find("apt-get")
    architecture = architecture_of(package)
    if architecture is None or architecture == native():
        return []
    return foreign_lists(architecture, folder / "apt")


def _complete(root: Path) -> bool:
    return _only(root.glob("boot/vmlinu[xz]-*")) is not None and _modules(root) is not None


def _modules(root: Path) -> Path | None:
    return _only(path for path in root.glob("**/lib/modules/*") if (path / "kernel").is_dir())


def _only(paths: Iterator[Path]) -> Path | None:
    return next(iter(sorted(paths)), None)


def _download(package: str, folder: Path, options: Sequence[str]) -> Path:
    """Download one package through apt, which checks it against the signed lists, and return its file."""
    before = set(folder.glob("*.deb"))
    argv = ["apt-get", "download", "-q", *_AS_US, *options, package]
    result = process.run(["env", "-C", str(folder), *argv], check=False)
    found = set(folder.glob("*.deb")) - before
    if result.status != 0 or len(found) != 1:
        raise _refusal(package, result)
    return found.pop()


def _refusal(package: str, result: process.Result) -> errors.BangerError:
    reason = _complaint(result) or f"apt-get failed with status {result.status}"
    hint = "apt-get update" if "locate package" in reason.lower() or "No candidate" in reason else None
    if "No space left" in reason:
        return errors.IOFailure(f"cannot download the package '{package}': {reason}")
    return errors.Unavailable(f"cannot download the package '{package}': {reason}", hint)


def _complaint(result: process.Result) -> str | None:
    """Return the last error or warning that apt gave."""
    lines = result.stderr.decode(errors="replace").splitlines()
    said = [line[2:].strip() for kind in ("W:", "E:") for line in lines if line.startswith(kind)]
    return said[-1] if said else None


def _fields(archive: Path) -> dict[str, str]:
    """Return the control fields of a package, each on one line."""
    text = process.run(["dpkg-deb", "-f", str(archive)]).stdout.decode("utf-8", "replace")
    pairs = (line.partition(": ") for line in re.sub(r"\n[ \t]+", " ", text).splitlines())
    return {name: value for name, _, value in pairs}


def _needed(fields: dict[str, str]) -> list[str]:
    """Return the kernel packages that a package depends on, at the exact versions that it asks for."""
    found = []
    for alternative in re.split(r"[,|]", f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"):
        name, _, rest = alternative.strip().partition(" ")
        if _FOLLOWED.fullmatch(name):
            exact = re.fullmatch(r"\(= *([^)]+)\)", rest.strip())
            found.append(f"{name}={exact[1]}" if exact else name)
    return found
