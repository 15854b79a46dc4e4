"""Bundles out of files: what is accepted, what comes out, and everything else refused without a trace."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from banger_tools import errors
from banger_tools.catalog import archive, bundle
from banger_tools.oci import limits
from banger_tools.oci.cache import Cache
from banger_tools.oci.pull import Wants
from banger_tools.oci.reference import Bundle
from tests import bundles, stored, support
from tests.bundles import compress, pack


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two files of a good bundle."""
    return bundles.parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def good(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(parts, tmp_path_factory.mktemp("good") / "tiny.tar.zst", "rootfs.ext4", "manifest.json")


@pytest.fixture
def here(tmp_path: Path, banger_home: Path) -> Path:
    """An empty folder for artifacts; the home of banger is empty, too."""
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def fetch(path: Path, here: Path, *words: str) -> dict[str, Any]:
    return support.manifest_of(support.run_ok("bg-fetch", "-C", here, *words, f"bundle:{path}"))


def refused(path: Path, here: Path, *words: str, status: int = 65) -> str:
    """Fetch a bundle that must be refused, and return what was said; nothing may be left anywhere."""
    done = support.run("bg-fetch", "-C", here, *words, f"bundle:{path}")
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b""), said
    assert "Traceback" not in said
    assert list(here.iterdir()) == []
    return said


def wrong_with(path: Path) -> str:
    """Return what is wrong with a bundle, without a program of its own."""
    with pytest.raises(errors.BadInput) as caught:
        bundle.fetch(Bundle(str(path)), None, Wants(), Cache(path.parent / "cache"), path.parent / "image")
    return caught.value.message


def tar_of(*members: stored.Member) -> bytes:
    return stored.tar(*members, form=tarfile.PAX_FORMAT)


# What comes out


@pytest.mark.parametrize(
    "words",
    [
        ["rootfs.ext4", "manifest.json"],
        ["manifest.json", "rootfs.ext4"],
        ["./manifest.json", "./rootfs.ext4"],
        ["--format=posix", "rootfs.ext4", "manifest.json"],
        ["--format=v7", "rootfs.ext4", "manifest.json"],
        ["--format=ustar", "rootfs.ext4", "manifest.json"],
    ],
)
def test_image_is_the_very_same_whatever_way_it_was_packed(words: list[str], parts: Path, here: Path) -> None:
    manifest = fetch(pack(parts, here.parent / "tiny.tar.zst", *words), here)
    image = here / "tiny.ext4"
    assert manifest["rootfs"]["path"] == str(image)
    assert filecmp.cmp(image, parts / "rootfs.ext4", shallow=False)
    assert image.stat().st_blocks * 512 <= (parts / "rootfs.ext4").stat().st_blocks * 512 + 65536
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True, env=support.environment())


