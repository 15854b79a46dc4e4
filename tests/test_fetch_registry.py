"""bg-fetch from a registry: a real docker-registry, skopeo beside it, and handmade ones for what it does not do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import pulls, registry
from tests.pulls import LARGE, SMALL, Server, fetch, partial_bytes, refused, right
from tests.registry import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


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


def test_sha512_digests_are_followed_from_end_to_end(banger_home: Path, tmp_path: Path) -> None:
    image = registry.Image(tmp_path / "layout", "sha512")
    layers = [image.blob(registry.gzip_of(data), registry.OCI_LAYER + "+gzip") for data in (SMALL, LARGE)]
    diff_ids = [f"sha512:{hashlib.sha512(data).hexdigest()}" for data in (SMALL, LARGE)]
    answers = registry.of_layout(image.index(image.manifest(layers, diff_ids)), "team/app")
    with registry.faulty("", registry.static(answers)) as proxy:
        found = fetch(f"{proxy.host}/team/app:v1")
        assert right(found) and found["source"]["digest"].startswith("sha512:")
        assert [layer["diff_id"] for layer in found["layers"]] == diff_ids
        assert right(fetch(f"{proxy.host}/team/app@{found['source']['digest']}"))
        name = max(answers, key=lambda path: len(answers[path][1]))
        answers[name] = (answers[name][0], answers[name][1][:-1] + b"?")
        registry.remove_cache(banger_home)
        assert "sha512" in refused(65, f"{proxy.host}/team/app:v1")


def test_an_image_for_another_machine_is_said_to_be_one(banger_home: Path, tmp_path: Path) -> None:
    image = registry.Image(tmp_path / "layout")
    layer = image.blob(registry.gzip_of(SMALL), registry.OCI_LAYER + "+gzip")
    layout = image.index(image.manifest([layer], [registry.digest(SMALL)], architecture="s390x"))
    with registry.faulty("", registry.static(registry.of_layout(layout, "a"))) as proxy:
        done = pulls.support.run("bg-fetch", f"{proxy.host}/a:v1")
        assert done.returncode == 0 and b"is for linux/s390x, and this machine is" in done.stderr
        assert "s390x" in refused(66, f"{proxy.host}/a:v1", "--platform=linux/amd64")


@pytest.mark.parametrize(
    ("config_type", "layer_type", "os_name", "why"),
    [
        ("application/vnd.cncf.helm.config.v1+json", registry.OCI_LAYER + "+gzip", "linux", "helm"),
        (registry.OCI_CONFIG, "application/vnd.cncf.helm.chart.content.v1.tar+gzip", "linux", "helm.chart"),
        (registry.OCI_CONFIG, registry.OCI_LAYER + "+gzip+encrypted", "linux", "encrypted"),
        (registry.OCI_CONFIG, registry.OCI_LAYER + "+gzip", "windows", "the OS 'windows'"),
    ],
)
def test_what_is_no_root_filesystem_is_refused_by_name(
    banger_home: Path, tmp_path: Path, config_type: str, layer_type: str, os_name: str, why: str
) -> None:
    image = registry.Image(tmp_path / "layout")
    layer = image.blob(registry.gzip_of(SMALL), layer_type)
    entry = image.manifest([layer], [registry.digest(SMALL)], config_type=config_type, os=os_name)
    answers = registry.of_layout(image.index(entry), "a")
    with registry.faulty("", registry.static(answers)) as proxy:
        assert why in refused(65, f"{proxy.host}/a:v1")
        assert not [path for path, _ in proxy.seen if layer["digest"] in path]
