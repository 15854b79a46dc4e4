"""The way to a registry: proxies of the environment, what NO_PROXY excepts, and addresses of IPv6."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.client import RemoteDisconnected
from pathlib import Path

import pytest
from urllib3 import exceptions

from banger_tools import errors
from banger_tools.oci import failures, hosts
from tests import forward_proxy, pulls, registry, support
from tests.pulls import LARGE, SMALL, Server, fetch, refused, right


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


def proxied(proxy: str, **more: str) -> dict[str, str]:
    """Return an environment with a proxy for everything."""
    return {"http_proxy": proxy, "https_proxy": proxy, "no_proxy": "", "NO_PROXY": "", **more}


def address(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return name, int(port)


def test_plain_requests_go_through_a_proxy_that_alone_knows_the_host(server: Server, banger_home: Path) -> None:
    with forward_proxy.running({"registry.example:5000": address(server.host)}) as proxy:
        env = proxied(f"http://127.0.0.1:{proxy.port}")
        words = ["registry.example:5000/team/app:v1", "--plain-http=registry.example:5000"]
        assert right(fetch(*words, env=env))
        assert {line.split()[0] for line, _ in proxy.asked} == {"GET"}
        assert all(line.split()[1].startswith("http://registry.example:5000/v2/team/app/") for line, _ in proxy.asked)


def test_tls_goes_through_a_tunnel_with_the_password_of_the_proxy(
    server: Server, banger_home: Path, tmp_path: Path
) -> None:
    authority = registry.Authority(tmp_path)
    certificate, key = authority.issue("server", "DNS:registry.example")
    layout = registry.umoci_layout(tmp_path, [SMALL, LARGE])
    with registry.serve(tmp_path, f"  tls: {{certificate: {certificate}, key: {key}}}\n") as running:
        registry.push(layout, "v1", f"{running.host}/team/app:v1")
        with forward_proxy.running({"registry.example:443": address(running.host)}) as proxy:
            env = proxied(f"us%40er:pa%3Ass@127.0.0.1:{proxy.port}")
            assert right(fetch("registry.example/team/app:v1", "--ca-file", authority.file, env=env))
            asked = {(*line.split()[:2], user) for line, user in proxy.asked}
            assert asked == {("CONNECT", "registry.example:443", "us@er:pa:ss")}
            said = refused(69, "other.example/team/app:v1", env=env)
            assert "proxy" in said and "502" in said and "pa:ss" not in said and "pa%3Ass" not in said


def test_a_proxy_is_not_used_for_this_machine(server: Server, banger_home: Path) -> None:
    nobody = f"http://127.0.0.1:{registry.free_port()}"
    assert right(fetch(server.ref, env=proxied(nobody)))
    said = refused(69, "registry.invalid/team/app", env=proxied(nobody))
    assert "the proxy does not let us reach 'registry.invalid': connection refused\n" in said
    assert "cannot find" in refused(69, "registry.invalid/team/app", env=proxied(nobody, no_proxy=".invalid"))


@pytest.mark.parametrize("wrong", ["socks5://127.0.0.1:9", "http://", "http://a:b:c", "ftp://x", "user:secret@"])
def test_a_proxy_that_is_none_is_said_without_its_password(banger_home: Path, wrong: str) -> None:
    said = refused(64, "registry.invalid/team/app", env=proxied(wrong))
    assert "https_proxy" in said and "secret" not in said


@pytest.mark.parametrize(
    ("url", "no_proxy", "is_used"),
    [
        ("https://a.example/x", "", True),
        ("https://a.example/x", "*", False),
        ("https://a.example/x", "a.example", False),
        ("https://a.example/x", "example", False),
        ("https://a.example/x", ".example", False),
        ("https://a.example/x", "*.example", False),
        ("https://A.Example/x", "b.example, a.EXAMPLE", False),
        ("https://example/x", ".example", True),
        ("https://nota.example/x", "a.example", True),
        ("https://a.example:5000/x", "a.example:5000", False),
        ("https://a.example:5000/x", "a.example:443", True),
        ("https://a.example/x", "a.example:443", False),
        ("http://10.1.2.3/x", "10.1.2.3", False),
        ("http://10.1.2.3/x", "10.0.0.0/8", False),
        ("http://11.1.2.3/x", "10.0.0.0/8", True),
        ("http://10.1.2.3:80/x", "10.1.2.3:80", False),
        ("http://[fd00::1]:5000/x", "fd00::/8", False),
        ("http://[fd00::1]:5000/x", "fd00::1", False),
        ("http://[fd00::1]:5000/x", "[fd00::1]:5000", False),
        ("http://[fd00::1]:5000/x", "[fd00::1]:5001", True),
        ("https://a.example/x", "10.0.0.0/8,no such/thing,:,[,a.example:x", True),
        ("http://localhost:5000/x", "", False),
        ("http://127.1.2.3/x", "", False),
        ("http://[::1]:5000/x", "", False),
    ],
)
def test_no_proxy_excepts_hosts_domains_addresses_and_networks(
    url: str, no_proxy: str, is_used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("HTTPS_PROXY", "proxy:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert hosts.proxy(url) == ("http://proxy:1" if is_used else None)


def test_a_wrong_proxy_for_another_scheme_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "nonsense://x")
    monkeypatch.setenv("https_proxy", "")
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    assert hosts.proxy("https://a.example/") is None
    with pytest.raises(errors.BadUsage):
        hosts.proxy("http://a.example/")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://a.example:443/x", "a.example"),
        ("http://a.example:443/x", "a.example:443"),
        ("http://A.example:80/x", "a.example"),
        ("https://[::1]:5000/x", "[::1]:5000"),
        ("https://me:pw@a.example/x", "a.example"),
        ("https://registry-1.docker.io/v2/", "docker.io"),
    ],
)
def test_a_host_has_one_name(url: str, host: str) -> None:
    assert hosts.of_url(url) == host


def test_a_registry_at_an_address_of_ipv6(server: Server, banger_home: Path) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        support.cannot("this machine has no IPv6")
    with registry.faulty(server.host, registry.nothing, address="::1") as proxy:
        found = fetch(f"{proxy.host}/team/app:v1")
        assert right(found) and found["source"]["resolved"].startswith("[::1]:")
        assert right(fetch(f"{proxy.host}/team/app:v1", "--offline"))


def test_proxy_that_closes_a_connection_that_was_kept_is_asked_again() -> None:
    """It may do so at any time, and what it has not answered can be asked once more; one that refuses is an error."""
    broken = exceptions.ProxyError("Unable to connect to proxy", RemoteDisconnected("closed"))
    assert isinstance(failures.sort(broken, "h.example"), failures.Busy)
    refused = exceptions.ProxyError("Unable to connect to proxy", OSError("Tunnel connection failed: 502 Bad Gateway"))
    assert isinstance(failures.sort(refused, "h.example"), errors.Unavailable)