def test_manifest_is_the_bundles_own_as_of_this_machine(parts: Path, here: Path, tmp_path: Path) -> None:
    changed = bundles.manifest(parts, foreign={"x": [1]}, name="other", work_seed={"path": "/etc/passwd", "size": 1})
    changed["work_seed"] |= {"uuid": "", "home": "/root", "entries": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    path = pack(parts, tmp_path / "tiny.tar.zst", "rootfs.ext4", "-C", str(tmp_path), "manifest.json")
    manifest = fetch(path, here, "-o", str(here / "mine"))
    assert manifest["name"] == "tiny"
    assert manifest["rootfs"] == {**changed["rootfs"], "path": str(here / "mine")}
    assert (manifest["foreign"], manifest["image"], manifest["guest"]) == (
        changed["foreign"],
        changed["image"],
        changed["guest"],
    )
    assert manifest["origin"] == changed["source"]
    assert (manifest["source"]["kind"], manifest["source"]["requested"]) == ("bundle", f"bundle:{path}")
    digest = subprocess.run(["sha256sum", path], capture_output=True, check=True).stdout.decode().split()[0]
    assert manifest["source"]["digest"] == f"sha256:{digest}"
    assert manifest["history"][:-1] == changed["history"]
    assert manifest["history"][-1]["tool"] == "bg-fetch"
    assert not {"layers", "tree", "work_seed"} & set(manifest)  # they would name files of this machine


def test_seed_follows_and_the_path_is_printed(good: Path, here: Path) -> None:
    manifest = fetch(good, here)
    seeded = support.run_ok("bg-seed", "-C", here, stdin=json.dumps(manifest))
    assert json.loads(seeded)["work_seed"]["entries"] == 2
    assert support.run_ok("bg-fetch", "-C", here, "-f", "--path", f"bundle:{good}") == f"{here}/tiny.ext4\n".encode()


def test_what_stands_there_is_kept_without_force(good: Path, here: Path) -> None:
    (here / "tiny.ext4").write_text("mine")
    done = support.run("bg-fetch", "-C", here, f"bundle:{good}")
    assert done.returncode == 73
    assert (here / "tiny.ext4").read_text() == "mine"
    fetch(good, here, "--force")


def test_another_architecture_than_the_one_asked_for_is_refused(good: Path, here: Path) -> None:
    fetch(good, here, "--platform=linux/amd64", "-f")
    (here / "tiny.ext4").unlink()
    assert "is for amd64, and not for linux/arm64" in refused(good, here, "--platform=linux/arm64", status=66)


def test_another_architecture_that_nobody_chose_is_warned_of(parts: Path, here: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "rootfs.ext4").symlink_to(parts / "rootfs.ext4")
    image = {**bundles.manifest(parts)["image"], "architecture": "s390x"}
    (other / "manifest.json").write_text(json.dumps(bundles.manifest(parts, image=image)))
    packed = pack(other, tmp_path / "other.tar.zst", "--dereference", "rootfs.ext4", "manifest.json")
    done = support.run("bg-fetch", "-C", here, f"bundle:{packed}")
    assert done.returncode == 0, done.stderr.decode()
    assert "is for linux/s390x, and this machine is linux/" in done.stderr.decode()


# What is refused


def hostile(member: str, **fields: Any) -> Callable[[Path], bytes]:
    """Return a maker of a good bundle's tar with one more member before the others."""

    def make(parts: Path) -> bytes:
        both = [(name, (parts / name).read_bytes(), {}) for name in ("manifest.json", "rootfs.ext4")]
        data = fields.pop("data", b"")
        return tar_of((member, data, fields), *both)

    return make


LINK, HARD, FOLDER, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.BLKTYPE


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (hostile("README", data=b"hello"), "holds 'README': only two regular files"),
        (hostile("./", type=FOLDER), "which is a folder"),
        (hostile("rootfs.ext4", type=LINK, linkname="/etc/passwd"), "holds 'rootfs.ext4', which is a symlink"),
        (hostile("manifest.json", type=HARD, linkname="/etc/passwd"), "'manifest.json', which is a hardlink"),
        (hostile("rootfs.ext4", type=DEVICE), "'rootfs.ext4', which is a device"),
        (hostile("rootfs.ext4/", type=b"\0"), "holds 'rootfs.ext4', which is a folder"),
        (hostile("/rootfs.ext4", data=b"x"), "holds '/rootfs.ext4'"),
        (hostile("../rootfs.ext4", data=b"x"), "holds '../rootfs.ext4'"),
        (hostile("a/../rootfs.ext4", data=b"x"), "holds 'a/../rootfs.ext4'"),
        (hostile("manifest.json", data=b"{}"), "holds 'manifest.json' twice"),
        (hostile("rootfs.ext4", data=b"x"), "holds 'rootfs.ext4' twice"),
        (hostile("x", pax_headers={"path": "\u00e9"}, data=b"x"), "holds '\u00e9'"),
        (hostile("x" * 200, data=b"x"), "only two regular files"),
    ],
)
def test_anything_but_the_two_files_is_refused(
    make: Callable[[Path], bytes], said: str, parts: Path, here: Path
) -> None:
    assert said in refused(compress(make(parts), here.parent / "bad.tar.zst"), here)


def test_sparse_members_are_refused_by_name(parts: Path, tmp_path: Path) -> None:
    for style in ("gnu", "posix"):
        path = pack(parts, tmp_path / "s.tar.zst", "--sparse", f"--format={style}", "rootfs.ext4", "manifest.json")
        assert "rootfs.ext4', which is stored sparse" in wrong_with(path)


def test_a_file_that_is_missing_is_named(parts: Path, tmp_path: Path) -> None:
    assert "has no 'manifest.json'" in wrong_with(pack(parts, tmp_path / "a.tar.zst", "rootfs.ext4"))
    assert "has no 'rootfs.ext4'" in wrong_with(pack(parts, tmp_path / "b.tar.zst", "manifest.json"))


