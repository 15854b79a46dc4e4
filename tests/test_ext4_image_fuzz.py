"""Damaged and hostile ext4 images: reading ends in an error or a result, soon, in little memory, and writes nothing.

BANGER_TEST_FUZZ=10000 tries as many of each kind, for hours.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger_tools import chown, errors, seed, stage
from banger_tools.ext4.image import opened
from banger_tools.ext4.owners import IdMap
from banger_tools.ext4.plan import plan
from tests.images import debugfs, mke2fs

KINDS = {
    "extents": ["-b", "1024", "-O", "^metadata_csum", "-N", "512"],
    "block maps": ["-b", "1024", "-O", "^metadata_csum,^extent,^64bit", "-N", "512"],
    "inline data": ["-b", "4096", "-O", "^metadata_csum,inline_data", "-N", "512"],
    "checksums": ["-b", "4096", "-N", "512"],
}
EXAMPLES = int(os.environ.get("BANGER_TEST_FUZZ", "150"))
MEMORY, SECONDS = 512 << 20, 20
NUMBERS = [0, 1, 2, 3, 8, 11, 12, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 0xF30A, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF]
MAP_ROOT = chown.Options(None, stage.Outputs(Path("."), None, False, False), False, None, [IdMap(0, 7, 1)], [], [])
HOME = seed.Options(None, stage.Outputs(Path("."), None, False, False), "/root", None, False, False, True)


def contents(folder: Path) -> Path:
    """Make a home that needs every structure: an index, fragments, attributes in and out of the inode, links."""
    home = folder / "root"
    (home / "many").mkdir(parents=True)
    for number in range(120):
        (home / "many" / f"one of many names {number}").write_text("x" * (number % 90))
    with open(home / "sparse", "wb") as file:
        for place in range(400):
            file.seek(place * 8192)
            file.write(b"data")
    os.setxattr(home / "sparse", "user.small", b"1")
    os.setxattr(home / "sparse", "user.large", b"1" * 600)
    (home / "long").symlink_to("x" * 200)
    (home / "short").symlink_to("sparse")
    os.link(home / "sparse", home / "again")
    (home / "root/root").mkdir(parents=True)
    (home / "root/root/file").write_text("nested")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "in").mkdir()
    path = mke2fs(folder / "image.ext4", *KINDS[request.param], "-d", contents(folder / "in"), size="8M")
    debugfs(path, "cd /root", "mknod null c 1 3", write=True)
    subprocess.run(["/sbin/e2fsck", "-fyD", path], capture_output=True)  # makes the index of the large folder
    return path


def structures(data: bytes) -> list[int]:
    """Return the places of the words that may be of a structure: all that are neither zero nor of file contents."""
    words = range(0, len(data), 4)
    return [at for at in words if data[at : at + 4] not in (b"\0" * 4, b"xxxx", b"data", b"1111")]


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail if the body takes more memory or processor time than anything that it is given can be worth."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert time.process_time() - start < SECONDS  # here, since most of what is damaged is refused


def map_root(path: Path, before: bytes) -> None:
    """Let bg-chown change every inode, or refuse and change nothing."""
    try:
        with bounded():
            chown.settle(path, MAP_ROOT, None)
    except errors.BangerError as error:
        assert error.message
        assert path.read_bytes() == before


def read_home(path: Path) -> None:
    """Let bg-seed read the home and lay out the seed, or refuse."""
    with contextlib.suppress(errors.BangerError, seed.NoHome), bounded(), opened(path) as image:
        plan(seed.home_tree(image, HOME).entries)


edits = st.lists(
    st.tuples(st.integers(0, 1 << 30), st.sampled_from([1, 2, 4]), st.sampled_from(NUMBERS) | st.integers(0, 1 << 32)),
    min_size=1,
    max_size=6,
)


def test_any_damage_ends_in_an_error_or_a_result(image: Path, tmp_path: Path) -> None:
    sound = image.read_bytes()
    victim = tmp_path / "image.ext4"
    places = structures(sound)
    # The few words of the superblock and the descriptors are worth as many tries as all others.
    early = [at for at in places if at < 8192]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(edits)
    def check(found: list[tuple[int, int, int]]) -> None:
        damaged = bytearray(sound)
        for place, width, number in found:
            among = early if place % 3 == 0 else places
            at = among[place % len(among)]
            damaged[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, "little")
        victim.write_bytes(damaged)
        read_home(victim)
        map_root(victim, bytes(damaged))

    check()


def test_sound_images_are_read_and_changed(image: Path) -> None:
    """What the test above runs does succeed, so it is not an early refusal that makes it pass."""
    with opened(image) as found:
        paths = [entry.path for entry in seed.home_tree(found, HOME).entries]
    assert len(paths) == 128
    assert "/file" in paths
    counts = chown.settle(image, MAP_ROOT, None)
    assert counts.changed == counts.checked == 131
    assert subprocess.run(["/sbin/e2fsck", "-fn", image], capture_output=True).returncode == 0


@pytest.mark.parametrize("size", range(1, 6))
def test_cut_images_are_refused(size: int, tmp_path: Path) -> None:
    image = mke2fs(tmp_path / "image.ext4", "-d", contents(tmp_path / "in"), size="8M")
    os.truncate(image, size * (1 << 20) + 1000)
    with pytest.raises(errors.BadInput, match="contradicts itself or the size of the file"), opened(image):
        pass
