"""--inspect and --list-tags: a look at what is there, and nothing fetched; skopeo is the judge."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools import errors
from banger_tools.oci import inspect as look
from banger_tools.oci import pull, reference, remote
from banger_tools.oci.cache import Cache
from tests import pulls, registry, support
from tests.pulls import LARGE, SMALL, Server, fetch, refused
from tests.registry import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        yield running


def inspect(*words: str | os.PathLike[str], **kwargs: Any) -> dict[str, Any]:
    found = json.loads(support.run_ok("bg-fetch", "--inspect", *words, **kwargs))
    assert isinstance(found, dict)
    return found


def tags(*words: str | os.PathLike[str]) -> list[str]:
    return support.run_ok("bg-fetch", "--list-tags", *words).decode().splitlines()


def index_of(server: Server, folder: Path) -> tuple[dict[str, tuple[str, bytes]], Path]:
    """Write an index with images for two machines and an attestation, as answers of a registry and as a layout."""
    image = registry.Image(folder / "index")
    entries = []
    for architecture, data in (("amd64", SMALL), ("arm64", LARGE)):
        layer = image.blob(registry.gzip_of(data), registry.OCI_LAYER + "+gzip")
        entry = image.manifest([layer], [registry.digest(data)], architecture=architecture)
        entries.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
    attestation = image.manifest([], [], architecture="unknown")
    entries.append({**attestation, "platform": {"os": "unknown", "architecture": "unknown"}})
    kind = "application/vnd.oci.image.index.v1+json"
    root = image.document({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, kind)
    layout = image.index({**root, "annotations": {"org.opencontainers.image.ref.name": "v1"}})
    return registry.of_layout(layout, "team/multi"), layout


def test_an_image_is_shown_as_skopeo_shows_it_and_no_layer_moves(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, registry.nothing) as proxy:
        found = inspect(f"{proxy.host}/team/app:v1")
        asked = [path for path, _ in proxy.seen]
    raw = registry.skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{server.ref}")
    config = registry.skopeo("inspect", "--raw", "--config", "--tls-verify=false", f"docker://{server.ref}")
    assert found["manifest"] == json.loads(raw) and found["config"] == json.loads(config)
    assert found["digest"] == found["manifest_digest"] == registry.digest(raw)
    assert found["mediaType"] == registry.OCI_MANIFEST
    assert found["platforms"] is None and found["platform"].startswith("linux/")
    assert found["reference"] == f"{proxy.host}/team/app:v1"
    assert [layer["diff_id"] for layer in found["layers"]] == [registry.digest(SMALL), registry.digest(LARGE)]
    assert found["size"] == sum(layer["size"] for layer in found["manifest"]["layers"])
    assert not [path for path in asked for layer in found["layers"] if layer["digest"] in path]
    assert not (banger_home / "cache" / "layers" / "sha256").exists() or not list(
        (banger_home / "cache" / "layers" / "sha256").iterdir()
    )


def test_a_look_does_not_change_what_a_tag_stands_for(server: Server, banger_home: Path, tmp_path: Path) -> None:
    ref = f"{server.host}/team/looked:v1"
    registry.push(server.layout, "v1", ref)
    refused(69, ref, "--inspect", "--offline")
    assert inspect(ref)["digest"]
    refused(69, ref, "--inspect", "--offline")
    first = fetch(ref)["source"]["digest"]
    registry.push(registry.umoci_layout(tmp_path, [LARGE]), "v1", ref)
    fresh = inspect(ref)["digest"]
    assert fresh != first
    assert inspect(ref, "--offline")["digest"] == inspect(ref, "--pull=never")["digest"] == first
    assert fetch(ref)["source"]["digest"] == first
    assert fetch(ref, "--pull=always")["source"]["digest"] == fresh


def test_an_index_shows_its_platforms_and_the_image_that_is_chosen(
    server: Server, banger_home: Path, tmp_path: Path
) -> None:
    answers, layout = index_of(server, tmp_path)
    with registry.faulty("", registry.static(answers)) as proxy:
        for ref in (f"{proxy.host}/team/multi:v1", f"oci:{layout}:v1"):
            found = inspect(ref, "--platform=linux/arm64")
            assert found["platforms"] == ["linux/amd64", "linux/arm64"] and found["platform"] == "linux/arm64"
            assert found["mediaType"] == "application/vnd.oci.image.index.v1+json"
            assert found["digest"] != found["manifest_digest"]
            assert found["layers"][0]["diff_id"] == registry.digest(LARGE)
            assert "linux/amd64" in refused(66, ref, "--inspect", "--platform=linux/s390x")


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_layouts_and_archives_are_looked_into(
    server: Server, banger_home: Path, tmp_path: Path, transport: str
) -> None:
    name = "x/image:v1" if transport == "docker-archive" else "v1"
    target = tmp_path / "there"
    registry.skopeo("copy", "--quiet", f"oci:{server.layout}:v1", f"{transport}:{target}:{name}")
    found = inspect(f"{transport}:{target}")
    assert [layer["diff_id"] for layer in found["layers"]] == [registry.digest(SMALL), registry.digest(LARGE)]
    assert (found["manifest"] is None) == (transport == "docker-archive")
    assert found["config"]["rootfs"]["diff_ids"] == [registry.digest(SMALL), registry.digest(LARGE)]
    assert tags(f"{transport}:{target}") == ["docker.io/x/image:v1" if transport == "docker-archive" else "v1"]


@pytest.mark.parametrize("ref", ["rootfs:x.tar", "apt:bookworm", "bundle:x.tar.zst"])
@pytest.mark.parametrize("option", ["--inspect", "--list-tags"])
def test_what_has_no_documents_is_said_to_have_none(banger_home: Path, ref: str, option: str) -> None:
    assert "no manifest to look at" in refused(64, ref, option)


@pytest.mark.parametrize(
    "words",
    [
        ["--inspect", "--list-tags"],
        ["--inspect", "--path"],
        ["--inspect", "-o", "x"],
        ["--inspect", "--verify"],
        ["--list-tags", "-f"],
        ["--list-tags", "--platform=linux/arm64"],
    ],
)
def test_options_that_make_no_sense_together_are_refused(banger_home: Path, words: list[str]) -> None:
    assert "do not go together" in refused(64, "debian", *words)


def test_tags_are_those_that_skopeo_lists(server: Server, banger_home: Path) -> None:
    for tag in ("b", "a", "v1.2-rc.3_x"):
        registry.push(server.layout, "v1", f"{server.host}/team/tagged:{tag}")
    listed = registry.skopeo("list-tags", "--tls-verify=false", f"docker://{server.host}/team/tagged")
    assert tags(f"{server.host}/team/tagged") == json.loads(listed)["Tags"]
    refused(66, f"{server.host}/team/nothing", "--list-tags")
    assert "going out" in refused(69, f"{server.host}/team/tagged", "--list-tags", "--offline")


@pytest.mark.parametrize("style", ["path", "url of another host", "query only"])
def test_tags_come_page_after_page(banger_home: Path, style: str) -> None:
    names = [f"t{number:03d}" for number in range(25)]

    def meddle(request: Proxy) -> bool:
        last = request.path.partition("last=")[2].partition("&")[0]
        page = [name for name in names if name > last][:10]
        query = f"n=10&last={page[-1]}"
        prefix = {"path": "/v2/a/b/tags/list", "url of another host": "http://other.invalid/v2/a/b/tags/list"}
        link = f'<{prefix.get(style, "")}?{query}>; rel="next"' if page[-1] != names[-1] else ""
        request.answer(200, {"Link": link} if link else {}, json.dumps({"name": "a/b", "tags": page}).encode())
        return True

    with registry.faulty("", meddle) as proxy:
        assert tags(f"{proxy.host}/a/b") == names
        assert len(proxy.seen) == 3


@pytest.mark.parametrize(("tag", "why"), [("x", "without end"), ("a b", "is not a tag"), ("\x1b[2J", "is not a tag")])
def test_hostile_lists_of_tags_are_refused(banger_home: Path, tag: str, why: str) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(200, {"Link": f'<{request.path}>; rel="next"'}, json.dumps({"tags": [tag]}).encode())
        return True

    with registry.faulty("", meddle) as proxy:
        said = refused(65, f"{proxy.host}/a/b", "--list-tags")
        assert why in said and "\x1b" not in said
        assert len(proxy.seen) <= 2


def test_the_number_of_pages_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "TAG_PAGES", 5)

    def meddle(request: Proxy) -> bool:
        request.answer(200, {"Link": f'<{request.path}x>; rel="next"'}, b'{"tags": ["x"]}')
        return True

    with registry.faulty("", meddle) as proxy:
        ref = reference.parse(f"{proxy.host}/a/b")
        with pytest.raises(errors.BadInput, match="without end"):
            look.tags(ref, Cache(tmp_path), pull.Wants())
        assert len(proxy.seen) == 6


def test_a_mirror_lists_the_tags_of_a_registry_that_is_down(server: Server, banger_home: Path) -> None:
    down = f"127.0.0.1:{registry.free_port()}"
    assert "v1" in tags(f"{down}/team/app", f"--mirror={server.host}")
    said = refused(69, f"{down}/team/nothing", "--list-tags", f"--mirror={server.host}")
    assert f"cannot connect to '{down}'" in said


def test_a_repository_without_tags_has_none(banger_home: Path) -> None:
    answers = {"/v2/a/b/tags/list": ("application/json", b'{"name": "a/b", "tags": null}')}
    with registry.faulty("", registry.static(answers)) as proxy:
        assert tags(f"{proxy.host}/a/b") == []
