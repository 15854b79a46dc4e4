"""Servers that mean harm, or are no registries at all: bounded in time and memory, and called what they are."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from banger_tools import errors
from banger_tools.oci import credentials, http
from tests import pulls, registry
from tests.pulls import Server, fetch_here, first_times, refused
from tests.registry import Proxy

BODY = registry.tar_of({"data": random.Random(3).randbytes(600_000)})
IMPATIENT = {"stall": 1.0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pulls in this process make short pauses."""
    monkeypatch.setattr(http, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(http, "LONGEST_PAUSE", 1.0)


@pytest.mark.parametrize("what", ["status line", "headers", "body of a layer", "trailer of a document"])
def test_a_server_that_sends_a_byte_now_and_then_is_dropped_and_asked_again(
    server: Server, tmp_path: Path, hurried: None, what: str
) -> None:
    is_early = first_times(1)
    heads = {
        "status line": (b"", b"H"),
        "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        "body of a layer": (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", b"\0"),
        "trailer of a document": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),
    }

    def meddle(request: Proxy) -> bool:
        _, _, body = request.fetch()
        is_layer = request.is_blob and len(body) > 100_000
        if is_layer != (what == "body of a layer") or not is_early(request.path):
            return False
        head, forever = heads[what]
        head = head % len(body) if b"%d" in head else head
        request.raw(head, *[forever] * 1000, pause=0.1)  # for longer than is waited for below
        return True

    with registry.faulty(server.host, meddle) as proxy:
        began = time.monotonic()
        got = fetch_here(f"{proxy.host}/team/app:v1", tmp_path, **IMPATIENT)
        assert time.monotonic() - began < 60
    assert got == [pulls.SMALL, pulls.LARGE]


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        ([HEAD, b"".join(b"X-%d: y\r\n" % n for n in range(200)), b"\r\n"], errors.Unavailable, "more headers"),
        ([HEAD, b"X: " + b"y" * 200_000 + b"\r\n\r\n"], errors.Unavailable, "more headers"),
        ([HEAD, *[b"X: y\r\n"] * 100_000], errors.Unavailable, "more headers"),
        ([HEAD, *[b"y" * 1000] * 1000], errors.Unavailable, "more headers"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], errors.Unavailable, "does not speak HTTP"),
        ([b"HTTP/1.1 999999999 Yes\r\n\r\n"], errors.Unavailable, "does not speak HTTP"),
        ([b""], errors.Retry, "broke"),
        ([HEAD, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], errors.Retry, "broke"),
        ([HEAD, b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nab"], errors.Retry, "broke"),
        ([HEAD, b"Transfer-Encoding: chunked\r\n\r\n", *[b"100000\r\n" + b" " * 0x100000 + b"\r\n"] * 9],
         errors.BadInput, "too large"),
        ([HEAD, b"Content-Length: 99999999999999999999\r\n\r\n", *[b" " * 100_000] * 60], errors.BadInput, "too large"),
        ([b"HTTP/1.1 302 Found\r\nLocation: ftp://x/y\r\nContent-Length: 0\r\n\r\n"], errors.BadInput, "redirects to"),
        ([b"HTTP/1.1 302 Found\r\nLocation: http://[x\r\nContent-Length: 0\r\n\r\n"], errors.BadInput, "redirects to"),
        ([b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n"], errors.Unavailable, "answers 418"),
    ],
)  # fmt: skip
def test_answers_that_are_none_are_called_what_they_are(
    server: Server, tmp_path: Path, hurried: None, answer: list[bytes], error: type[Exception], why: str
) -> None:
    def meddle(request: Proxy) -> bool:
        request.raw(*answer)
        return True

    with registry.faulty(server.host, meddle) as proxy:
        with pytest.raises(error, match=why):
            fetch_here(f"{proxy.host}/team/app:v1", tmp_path)


def test_redirects_without_end_end(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(302, {"Location": request.path}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "without end" in refused(69, f"{proxy.host}/team/app:v1")
        assert len(proxy.seen) < 20


@pytest.mark.parametrize("size", [2**40, 2**62])
def test_a_layer_of_an_absurd_size_is_refused_before_it_is_fetched(
    tmp_path: Path, banger_home: Path, size: int
) -> None:
    image = registry.Image(tmp_path / "layout")
    layer = {**image.blob(registry.gzip_of(pulls.SMALL), registry.OCI_LAYER + "+gzip"), "size": size}
    answers = registry.of_layout(image.index(image.manifest([layer], [registry.digest(pulls.SMALL)])), "a")
    with registry.faulty("", registry.static(answers)) as proxy:
        assert "--max-" in refused(65, f"{proxy.host}/a:v1")
        assert not [path for path, _ in proxy.seen if layer["digest"] in path]


@pytest.mark.parametrize("off", [-1, 1, 100_000])
def test_a_manifest_that_lies_about_a_size_is_refused(tmp_path: Path, hurried: None, off: int) -> None:
    image = registry.Image(tmp_path / "layout")
    layer = image.blob(registry.gzip_of(BODY), registry.OCI_LAYER + "+gzip")
    layer["size"] += off
    answers = registry.of_layout(image.index(image.manifest([layer], [registry.digest(BODY)])), "a")
    with registry.faulty("", registry.static(answers)) as proxy:
        with pytest.raises(errors.BadInput, match="bytes"):
            fetch_here(f"{proxy.host}/a:v1", tmp_path / "home")
    assert not list((tmp_path / "home" / "cache" / "layers" / "sha256").iterdir())


def test_what_a_registry_says_of_an_error_is_passed_on(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        said = {"errors": [{"code": "DENIED", "message": "Not\x1b[31m today"}]}
        request.answer(403, {"Content-Type": "application/json"}, json.dumps(said).encode())
        return True

    with registry.faulty(server.host, meddle) as proxy:
        said = refused(77, f"{proxy.host}/team/app:v1")
    assert "not\\x1b[31m today" in said


HEADERS = ("WWW-Authenticate", "Location", "Retry-After", "Content-Type", "Docker-Content-Digest", "Content-Range")
VALUES = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60),
    st.sampled_from(
        [
            'Bearer realm="http://["',
            'Bearer realm="http://127.0.0.1:99999/t"',
            'Bearer realm="http://127.0.0.1:0/t",scope="\\',
            "Bearer realm=http://a b/",
            'Bearer realm="ftp://x/",service=x',
            "Basic",
            "http://[::1",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:0/",
            "//",
            "http:///x",
            "9" * 400,
            "Mon, 99 Foo 99999 99:99:99 GMT",
            "-5",
            "\u0663",
            "sha256:xyz",
            "bytes 5-/*",
            "bytes */99999999999999999999999",
        ]
    ),
)


@hypothesis.given(st.sampled_from([200, 206, 302, 307, 401, 403, 404, 416, 429, 503]), st.data())
@hypothesis.settings(
    max_examples=80, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_no_header_of_a_server_is_a_bug(
    server: Server, tmp_path: Path, hurried: None, status: int, data: st.DataObject
) -> None:
    headers = data.draw(st.dictionaries(st.sampled_from(HEADERS), VALUES, max_size=3))
    where = data.draw(st.sampled_from(["/manifests/", "/blobs/"]))

    def meddle(request: Proxy) -> bool:
        if where not in request.path:
            return False
        body = request.fetch()[2]
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in headers.items())]
        request.raw(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body)
        return True

    with registry.faulty(server.host, meddle) as proxy, tempfile.TemporaryDirectory(dir=tmp_path) as home:
        try:
            got = fetch_here(f"{proxy.host}/team/app:v1", Path(home), credentials=credentials.Credentials("a", "b"))
        except errors.BangerError:
            return
        assert got == [pulls.SMALL, pulls.LARGE]
