"""Bundles that bg-publish writes, judged by zstd, GNU tar, bsdtar, sha256sum, and our own reading of them."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools.catalog import entries
from tests import bundles, machines, support

FOREIGN = {
    "kernel": {"name": "k", "version": "1", "architecture": "amd64", "kernel": "/somewhere/vmlinux"},
    "foreign": {"x": [1]},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image that went through the pipe, and its manifest."""
    return bundles.parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def here(tmp_path: Path, banger_home: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def bundled(parts: Path, *words: str, **changes: Any) -> dict[str, Any]:
    """Return the `bundle` of the manifest that bg-publish prints."""
    text = json.dumps(bundles.manifest(parts, **changes))
    found = support.manifest_of(support.run_ok("bg-publish", *words, stdin=text))["bundle"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def made(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What bg-publish says of a bundle that it made."""
    support.need("zstd", "bsdtar")
    path = tmp_path_factory.mktemp("made") / "tiny.tar.zst"
    found = bundled(parts, f"--bundle={path}", **FOREIGN)
    assert found["path"] == str(path)
    return found


def test_bundle_has_exactly_two_files_for_every_tar(made: dict[str, Any], parts: Path, here: Path) -> None:
    digest = subprocess.run(["sha256sum", made["path"]], capture_output=True, check=True, text=True).stdout.split()[0]
    assert (made["sha256"], made["size"]) == (digest, Path(made["path"]).stat().st_size)
    for program in (["tar", "--zstd"], ["bsdtar"]):
        out = here / program[0]
        out.mkdir()
        subprocess.run([*program, "-C", out, "-xf", made["path"]], check=True)
        assert sorted(os.listdir(out)) == ["manifest.json", "rootfs.ext4"]
        assert filecmp.cmp(out / "rootfs.ext4", parts / "rootfs.ext4", shallow=False)
    listed = subprocess.run(["tar", "--zstd", "-tvf", made["path"]], capture_output=True, check=True, text=True).stdout
    assert [line.split()[:2] for line in listed.splitlines()] == [["-rw-r--r--", "0/0"]] * 2


def test_manifest_in_it_names_nothing_of_this_machine(made: dict[str, Any], parts: Path) -> None:
    argv = ["tar", "--zstd", "-xOf", made["path"], "manifest.json"]
    own = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert own["rootfs"]["path"] == "rootfs.ext4"
    assert own["rootfs"]["uuid"] == bundles.manifest(parts)["rootfs"]["uuid"]
    assert (own["foreign"], own["guest"]) == ({"x": [1]}, bundles.manifest(parts)["guest"])
    assert not {"layers", "tree", "kernel", "bundle", "published"} & set(own)
    assert str(parts) not in json.dumps(own)


def test_our_own_reading_lays_out_the_very_same_image(made: dict[str, Any], parts: Path, here: Path) -> None:
    fetched = support.manifest_of(support.run_ok("bg-fetch", "-C", here, f"bundle:{made['path']}"))
    image = Path(fetched["rootfs"]["path"])
    assert filecmp.cmp(image, parts / "rootfs.ext4", shallow=False)
    assert image.stat().st_blocks <= (parts / "rootfs.ext4").stat().st_blocks + 128
    assert fetched["source"]["digest"] == f"sha256:{made['sha256']}"


def test_bundles_own_manifest_is_not_published(made: dict[str, Any], here: Path, banger_home: Path) -> None:
    fetched = support.run_ok("bg-fetch", "-C", here, f"bundle:{made['path']}")
    support.run_ok("bg-publish", "--no-kernel", "--name=tiny", stdin=fetched)
    folder = banger_home / "state" / "images" / "tiny"
    assert sorted(os.listdir(folder)) == ["image.json", "rootfs.ext4"]


def test_same_image_makes_the_same_bytes_wherever_it_is_and_on_any_number_of_processors(
    made: dict[str, Any], parts: Path, here: Path
) -> None:
    other = here / "elsewhere"
    other.mkdir()
    subprocess.run(["cp", "--sparse=never", parts / "rootfs.ext4", other / "disk"], check=True)
    rootfs = {**bundles.manifest(parts)["rootfs"], "path": str(other / "disk")}
    text = json.dumps(bundles.manifest(parts, rootfs=rootfs, **FOREIGN))
    processor = str(min(os.sched_getaffinity(0)))
    argv = ["taskset", "-c", processor, *support.argv("bg-publish", f"--bundle={here}/two.tar.zst")]
    env = support.environment({"SOURCE_DATE_EPOCH": "1700000000", "TZ": "Asia/Tokyo"})
    subprocess.run(argv, input=text.encode(), check=True, capture_output=True, env=env)
    assert (here / "two.tar.zst").read_bytes() == Path(made["path"]).read_bytes()


def test_what_was_far_before_is_found_again(here: Path, tmp_path: Path) -> None:
    """12 MiB between two equal files: far beyond the window of this level without long mode."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "a").write_bytes(os.urandom(6 << 20))
    (content / "b").write_bytes(os.urandom(12 << 20))
    shutil.copy(content / "a", content / "c")
    disk = machines.mke2fs(tmp_path / "disk.ext4", content, "64M")
    made = support.manifest_of(support.run_ok("bg-publish", f"--bundle={here}", disk))["bundle"]
    assert 18 << 20 < made["size"] < 19 << 20
    said = subprocess.run(["zstd", "-lv", made["path"]], capture_output=True, check=True, text=True).stdout
    assert "Check: XXH64" in said
    assert "Window Size: 64" in said or "Window Size: 128 MiB" in said, said


def test_in_a_folder_the_name_has_the_hash_and_what_is_there_stays(parts: Path, here: Path) -> None:
    made = bundled(parts, f"--bundle={here}", name="docker.io/library/Busy__Box:1")
    path = Path(made["path"])
    assert path == here / f"busy_box-1-amd64-{made['sha256'][:12]}.tar.zst"
    before = path.stat()
    assert bundled(parts, f"--bundle={here}", name="docker.io/library/Busy__Box:1") == made
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    path.write_text("another")
    text = json.dumps(bundles.manifest(parts, name="docker.io/library/Busy__Box:1"))
    done = support.run("bg-publish", f"--bundle={here}", stdin=text)
    assert (done.returncode, f"'{path}' exists".encode() in done.stderr) == (73, True)
    assert path.read_text() == "another"


@pytest.fixture
def catalog(parts: Path, here: Path, banger_home: Path) -> Iterator[dict[str, Any]]:
    """A catalog in a file that has the entry of a bundle beside it; that entry."""
    made = bundled(parts, f"--bundle={here}", "--kernel-ref=apt:linux-image-cloud-amd64", name="mine")
    text = {"schema": "banger-catalog/1", "images": [made["entry"]]}
    (here / "catalog.json").write_text(json.dumps(text))
    (banger_home / "config").mkdir()
    (banger_home / "config" / "config.toml").write_text(f"[[catalogs]]\nfile = '{here}/catalog.json'\n")
    yield made["entry"]


def test_entry_can_be_pasted_into_a_catalog_beside_the_bundle(
    catalog: dict[str, Any], parts: Path, tmp_path: Path
) -> None:
    assert (catalog["name"], catalog["arch"]) == ("mine", "amd64")
    assert catalog["kernel_ref"] == "apt:linux-image-cloud-amd64"
    fetched = support.manifest_of(support.run_ok("bg-fetch", "-C", tmp_path, "--platform=linux/amd64", "mine"))
    assert filecmp.cmp(fetched["rootfs"]["path"], parts / "rootfs.ext4", shallow=False)


@pytest.mark.parametrize("url", ["https://example.org/images", "https://example.org/images/"])
def test_entry_by_url_can_be_pasted_into_any_catalog(url: str, here: Path, tmp_path: Path) -> None:
    disk = machines.mke2fs(tmp_path / "disk.ext4", size="1M")
    argv = ("-q", f"--bundle={here}/my tiny.tar.zst", f"--url={url}", disk)
    entry = support.manifest_of(support.run_ok("bg-publish", *argv))["bundle"]["entry"]
    assert entry["url"] == "https://example.org/images/my%20tiny.tar.zst"
    text = json.dumps({"schema": "banger-catalog/1", "images": [entry]})
    (found,) = entries.parse(text.encode(), "it").images
    assert str(entries.reference_of(found)).endswith(f"#sha256:{entry['sha256']}")


def test_image_without_an_agent_is_warned_of(here: Path, tmp_path: Path) -> None:
    disk = machines.mke2fs(tmp_path / "disk.ext4", size="16M")
    done = support.run("bg-publish", "--path", f"--bundle={here}", disk)
    assert done.returncode == 0
    assert b"has no guest agent" in done.stderr
    assert Path(done.stdout.decode().strip()).name.startswith("disk-")


def test_image_that_was_left_unclean_is_refused(here: Path, tmp_path: Path) -> None:
    disk = machines.mke2fs(tmp_path / "disk.ext4", size="16M")
    text = machines.manifest(disk)
    with open(disk, "r+b") as file:
        file.seek(1024 + 58)
        file.write(b"\0\0")
    done = support.run("bg-publish", f"--bundle={here}", stdin=text)
    assert (done.returncode, b"was not left clean" in done.stderr) == (65, True)
    assert list(here.iterdir()) == []
