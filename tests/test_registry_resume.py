"""Transfers that are interrupted, killed, or wanted by many at once: nothing crosses the wire twice."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from banger_tools.oci.layer import PIECE
from tests import pulls, registry, support
from tests.pulls import LARGE, SMALL, Server, fetch, partial_bytes, right, slow_blobs
from tests.registry import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


def on_disk(home: Path) -> int:
    """Return the bytes of blobs that the cache holds, whole ones and parts."""
    cache = home / "cache"
    parts = [path for path in (cache / "partial").glob("sha256-*") if path.suffix != ".tar"]
    return sum(path.stat().st_size for path in (*parts, *(cache / "oci" / "blobs").glob("*/*")))


def kill_after(amount: int, served: list[int], argv: list[str], home: Path) -> None:
    """Run bg-fetch and kill it when so many bytes were sent to it."""
    env = support.environment({"BANGER_HOME": str(home)})
    worker = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    while sum(served) < amount and worker.poll() is None:
        time.sleep(0.002)
    worker.kill()
    worker.wait()


@pytest.mark.slow
def test_a_fetch_killed_at_any_moment_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    first = fetch(server.ref, env={"BANGER_HOME": str(tmp_path / "whole")})
    total = on_disk(tmp_path / "whole")
    layers = sum(layer["size"] for layer in first["layers"])
    chance = random.Random(5)
    moments = sorted(chance.randrange(layers + 1000) for _ in range(20))
    lines, halves = [], 0
    for number, moment in enumerate(moments):
        home = tmp_path / str(number)
        served: list[int] = []
        with registry.faulty(server.host, slow_blobs(served)) as proxy:
            ref = f"{proxy.host}/team/app:v1"
            kill_after(moment, served, support.argv("bg-fetch", ref), home)
            here, before = on_disk(home), len(served)
            assert right(fetch(ref, env={"BANGER_HOME": str(home)}))
            again = sum(served[before:])
        lines.append(f"{moment:9} {here:9} {total - here:9} {again:9}")
        assert again <= total - here + PIECE, lines[-1]
        halves += PIECE < here < total - PIECE
        assert partial_bytes(home) == 0
    print("\n".join(["sent when killed, on disk, missing, transferred by the next run:", *lines]))
    assert halves > 0, "some were killed in the midst of the large layer, and what had come of it was kept"


def test_many_processes_fetch_each_blob_once(server: Server, banger_home: Path, tmp_path: Path) -> None:
    wider = registry.umoci_layout(tmp_path, [SMALL, LARGE, registry.tar_of({"more": bytes(50_000)})])
    for tag, layout in (("v1", server.layout), ("v2", server.layout), ("wide", wider)):
        registry.push(layout, "v1", f"{server.host}/team/shared:{tag}")
    served: list[int] = []
    with registry.faulty(server.host, slow_blobs(served)) as proxy:
        with ThreadPoolExecutor(8) as pool:
            names = ["v1", "v2", "wide", "v1", "v2", "wide", "v1", "wide"]
            found = list(pool.map(lambda tag: fetch(f"{proxy.host}/team/shared:{tag}"), names))
        asked = [path.rpartition("/")[2] for path, _ in proxy.seen if "/blobs/" in path]
    layers = {layer["digest"] for one in found for layer in one["layers"]}
    assert len(layers) == 3, "the images share layers"
    assert len(asked) == len(set(asked)) and layers < set(asked), "each blob is asked for once, configurations too"
    assert all(map(right, (one for one, tag in zip(found, names, strict=True) if tag != "wide")))


def test_a_partial_file_that_was_damaged_is_thrown_away(server: Server, banger_home: Path) -> None:
    digest = max(fetch(server.ref)["layers"], key=lambda layer: layer["size"])["digest"]
    registry.remove_cache(banger_home)
    partial = banger_home / "cache" / "partial" / digest.replace(":", "-")
    partial.parent.mkdir(parents=True)
    for junk in (b"x" * 1000, b"y" * 5_000_000):
        partial.write_bytes(junk)
        assert right(fetch(server.ref))
        registry.remove_cache(banger_home)
        partial.parent.mkdir(parents=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_only_what_can_be_resumed(server: Server, banger_home: Path, number: int) -> None:
    pauses = random.Random(int(number))
    with registry.faulty(server.host, slow_blobs([], 30, 0.05)) as proxy:
        argv = support.argv("bg-fetch", f"{proxy.host}/team/app:v1")
        for _ in range(5):
            worker = subprocess.Popen(
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=support.environment()
            )
            pulls.wait_for_bytes(worker, banger_home)
            time.sleep(pauses.uniform(0, 0.8))
            worker.send_signal(number)
            began = time.monotonic()
            said = worker.communicate(timeout=60)[1].decode()
            assert time.monotonic() - began < 10, "it must not wait for the network"
            assert worker.returncode in (128 + number, 0), said
            names = [path.name for path in (banger_home / "cache").rglob("*") if path.is_file()]
            assert not [name for name in names if name.endswith((".tmp", ".tar"))]
    assert right(fetch(server.ref))


def test_a_server_that_does_not_answer_can_be_interrupted(server: Server, banger_home: Path) -> None:
    hanging = threading.Event()
    release = threading.Event()

    def meddle(request: Proxy) -> bool:
        if not request.is_blob or len(request.fetch()[2]) < 1_000_000:
            return False
        hanging.set()
        release.wait(60)
        return False

    with registry.faulty(server.host, meddle) as proxy:
        worker = subprocess.Popen(
            support.argv("bg-fetch", f"{proxy.host}/team/app:v1"), stdout=subprocess.DEVNULL, env=support.environment()
        )
        assert hanging.wait(20)
        worker.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            assert worker.wait(60) == 130
            assert time.monotonic() - began < 20
        finally:
            release.set()
