"""Answers of hosts that a registry sends us to: they learn no secret, and what they lack is a layer, not a registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pulls, registry
from tests.pulls import Server, docker_config, fetch, refused, right
from tests.registry import Faulty, Handler, Proxy
from tests.test_registry_mirrors import foreign

LOGIN = "Basic YWxpY2U6c2VjcmV0"
GONE = [b"", b"<html>not here</html>", b"<Error><Code>NoSuchKey</Code></Error>"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def greedy() -> Iterator[Faulty]:
    """One who gives tokens for any login."""

    def answer(request: Proxy) -> bool:
        request.rfile.read(int(request.headers.get("Content-Length", "0")))
        request.answer(200, {}, b'{"token": "t", "access_token": "t"}')
        return True

    with registry.faulty("", answer) as running:
        yield running


@pytest.fixture
def storage(greedy: Faulty) -> Iterator[Faulty]:
    """Where layers are kept; it wants to be told who we are by way of the greedy one."""

    def answer(request: Proxy) -> bool:
        request.answer(401, {"WWW-Authenticate": f'Bearer realm="http://{greedy.host}/token",service="s"'}, b"")
        return True

    with registry.faulty("", answer) as running:
        yield running


def sending(what: str, to: Faulty, *, guarded: bool = False) -> Handler:
    """Return a registry that sends us to another host for some things; if `guarded`, it lets only alice in."""

    def meddle(request: Proxy) -> bool:
        if guarded and request.headers.get("Authorization") != LOGIN:
            request.answer(401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
        elif what in request.path:
            request.answer(307, {"Location": f"http://{to.host}{request.path}"}, b"")
        else:
            return False
        return True

    return meddle


def assert_secret(storage: Faulty, greedy: Faulty) -> None:
    """Check that the storage was asked, and that nobody but the registry learned who asks."""
    assert storage.seen and all("authorization" not in headers for _, headers in storage.seen)
    assert greedy.seen == []


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("what", ["/manifests/", "/blobs/"])
def test_host_that_we_are_sent_to_cannot_ask_for_our_password(
    server: Server, storage: Faulty, greedy: Faulty, banger_home: Path, what: str, guarded: bool
) -> None:
    with registry.faulty(server.host, sending(what, storage, guarded=guarded)) as proxy:
        said = refused(77, f"{proxy.host}/team/app:v1", "--creds=alice:secret")
    assert f"'{storage.host}' does not let us have '{proxy.host}/team/app:v1'" in said
    assert "log in" not in said
    assert_secret(storage, greedy)


def test_host_that_we_are_sent_to_cannot_ask_for_our_identity_token(
    server: Server, storage: Faulty, greedy: Faulty, banger_home: Path, tmp_path: Path
) -> None:
    with registry.faulty(server.host, sending("/blobs/", storage)) as proxy:
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {proxy.host: {"identitytoken": "of alice"}}}))
        refused(77, f"{proxy.host}/team/app:v1", env={"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")})
    assert_secret(storage, greedy)


def test_host_that_a_mirror_sends_us_to_cannot_ask_for_our_password(
    server: Server, storage: Faulty, greedy: Faulty, banger_home: Path, tmp_path: Path
) -> None:
    with registry.faulty(server.host, sending("/blobs/", storage)) as mirror:
        env = docker_config(tmp_path / "docker", mirror.host)
        assert right(fetch(server.ref, f"--mirror={mirror.host}", env=env))
    assert_secret(storage, greedy)


def test_registry_that_sends_us_to_itself_may_ask_for_our_password_there(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        if request.is_blob and not request.path.startswith("/kept"):
            request.answer(307, {"Location": f"/kept{request.path}"}, b"")
            return True
        if request.is_blob and request.headers.get("Authorization") != LOGIN:
            request.answer(401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
            return True
        request.path = request.path.removeprefix("/kept")
        return False

    with registry.faulty(server.host, meddle) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1", "--creds=alice:secret"))


def lacking(what: str, body: bytes) -> Handler:
    """Return a host that knows nothing of some paths, and has no word of a registry's for it."""

    def meddle(request: Proxy) -> bool:
        if what in request.path:
            request.answer(404, {"Content-Type": "text/html"}, body)
        return what in request.path

    return meddle


@pytest.mark.parametrize("body", GONE)
def test_layer_that_is_gone_where_a_registry_keeps_it_does_not_exist(
    server: Server, banger_home: Path, body: bytes
) -> None:
    with (
        registry.faulty("", lacking("", body)) as kept,
        registry.faulty(server.host, sending("/blobs/", kept)) as proxy,
    ):
        said = refused(66, f"{proxy.host}/team/app:v1")
    assert f"'{proxy.host}/team/app:v1' does not exist: '{kept.host}' answers 404" in said


@pytest.mark.parametrize("body", GONE)
def test_layer_that_a_registry_lacks_without_a_word_does_not_exist(
    server: Server, banger_home: Path, body: bytes
) -> None:
    with registry.faulty(server.host, lacking("/blobs/", body)) as proxy:
        said = refused(66, f"{proxy.host}/team/app:v1")
    assert f"'{proxy.host}/team/app:v1' does not exist: '{proxy.host}' answers 404" in said


def test_foreign_layer_that_is_gone_does_not_exist(banger_home: Path, tmp_path: Path) -> None:
    with registry.faulty("", lacking("", b"<html>")) as kept:
        layout, _ = foreign(tmp_path, [f"http://{kept.host}/layer"], with_blob=False)
        assert f"'http://{kept.host}/layer' does not exist" in refused(66, f"oci:{layout}")


def test_token_server_that_is_not_there_is_named(server: Server, banger_home: Path) -> None:
    with registry.faulty("", lacking("", b"<html>")) as nothing:

        def meddle(request: Proxy) -> bool:
            request.answer(401, {"WWW-Authenticate": f'Bearer realm="http://{nothing.host}/token"'}, b"")
            return True

        with registry.faulty(server.host, meddle) as proxy:
            said = refused(69, f"{proxy.host}/team/app:v1")
    assert f"'{proxy.host}' names a token server that is none: 'http://{nothing.host}/token'" in said
