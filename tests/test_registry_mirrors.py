"""Mirrors of a registry, and layers that have URLs of their own: asked first, trusted in nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests import pulls, registry, support
from tests.pulls import LARGE, SMALL, Server, configured, docker_config, fetch, refused, right
from tests.registry import Proxy

REF = "registry.invalid/team/app:v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        registry.push(running.layout, "v1", f"{running.host}/hub/eu/team/app:v1")
        yield running


def layers_asked(seen: list[tuple[str, dict[str, str]]]) -> int:
    return sum("/blobs/" in path for path, _ in seen)


def test_a_mirror_is_asked_for_everything_and_told_whose_it_is(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, registry.nothing) as mirror:
        found = fetch(REF, f"--mirror={mirror.host}")
        assert right(found) and found["source"]["resolved"] == REF
        for path, _ in mirror.seen:
            assert path.startswith("/v2/team/app/") and parse_qs(urlsplit(path).query) == {"ns": ["registry.invalid"]}
        before = len(mirror.seen)
        assert right(fetch(REF, f"--mirror={mirror.host}")) and len(mirror.seen) == before


def test_a_mirror_may_have_it_below_a_prefix(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, registry.nothing) as mirror:
        assert right(fetch(REF, f"--mirror={mirror.host}/hub/eu"))
        assert all(path.startswith("/v2/hub/eu/team/app/") for path, _ in mirror.seen)


def test_mirrors_of_the_command_line_go_before_those_of_the_configuration(server: Server, banger_home: Path) -> None:
    def lacks(request: Proxy) -> bool:
        request.answer(404, {"Docker-Distribution-Api-Version": "registry/2.0"}, b'{"errors":[{"code":"X"}]}')
        return True

    order: list[str] = []

    def noting(name: str, then: registry.Handler) -> registry.Handler:
        return lambda request: bool(order.append(name)) or then(request)

    with (
        registry.faulty(server.host, noting("option", lacks)) as first,
        registry.faulty(server.host, noting("config", registry.nothing)) as second,
    ):
        configured(banger_home, **{"registry.invalid": f"mirrors = ['{second.host}']"})
        assert right(fetch(REF, f"--mirror={first.host}"))
    assert order[:2] == ["option", "config"]


def broken(how: str) -> registry.Handler:
    """Return a mirror that is of no use."""

    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        if how == "lacks it":
            request.answer(404, {"Docker-Distribution-Api-Version": "registry/2.0"}, b'{"errors":[{"code":"X"}]}')
        elif how == "refuses":
            request.answer(403, {}, b"")
        elif how == "is a web server":
            request.answer(200, {"Content-Type": "text/html"}, b"<html>welcome</html>")
        elif how == "is busy":
            request.answer(503, {"Retry-After": "0"}, b"")
        elif how == "asks for a password":
            request.answer(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
        elif how == "has other documents":
            request.answer(status, headers, body if request.is_blob else body + b" ")
        elif how == "has other layers" and request.is_blob:
            request.answer(status, headers, body[:-1] + bytes([body[-1] ^ 1]))
        elif how == "has shorter layers" and request.is_blob:
            request.answer(status, headers, body[:-1])
        elif how == "sends garbage":
            request.raw(b"\0\1\2\r\n\r\n")
        else:
            return False
        return True

    return meddle


@pytest.mark.parametrize(
    "how",
    [
        "lacks it",
        "refuses",
        "is a web server",
        "is busy",
        "asks for a password",
        "has other documents",
        "has other layers",
        "has shorter layers",
        "sends garbage",
    ],
)
def test_a_mirror_that_is_of_no_use_is_passed_over(server: Server, banger_home: Path, how: str) -> None:
    with registry.faulty(server.host, broken(how)) as mirror:
        done = support.run("bg-fetch", server.ref, "-v", f"--mirror={mirror.host}")
        said = done.stderr.decode()
        assert done.returncode == 0, said
        assert right(support.manifest_of(done.stdout))
        assert f"the mirror '{mirror.host}' is passed over" in said
        assert mirror.seen


def test_a_mirror_that_is_down_is_asked_once(server: Server, banger_home: Path) -> None:
    nobody = f"127.0.0.1:{registry.free_port()}"
    done = support.run("bg-fetch", server.ref, "-v", f"--mirror={nobody},no-such-host.invalid")
    assert done.returncode == 0 and right(support.manifest_of(done.stdout))
    said = done.stderr.decode()
    assert said.count(f"'{nobody}' is passed over") == 1 and said.count("invalid' is passed over") == 1
    quiet = support.run("bg-fetch", server.ref, "--pull=always", f"--mirror={nobody}")
    assert quiet.returncode == 0 and b"passed over" not in quiet.stderr


def test_a_layer_that_a_mirror_breaks_off_goes_on_at_the_registry(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        if len(body) < 100_000 and "Range" not in request.headers:
            return False
        if "Range" in request.headers:
            request.answer(503, {"Retry-After": "0"}, b"")
        else:
            request.answer(status, headers, body[:1_000_000], length=len(body))
        return True

    with registry.faulty(server.host, meddle) as mirror, registry.faulty(server.host, registry.nothing) as proxy:
        assert right(fetch(f"{proxy.host}/team/app:v1", f"--mirror={mirror.host}"))
        assert [headers.get("range") for _, headers in proxy.seen] == ["bytes=1000000-"]


def test_each_mirror_has_credentials_of_its_own(server: Server, banger_home: Path, tmp_path: Path) -> None:
    given: dict[str, set[str | None]] = {"mirror": set(), "registry": set()}

    def asks(name: str, then: registry.Handler) -> registry.Handler:
        def meddle(request: Proxy) -> bool:
            given[name].add(request.headers.get("Authorization"))
            if "Authorization" not in request.headers:
                request.answer(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
                return True
            return then(request)

        return meddle

    with (
        registry.faulty(server.host, asks("mirror", broken("lacks it"))) as mirror,
        registry.faulty(server.host, asks("registry", registry.nothing)) as proxy,
    ):
        env = docker_config(tmp_path / "docker", mirror.host)
        assert right(fetch(f"{proxy.host}/team/app:v1", f"--mirror={mirror.host}", "--creds=bob:own", env=env))
    assert given["mirror"] == {None, "Basic YWxpY2U6c2VjcmV0"}
    assert given["registry"] == {None, "Basic Ym9iOm93bg=="}


@pytest.mark.parametrize("wrong", ["https://x", "a b", "x:port", "/x", "x/../y?", "x/UP", "[1.2.3.4]", "x:65536"])
def test_a_mirror_that_is_none_is_refused(banger_home: Path, wrong: str) -> None:
    assert "is not a mirror" in refused(64, REF, f"--mirror={wrong}")


@pytest.mark.parametrize("wrong", ["http://x", "a b", "[::1", "x:port"])
def test_a_host_of_plain_http_that_is_none_is_refused(banger_home: Path, wrong: str) -> None:
    assert f"'{wrong}' is not a host" in refused(64, REF, f"--plain-http={wrong}")


def test_a_configured_host_may_speak_plain_http(server: Server, banger_home: Path) -> None:
    configured(banger_home, **{"registry.invalid": f"mirrors = ['{server.host}']", server.host: "plain-http = true"})
    assert right(fetch(REF))


# Foreign layers


def foreign(folder: Path, urls: list[str], *, with_blob: bool) -> tuple[Path, str]:
    """Write a layout whose large layer has URLs; return it and the layer's digest."""
    image = registry.Image(folder / "foreign")
    small = image.blob(registry.gzip_of(SMALL), registry.OCI_LAYER + "+gzip")
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    large = image.blob(registry.gzip_of(LARGE), kind, urls=urls)
    if not with_blob:
        (image.folder / "blobs" / "sha256" / large["digest"][7:]).unlink()
    return image.index(image.manifest([small, large], list(map(registry.digest, (SMALL, LARGE))))), large["digest"]


