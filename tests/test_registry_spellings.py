"""One host in several spellings: capitals, and the port of its scheme; what is said of one is said of all."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import forward_proxy, pulls, registry, webserver
from tests.pulls import Server, configured, fetch, refused, right
from tests.registry import Proxy
from tests.test_registry_proxies import address, proxied


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


class Strict(NamedTuple):
    """`registry.example`, which only those reach who have this environment, and a certificate with its key."""

    env: dict[str, str]
    authority: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def strict(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    """A registry that lets in who has a certificate of its authority."""
    authority = registry.Authority(tmp_path_factory.mktemp("strict"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", "DNS:registry.example"))
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    with registry.faulty(server.host, registry.nothing, context) as proxy:
        with forward_proxy.running({"registry.example:443": address(proxy.host)}) as way:
            yield Strict(proxied(f"http://127.0.0.1:{way.port}"), authority.file, *authority.issue("client"))


@pytest.mark.parametrize(
    "host", ["registry.example", "registry.example:443", "Registry.Example", "REGISTRY.example:443"]
)
def test_certificate_of_the_command_line_is_shown_to_the_registry(strict: Strict, banger_home: Path, host: str) -> None:
    words = [f"--ca-file={strict.authority}", f"--cert-file={strict.certificate}", f"--key-file={strict.key}"]
    assert right(fetch(f"{host}/team/app:v1", *words, env=strict.env))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("registry.example", "registry.example:443"),
        ("registry.example:443", "registry.example"),
        ("Registry.Example", "registry.example"),
        ("registry.example", "REGISTRY.EXAMPLE"),
    ],
)
def test_configuration_of_a_registry_holds(strict: Strict, banger_home: Path, said: str, meant: str) -> None:
    files = f"ca-file = '{strict.authority}'\ncert-file = '{strict.certificate}'\nkey-file = '{strict.key}'"
    configured(banger_home, **{said: files})
    assert right(fetch(f"{meant}/team/app:v1", env=strict.env))


def test_mirrors_of_a_registry_hold(server: Server, banger_home: Path) -> None:
    configured(banger_home, **{"Registry.invalid:443": f"mirrors = ['{server.host}']"})
    assert right(fetch("registry.Invalid/team/app:v1"))


@contextlib.contextmanager
def plain(name: str, host: str) -> Iterator[forward_proxy.Running]:
    """Run a proxy by which a host has a name at port 80."""
    with forward_proxy.running({name: address(host), f"{name}:80": address(host)}) as running:
        yield running


def through(way: forward_proxy.Running) -> dict[str, str]:
    return proxied(f"http://127.0.0.1:{way.port}")


@pytest.mark.parametrize(
    ("allowed", "meant"),
    [
        ("registry.example", "registry.example:80"),
        ("registry.example:80", "registry.example:80"),
        ("registry.example", "Registry.Example"),
        ("REGISTRY.example", "registry.example"),
    ],
)
def test_registry_may_speak_plain_http(server: Server, banger_home: Path, allowed: str, meant: str) -> None:
    with plain("registry.example", server.host) as way:
        assert right(fetch(f"{meant}/team/app:v1", f"--plain-http={allowed}", env=through(way)))
        registry.remove_cache(banger_home)
        configured(banger_home, **{allowed: "plain-http = true"})
        assert right(fetch(f"{meant}/team/app:v1", env=through(way)))


@pytest.mark.parametrize("other", ["registry.example:80", "registry.example:443", "example"])
def test_what_is_said_of_another_port_or_name_is_not_said_of_this_one(
    server: Server, banger_home: Path, other: str
) -> None:
    """A registry without a port is the one that has TLS; nobody who meant another one wants that to be left out."""
    configured(banger_home, **{other: "plain-http = true"})
    with plain("registry.example", server.host) as way:
        refused(69, "registry.example/team/app:v1", f"--plain-http={other}", env=through(way))
        assert {line.split()[0] for line, _ in way.asked} == {"CONNECT"}


@pytest.mark.parametrize("url", ["http://images.example:80/x.tar.zst", "http://IMAGES.example/x.tar.zst"])
def test_bundle_may_come_over_plain_http(banger_home: Path, url: str) -> None:
    with webserver.serve() as site, plain("images.example", site.host) as way:
        assert "answers 404" in refused(66, url, "--plain-http=images.example", env=through(way))
        assert site.seen
        said = refused(77, url, "--plain-http=images.example:443,example", env=through(way))
        assert "--plain-http=images.example," in said


def test_token_server_may_be_told_the_password_over_plain_http(server: Server, banger_home: Path) -> None:
    def grant(request: Proxy) -> bool:
        request.answer(200, {}, b'{"token": "t"}')
        return True

    def meddle(request: Proxy) -> bool:
        if request.headers.get("Authorization") != "Bearer t":
            request.answer(401, {"WWW-Authenticate": 'Bearer realm="http://Tokens.example:80/token"'}, b"")
            return True
        del request.headers["Authorization"]
        return False

    with registry.faulty("", grant) as tokens, registry.faulty(server.host, meddle) as proxy:
        with plain("tokens.example", tokens.host) as way:
            words = [f"{proxy.host}/team/app:v1", "--creds=alice:secret"]
            assert "is not encrypted" in refused(77, *words, env=through(way))
            assert tokens.seen == []
            assert right(fetch(*words, "--plain-http=tokens.example:80", env=through(way)))
