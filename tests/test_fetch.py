"""bg-fetch from layouts, archives and flat tars: judged by skopeo, umoci, tar and hashlib."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests import pulls, registry, support

SMALL = registry.tar_of({"etc/motd": b"hello\n", "bin/tool": b"x" * 5000})
LARGE = registry.tar_of({"data": random.Random(7).randbytes(3_000_000), "etc/other": b"y"})


def fetch(*words: str | os.PathLike[str], **kwargs: Any) -> dict[str, Any]:
    return support.manifest_of(support.run_ok("bg-fetch", *words, **kwargs))


def refused(status: int, *words: str | os.PathLike[str], **kwargs: Any) -> str:
    done = support.run("bg-fetch", *words, **kwargs)
    assert done.returncode == status, done.stderr.decode()
    assert not done.stdout
    return done.stderr.decode()


def only_finished(home: Path) -> None:
    """Check that nothing but verified files is in the cache."""
    assert list((home / "cache" / "partial").iterdir()) == []
    for path in (home / "cache").rglob("*"):
        if path.is_file() and path.parent.name == "sha256":
            assert registry.digest(path.read_bytes()) == f"sha256:{path.name}"


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return registry.umoci_layout(tmp_path, [SMALL, LARGE])


def test_a_layout_gives_the_plain_tars_that_umoci_was_given(layout: Path, banger_home: Path) -> None:
    found = fetch(f"oci:{layout}:v1")
    assert [Path(layer["path"]).read_bytes() for layer in found["layers"]] == [SMALL, LARGE]
    assert [layer["diff_id"] for layer in found["layers"]] == [registry.digest(SMALL), registry.digest(LARGE)]
    assert [layer["tar_size"] for layer in found["layers"]] == [len(SMALL), len(LARGE)]
    config = json.loads(registry.skopeo("inspect", "--config", "--raw", f"oci:{layout}:v1"))
    assert found["image"] == config
    assert found["name"] == "layout-v1"
    only_finished(banger_home)


def test_the_only_image_needs_no_tag_and_a_digest_chooses_it_too(layout: Path, banger_home: Path) -> None:
    first = fetch(f"oci:{layout}")
    assert fetch(f"oci:{layout}@{first['source']['digest']}")["layers"] == first["layers"]
    said = refused(66, f"oci:{layout}:nope")
    assert "v1" in said


def test_a_second_fetch_reads_no_blob(layout: Path, banger_home: Path) -> None:
    first = fetch(f"oci:{layout}:v1")
    for layer in first["layers"]:
        (layout / "blobs" / "sha256" / layer["digest"][7:]).unlink()
    assert fetch(f"oci:{layout}:v1")["layers"] == first["layers"]


def test_a_layer_that_was_changed_in_the_cache_is_made_again(layout: Path, banger_home: Path) -> None:
    first = fetch(f"oci:{layout}:v1")
    path = Path(first["layers"][1]["path"])
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    assert fetch(f"oci:{layout}:v1")["layers"] == first["layers"]
    assert path.read_bytes() == LARGE


def test_verify_finds_damage_that_left_no_trace(layout: Path, banger_home: Path) -> None:
    path = Path(fetch(f"oci:{layout}:v1")["layers"][1]["path"])
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    fetch(f"oci:{layout}:v1", "--verify")
    assert path.read_bytes() == LARGE


def test_an_artifact_is_written_only_where_asked(layout: Path, banger_home: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    fetch(f"oci:{layout}:v1", "-C", work)
    assert list(work.iterdir()) == []
    path = support.run_ok("bg-fetch", f"oci:{layout}:v1", "-C", work, "--path").decode().strip()
    assert path == str(work / "layout-v1.json")
    printed = support.run_ok("bg-fetch", f"oci:{layout}:v1", "-o", work / "x.json")
    assert (work / "x.json").read_bytes() == printed == Path(path).read_bytes()
    assert "exists" in refused(73, f"oci:{layout}:v1", "-o", work / "x.json")
    (work / "app-v1.json").touch()
    assert "exists" in refused(73, "no-such-host.invalid/app:v1", "-C", work, "--path"), "it is said before the work"


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("compressed", ["", "gz", "xz", "zst", "stdin"])
def test_archives_that_skopeo_wrote(
    layout: Path, banger_home: Path, tmp_path: Path, transport: str, compressed: str
) -> None:
    archive = tmp_path / "image.tar"
    name = "x/image:v1" if transport == "docker-archive" else "v1"
    registry.skopeo("copy", "--quiet", f"oci:{layout}:v1", f"{transport}:{archive}:{name}")
    data = archive.read_bytes()
    stdin = data if compressed == "stdin" else b""
    if compressed not in ("", "stdin"):
        pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}[compressed]
        archive.write_bytes(pack(data))
    found = fetch(f"{transport}:{'-' if stdin else archive}", stdin=stdin)
    assert [Path(layer["path"]).read_bytes() for layer in found["layers"]] == [SMALL, LARGE]
    named = fetch(f"{transport}:{'-' if stdin else archive}:{name}", stdin=stdin)
    assert named["layers"] == found["layers"]
    assert "no-such" in refused(66, f"{transport}:{'-' if stdin else archive}:no-such", stdin=stdin)
    only_finished(banger_home)


def test_a_layer_that_an_archive_links_to_is_found(banger_home: Path, tmp_path: Path) -> None:
    """Old versions of docker save write a layer once, and links for its repetitions."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [registry.digest(SMALL)] * 2},
    }
    manifest = [{"Config": "c.json", "RepoTags": None, "Layers": ["a/layer.tar", "b/layer.tar"]}]
    path = tmp_path / "saved.tar"
    path.write_bytes(
        registry.tar_of(
            {
                "a/layer.tar": SMALL,
                "c.json": json.dumps(config).encode(),
                "manifest.json": json.dumps(manifest).encode(),
            }
        )
    )
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        archive.addfile(link)
    assert [layer["diff_id"] for layer in fetch(f"docker-archive:{path}")["layers"]] == [registry.digest(SMALL)] * 2


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_a_flat_tar_in_any_compression_is_one_layer(pack: Any, banger_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(pack(LARGE))
    for ref, stdin in ((f"rootfs:{path}", b""), ("rootfs:-", path.read_bytes())):
        found = fetch(ref, stdin=stdin)
        assert [layer["diff_id"] for layer in found["layers"]] == [registry.digest(LARGE)]
        assert found["image"]["rootfs"]["diff_ids"] == [registry.digest(LARGE)]
        assert Path(found["layers"][0]["path"]).read_bytes() == LARGE
    only_finished(banger_home)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"this is no tar\n" * 1000, "no tar"),
        (b"short", "no tar"),
        (b"", "empty"),
        (gzip.compress(b"no tar" * 1000), "no tar"),
        (gzip.compress(LARGE)[:-100], "cut"),
        (gzip.compress(LARGE) + b"x", "follow"),
        (zstandard.ZstdCompressor().compress(LARGE)[:-1], "cut"),
    ],
)
@pytest.mark.parametrize("stdin", [False, True])
def test_what_is_no_whole_tar_is_refused(
    content: bytes, wrong: str, stdin: bool, banger_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(content)
    said = refused(65, "rootfs:-" if stdin else f"rootfs:{path}", stdin=content if stdin else b"")
    assert wrong in said
    assert ("stdin" if stdin else f"'{path}'") in said
    only_finished(banger_home)


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("size", [-1536, -1024])
def test_archive_that_leads_back_to_its_beginning_is_refused(
    transport: str, size: int, banger_home: Path, tmp_path: Path
) -> None:
    """CVE-2025-8194: the tarfile of Python goes round in such an archive for ever."""
    record = b"14 size=%d\n" % size
    first, last = (tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT) for name in ("first", "last"))
    info = tarfile.TarInfo("extended")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    extended = info.tobuf(tarfile.USTAR_FORMAT)
    path = tmp_path / "image.tar"
    path.write_bytes(first + extended + record.ljust(512, b"\0") + last + bytes(10240))
    assert f"'last' has the size {size}" in refused(65, f"{transport}:{path}")


