"""Logging in: passwords, tokens of a real token server, certificates of both sides, and who gets to see a secret."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pulls, registry, support, token_server
from tests.pulls import LARGE, SMALL, Server, configured, docker_config, fetch, refused, right
from tests.registry import Proxy
from tests.token_server import TokenServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


def test_a_redirect_to_another_host_does_not_carry_the_authorization(server: Server, banger_home: Path) -> None:
    token = "Basic " + base64.b64encode(b"alice:secret").decode()

    with registry.faulty(server.host, registry.nothing) as storage:

        def meddle(request: Proxy) -> bool:
            if request.headers.get("Authorization") != token:
                request.answer(401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")
                return True
            if request.is_blob:
                request.answer(307, {"Location": f"http://{storage.host}{request.path}"}, b"")
                return True
            return False

        with registry.faulty(server.host, meddle) as proxy:
            assert right(fetch(f"{proxy.host}/team/app:v1", "--creds", "alice:secret"))
            assert any(headers.get("authorization") == token for _, headers in proxy.seen)
        assert storage.seen and all("authorization" not in headers for _, headers in storage.seen)


def test_a_bearer_token_is_asked_for_and_renewed_when_it_expires(server: Server, banger_home: Path) -> None:
    issued: list[dict[str, str]] = []
    uses: dict[str, int] = {}

    def meddle(request: Proxy) -> bool:
        if request.path.startswith("/token"):
            issued.append({"path": request.path, "authorization": request.headers.get("Authorization", "")})
            request.answer(200, {}, json.dumps({"token": f"t{len(issued)}", "expires_in": 60}).encode())
            return True
        given = request.headers.get("Authorization", "")
        uses[given] = uses.get(given, 0) + 1
        if given != f"Bearer t{len(issued)}" or uses[given] > 2:  # a token is good for two requests
            realm = (
                f'Bearer realm="http://{request.headers["Host"]}/token",service="reg",scope="repository:team/app:pull"'
            )
            request.answer(401, {"WWW-Authenticate": realm}, b"")
            return True
        del request.headers["Authorization"]
        return False

    with registry.faulty(server.host, meddle) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1", "--creds-stdin", stdin="bob:pass:word\n"))
    assert len(issued) >= 2
    assert "scope=repository%3Ateam%2Fapp%3Apull" in issued[0]["path"] and "service=reg" in issued[0]["path"]
    assert issued[0]["authorization"] == "Basic " + base64.b64encode(b"bob:pass:word").decode()


def test_a_refusal_is_a_denial_and_prints_no_password(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(401, {"WWW-Authenticate": 'Basic realm="x"'}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "login" in refused(77, f"{proxy.host}/team/app:v1")
        assert "secret" not in refused(77, f"{proxy.host}/team/app:v1", "-vv", "--creds", "alice:secret")

    def forbidden(request: Proxy) -> bool:
        request.answer(403, {}, b"")
        return True

    with registry.faulty(server.host, forbidden) as proxy:
        refused(77, f"{proxy.host}/team/app:v1")


def test_a_password_protected_registry_with_tls_of_its_own(banger_home: Path, tmp_path: Path) -> None:
    authority = registry.Authority(tmp_path)
    certificate, key = authority.issue("server")
    passwords = registry.htpasswd(tmp_path)
    extra = f"  tls: {{certificate: {certificate}, key: {key}}}\nauth: {{htpasswd: {{realm: x, path: {passwords}}}}}\n"
    layout = registry.umoci_layout(tmp_path, [SMALL, LARGE])
    with registry.serve(tmp_path, extra) as running:
        ref = f"{running.host}/team/app:v1"
        registry.push(layout, "v1", ref, "--dest-creds", "alice:secret")
        assert "--ca-file" in refused(69, ref)
        assert "log in" in refused(77, ref, "--ca-file", authority.file, env={"HOME": str(tmp_path)})
        refused(77, ref, "--ca-file", authority.file, "--creds", "alice:wrong")
        assert right(fetch(ref, "--ca-file", authority.file, env=docker_config(tmp_path / "docker", running.host)))
        assert "no certificate" in refused(65, ref, "--ca-file", passwords, "--pull=always")
        refused(66, ref, "--ca-file", tmp_path / "nope", "--pull=always")
        assert "400" in refused(69, ref, "--plain-http", running.host, "--pull=always")


def test_a_credential_helper_is_asked_before_the_file(server: Server, banger_home: Path, tmp_path: Path) -> None:
    helpers = tmp_path / "bin"
    helpers.mkdir()
    script = helpers / "docker-credential-fake"
    script.write_text('#!/bin/sh\nread host\necho "{\\"Username\\":\\"carol\\",\\"Secret\\":\\"$host\\"}"\n')
    script.chmod(0o755)
    seen: list[str] = []

    def meddle(request: Proxy) -> bool:
        seen.append(request.headers.get("Authorization", ""))
        if not seen[-1]:
            request.answer(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
            return True
        return False

    with registry.faulty(server.host, meddle) as proxy:
        env = docker_config(tmp_path / "docker", proxy.host, credHelpers={proxy.host: "fake"})
        env["PATH"] = f"{helpers}:{support.search_path()}"
        assert right(fetch(f"{proxy.host}/team/app:v1", env=env))
        expected = base64.b64encode(f"carol:{proxy.host}".encode()).decode()
    assert set(seen) == {"", f"Basic {expected}"}


# Tokens


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TokenServer]]:
    """A registry that wants tokens, with a private and a public image, and its token server."""
    folder = tmp_path_factory.mktemp("guarded")
    layout = registry.umoci_layout(folder, [SMALL, LARGE])
    with token_server.running(folder) as tokens, registry.serve(folder, tokens.configuration()) as running:
        for name in ("team/app", "public/app"):
            registry.push(layout, "v1", f"{running.host}/{name}:v1", "--dest-creds", "alice:secret")
        yield Server(running.host, running.root, layout), tokens


@pytest.fixture
def tokens(guarded: tuple[Server, TokenServer]) -> TokenServer:
    """The token server, which has issued nothing yet."""
    guarded[1].lifetime = 300
    guarded[1].issued.clear()
    return guarded[1]


def test_a_token_is_asked_for_once_with_the_scope_of_the_repository(
    guarded: tuple[Server, TokenServer], tokens: TokenServer, banger_home: Path
) -> None:
    assert right(fetch(guarded[0].ref, "--creds", "alice:secret"))
    assert tokens.issued == [{"scopes": ["repository:team/app:pull"], "alice": True, "method": "GET"}]


def test_what_is_public_needs_an_anonymous_token_only(
    guarded: tuple[Server, TokenServer], tokens: TokenServer, banger_home: Path, tmp_path: Path
) -> None:
    nobody = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": "", "DOCKER_CONFIG": "", "REGISTRY_AUTH_FILE": ""}
    assert right(fetch(f"{guarded[0].host}/public/app:v1", env=nobody))
    assert tokens.issued == [{"scopes": ["repository:public/app:pull"], "alice": False, "method": "GET"}]
    said = refused(77, guarded[0].ref, env=nobody)
    assert f"log in first: docker login {guarded[0].host}," in said
    said = refused(77, guarded[0].ref, "--creds", "alice:wrong")
    assert "who are you" in said and "is 'alice' the right user" in said and "wrong" not in said
    assert f"log in again: docker login {guarded[0].host}," in said


def test_an_identity_token_is_traded_for_access(
    guarded: tuple[Server, TokenServer], tokens: TokenServer, banger_home: Path, tmp_path: Path
) -> None:
    entry = {"auth": base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()}
    auths = {guarded[0].host: {**entry, "identitytoken": token_server.IDENTITY}}
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": auths}))
    assert right(fetch(guarded[0].ref, env={"REGISTRY_AUTH_FILE": str(path)}))
    assert tokens.issued == [{"scopes": ["repository:team/app:pull"], "alice": True, "method": "POST"}]


def test_a_token_that_expires_in_the_midst_of_a_layer_is_renewed_and_the_layer_goes_on(
    guarded: tuple[Server, TokenServer], tokens: TokenServer, banger_home: Path
) -> None:
    tokens.lifetime = 6
    answers: list[tuple[str | None, int]] = []

    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        if not request.is_blob or (status == 200 and len(body) < 100_000):
            return False
        answers.append((request.headers.get("Range"), status))
        half = len(body) // 2 if status == 200 else len(body)
        if status == 200:
            time.sleep(tokens.lifetime + 1)  # now the token has expired
        request.answer(status, headers, body[:half], length=len(body))
        return True

    with registry.faulty(guarded[0].host, meddle) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1", "--creds", "alice:secret"))
    refusals = [wanted for wanted, status in answers if status == 401]
    assert [status for _, status in answers] == [200, 401, 206] and refusals[0] is not None
    assert len(tokens.issued) == 2


def test_a_token_that_expires_between_requests_is_renewed(
    guarded: tuple[Server, TokenServer], tokens: TokenServer, banger_home: Path
) -> None:
    tokens.lifetime = 6
    late: list[str] = []

    def meddle(request: Proxy) -> bool:
        if request.is_blob and not late:
            late.append(request.path)
            time.sleep(tokens.lifetime + 1)
        return False

    with registry.faulty(guarded[0].host, meddle) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1", "--creds", "alice:secret"))
    assert len(tokens.issued) >= 2


def test_a_token_that_is_refused_at_once_is_no_endless_loop(
    guarded: tuple[Server, TokenServer], tokens: TokenServer, banger_home: Path
) -> None:
    tokens.lifetime = -100
    assert "log in" in refused(77, guarded[0].ref, "--creds", "alice:secret")
    assert len(tokens.issued) <= 3


def test_a_password_goes_to_no_token_server_in_the_clear(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(401, {"WWW-Authenticate": 'Bearer realm="http://auth.example.org/token",service="x"'}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "not encrypted" in refused(77, f"{proxy.host}/team/app:v1", "--creds", "alice:secret")


@pytest.mark.parametrize("answer", [b"{}", b"x", b'{"token": 5}', b'{"token": null}', b'{"token": "a\\nb"}', b"[]"])
def test_a_token_server_that_gives_none_is_named(server: Server, banger_home: Path, answer: bytes) -> None:
    def meddle(request: Proxy) -> bool:
        if request.path.startswith("/token"):
            request.answer(200, {}, answer)
        else:
            realm = f'Bearer realm="http://{request.headers["Host"]}/token"'
            request.answer(401, {"WWW-Authenticate": realm}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "gave no token" in refused(69, f"{proxy.host}/team/app:v1")


# Credential helpers


def helper(folder: Path, name: str, script: str) -> None:
    """Write a credential helper; it finds the host in $host."""
    folder.mkdir(exist_ok=True)
    path = folder / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\nread host\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("""echo '{"Username": "carol", "Secret": "of the store"}'""", "carol:of the store"),
        ("echo 'credentials not found in native keychain'; exit 1", "alice:secret"),
    ],
)
def test_the_store_of_all_hosts_is_asked_before_the_file(
    server: Server, banger_home: Path, tmp_path: Path, store: str, expected: str
) -> None:
    helper(tmp_path / "bin", "store", store)
    seen: list[str] = []

    def meddle(request: Proxy) -> bool:
        seen.append(request.headers.get("Authorization", ""))
        if not seen[-1]:
            request.answer(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
        return not seen[-1]

    with registry.faulty(server.host, meddle) as proxy:
        env = docker_config(tmp_path / "docker", proxy.host, credsStore="store")
        env["PATH"] = f"{tmp_path}/bin:{support.search_path()}"
        assert right(fetch(f"{proxy.host}/team/app:v1", env=env))
    assert set(seen) == {"", "Basic " + base64.b64encode(expected.encode()).decode()}


def test_a_store_that_fails_or_is_missing_is_named(server: Server, banger_home: Path, tmp_path: Path) -> None:
    helper(tmp_path / "bin", "store", "echo 'the keychain is locked' >&2; exit 3")

    def meddle(request: Proxy) -> bool:
        request.answer(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        env = docker_config(tmp_path / "docker", proxy.host, credsStore="store")
        env["PATH"] = f"{tmp_path}/bin:{support.search_path()}"
        assert "keychain is locked" in refused(69, f"{proxy.host}/team/app:v1", env=env)
        env = docker_config(tmp_path / "other", proxy.host, credHelpers={proxy.host: "nowhere"})
        assert "docker-credential-nowhere" in refused(69, f"{proxy.host}/team/app:v1", env=env)


# Certificates of clients


def test_a_registry_that_wants_a_client_certificate_gets_it(banger_home: Path, tmp_path: Path) -> None:
    authority = registry.Authority(tmp_path)
    certificate, key = authority.issue("server")
    client, client_key = authority.issue("client")
    stranger, stranger_key = registry.Authority(tmp_path, "other").issue("stranger")
    both = tmp_path / "both.pem"
    both.write_bytes(client.read_bytes() + client_key.read_bytes())
    trusted = tmp_path / "certs"
    trusted.mkdir()
    for source, name in ((authority.file, "ca.crt"), (client, "client.cert"), (client_key, "client.key")):
        (trusted / name).write_bytes(source.read_bytes())
    extra = f"  tls: {{certificate: {certificate}, key: {key}, clientcas: [{authority.file}]}}\n"
    layout = registry.umoci_layout(tmp_path, [SMALL, LARGE])
    with registry.serve(tmp_path, extra) as running:
        ref = f"{running.host}/team/app:v1"
        registry.skopeo("copy", "--quiet", f"--dest-cert-dir={trusted}", f"oci:{layout}:v1", f"docker://{ref}")
        trust = ["--ca-file", authority.file]
        assert "--cert-file" in refused(77, ref, *trust)
        assert "client certificate" in refused(77, ref, *trust, "--cert-file", stranger, "--key-file", stranger_key)
        assert "--key-file" in refused(65, ref, *trust, "--cert-file", client)
        assert "client" in refused(65, ref, *trust, "--cert-file", client, "--key-file", stranger_key)
        refused(66, ref, *trust, "--cert-file", tmp_path / "nope")
        refused(64, ref, *trust, "--key-file", client_key)
        assert right(fetch(ref, *trust, "--cert-file", client, "--key-file", client_key))
        assert right(fetch(ref, *trust, "--cert-file", both, "--pull=always"))
        lines = f"ca-file = '{authority.file}'\ncert-file = '{client}'\nkey-file = '{client_key}'"
        configured(banger_home, **{running.host: lines})
        assert right(fetch(ref, "--pull=always"))


def listening(authority: registry.Authority, name: str) -> ssl.SSLContext:
    """Return the TLS of a server that looks at the certificates of clients who show one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(name))
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def test_a_client_certificate_is_shown_to_no_other_host(server: Server, banger_home: Path, tmp_path: Path) -> None:
    authority = registry.Authority(tmp_path)
    client, client_key = authority.issue("client")
    shown: dict[str, set[bool]] = {"registry": set(), "storage": set()}

    def storage_looks(request: Proxy) -> bool:
        shown["storage"].add(bool(request.connection.getpeercert()))
        return False

    with registry.faulty(server.host, storage_looks, listening(authority, "storage")) as storage:

        def meddle(request: Proxy) -> bool:
            shown["registry"].add(bool(request.connection.getpeercert()))
            if request.is_blob:
                request.answer(307, {"Location": f"https://{storage.host}{request.path}"}, b"")
            return request.is_blob

        with registry.faulty(server.host, meddle, listening(authority, "registry")) as proxy:
            ref = f"{proxy.host}/team/app:v1"
            words = ["--ca-file", authority.file, "--cert-file", client, "--key-file", client_key]
            assert right(fetch(ref, *words))
            assert shown == {"registry": {True}, "storage": {False}}
            lines = f"ca-file = '{authority.file}'"
            configured(banger_home, **{proxy.host: lines})
            registry.remove_cache(banger_home)
            assert "certificate" in refused(69, ref), "what one host's CA signs is not trusted from another"
            configured(banger_home, **{proxy.host: lines, storage.host: lines})
            assert right(fetch(ref))
