"""banger cache list and prune: what belongs together, what stays, what goes; skopeo reads what is left."""

from __future__ import annotations

import calendar
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from banger_tools import errors
from banger_tools.commands.cache_prune import Keep
from tests import registry, support

BASE = registry.tar_of({"base": random.Random(1).randbytes(400_000)})
TOPS = {name: registry.tar_of({name: random.Random(name).randbytes(200_000)}) for name in ("one", "two", "old")}
DAY = 86400


class Server(NamedTuple):
    """A registry with the images one, two and old, which share their first layer."""

    host: str
    blobs: Path

    def ref(self, name: str) -> str:
        return f"{self.host}/team/{name}:v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("registry")
    with registry.serve(folder) as running:
        for name, top in TOPS.items():
            (folder / name).mkdir()
            layout = registry.umoci_layout(folder / name, [BASE, top])
            registry.push(layout, "v1", f"{running.host}/team/{name}:v1")
        yield Server(running.host, running.root)


@pytest.fixture
def cache(banger_home: Path) -> Path:
    return banger_home / "cache"


def fetch(ref: str, *words: str) -> dict[str, Any]:
    return support.manifest_of(support.run_ok("bg-fetch", *words, ref))


def age(cache: Path, seconds: float) -> None:
    """Make everything in the cache as if it had been used last so long ago."""
    for path in cache.rglob("*"):
        if path.is_file() and path.name != "lease":
            found = path.stat()
            marked = found.st_mtime < 10 * 365 * DAY
            then = time.time_ns() - int(seconds * 1e9)
            os.utime(path, ns=(then, found.st_mtime_ns if marked else then))


def prune(*words: str) -> dict[str, Any]:
    value = json.loads(support.run_ok("banger", "cache", "prune", "--json", *words))
    assert isinstance(value, dict)
    return value


def listed() -> dict[str, dict[str, Any]]:
    whole = json.loads(support.run_ok("banger", "cache", "list", "--json"))
    assert whole["size"] == sum({f["path"]: f["size"] for e in whole["entries"] for f in e["files"]}.values())
    return {entry["name"]: entry for entry in whole["entries"]}


def files_of(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for part in ("oci/blobs", "layers") for path in (cache / part).rglob("*/*")}


def check_layout(cache: Path, refs: list[str], out: Path) -> None:
    """Check that the layout lists just these images, that skopeo can copy each, and that every blob is what it says."""
    index = json.loads((cache / "oci" / "index.json").read_bytes())
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert sorted(names) == sorted(refs)
    for number, ref in enumerate(refs):
        registry.skopeo("copy", "--quiet", f"oci:{cache}/oci:{ref}", f"oci:{out}:{number}")
    for path in (cache / "oci" / "blobs" / "sha256").iterdir():
        assert registry.digest(path.read_bytes()) == f"sha256:{path.name}"


def test_images_share_their_layers_and_the_list_says_how_much(server: Server, cache: Path, tmp_path: Path) -> None:
    manifests = {name: fetch(server.ref(name)) for name in ("one", "two")}
    digests = {layer["digest"] for found in manifests.values() for layer in found["layers"]}
    assert len(digests) == 3
    assert len(list((cache / "oci" / "blobs" / "sha256").iterdir())) == 3 + 2 * 2
    assert len(list((cache / "layers" / "sha256").iterdir())) == 3
    entries = listed()
    assert set(entries) == {server.ref("one"), server.ref("two")}
    for name in ("one", "two"):
        entry = entries[server.ref(name)]
        assert (entry["kind"], entry["digest"]) == ("image", manifests[name]["source"]["digest"])
        paths = [cache / file["path"] for file in entry["files"]]
        assert len(paths) == 2 + 2 + 2
        assert entry["size"] == sum(path.stat().st_blocks * 512 for path in paths)
        assert 2 * len(TOPS[name]) < entry["own"] < 2 * len(TOPS[name]) + 60_000
        assert abs(time.time() - calendar.timegm(time.strptime(entry["used"], "%Y-%m-%dT%H:%M:%SZ"))) < 60
    table = support.run_ok("banger", "cache", "list").decode().splitlines()
    assert table[0].split() == ["KIND", "NAME", "SIZE", "OWN", "LAST", "USED"]
    assert table[-1].split()[0] == "total" and len(table) == 4
    check_layout(cache, [server.ref("one"), server.ref("two")], tmp_path / "out")