def test_missing_files_and_folders_are_named(banger_home: Path, tmp_path: Path) -> None:
    for transport in ("oci", "oci-archive", "docker-archive", "rootfs"):
        assert f"{tmp_path}/nope" in refused(66, f"{transport}:{tmp_path}/nope")
    assert "oci-layout" in refused(65, f"oci:{tmp_path}")


GOOD = registry.gzip_of(SMALL)
DIFF_ID = registry.digest(SMALL)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x40]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("blob", "diff_id", "wrong"),
    [
        (GOOD, registry.digest(LARGE), "diff_id"),
        (GOOD[:-20], DIFF_ID, "cut"),
        (GOOD + b"garbage", DIFF_ID, "follows"),
        (GOOD + bytes(512), DIFF_ID, "follows"),
        (registry.gzip_of(b"no tar at all" * 500), registry.digest(b"no tar at all" * 500), "no tar"),
        (GOOD[:40], DIFF_ID, "cut"),
    ],
)
def test_layers_that_lie_are_refused(blob: bytes, diff_id: str, wrong: str, banger_home: Path, tmp_path: Path) -> None:
    folder = registry.Image(tmp_path / "bad").of_layer(blob, diff_id)
    assert wrong in refused(65, f"oci:{folder}")
    only_finished(banger_home)