def damaged(good: bytes) -> dict[str, tuple[bytes, str]]:
    plain = subprocess.run(["zstd", "-dc"], input=good, capture_output=True, check=True).stdout
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0x10

    def packed(tar: bytes) -> bytes:
        return subprocess.run(["zstd", "-q", "-c"], input=tar, capture_output=True, check=True).stdout

    gzip = subprocess.run(["gzip", "-c"], input=plain, capture_output=True, check=True).stdout
    return {
        "empty": (b"", "it is empty"),
        "gzip": (gzip, "it is not compressed with zstd"),
        "plain": (plain, "it is not compressed with zstd"),
        "cut": (good[: len(good) * 2 // 3], "is cut"),
        "cut in the magic": (good[:3], "is empty"),
        "flipped": (bytes(flipped), ""),
        "followed": (good + b"more", "followed by something else"),
        "tar cut": (packed(plain[:1_000_000]), "the tar is cut: its end is missing"),
        "tar cut in a header": (packed(plain[:100]), "the tar is cut"),
        "tar followed": (packed(plain + b"x" * 512), "the tar is followed by something else"),
        "no tar": (packed(b"noise" * 1000), "no tar"),
        "checksum": (packed(b"R" + plain[1:]), "no tar, or a damaged one"),
    }


@pytest.mark.parametrize(
    "kind",
    ["empty", "gzip", "plain", "cut", "cut in the magic", "flipped", "followed", "tar cut", "tar cut in a header"]
    + ["tar followed", "no tar", "checksum"],
)
def test_damage_is_noticed(kind: str, good: Path, tmp_path: Path) -> None:
    data, said = damaged(good.read_bytes())[kind]
    (tmp_path / "bad.tar.zst").write_bytes(data)
    assert said in wrong_with(tmp_path / "bad.tar.zst")


def stating(name: str, size: int, **fields: Any) -> bytes:
    """Return the header of a member that states a size, whatever follows it."""
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("tar", "said"),
    [
        (stating("rootfs.ext4", -1), "a tar header states a negative size"),
        (stating("././@LongLink", 16 << 20, type=b"L"), "an extended header of 16777216 bytes is too large"),
        (stating("rootfs.ext4", 5, pax_headers={"size": "0x5"}), "states a size that is no number"),
        (stating("rootfs.ext4", 5, pax_headers={"size": "9" * 19}), "states a size that is no number"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tar: bytes, said: str, tmp_path: Path) -> None:
    assert said in wrong_with(compress(tar, tmp_path / "bad.tar.zst"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "banger-manifest/9"}, "'banger-manifest/9', and this program reads"),
        ({"rootfs": None}, "rootfs: expected object, got null"),
        ({"layers": [{"path": 1}]}, "manifest: layers[0]"),
        ({"rootfs": {"path": "x", "size": 1, "uuid": "", "label": "", "free_bytes": 0, "free_inodes": 0}}, "says 1"),
    ],
)
def test_manifest_is_held_to_its_schema(changes: dict[str, Any], said: str, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(bundles.manifest(parts, **changes)))
    path = pack(parts, tmp_path / "bad.tar.zst", "rootfs.ext4", "-C", str(tmp_path), "manifest.json")
    assert said in wrong_with(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff\xfe"])
def test_a_manifest_that_is_none_is_refused(text: bytes, parts: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    path = pack(parts, tmp_path / "bad.tar.zst", "rootfs.ext4", "-C", str(tmp_path), "manifest.json")
    assert "the 'manifest.json' of the bundle" in wrong_with(path)


def test_an_image_that_is_no_clean_ext4_is_refused(parts: Path, tmp_path: Path) -> None:
    image, words = tmp_path / "rootfs.ext4", ("rootfs.ext4", "-C", str(parts), "manifest.json")
    image.write_bytes(bytes((parts / "rootfs.ext4").stat().st_size))
    assert "'rootfs.ext4' is not an ext4 image" in wrong_with(pack(tmp_path, tmp_path / "bad.tar.zst", *words))
    image.write_bytes((parts / "rootfs.ext4").read_bytes())
    subprocess.run(["debugfs", "-w", "-R", "dirty", image], check=True, capture_output=True, env=support.environment())
    assert "'rootfs.ext4' is not marked clean" in wrong_with(pack(tmp_path, tmp_path / "bad.tar.zst", *words))


# Limits


def test_limits_hold_before_the_disk_is_full(good: Path, here: Path, tmp_path: Path) -> None:
    assert "its image is larger than 1.0M" in refused(good, here, "--max-image=1M")
    large = tarfile.TarInfo("manifest.json")
    large.size = limits.DOCUMENT + 1
    path = compress(large.tobuf() + bytes(large.size), tmp_path / "large.tar.zst")
    assert "'manifest.json' of 4194305 bytes is too large" in wrong_with(path)
    huge = tarfile.TarInfo("rootfs.ext4")
    huge.size = 1 << 50
    path = compress(huge.tobuf(format=tarfile.GNU_FORMAT), tmp_path / "huge.tar.zst")
    assert "its image is larger than 256G" in wrong_with(path)


def test_zeros_cost_no_disk_and_other_bombs_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Path
) -> None:
    monkeypatch.setattr(limits, "RATIO_FROM", 1 << 20)
    for byte, said in ((b"\0", "is not an ext4 image"), (b"A", "is a bomb")):
        info = tarfile.TarInfo("rootfs.ext4")
        info.size = 64 << 20
        text = bundles.manifest(parts)
        text["rootfs"]["size"] = info.size
        tar = info.tobuf() + byte * info.size + tar_of(("manifest.json", json.dumps(text).encode(), {}))
        path = compress(tar, tmp_path / "bomb.tar.zst")
        assert said in wrong_with(path)
        assert (tmp_path / "image").stat().st_blocks * 512 < (8 << 20)


def test_archive_comes_apart_the_same_in_pieces_of_any_size(parts: Path, tmp_path: Path) -> None:
    image = os.urandom(5000) + bytes(20_000) + b"x" * 3333 + bytes(777)
    tar = tar_of(("manifest.json", b"{}", {}), ("rootfs.ext4", image, {}))
    for piece in (1, 7, 511, 512, 513, 4096, 100_000):
        with open(tmp_path / "image", "wb") as file:
            contents = archive.ImageFiles(file, 1 << 20, "it")
            found = archive.Archive(contents)
            for start in range(0, len(tar), piece):
                found.write(tar[start : start + piece])
            found.finish()
        assert (tmp_path / "image").read_bytes() == image
        assert contents.manifest == b"{}"
