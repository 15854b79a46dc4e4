"""Kernels out of Debian packages: what apt is asked, for this host's architecture and for others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.kernel import apt
from tests import support


@pytest.mark.parametrize("name", ["--option", "a b", "$(x)", "UPPER", "", "-x", "a\nb"])
def test_package_name_that_apt_could_misread_is_refused(name: str) -> None:
    with pytest.raises(errors.BadUsage):
        apt.check_name(name)


def test_meta_package_leads_to_the_real_one_at_its_version() -> None:
    fields = {"Depends": "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod | linux-base (>= 4)"}
    assert apt._needed(fields) == ["linux-image-6.1.0-56-cloud-amd64=6.1.192-2"]


def test_unknown_package_is_reported_in_apts_words(tmp_path: Path) -> None:
    support.need("apt-get", "dpkg-deb")
    with pytest.raises(errors.Unavailable, match=r"'linux-image-no-such'.*[Uu]nable to locate"):
        apt.unpack("linux-image-no-such", tmp_path)


@pytest.mark.parametrize(
    ("package", "architecture"),
    [
        ("linux-image-cloud-arm64", "arm64"),
        ("linux-image-cloud-amd64=6.1.1-1", "amd64"),
        ("linux-image-generic:arm64=6.8.0-1", "arm64"),
        ("linux-image-virtual", None),
    ],
)
def test_package_name_tells_its_architecture(package: str, architecture: str | None) -> None:
    assert apt.architecture_of(package) == architecture


def test_lists_of_another_architecture_leave_the_hosts_as_they_were(tmp_path: Path) -> None:
    support.need("apt-get", "dpkg")
    other = "amd64" if apt.native() == "arm64" else "arm64"

    def settings() -> list[bytes]:
        commands = (["dpkg", "--print-foreign-architectures"], ["apt-cache", "policy"])
        return [subprocess.run(argv, capture_output=True, check=True).stdout for argv in commands]

    before = settings()
    try:
        options = apt.foreign_lists(other, tmp_path)
    except errors.Unavailable as error:
        support.cannot(str(error))
    assert settings() == before
    shown = subprocess.run(
        ["apt-cache", *options, "show", f"linux-image-cloud-{other}"], capture_output=True, check=True
    ).stdout
    assert f"Architecture: {other}\n".encode() in shown