@pytest.mark.parametrize("position", [0, 1, 50, -9, -1])
def test_a_flipped_byte_is_a_wrong_digest(position: int, banger_home: Path, tmp_path: Path) -> None:
    folder = registry.Image(tmp_path / "bad").of_layer(GOOD, DIFF_ID)
    path = folder / "blobs" / "sha256" / registry.digest(GOOD)[7:]
    path.write_bytes(flipped(GOOD, position % len(GOOD)))
    assert registry.digest(GOOD) in refused(65, f"oci:{folder}")
    path.write_bytes(GOOD[:-3])
    assert "bytes" in refused(65, f"oci:{folder}")
    path.unlink()
    assert "missing" in refused(65, f"oci:{folder}")
    only_finished(banger_home)


def test_the_magic_counts_and_not_the_media_type(banger_home: Path, tmp_path: Path) -> None:
    for number, blob in enumerate((zstandard.ZstdCompressor().compress(SMALL), SMALL)):
        folder = registry.Image(tmp_path / str(number)).of_layer(blob, DIFF_ID, "+gzip")
        assert Path(fetch(f"oci:{folder}")["layers"][0]["path"]).read_bytes() == SMALL
        Path(fetch(f"oci:{folder}")["layers"][0]["path"]).unlink()


def test_an_empty_image_and_empty_layers_are_allowed(banger_home: Path, tmp_path: Path) -> None:
    image = registry.Image(tmp_path / "empty")
    assert fetch(f"oci:{image.index(image.manifest([], []))}")["layers"] == []
    zeros = bytes(1024)
    folder = registry.Image(tmp_path / "zeros").of_layer(registry.gzip_of(zeros), registry.digest(zeros))
    assert fetch(f"oci:{folder}")["layers"][0]["tar_size"] == 1024


def test_platforms_are_chosen_through_nested_indexes(banger_home: Path, tmp_path: Path) -> None:
    image = registry.Image(tmp_path / "many")
    entries = []
    for architecture, variant in (("arm", "v6"), ("arm", "v7"), ("arm64", "v8"), ("amd64", None), ("s390x", None)):
        data = registry.tar_of({"which": f"{architecture}{variant}".encode()})
        layer = image.blob(registry.gzip_of(data), registry.OCI_LAYER + "+gzip")
        platform = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
        made = image.manifest([layer], [registry.digest(data)], architecture=architecture, variant=variant or "")
        entries.append({**made, "platform": platform})
    entries.append({**entries[0], "platform": {"os": "unknown", "architecture": "unknown"}})
    index_type = "application/vnd.oci.image.index.v1+json"
    nested = image.document({"schemaVersion": 2, "mediaType": index_type, "manifests": entries}, index_type)
    outer = image.document({"schemaVersion": 2, "mediaType": index_type, "manifests": [nested]}, index_type)
    folder = image.index(outer)
    for asked, expected in (
        ("linux/arm/v7", b"armv7"),
        ("linux/arm/v6", b"armv6"),
        ("linux/arm/v8", b"armv7"),
        ("linux/arm64", b"arm64v8"),
        ("amd64", b"amd64None"),
    ):
        tar = Path(fetch(f"oci:{folder}", "--platform", asked)["layers"][0]["path"]).read_bytes()
        assert tar == registry.tar_of({"which": expected})
    assert "linux/arm64/v8" in refused(66, f"oci:{folder}", "--platform", "linux/riscv64")
    assert "--platform" in refused(64, f"oci:{folder}", "--platform", "a/b/c/d")
    for _ in range(4):
        outer = image.document({"schemaVersion": 2, "mediaType": index_type, "manifests": [outer]}, index_type)
    assert "deep" in refused(65, f"oci:{image.index(outer)}")


