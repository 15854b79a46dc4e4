"""Sizes, kinds of files, folders, and running programs."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger_tools import errors, identify, locations, process, sizes, stage
from tests.support import need, run, run_ok


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512M", 512 << 20),
        ("4GiB", 4 << 30),
        ("4G", 4 << 30),
        ("4gb", 4 << 30),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        (" 2 T ", 2 << 40),
        ("100B", 100),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert sizes.parse(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "G", "1X", "1.G", ".5G", "1e9", "0.0001K", "4 G i B", "١"])
def test_what_is_no_size_is_refused_naming_the_option(text: str) -> None:
    with pytest.raises(errors.BadUsage, match=r"--size: "):
        sizes.parse(text, "--size")


@given(st.integers(1, 1 << 50), st.sampled_from([0, 10, 20, 30]))
def test_every_number_of_bytes_comes_back(number: int, shift: int) -> None:
    size = number << shift
    assert sizes.parse(str(size)) == sizes.parse(sizes.exact(size)) == size


@pytest.mark.parametrize(
    ("size", "text"), [(1, "1"), (1 << 10, "1K"), (8 << 20, "8M"), ((8 << 20) + 1, "8388609"), (3 << 29, "1536M")]
)
def test_sizes_are_typed_back_in_the_largest_unit_that_is_whole(size: int, text: str) -> None:
    assert sizes.exact(size) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (855 << 20, "855M"), (5 << 40, "5.0T")]
)
def test_sizes_are_shown_short(size: int, text: str) -> None:
    assert sizes.show(size) == text


def tar_bytes(kind: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def v7_tar(folder: Path) -> bytes:
    (folder / "a").write_text("x")
    return subprocess.run(["tar", "--format=v7", "-c", "a"], cwd=folder, capture_output=True, check=True).stdout


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    need("mke2fs")
    image = tmp_path / "noname"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "8M"], check=True, env=process.environment())
    assert identify.kind(image) == identify.EXT4
    assert identify.kind(tmp_path) == identify.FOLDER
    assert identify.kind_of_bytes(b'{"schema": "banger-manifest/1"}') == identify.MANIFEST
    assert identify.kind_of_bytes(b'{"tree": 1, "entries": 2}\n{"path": "a"}') == identify.TREE
    assert identify.kind_of_bytes(b'{\n  "schema": "x", "tree": {}\n}') == identify.MANIFEST
    assert identify.kind_of_bytes(gzip.compress(b"x")) == "gzip"
    assert identify.kind_of_bytes(b"") == identify.UNKNOWN
    assert identify.kind_of_bytes(bytes(4096)) == identify.UNKNOWN
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert identify.kind_of_bytes(tar_bytes(kind)) == identify.TAR
    assert identify.kind_of_bytes(v7_tar(tmp_path)) == identify.TAR


def misleading_gzip(data: bytes) -> bytes:
    """Return a gzip stream whose file name has, at byte 1080, what ext4 is told by (RFC 1952, section 2.3)."""
    plain = gzip.compress(data)
    name = b"n" * 1070 + b"\x53\xef" + b"n" * 100
    return plain[:3] + b"\x08" + plain[4:10] + name + b"\0" + plain[10:]


def misleading_tar() -> bytes:
    """Return a tar with a file that has the same there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("a")
        member.size = 1000
        tar.addfile(member, io.BytesIO((bytes(1080 - 512) + b"\x53\xef").ljust(1000, b"x")))
    return buffer.getvalue()


def test_two_bytes_in_the_midst_of_an_archive_make_no_ext4_of_it(banger_home: Path, tmp_path: Path) -> None:
    tar = misleading_tar()
    packed = misleading_gzip(tar)
    assert tar[1080:1082] == packed[1080:1082] == b"\x53\xef"
    assert subprocess.run(["gzip", "-d"], input=packed, capture_output=True, check=True).stdout == tar
    for name, content in {"layer.tar": tar, "layer.tar.gz": packed}.items():
        (tmp_path / name).write_bytes(content)
        manifest = run_ok("bg-fetch", f"rootfs:{tmp_path / name}")
        assert (tmp_path / json.loads(manifest)["layers"][0]["path"]).read_bytes() == tar


def test_artifact_that_no_manifest_could_name_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    name = tmp_path / os.fsdecode(b"caf\xe9.ext4")
    refused = run("bg-mkext4", "-o", name, tmp_path / "folder")
    assert (refused.returncode, name.exists()) == (64, False), refused.stderr
    assert b"is no UTF-8" in refused.stderr
    printed = run_ok("bg-mkext4", "--path", "-o", name, tmp_path / "folder")
    assert printed == os.fsencode(name) + b"\n"
    assert run_ok("bg-chown", "--path", "--set=/=1:2", name) == printed


def test_missing_file_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(errors.NoInput, match="no such file"):
        identify.kind(tmp_path / "missing")


def test_artifact_is_checked_for_its_size(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("abc")
    assert stage.check_artifact(str(tmp_path / "a"), 3, "the tree") == tmp_path / "a"
    with pytest.raises(errors.BadInput, match="has 3 bytes, and the manifest says 4"):
        stage.check_artifact(str(tmp_path / "a"), 4, "the tree")
    with pytest.raises(errors.NoInput):
        stage.check_artifact(str(tmp_path / "b"), 4, "the tree")


def test_home_variable_holds_all_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", "/b")
    assert [str(f()) for f in (locations.cache, locations.state, locations.config)] == [
        "/b/cache",
        "/b/state",
        "/b/config",
    ]


def test_folders_of_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BANGER_HOME")
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    found = [str(f()) for f in (locations.cache, locations.state, locations.config)]
    assert found == ["/c/banger", "/h/.local/state/banger", "/h/.config/banger"]


def test_failed_program_is_explained_by_its_last_words() -> None:
    with pytest.raises(errors.Unavailable, match="'sh' failed with status 3: the reason"):
        process.run(["sh", "-c", "echo noise >&2; echo the reason >&2; exit 3"])
    with pytest.raises(errors.IOFailure, match="'sh' was killed by SIGKILL"):
        process.run(["sh", "-c", "kill -9 $$"])
    with pytest.raises(errors.IOFailure, match="No space left on device"):
        process.run(["sh", "-c", "echo 'x: No space left on device' >&2; exit 1"])


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "search_path", lambda: "/nowhere")
    with pytest.raises(errors.Unavailable, match="'mke2fs' is not installed") as raised:
        process.run(["mke2fs"])
    assert raised.value.hint == "apt-get install e2fsprogs"


def test_programs_get_plain_english_and_their_input() -> None:
    result = process.run(["sh", "-c", 'echo "$LC_ALL"; cat'], stdin=b"in")
    assert (result.status, result.stdout) == (0, b"C\nin")


def test_unchecked_failure_is_returned() -> None:
    assert process.run([sys.executable, "-c", "raise SystemExit(4)"], check=False).status == 4