def test_prune_removes_what_was_not_used_and_what_is_left_is_whole(server: Server, cache: Path, tmp_path: Path) -> None:
    before = fetch(server.ref("one"))
    only_one = files_of(cache)
    fetch(server.ref("old"))
    age(cache, 10 * DAY)
    assert fetch(server.ref("one"))["layers"] == before["layers"]  # uses it, and brings nothing
    would = prune("--keep=7d", "--dry-run")
    assert set(listed()) == {server.ref("one"), server.ref("old")}
    done = prune("--keep=7d")
    assert {**would, "dry_run": False} == done
    assert done["removed"] == [{"kind": "image", "name": server.ref("old")}]
    assert 2 * len(TOPS["old"]) < done["freed"] < 2 * len(TOPS["old"]) + 60_000
    assert files_of(cache) == only_one
    check_layout(cache, [server.ref("one")], tmp_path / "out")
    assert support.run("bg-fetch", "--offline", server.ref("old")).returncode == 69
    fetch(server.ref("old"))
    assert fetch(server.ref("old"), "--offline")
    check_layout(cache, [server.ref("one"), server.ref("old")], tmp_path / "again")


@pytest.mark.root
def test_a_use_counts_where_the_kernel_notes_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with support.tmpfs(tmp_path / "disk", "noatime,size=32m") as disk:
        monkeypatch.setenv("BANGER_HOME", str(disk))
        fetch(server.ref("one"))
        fetch(server.ref("old"))
        age(disk / "cache", 10 * DAY)
        fetch(server.ref("one"), "--offline")
        assert [entry["name"] for entry in prune("--keep=7d")["removed"]] == [server.ref("old")]
        assert fetch(server.ref("one"), "--offline")


def test_prune_to_a_size_keeps_what_was_used_last(server: Server, cache: Path, tmp_path: Path) -> None:
    for days, name in ((3, "old"), (2, "two"), (1, "one")):  # days ago; what an image shares was used with the last one
        fetch(server.ref(name))
        for file in listed()[server.ref(name)]["files"]:
            path, then = cache / file["path"], time.time_ns() - days * DAY * 10**9
            os.utime(path, ns=(then, min(path.stat().st_mtime_ns, then)))
    sizes = {name: entry["size"] for name, entry in listed().items()}
    room = sizes[server.ref("one")] + listed()[server.ref("two")]["own"]
    done = prune(f"--keep={room}")
    assert [entry["name"] for entry in done["removed"]] == [server.ref("old")]
    assert done["left"] == room
    assert [entry["name"] for entry in prune(f"--keep={room - 1}")["removed"]] == [server.ref("two")]
    check_layout(cache, [server.ref("one")], tmp_path / "one")
    age(cache, DAY)
    assert prune("--keep=0")["left"] == 0
    assert files_of(cache) == set()
    check_layout(cache, [], tmp_path / "none")


def test_a_tag_that_moved_on_leaves_its_old_image_to_prune(server: Server, cache: Path, tmp_path: Path) -> None:
    moving = f"{server.host}/team/moving:v1"
    for name in ("old", "one"):
        registry.skopeo(
            *("copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"),
            *(f"docker://{server.ref(name)}", f"docker://{moving}"),
        )
        fetch(moving, "--pull=always")
        age(cache, DAY)
    fetch(moving, "--offline")
    assert {entry["kind"] for entry in listed().values()} == {"image", "blob", "layer"}
    assert {entry["kind"] for entry in prune("--keep=12h")["removed"]} == {"blob", "layer"}
    check_layout(cache, [moving], tmp_path / "out")
    assert set(listed()) == {moving}


