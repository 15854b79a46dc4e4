"""Kernels out of the host's own package manager: apt downloads and checks signatures, nothing is installed.

A meta package is followed to the real one, and a kernel whose modules are a package of their own (Ubuntu) to that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors, process

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?")
_FOLLOWED = re.compile(r"linux-(image|modules)-[a-z0-9+.-]+")
_MOST_PACKAGES = 6


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


def unpack(package: str, folder: Path) -> Unpacked:
    """Download a kernel package and what it needs into `folder`, and unpack it there.

    Raises Unavailable if apt does not know or cannot get it, BadInput if there is no kernel in it.
    """
    root = folder / "root"
    packages: dict[str, str] = {}
    waiting = [check_name(package)]
    while waiting and len(packages) < _MOST_PACKAGES and not (packages and _complete(root)):
        archive = _download(waiting.pop(0), folder)
        fields = _fields(archive)
        packages[fields["Package"]] = fields["Version"]
        waiting += [name for name in _needed(fields) if name.partition("=")[0] not in packages]
        process.run(["dpkg-deb", "-x", str(archive), str(root)])
        archive.unlink()
    vmlinuz = _only(root.glob("boot/vmlinu[xz]-*"))
    if vmlinuz is None:
        raise errors.BadInput(f"the package '{package}' holds no kernel")
    return Unpacked(vmlinuz, _modules(root), _only(root.glob("boot/config-*")), packages)


def _complete(root: Path) -> bool:
    return _only(root.glob("boot/vmlinu[xz]-*")) is not None and _modules(root) is not None


def _modules(root: Path) -> Path | None:
    return _only(path for path in root.glob("**/lib/modules/*") if (path / "kernel").is_dir())


def _only(paths: Iterator[Path]) -> Path | None:
    return next(iter(sorted(paths)), None)


def _download(package: str, folder: Path) -> Path:
    """Download one package through apt, which checks it against the signed lists, and return its file."""
    process.find("apt-get")
    before = set(folder.glob("*.deb"))
    # -o: as root, apt would try to hand the work to a user who cannot write here, and say so
    argv = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package]
    result = process.run(["env", "-C", str(folder), *argv], check=False)
    found = set(folder.glob("*.deb")) - before
    if result.status != 0 or len(found) != 1:
        raise _refusal(package, result)
    return found.pop()


def _refusal(package: str, result: process.Result) -> errors.BangerError:
    said = [line for line in result.stderr.decode(errors="replace").splitlines() if line.startswith("E:")]
    reason = said[-1].removeprefix("E:").strip() if said else f"apt-get failed with status {result.status}"
    hint = "apt-get update" if "locate package" in reason.lower() or "No candidate" in reason else None
    if "No space left" in reason:
        return errors.IOFailure(f"cannot download the package '{package}': {reason}")
    return errors.Unavailable(f"cannot download the package '{package}': {reason}", hint)


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