FILES = {"/files/layer": ("application/octet-stream", registry.gzip_of(LARGE))}


def test_a_foreign_layer_comes_from_its_url_and_without_authority(banger_home: Path, tmp_path: Path) -> None:
    with registry.faulty("", registry.static(FILES)) as storage:
        layout, digest = foreign(tmp_path, ["ftp://x/y", f"http://{storage.host}/files/layer"], with_blob=False)
        answers = registry.of_layout(layout, "team/app")
        token = "Basic YWxpY2U6c2VjcmV0"

        def meddle(request: Proxy) -> bool:
            if request.headers.get("Authorization") != token:
                request.answer(401, {"WWW-Authenticate": "Basic realm=x"}, b"")
                return True
            return registry.static(answers)(request)

        with registry.faulty("", meddle) as proxy:
            assert right(fetch(f"{proxy.host}/team/app:v1", "--creds=alice:secret"))
            assert not [path for path, _ in proxy.seen if digest in path]
        assert storage.seen and all("authorization" not in headers for _, headers in storage.seen)


@pytest.mark.parametrize("answer", [b"", b"wrong bytes", FILES["/files/layer"][1][:-1] + b"?"])
def test_a_url_that_is_of_no_use_is_passed_over(banger_home: Path, tmp_path: Path, answer: bytes) -> None:
    answers = {"/files/layer": ("x", answer)} if answer else {}
    with registry.faulty("", registry.static(answers)) as storage:
        urls = [f"http://{storage.host}/files/layer", f"http://127.0.0.1:{registry.free_port()}/x"]
        layout, _ = foreign(tmp_path, urls, with_blob=True)
        with registry.faulty("", registry.static(registry.of_layout(layout, "team/app"))) as proxy:
            assert right(fetch(f"{proxy.host}/team/app:v1"))
        assert storage.seen


def test_a_foreign_layer_that_is_cut_goes_on(banger_home: Path, tmp_path: Path) -> None:
    def meddle(request: Proxy) -> bool:
        if "Range" in request.headers:
            return registry.static(FILES)(request)
        data = FILES["/files/layer"][1]
        request.answer(200, {}, data[:700_000], length=len(data))
        return True

    with registry.faulty("", meddle) as storage:
        layout, _ = foreign(tmp_path, [f"http://{storage.host}/files/layer"], with_blob=False)
        assert right(fetch(f"oci:{layout}"))
        assert [headers.get("range") for _, headers in storage.seen] == [None, "bytes=700000-"]


def test_a_layout_may_lack_its_foreign_layers_only_online(banger_home: Path, tmp_path: Path) -> None:
    with registry.faulty("", registry.static(FILES)) as storage:
        layout, digest = foreign(tmp_path, [f"http://{storage.host}/files/layer"], with_blob=False)
        assert "--offline" in refused(69, f"oci:{layout}", "--offline")
        assert storage.seen == []
        assert right(fetch(f"oci:{layout}"))
        assert right(fetch(f"oci:{layout}", "--offline")) and len(storage.seen) == 1
        registry.remove_cache(banger_home)
        (layout / "blobs" / "sha256" / digest[7:]).write_bytes(FILES["/files/layer"][1])
        assert right(fetch(f"oci:{layout}")) and len(storage.seen) == 1


def test_a_missing_layer_without_urls_stays_missing(banger_home: Path, tmp_path: Path) -> None:
    layout, _ = foreign(tmp_path, [], with_blob=False)
    assert "missing" in refused(65, f"oci:{layout}")
