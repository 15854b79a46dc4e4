"""Fixtures for every test: a home of banger's own, and an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import machines, support


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter that is data by its length: processes side by side have to agree, and gzip writes the time."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left alone with one of them at the end."""
    slow = {item.path for item in items if any(map(item.get_closest_marker, ("firecracker", "boot", "slow")))}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Turn the markers into what they ask of the machine."""
    if item.get_closest_marker("root"):
        support.need_root()
    if item.get_closest_marker("boot"):
        support.need("qemu-system-x86_64")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test and fixture off the user's own store, cache and configuration."""
    with pytest.MonkeyPatch.context() as patch:
        if "BANGER_HOME" not in os.environ:
            patch.setenv("BANGER_HOME", str(tmp_path_factory.getbasetemp() / "banger-home"))
        yield


@pytest.fixture
def banger_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home of banger: cache, state and config below it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("BANGER_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def _ordinary_user() -> Iterator[tuple[support.OrdinaryUser, Path]]:
    """An ordinary user who can run the programs, and a folder for their homes, which others may enter."""
    with tempfile.TemporaryDirectory(prefix="banger-user-") as folder:
        base = Path(folder)
        base.chmod(0o755)
        home = base / "home"
        home.mkdir()
        found = support.ordinary_user(home)
        support.let_run(found, base / "checkout")
        yield found, base


@pytest.fixture
def user(_ordinary_user: tuple[support.OrdinaryUser, Path]) -> Iterator[support.OrdinaryUser]:
    """An ordinary user with an empty home, which others may enter."""
    found, base = _ordinary_user
    home = Path(tempfile.mkdtemp(prefix="home-", dir=base))
    home.chmod(0o755)
    support.give(home, found)
    yield found.at(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MiB that fills up."""
    with support.tmpfs(tmp_path / "disk", "size=8m") as disk:
        yield disk


@pytest.fixture(scope="session")
def _published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    support.need("apt-get", "dpkg-deb", "busybox")
    folder = tmp_path_factory.mktemp("boot")
    content = machines.busybox_root(folder / "root-folder")
    disk = machines.mke2fs(folder / "tiny.ext4", content, "64M", "-E", "root_owner=0:0")
    dotfiles = folder / "seed-folder"
    dotfiles.mkdir(mode=0o700)
    (dotfiles / ".profile").write_text("greeting=hello\n")
    seed = machines.mke2fs(folder / "seed.ext4", dotfiles, "8M", "-E", "root_owner=0:0")
    section = {"path": str(seed), "size": seed.stat().st_size, "uuid": "", "home": "/root", "entries": 1}
    config = {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Entrypoint": ["/bin/sh", "-c", "echo main ran; exit 0"]}
    text = machines.manifest(disk, work_seed=section, image={"architecture": "amd64", "config": config})
    done = support.run("bg-publish", "--name=tiny", stdin=text, env={"BANGER_HOME": str(folder / "home")})
    if b"cannot download the package" in done.stderr:
        support.cannot(done.stderr.decode())
    assert done.returncode == 0, done.stderr.decode()
    return folder / "home"


@pytest.fixture(scope="module")
def bootable_home(_published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one published image: a busybox without init, and a work seed; and the kernel of this host's apt.

    Each file of tests has its own, so that what one leaves there disturbs no other.
    """
    home = tmp_path_factory.mktemp("bootable") / "home"
    subprocess.run(["cp", "-a", "--sparse=always", _published, home], check=True)
    return home


@pytest.fixture
def home(bootable_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That home, as the one that programs use."""
    monkeypatch.setenv("BANGER_HOME", str(bootable_home))
    return bootable_home


@pytest.fixture(scope="module")
def visited(bootable_home: Path) -> Iterator[str]:
    """The name of a machine of that home that tests visit, and leave as it was."""
    env = {"BANGER_HOME": str(bootable_home)}
    done = support.run("bg-boot", "--image=tiny", "--name=visited", "--memory=256M", "--timeout=300", env=env)
    assert done.returncode == 0, done.stderr.decode()
    yield "visited"
    support.run("banger", "vm", "delete", "visited", "--force", env=env)
