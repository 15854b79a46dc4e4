"""Archives of images that are not what they claim: refused by name, with nothing left of them in the cache."""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from banger_tools import fetch
from tests import registry

LAYER = registry.tar_of({"etc/motd": b"hello\n"})


def saved(folder: Path, diff_ids: int = 1, layers: int = 1) -> Path:
    """Write what `docker save` does, as a folder whose layers are one file with several names."""
    folder.mkdir()
    names = [f"layer{number}.tar" for number in range(layers)]
    (folder / names[0]).write_bytes(LAYER)
    for name in names[1:]:
        (folder / name).hardlink_to(folder / names[0])
    rootfs = {"type": "layers", "diff_ids": [registry.digest(LAYER)] * diff_ids}
    (folder / "c.json").write_text(json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}))
    (folder / "manifest.json").write_text(json.dumps([{"Config": "c.json", "Layers": names}]))
    return folder


def packed(folder: Path) -> Path:
    """Return a folder as a tar that GNU tar made."""
    path = folder.with_suffix(".tar")
    subprocess.run(["tar", "-C", folder, "-cf", path, *sorted(path.name for path in folder.iterdir())], check=True)
    return path


def refused(ref: str, home: Path, capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert fetch.main([*words, ref]) == 65
    out, err = capfd.readouterr()
    assert out == ""
    assert {path.name for path in (home / "cache").rglob("*") if path.is_file()} <= {
        "lease",
        "oci-layout",
        "index.json",
    }
    return err


def test_layers_that_are_hardlinks_of_one_file_are_found(
    banger_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = packed(saved(tmp_path / "saved", diff_ids=3, layers=3))
    with tarfile.open(path) as archive:
        assert [member.name for member in archive if member.islnk()] == ["layer1.tar", "layer2.tar"]
    assert fetch.main([f"docker-archive:{path}"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert [layer["diff_id"] for layer in found["layers"]] == [registry.digest(LAYER)] * 3


def test_archive_with_more_layers_than_its_configuration_lists_is_refused(
    banger_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = packed(saved(tmp_path / "saved", diff_ids=1, layers=2))
    said = refused(f"docker-archive:{path}", banger_home, capfd)
    assert "has 2 layers, and its configuration lists 1 diff_ids" in said


def test_layout_of_a_version_that_nobody_knows_is_refused(
    banger_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = registry.Image(tmp_path / "layout")
    folder = image.of_layer(registry.gzip_of(LAYER), registry.digest(LAYER))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    assert "is an image layout of an unknown version" in refused(f"oci:{folder}", banger_home, capfd)


def test_blob_that_is_missing_is_said_to_be(
    banger_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = registry.Image(tmp_path / "layout")
    folder = image.of_layer(registry.gzip_of(LAYER), registry.digest(LAYER))
    manifest = json.loads((folder / "index.json").read_text())["manifests"][0]["digest"]
    (folder / "blobs" / "sha256" / manifest.removeprefix("sha256:")).unlink()
    assert f"the document {manifest[7:19]} is missing" in refused(f"oci:{folder}", banger_home, capfd)


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello\n" * 200, "is no archive of an image: it is of no known format"),
        (b'{"schema": "banger-manifest/1"}', "is no archive of an image: it is of the format 'manifest'"),
        (gzip.compress(LAYER)[:-9], "is cut"),
        (gzip.compress(b"no tar" * 1000), "is not a tar archive"),
    ],
)
def test_file_that_is_no_archive_is_said_to_be_what_it_is(
    transport: str, data: bytes, said: str, banger_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image.tar").write_bytes(data)
    assert said in refused(f"{transport}:{tmp_path / 'image.tar'}", banger_home, capfd)


def test_archive_that_unpacks_to_more_than_is_allowed_is_refused(
    banger_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "image.tar").write_bytes(gzip.compress(bytes(2 << 20)))
    said = refused(f"oci-archive:{tmp_path / 'image.tar'}", banger_home, capfd, "--max-image=1M")
    assert "is larger than 1.0M" in said
    assert "allow more with --max-image" in said