def test_what_a_waiting_stage_may_use_stays(server: Server, cache: Path) -> None:
    """A stage waits for its manifest since two hours; what was fetched an hour ago may be for it."""
    waiting = subprocess.Popen(
        support.argv("bg-flatten"), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        while not _is_shared(cache / "lease"):
            assert waiting.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.utime(cache / "lease", (time.time() - 7200, time.time() - 7200))
        fetch(server.ref("one"))  # it is not the first, so what it used earlier stays, too
        age(cache, 3600)
        done = prune("--keep=0")
        assert (done["removed"], done["freed"]) == ([], 0)
        assert [entry["name"] for entry in done["spared"]] == [server.ref("one")]
        age(cache, 3 * 3600)
        assert prune("--keep=0", "--dry-run")["spared"] == []
    finally:
        waiting.kill()
        waiting.communicate()
    age(cache, 3600)
    assert len(prune("--keep=0")["removed"]) == 1


def _is_shared(path: Path) -> bool:
    done = subprocess.run(["flock", "--nonblock", path, "true"], env=support.environment())
    return path.exists() and done.returncode != 0


@pytest.mark.slow
def test_prune_in_a_loop_never_takes_anything_from_eight_pipes(server: Server, cache: Path, tmp_path: Path) -> None:
    pipe = "{0}/bg-fetch {1} | {0}/bg-flatten -C {2} | {0}/bg-mkext4 --size=64M -C {2}"
    removed, images = 0, set()
    for number in range(2):
        for name in TOPS:
            fetch(server.ref(name))
        age(cache, 40 * DAY)  # so that all goes that no pipe uses
        workers = []
        for worker in range(8):
            folder = tmp_path / f"{number}-{worker}"
            folder.mkdir()
            command = pipe.format(support.BIN, server.ref(("one", "two")[worker % 2]), folder)
            words = ["bash", "-o", "pipefail", "-c", command]
            workers.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, env=support.environment()))
        while any(worker.poll() is None for worker in workers):
            removed += len(prune("--keep=0")["removed"])
        assert [worker.returncode for worker in workers] == [0] * 8
        assert server.ref("old") not in listed()
        for worker in (0, 1):
            image = tmp_path / f"{number}-{worker}" / "rootfs.ext4"
            subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True, env=support.environment())
            images.add((worker, registry.digest(image.read_bytes())))
        for worker in range(8):
            shutil.rmtree(tmp_path / f"{number}-{worker}")
    assert removed >= 2
    assert len(images) == 2


def test_a_killed_fetch_leaves_nothing_that_the_next_one_does_not_clear(cache: Path, tmp_path: Path) -> None:
    data = registry.tar_of({"random": random.Random(3).randbytes(40 << 20)})
    folder = registry.Image(tmp_path / "big").of_layer(registry.gzip_of(data), registry.digest(data))
    partial = cache / "partial"
    for _ in range(20):
        worker = subprocess.Popen(support.argv("bg-fetch", f"oci:{folder}"), stdout=subprocess.DEVNULL)
        while worker.poll() is None and not (partial.is_dir() and list(partial.glob("*.tar"))):
            time.sleep(0.01)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        if list(partial.glob("*.tar")):
            break
    assert list(partial.glob("*.tar"))
    (partial / ".archive.0123456789ab.tmp").write_bytes(b"x")
    (partial / f"sha256-{'0' * 64}").write_bytes(b"to go on with")
    (partial / f"sha256-{'1' * 64}").write_bytes(b"too old")
    os.utime(partial / f"sha256-{'1' * 64}", (0, time.time() - 8 * DAY))
    other = registry.Image(tmp_path / "small").of_layer(registry.gzip_of(BASE), registry.digest(BASE))
    fetch(f"oci:{other}")
    assert [path.name for path in partial.iterdir()] == [f"sha256-{'0' * 64}"]
    age(cache, DAY)
    assert {entry["kind"] for entry in listed().values()} == {"layer", "transfer"}
    prune("--keep=7d")
    assert "transfer" in {entry["kind"] for entry in listed().values()}
    os.utime(partial / f"sha256-{'0' * 64}", (0, time.time() - 8 * DAY))
    prune("--keep=30d")
    assert list(partial.iterdir()) == []


def test_what_keep_takes_and_refuses(banger_home: Path) -> None:
    taken = {"12h": 12 * 3600, "7d": 7 * DAY, "2w": 14 * DAY, "0": 0}
    assert {text: Keep.parse(text) for text in taken} == {text: Keep(seconds) for text, seconds in taken.items()}
    assert [Keep.parse(text).size for text in ("10G", "512MiB", "7")] == [10 << 30, 512 << 20, 7]
    for text in ("", "-1", "10x", "d", "1.5d", "forever", "1e9d", "\u0667d"):
        with pytest.raises(errors.BadUsage, match="--keep"):
            Keep.parse(text)
    done = support.run("banger", "cache", "prune", "--keep=long")
    assert done.returncode == 64 and b"--keep: 'long' is neither a time nor a size" in done.stderr


def test_an_empty_cache_is_listed_and_pruned(banger_home: Path) -> None:
    assert support.run_ok("banger", "cache", "list").decode().split() == [
        "KIND",
        "NAME",
        "SIZE",
        "OWN",
        "LAST",
        "USED",
        "total",
        "0",
    ]
    assert support.run_ok("banger", "cache", "prune") == b"0 freed, 0 left\n"
