"""Pulls through networks and servers that fail in every way: each ends right, or with the error that it is."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.oci import http
from tests import pulls, registry
from tests.pulls import Server, fetch, fetch_here, first_times, partial_bytes, refused, right
from tests.registry import Proxy

BODY = registry.tar_of({"data": random.Random(3).randbytes(600_000)})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="module")
def single(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, int]:
    """An image of one layer in the same registry: its name, and the layer's path and size."""
    layout = registry.umoci_layout(tmp_path_factory.mktemp("single"), [BODY])
    registry.push(layout, "v1", f"{server.host}/team/single:v1")
    largest = max((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    return "team/single:v1", f"/v2/team/single/blobs/sha256:{largest.name}", largest.stat().st_size


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls in this process make short pauses."""
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.001)


def cut(path: str, after: int, sent: list[int], is_early: Callable[[str], bool]) -> registry.Handler:
    """Return a meddler that breaks the first transfers of a path, and counts the bytes of all."""

    def meddle(request: Proxy) -> bool:
        if request.path != path:
            return False
        status, headers, body = request.fetch()
        part = body[:after] if is_early(path) else body
        sent.append(len(part))
        request.answer(status, headers, part, length=len(body))
        return True

    return meddle


def test_a_transfer_cut_anywhere_goes_on_right_there(
    server: Server, single: tuple[str, str, int], tmp_path: Path, hurried: None
) -> None:
    name, path, size = single
    piece = http.PIECE
    places = [0, 1, 2, 10, 4095, 4096, 4097, piece - 1, piece, piece + 1, 2 * piece - 1, 2 * piece, 2 * piece + 1]
    places += [size - 4097, size - 100, size - 2, size - 1]
    places += sorted(random.Random(4).sample(range(20, size - 20), 24))
    after, sent, is_early = 0, [0], first_times(0)

    def meddle(request: Proxy) -> bool:
        return cut(path, after, sent, is_early)(request)

    with registry.faulty(server.host, meddle) as proxy:
        for number, after in enumerate(places):
            is_early = first_times(1)
            sent.clear()
            proxy.seen.clear()
            assert fetch_here(f"{proxy.host}/{name}", tmp_path / str(number)) == [BODY], after
            asked = [headers.get("range") for where, headers in proxy.seen if where == path]
            assert asked == [None, f"bytes={after}-" if after else None], after
            assert sum(sent) == size, "nothing crosses the wire twice"


def test_a_connection_that_breaks_again_and_again_gets_there(
    server: Server, single: tuple[str, str, int], tmp_path: Path, hurried: None
) -> None:
    name, path, size = single
    sent: list[int] = []
    with registry.faulty(server.host, cut(path, 10_000, sent, lambda _: True)) as proxy:
        assert fetch_here(f"{proxy.host}/{name}", tmp_path) == [BODY]
    assert sum(sent) == size and len(sent) == -(-size // 10_000)


def test_without_progress_there_is_an_end(
    server: Server, single: tuple[str, str, int], tmp_path: Path, hurried: None
) -> None:
    name, path, _ = single
    sent: list[int] = []
    with registry.faulty(server.host, cut(path, 100, sent, lambda _: True)) as proxy:
        with pytest.raises(errors.Retry, match="broke"):
            fetch_here(f"{proxy.host}/{name}", tmp_path)
    assert len(sent) == http.ATTEMPTS
    assert fetch_here(f"{server.host}/{name}", tmp_path) == [BODY]


@pytest.mark.parametrize("after", [0, 1, 200])
def test_documents_that_are_cut_are_asked_for_again(server: Server, tmp_path: Path, hurried: None, after: int) -> None:
    is_early = first_times(2)

    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        if len(body) > 5000 or not is_early(request.path):
            return False
        request.answer(status, headers, body[:after], length=len(body))
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert fetch_here(f"{proxy.host}/team/app:v1", tmp_path) == [pulls.SMALL, pulls.LARGE]


def flipped(body: bytes, place: int) -> bytes:
    changed = bytearray(body)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("place", [0, 1, 10, 5000, 262_143, 262_144, 400_000, -1])
def test_a_flipped_byte_of_a_layer_is_never_kept(
    server: Server, single: tuple[str, str, int], tmp_path: Path, place: int
) -> None:
    name, path, _ = single

    def meddle(request: Proxy) -> bool:
        if request.path != path:
            return False
        status, headers, body = request.fetch()
        request.answer(status, headers, flipped(body, place))
        return True

    with registry.faulty(server.host, meddle) as proxy:
        with pytest.raises(errors.BadInput, match="the digest must be"):
            fetch_here(f"{proxy.host}/{name}", tmp_path)
    assert partial_bytes(tmp_path) == 0
    assert not list((tmp_path / "cache" / "layers" / "sha256").iterdir())
    assert fetch_here(f"{server.host}/{name}", tmp_path) == [BODY]


def test_a_flipped_byte_of_a_document_is_noticed(server: Server, tmp_path: Path) -> None:
    for place, kind in itertools.product((0, 50, -2), ("manifests", "blobs")):

        def meddle(request: Proxy, place: int = place, kind: str = kind) -> bool:
            status, headers, body = request.fetch()
            if kind not in request.path or len(body) > 5000:
                return False
            request.answer(status, headers, flipped(body, place))
            return True

        with registry.faulty(server.host, meddle) as proxy:
            with pytest.raises(errors.BadInput, match="the digest must be"):
                fetch_here(f"{proxy.host}/team/app:v1", tmp_path / f"{place}{kind}")


@pytest.mark.parametrize("trick", ["ignored", "garbled", "416", "other bytes"])
def test_servers_that_cannot_do_ranges_are_put_up_with(server: Server, banger_home: Path, trick: str) -> None:
    is_early = first_times(1)

    def meddle(request: Proxy) -> bool:
        if not request.is_blob:
            return False
        asked = request.headers.get("Range")
        del request.headers["Range"]
        status, headers, body = request.fetch()
        if is_early(request.path):
            request.answer(status, headers, body[: len(body) // 2], length=len(body))
        elif not asked or trick == "ignored":
            request.answer(200, headers, body)
        elif trick == "garbled":
            last = {"Content-Range": f"bytes {len(body) - 1}-{len(body) - 1}/{len(body)}"}
            request.answer(206, {**headers, **last}, body[-1:])
        elif trick == "416":
            request.answer(416, {}, b"")
        else:  # what it says is right, and what it sends is the beginning
            start = int(asked[6:-1])
            stated = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            request.answer(206, {**headers, **stated}, body[: len(body) - start])
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1"))


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_server_that_recovers_is_waited_for(server: Server, tmp_path: Path, hurried: None, status: int) -> None:
    is_early = first_times(2)

    def meddle(request: Proxy) -> bool:
        if not is_early(request.path):
            return False
        request.answer(status, {}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert fetch_here(f"{proxy.host}/team/app:v1", tmp_path) == [pulls.SMALL, pulls.LARGE]


def test_a_pause_that_a_server_asks_for_is_made(server: Server, banger_home: Path) -> None:
    is_early, moments = first_times(1), []

    def meddle(request: Proxy) -> bool:
        if "/manifests/" not in request.path:
            return False
        moments.append(time.monotonic())
        if not is_early("manifest"):
            return False
        request.answer(429, {"Retry-After": "2"}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1"))
    assert moments[1] - moments[0] >= 2


def test_a_server_that_stays_busy_is_a_matter_for_later(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(429, {"Retry-After": "3600"}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        began = time.monotonic()
        assert "3600 s" in refused(75, f"{proxy.host}/team/app:v1")
        assert time.monotonic() - began < 10
        assert len(proxy.seen) == 1


def test_the_patience_with_a_silent_server_is_an_option(server: Server, banger_home: Path) -> None:
    release, is_early = threading.Event(), first_times(1)

    def meddle(request: Proxy) -> bool:
        if request.is_blob and is_early(request.path):
            release.wait(60)
        return False

    with registry.faulty(server.host, meddle) as proxy:
        try:
            began = time.monotonic()
            assert right(fetch(f"{proxy.host}/team/app:v1", "--stall=0.5"))
            assert time.monotonic() - began < 50
        finally:
            release.set()
    for wrong in ("0", "x", "-1", "1e9", ""):
        assert "--stall" in refused(64, "debian", f"--stall={wrong}")


@pytest.mark.parametrize("short", [1, 1000])
def test_a_length_that_is_too_short_is_put_up_with(server: Server, tmp_path: Path, hurried: None, short: int) -> None:
    is_early = first_times(1)

    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        if len(body) < 100_000 or not is_early(request.path):
            return False
        request.answer(status, headers, body, length=len(body) - short)
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert fetch_here(f"{proxy.host}/team/app:v1", tmp_path) == [pulls.SMALL, pulls.LARGE]


@pytest.mark.parametrize("more", [1, 10**6, 10**17])
def test_a_layer_longer_than_its_manifest_says_is_refused_at_once(
    server: Server, single: tuple[str, str, int], tmp_path: Path, more: int
) -> None:
    name, path, _ = single

    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        request.answer(status, headers, body, length=len(body) + more if request.path == path else None)
        return True

    with registry.faulty(server.host, meddle) as proxy:
        with pytest.raises(errors.BadInput, match="longer"):
            fetch_here(f"{proxy.host}/{name}", tmp_path)
    assert partial_bytes(tmp_path) == 0


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for start in range(0, len(data), size):
        piece = data[start : start + size]
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def test_bodies_in_chunks_are_read(server: Server, tmp_path: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.raw(*chunked(request.fetch()[2], 70_000), b"0\r\n\r\n")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert fetch_here(f"{proxy.host}/team/app:v1", tmp_path) == [pulls.SMALL, pulls.LARGE]


def test_chunks_that_go_on_after_the_last_byte_are_not_waited_for(server: Server, tmp_path: Path) -> None:
    def meddle(request: Proxy) -> bool:
        if not request.is_blob or len(request.fetch()[2]) < 100_000:
            return False
        request.raw(*chunked(request.fetch()[2], 70_000), *[b"1\r\nx\r\n"] * 50, pause=0.01)
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert fetch_here(f"{proxy.host}/team/app:v1", tmp_path) == [pulls.SMALL, pulls.LARGE]
