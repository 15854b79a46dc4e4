"""Packages that nobody signed: apt refuses them, for root filesystems and for kernels, unless the host trusts them."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.apt import releases, sources
from banger_tools.kernel import apt
from tests import support

PACKAGE = "linux-image-unsigned"
CONTROL = f"Package: {PACKAGE}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: no kernel\n"
# State and lists of its own, or apt would know the host's archives, too.
CONFIG = """\
Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/parts";
Acquire::Languages "none";
APT::Sandbox::User "root";
"""


def archive(folder: Path) -> Path:
    """Make an archive of one package, as apt-ftparchive(1) does, and sign nothing."""
    content, index = folder / "content", folder / "dists/unsigned/main" / f"binary-{apt.native()}"
    (content / "DEBIAN").mkdir(parents=True, mode=0o755)
    (content / "DEBIAN/control").write_text(CONTROL)
    index.mkdir(parents=True)
    package = folder / "package.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", content, package], check=True, capture_output=True)
    data = package.read_bytes()
    listed = f"Filename: package.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (index / "Packages").write_text(CONTROL + listed)
    known = (index / "Packages").read_bytes()
    release = f"Origin: Debian\nSuite: unsigned\nArchitectures: {apt.native()}\nComponents: main\n"
    release += "Date: Sat, 21 Nov 2020 02:10:46 UTC\nSHA256:\n"
    release += f" {hashlib.sha256(known).hexdigest()} {len(known)} main/{index.name}/Packages\n"
    (folder / "dists/unsigned/Release").write_text(release)
    return folder


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the host's apt know that archive alone, by an option of sources.list(5)."""
    support.need("apt-get", "dpkg-deb")
    made, host = archive(tmp_path / "archive"), tmp_path / "host"
    for name in ("state/lists/partial", "cache/archives/partial", "parts"):
        (host / name).mkdir(parents=True)
    (host / "state/status").touch()
    (host / "apt.conf").write_text(CONFIG.format(folder=host))
    monkeypatch.setenv("APT_CONFIG", str(host / "apt.conf"))

    def let_know(option: str) -> None:
        (host / "sources.list").write_text(f"deb {option} file:{made} unsigned main\n")

    return let_know


def test_root_filesystem_of_packages_that_nobody_signed_is_refused(
    listed: Callable[[str], None], banger_home: Path, tmp_path: Path
) -> None:
    support.need("mmdebstrap")
    listed("")
    done = support.run("bg-fetch", "apt:unsigned")
    assert (done.returncode, done.stdout) == (69, b""), done.stderr.decode()
    assert b"is not signed" in done.stderr
    assert list((banger_home / "cache" / "partial").iterdir()) == []
    listed("[trusted=yes]")  # what the host trusts is taken: so it was for nothing else
    [release] = releases.fetch(sources.configured(), apt.native(), tmp_path)
    assert release.origin == "Debian"


def test_kernel_package_that_nobody_signed_is_refused(listed: Callable[[str], None], tmp_path: Path) -> None:
    def unpack() -> None:
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True, env=support.environment())
        apt.unpack(PACKAGE, tmp_path)

    listed("[allow-insecure=yes]")  # its lists are read, and of whom its packages are is not known
    with pytest.raises(errors.Unavailable, match="authenticated"):
        unpack()
    assert not list(tmp_path.glob("*.deb"))
    listed("[trusted=yes]")
    with pytest.raises(errors.BadInput, match=f"'{PACKAGE}' holds no kernel"):
        unpack()
