"""Initrds: ours, unpacked by cpio, and those of others, looked into."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.kernel import cpio, initrd, modules
from tests import kernels, support


def written(entries: list[cpio.Entry]) -> bytes:
    output = io.BytesIO()
    cpio.write(output, entries)
    return output.getvalue()


def test_cpio_program_reads_what_we_write(tmp_path: Path) -> None:
    support.need("cpio")
    content = {"empty": b"", "one": b"1", "four": b"1234", "large": os.urandom(100_001)}
    archive = written([cpio.folder("sub"), *(cpio.file(f"sub/{name}", data, 0o755) for name, data in content.items())])
    done = subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
    assert {path.name: path.read_bytes() for path in (tmp_path / "sub").iterdir()} == content
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in (tmp_path / "sub").iterdir())
    listing = subprocess.run(["cpio", "-itv", "--quiet"], input=archive, capture_output=True, check=True).stdout
    assert all(b"root" in line and b"1970" in line for line in listing.splitlines())


def test_initrd_lists_its_modules_in_load_order_and_is_reproducible(tmp_path: Path) -> None:
    support.need("cpio")
    needed = [modules.Module(name, Path(name), name.encode()) for name in ("virtio_ring", "virtio")]
    outputs = [io.BytesIO(), io.BytesIO()]
    for output in outputs:
        initrd.write(output, b"\x7fELF init", needed)
    assert outputs[0].getvalue() == outputs[1].getvalue()
    subprocess.run(["cpio", "-id", "--quiet", "modules", "init", "lib/*"], input=outputs[0].getvalue(), cwd=tmp_path)
    assert (tmp_path / "init").stat().st_mode & 0o111
    listed = (tmp_path / "modules").read_text().splitlines()
    assert [(tmp_path / line.lstrip("/")).read_text() for line in listed] == ["virtio_ring", "virtio"]


def test_initrd_key_tells_program_and_kernel() -> None:
    keys = {initrd.key(b"one", "6.1"), initrd.key(b"two", "6.1"), initrd.key(b"one", "6.2")}
    assert len(keys) == 3


def archive_of(folder: Path, *options: str) -> bytes:
    """Return what the cpio program makes of a folder."""
    support.need("cpio", "find")
    names = subprocess.run(["find", ".", "-mindepth", "1"], cwd=folder, capture_output=True, check=True).stdout
    argv = ["cpio", "-o", "-H", "newc", "--quiet", *options]
    return subprocess.run(argv, cwd=folder, input=names, capture_output=True, check=True).stdout


@pytest.fixture
def distribution(tmp_path: Path) -> bytes:
    """An archive as distributions make them: modules below their kernel's version."""
    place = tmp_path / "content" / "usr" / "lib" / "modules" / "6.1.0-test" / "kernel"
    place.mkdir(parents=True)
    (place / "virtio-blk.ko.xz").write_bytes(b"module")
    (place / "ext4.ko").write_bytes(b"module")
    return archive_of(tmp_path / "content")


def looked(tmp_path: Path, data: bytes) -> initrd.Contents:
    path = tmp_path / "initrd.img"
    path.write_bytes(data)
    return initrd.look(path)


@pytest.mark.parametrize("method", [None, *kernels.PACKERS])
def test_initrd_of_a_distribution_is_looked_into(tmp_path: Path, distribution: bytes, method: str | None) -> None:
    data = kernels.PACKERS[method](distribution) if method else distribution
    assert looked(tmp_path, data) == ({"virtio_blk", "ext4"}, {"6.1.0-test"})


def test_initrd_after_an_early_one_is_looked_into(tmp_path: Path, distribution: bytes) -> None:
    early = tmp_path / "early"
    (early / "kernel" / "x86" / "microcode").mkdir(parents=True)
    (early / "kernel" / "x86" / "microcode" / "a.bin").write_bytes(b"microcode")
    data = archive_of(early) + bytes(512) + kernels.PACKERS["zstd"](distribution)
    assert looked(tmp_path, data).modules == {"virtio_blk", "ext4"}


def test_initrd_of_several_archives_in_one_stream_is_looked_into(tmp_path: Path, distribution: bytes) -> None:
    more = tmp_path / "more" / "lib" / "modules" / "6.1.0-test"
    more.mkdir(parents=True)
    (more / "virtio_net.ko").write_bytes(b"module")
    data = kernels.PACKERS["gzip"](distribution + archive_of(tmp_path / "more"))
    assert looked(tmp_path, data).modules == {"virtio_blk", "ext4", "virtio_net"}


def test_initrd_packed_in_a_packed_one_is_refused(tmp_path: Path, distribution: bytes) -> None:
    with pytest.raises(errors.BadInput, match="no initrd"):
        looked(tmp_path, kernels.PACKERS["gzip"](kernels.PACKERS["gzip"](distribution)))


def test_our_own_initrd_is_looked_into(tmp_path: Path) -> None:
    with open(tmp_path / "initrd.img", "wb") as output:
        initrd.write(output, b"\x7fELF init", [modules.Module("virtio", Path("virtio.ko"), b"module")])
    assert initrd.look(tmp_path / "initrd.img") == ({"virtio"}, set())


@pytest.mark.parametrize("data", [b"", b"text", b"070701", b"\x7fELF", bytes(1000)])
def test_what_is_no_initrd_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(errors.BadInput, match=r"initrd\.img"):
        looked(tmp_path, data)


@pytest.mark.parametrize("keep", [100, 0.5, 0.9])
def test_cut_initrd_is_refused(tmp_path: Path, distribution: bytes, keep: float) -> None:
    for whole in (distribution, kernels.PACKERS["gzip"](distribution)):
        cut = whole[: int(keep if keep > 1 else (len(whole.rstrip(b"\0")) - 20) * keep)]
        with pytest.raises(errors.BadInput):
            looked(tmp_path, cut)