def test_what_is_no_linux_root_filesystem_is_named(banger_home: Path, tmp_path: Path) -> None:
    image = registry.Image(tmp_path / "other")
    layer = image.blob(GOOD, registry.OCI_LAYER + "+gzip")
    cases = (
        (image.manifest([layer], [DIFF_ID], config_type="application/vnd.cncf.helm.config.v1+json"), "helm"),
        (image.manifest([layer], [DIFF_ID], os="windows"), "windows"),
        (image.manifest([layer, layer], [DIFF_ID]), "diff_ids"),
        (image.manifest([{**layer, "mediaType": registry.OCI_LAYER + "+gzip+encrypted"}], [DIFF_ID]), "encrypted"),
        (image.manifest([{**layer, "mediaType": "application/vnd.in-toto+json"}], [DIFF_ID]), "in-toto"),
        (image.manifest([{**layer, "digest": "md5:abc"}], [DIFF_ID]), "layers[0].digest"),
        (image.manifest([layer] * 513, [DIFF_ID] * 513), "512"),
        (image.document({"schemaVersion": 1, "fsLayers": []}, "x"), "schema 1"),
        (image.document({"schemaVersion": 2}, "x"), "neither"),
        (image.document({"schemaVersion": 2, "manifests": [], "layers": [], "config": {}}, "x"), "both"),
        (image.blob(b"{" * 100, "x"), "not JSON"),
        (image.blob(b'{"a": ' + b'"' + b"x" * (5 << 20) + b'"}', "x"), "too large"),
    )
    for entry, wrong in cases:
        assert wrong in refused(65, f"oci:{image.index(entry)}")


def test_limits_stop_bombs(banger_home: Path, tmp_path: Path) -> None:
    zeros = registry.tar_of({"zeros": bytes(40 << 20)})
    folder = registry.Image(tmp_path / "bomb").of_layer(registry.gzip_of(zeros), registry.digest(zeros))
    assert "larger than 10M" in refused(65, f"oci:{folder}", "--max-layer", "10M")
    assert "together" in refused(65, f"oci:{folder}", "--max-image", "20M")
    assert list((banger_home / "cache" / "partial").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    data = registry.tar_of({"random": random.Random(3).randbytes(20 << 20)})
    folder = registry.Image(tmp_path / "big").of_layer(registry.gzip_of(data), registry.digest(data))
    said = refused(74, f"oci:{folder}", env={"BANGER_HOME": str(small_disk / "home")})
    assert "no space left" in said
    assert list((small_disk / "home" / "cache" / "partial").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fetch_leaves_nothing_and_the_next_one_succeeds(
    number: int, banger_home: Path, tmp_path: Path
) -> None:
    data = registry.tar_of({"random": random.Random(3).randbytes(60 << 20)})
    folder = registry.Image(tmp_path / "big").of_layer(registry.gzip_of(data), registry.digest(data))
    argv = support.argv("bg-fetch", f"oci:{folder}")
    worker = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=support.environment())
    pulls.wait_for_bytes(worker, banger_home)
    worker.send_signal(number)
    said = worker.communicate(timeout=60)[1].decode()
    assert (worker.returncode, "Traceback" in said) == (128 + number, False), said
    only_finished(banger_home)
    assert Path(fetch(f"oci:{folder}")["layers"][0]["path"]).read_bytes() == data


def test_memory_stays_bounded_whatever_the_layer(banger_home: Path, tmp_path: Path) -> None:
    data = registry.tar_of({"zeros": bytes(300 << 20)})
    folder = registry.Image(tmp_path / "big").of_layer(zstandard.ZstdCompressor().compress(data), registry.digest(data))
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        ["python3", "-c", script, *support.argv("bg-fetch", f"oci:{folder}")],
        capture_output=True,
        check=True,
        env=support.environment(),
    )
    assert int(done.stdout) < 150 << 10
