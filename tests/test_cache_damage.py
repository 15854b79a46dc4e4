"""A cache that was damaged on disk: every kind of file, in every way, never gives a wrong result or a traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from tests import pulls, registry, support

TARS = [pulls.SMALL, pulls.LARGE]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pulls.Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def good(server: pulls.Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cache is whole."""
    home = tmp_path_factory.mktemp("good")
    assert pulls.fetch_here(server.ref, home) == TARS
    return home


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def grown(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int((len(data) - 1) * place)] ^= 1
    path.write_bytes(data)


def replaced(path: Path) -> None:
    path.write_bytes(b'{"manifests": [{"digest": 7}], "layers": "x", "config": []}')


def removed(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f.__name__: f for f in (cut, grown, emptied, replaced, removed, folder, dangling, loop, elsewhere, fifo)},
    **{f"flipped at {place}": (lambda path, place=place: flipped(path, place)) for place in (0.0, 0.2, 0.5, 0.7, 1.0)},
}


def kinds(cache: Path) -> dict[str, list[Path]]:
    """Return the files of a whole cache by what they are."""
    blobs = list((cache / "oci" / "blobs" / "sha256").iterdir())
    documents = [path for path in blobs if path.read_bytes()[:1] == b"{"]
    return {
        "marker": [cache / "oci" / "oci-layout"],
        "index": [cache / "oci" / "index.json"],
        "documents": documents,
        "blobs": [path for path in blobs if path not in documents],
        "layers": list((cache / "layers" / "sha256").iterdir()),
    }


def whole(cache: Path, ref: str, out: Path) -> None:
    """Check that a cache is what it was before: a layout that skopeo reads, and tars that are what they are called."""
    assert json.loads((cache / "oci" / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    registry.skopeo("copy", "--quiet", f"oci:{cache}/oci:{ref}", f"oci:{out}:x")
    for folder in ("oci/blobs", "layers"):
        for path in (cache / folder / "sha256").iterdir():
            assert path.is_file() and not path.is_symlink()
            assert registry.digest(path.read_bytes()) == f"sha256:{path.name}"
    assert list((cache / "partial").iterdir()) == []


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["marker", "index", "documents", "blobs", "layers"])
def test_a_damaged_file_is_noticed_and_made_anew(
    kind: str, damage: str, server: pulls.Server, good: Path, tmp_path: Path
) -> None:
    for number in range(len(kinds(good / "cache")[kind])):
        home = tmp_path / str(number)
        shutil.copytree(good, home)  # with the times, and so with the marks of the layers
        victim = kinds(home / "cache")[kind][number]
        if kind == "blobs":  # they are read only when there is no tar
            shutil.rmtree(home / "cache" / "layers")
        DAMAGES[damage](victim)
        try:
            assert pulls.fetch_here(server.ref, home, offline=True) == TARS
        except errors.BangerError as error:
            assert error.status in (65, 69), error
        assert pulls.fetch_here(server.ref, home) == TARS
        assert pulls.fetch_here(server.ref, home, offline=True) == TARS
        whole(home / "cache", server.ref, tmp_path / f"out{number}")


@pytest.mark.parametrize("damage", ["cut", "grown", "emptied", "flipped at 0.5"])
def test_verify_notices_a_damaged_blob_whose_tar_is_right(
    damage: str, server: pulls.Server, good: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(good, home)
    for blob in kinds(home / "cache")["blobs"]:
        DAMAGES[damage](blob)
    assert pulls.fetch_here(server.ref, home, thorough=True) == TARS
    whole(home / "cache", server.ref, tmp_path / "out")
    assert pulls.fetch_here(server.ref, home, thorough=True, offline=True) == TARS


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_transfer_is_begun_anew(damage: str, server: pulls.Server, good: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(good, home)
    blobs = kinds(home / "cache")["blobs"]
    shutil.rmtree(home / "cache" / "layers")
    for blob in blobs:
        part = home / "cache" / "partial" / f"sha256-{blob.name}"
        blob.rename(part)
        (part.parent / f"{part.name}.tar").mkdir()
        cut(part)
        DAMAGES[damage](part)
    assert pulls.fetch_here(server.ref, home) == TARS
    whole(home / "cache", server.ref, tmp_path / "out")


def test_one_damaged_entry_of_the_index_does_not_cost_the_others(
    server: pulls.Server, good: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(good, home)
    path = home / "cache" / "oci" / "index.json"
    index = json.loads(path.read_bytes())
    evil = {**index["manifests"][0], "digest": "sha256:../../../../etc/passwd"}
    index["manifests"] = [7, {"digest": "sha256:short"}, evil, {**evil, "annotations": []}, *index["manifests"]]
    path.write_text(json.dumps(index))
    assert pulls.fetch_here(server.ref, home, offline=True) == TARS


def test_list_and_prune_bear_every_damage(server: pulls.Server, good: Path, tmp_path: Path) -> None:
    """All files of a kind at once; what is left afterwards is empty and of use."""
    for number, (name, damage) in enumerate(DAMAGES.items()):
        home = tmp_path / str(number)
        shutil.copytree(good, home)
        for paths in kinds(home / "cache").values():
            for path in paths:
                damage(path)
        env = {"BANGER_HOME": str(home)}
        for path in (home / "cache").rglob("*"):
            if path.is_symlink() or not path.is_dir():
                os.utime(path, (0, 0), follow_symlinks=False)
        support.run_ok("banger", "cache", "list", env=env)
        done = support.run("banger", "cache", "prune", "--keep=0", env=env)
        assert done.returncode == 0, (name, done.stderr.decode())
        assert [p for p in (home / "cache" / "layers").rglob("*") if p.is_symlink() or not p.is_dir()] == []
        assert pulls.fetch_here(server.ref, home) == TARS


def test_a_cache_that_may_not_be_written_is_said(user: support.OrdinaryUser, server: pulls.Server, good: Path) -> None:
    home = user.home / "of-another"
    shutil.copytree(good, home)
    for path in [home, *home.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    done = user.run("bg-fetch", server.ref, env={"BANGER_HOME": str(home)})
    assert (done.returncode, done.stdout) == (77, b"")
    assert f"cannot write to the cache '{home}/cache'" in done.stderr.decode()
    assert "XDG_CACHE_HOME" in done.stderr.decode()
    listed = user.run("banger", "cache", "list", env={"BANGER_HOME": str(home)})
    assert listed.returncode == 0 and server.ref in listed.stdout.decode()
    done = user.run("banger", "cache", "prune", "--keep=0", env={"BANGER_HOME": str(home)})
    assert done.returncode in (0, 77) and b"Traceback" not in done.stderr


def test_a_layer_in_a_cache_that_is_only_read_can_be_used(
    user: support.OrdinaryUser, banger_home: Path, server: pulls.Server
) -> None:
    """What one user fetched another may flatten, though not touch."""
    shared = user.home / "shared"
    shared.mkdir()
    env = {"BANGER_HOME": str(shared)}
    manifest = support.run_ok("bg-fetch", server.ref, env=env)
    for path in [shared, *shared.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    work = user.home / "flattened"
    user.run("mkdir", str(work))
    done = user.run("bg-flatten", "-C", str(work), stdin=manifest, env=env)
    assert done.returncode == 0, done.stderr.decode()
