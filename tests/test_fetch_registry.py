"""bg-fetch from a registry: a real docker-registry, skopeo beside it, and a proxy that does what networks do."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import registry, support
from tests.registry import Proxy

SMALL = registry.tar_of({"etc/motd": b"hello\n"})
LARGE = registry.tar_of({"data": random.Random(11).randbytes(2_000_000)})


def fetch(*words: str | os.PathLike[str], **kwargs: Any) -> dict[str, Any]:
    return support.manifest_of(support.run_ok("bg-fetch", *words, **kwargs))


def refused(status: int, *words: str | os.PathLike[str], **kwargs: Any) -> str:
    done = support.run("bg-fetch", *words, **kwargs)
    assert done.returncode == status, done.stderr.decode()
    assert not done.stdout
    return done.stderr.decode()


def right(found: dict[str, Any]) -> bool:
    return [Path(layer["path"]).read_bytes() for layer in found["layers"]] == [SMALL, LARGE]


def partial_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "cache" / "partial").iterdir())


class Server(NamedTuple):
    """A registry with one image `team/app:v1` of two layers, and the layout that it was pushed from."""

    host: str
    root: Path
    layout: Path

    @property
    def ref(self) -> str:
        return f"{self.host}/team/app:v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("registry")
    layout = registry.umoci_layout(folder, [SMALL, LARGE])
    with registry.serve(folder) as running:
        registry.push(layout, "v1", f"{running.host}/team/app:v1")
        yield Server(running.host, running.root, layout)


def test_a_pull_gives_what_umoci_was_given_and_a_cache_that_skopeo_reads(
    server: Server, banger_home: Path, tmp_path: Path
) -> None:
    found = fetch(server.ref)
    assert right(found)
    assert found["name"] == "app-v1"
    stated = json.loads(registry.skopeo("inspect", "--tls-verify=false", f"docker://{server.ref}"))["Digest"]
    assert found["source"]["digest"] == stated
    out = tmp_path / "out"
    registry.skopeo("copy", "--quiet", f"oci:{banger_home}/cache/oci:{server.ref}", f"oci:{out}:copied")
    assert right(fetch(f"oci:{out}:copied", env={"BANGER_HOME": str(tmp_path / "second")}))
    assert partial_bytes(banger_home) == 0


def test_docker_schema_2_is_read_as_well(server: Server, banger_home: Path) -> None:
    registry.push(server.layout, "v1", f"{server.host}/team/app:docker", "--format", "v2s2")
    assert right(fetch(f"{server.host}/team/app:docker"))


def test_a_digest_names_an_image_and_wrong_ones_do_not(server: Server, banger_home: Path) -> None:
    digest = fetch(server.ref)["source"]["digest"]
    found = fetch(f"{server.host}/team/app@{digest}")
    assert right(found) and found["name"] == f"app-{digest[7:19]}"
    refused(66, f"{server.host}/team/app@sha256:{'0' * 64}")


def test_a_tag_stays_what_it_was_until_asked_again(server: Server, banger_home: Path, tmp_path: Path) -> None:
    ref = f"{server.host}/team/moving:v1"
    registry.push(server.layout, "v1", ref)
    first = fetch(ref)
    other = registry.umoci_layout(tmp_path, [LARGE])
    registry.push(other, "v1", ref)
    assert fetch(ref)["source"]["digest"] == first["source"]["digest"]
    assert fetch(ref, "--offline")["source"]["digest"] == first["source"]["digest"]
    assert fetch(ref, "--pull=always")["source"]["digest"] != first["source"]["digest"]
    refused(64, ref, "--pull=sometimes")
    refused(64, ref, "--pull=always", "--offline")


def test_offline_nothing_goes_out(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, lambda _request: False) as proxy:
        for option in ("--offline", "--pull=never"):
            assert "cache" in refused(69, f"{proxy.host}/team/app:v1", option)
        assert proxy.seen == []
        fetch(f"{proxy.host}/team/app:v1")
        before = len(proxy.seen)
        assert right(fetch(f"{proxy.host}/team/app:v1", "--offline"))
        assert right(fetch(f"{proxy.host}/team/app:v1"))
        assert len(proxy.seen) == before


def test_what_is_missing_or_no_registry_is_said(server: Server, banger_home: Path) -> None:
    assert "does not exist" in refused(66, f"{server.host}/team/app:none")
    assert "does not exist" in refused(66, f"{server.host}/none/app:v1")
    assert "cannot connect" in refused(69, f"127.0.0.1:{registry.free_port()}/team/app:v1")
    assert "cannot find" in refused(69, "no-such-host.invalid/team/app:v1")


@pytest.mark.parametrize(("status", "body"), [(404, b"<html>not here</html>"), (200, b"<html>welcome</html>")])
def test_a_web_server_is_no_registry(server: Server, banger_home: Path, status: int, body: bytes) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(status, {"Content-Type": "text/html"}, body)
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "no registry" in refused(69, f"{proxy.host}/team/app:v1")


# What networks and servers do. Each meddler answers some requests itself.


def test_an_endless_manifest_is_refused(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}, b" " * (6 << 20))
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "too large" in refused(65, f"{proxy.host}/team/app:v1")


def test_a_manifest_that_is_not_what_the_header_says_is_refused(server: Server, banger_home: Path) -> None:
    def meddle(request: Proxy) -> bool:
        status, headers, body = request.fetch()
        request.answer(status, headers, body.replace(b"team", b"maet") + b" ")
        return True

    with registry.faulty(server.host, meddle) as proxy:
        assert "digest" in refused(65, f"{proxy.host}/team/app:v1")


def test_a_redirect_to_another_host_does_not_carry_the_authorization(server: Server, banger_home: Path) -> None:
    token = "Basic " + base64.b64encode(b"alice:secret").decode()

    def storage_answers(request: Proxy) -> bool:
        return False

    with registry.faulty(server.host, storage_answers) as storage:

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


def docker_config(folder: Path, host: str, **more: Any) -> dict[str, str]:
    folder.mkdir()
    auth = base64.b64encode(b"alice:secret").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}, **more}))
    return {"DOCKER_CONFIG": str(folder), "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": "", "HOME": str(folder)}


def test_a_password_protected_registry_with_tls_of_its_own(banger_home: Path, tmp_path: Path) -> None:
    certificate, key = registry.certificate(tmp_path)
    passwords = registry.htpasswd(tmp_path)
    extra = f"  tls: {{certificate: {certificate}, key: {key}}}\nauth: {{htpasswd: {{realm: x, path: {passwords}}}}}\n"
    layout = registry.umoci_layout(tmp_path, [SMALL, LARGE])
    with registry.serve(tmp_path, extra) as running:
        ref = f"{running.host}/team/app:v1"
        registry.push(layout, "v1", ref, "--dest-creds", "alice:secret")
        assert "--ca-file" in refused(69, ref)
        assert "log in" in refused(77, ref, "--ca-file", certificate, env={"HOME": str(tmp_path)})
        refused(77, ref, "--ca-file", certificate, "--creds", "alice:wrong")
        assert right(fetch(ref, "--ca-file", certificate, env=docker_config(tmp_path / "docker", running.host)))
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


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(server: Server, banger_home: Path) -> None:
    nobody = f"http://127.0.0.1:{registry.free_port()}"
    env = {"http_proxy": nobody, "https_proxy": nobody, "no_proxy": "", "NO_PROXY": ""}
    assert "proxy" in refused(69, "registry.invalid/team/app", env=env)
    assert "cannot find" in refused(69, "registry.invalid/team/app", env={**env, "no_proxy": ".invalid"})
    assert right(fetch(server.ref, env=env))
