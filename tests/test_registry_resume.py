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

from tests import pulls, registry, support
from tests.pulls import Server, fetch, partial_bytes, right
from tests.registry import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


def slow_blobs(pieces: int, pause: float, served: list[int]) -> registry.Handler:
    """Return a meddler that sends layers in pieces, and counts the bytes."""

    def meddle(request: Proxy) -> bool:
        if not request.is_blob:
            return False
        status, headers, body = request.fetch()
        request.send_response(status)
        for name in ("Content-Range", "Content-Type"):
            if name in headers:
                request.send_header(name, headers[name])
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        step = max(1, len(body) // pieces)
        try:
            for start in range(0, len(body), step):
                request.wfile.write(body[start : start + step])
                request.wfile.flush()
                served.append(len(body[start : start + step]))
                time.sleep(pause)
        except OSError:
            request.close_connection = True
        return True

    return meddle


def test_a_killed_fetch_goes_on_where_it_stopped(server: Server, banger_home: Path) -> None:
    served: list[int] = []
    pauses = random.Random(5)
    with registry.faulty(server.host, slow_blobs(40, 0.02, served)) as proxy:
        argv = support.argv("bg-fetch", f"{proxy.host}/team/app:v1")
        for _ in range(6):
            worker = subprocess.Popen(
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=support.environment()
            )
            time.sleep(pauses.uniform(0.3, 0.8))
            worker.kill()
            worker.wait()
        have = sum(
            path.stat().st_size for path in (banger_home / "cache" / "partial").glob("*") if path.suffix != ".tar"
        )
        done = sum(path.stat().st_size for path in (banger_home / "cache" / "oci" / "blobs" / "sha256").glob("*"))
        served.clear()
        found = fetch(f"{proxy.host}/team/app:v1")
    assert right(found)
    total = sum(layer["size"] for layer in found["layers"])
    assert sum(served) <= max(0, total - have - done) + 2000
    assert partial_bytes(banger_home) == 0


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
    with registry.faulty(server.host, slow_blobs(30, 0.05, [])) as proxy:
        argv = support.argv("bg-fetch", f"{proxy.host}/team/app:v1")
        for _ in range(5):
            worker = subprocess.Popen(
                argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=support.environment()
            )
            time.sleep(pauses.uniform(0.4, 1.2))
            worker.send_signal(number)
            began = time.monotonic()
            said = worker.communicate(timeout=60)[1].decode()
            assert time.monotonic() - began < 3, "it must not wait for the network"
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
            assert time.monotonic() - began < 5
        finally:
            release.set()


def test_many_processes_fetch_each_blob_once(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, lambda _request: False) as proxy:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: fetch(f"{proxy.host}/team/app:v1"), range(8)))
        layers = {layer["digest"] for layer in found[0]["layers"]}
        asked = [path.rpartition("/")[2] for path, _ in proxy.seen if path.rpartition("/")[2] in layers]
    assert all(map(right, found))
    assert sorted(asked) == sorted(layers)
