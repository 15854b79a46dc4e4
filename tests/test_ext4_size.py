"""The size of an image: it always fits, the least that is named is the least that works, and the numbers are true."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from banger_tools import errors, sizes, tree
from banger_tools.ext4 import builder, features
from banger_tools.tree import Entry, SourceFile, Tree
from tests import support, trees

MIB = 1 << 20
SOURCE_SIZE = 64 * MIB


def numbers(image: Path) -> dict[str, int]:
    """Return the numbers that dumpe2fs prints of a superblock."""
    said = subprocess.run(["/sbin/dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    pairs = [line.split(":", 1) for line in said.splitlines() if ":" in line]
    return {name.strip(): int(value) for name, value in pairs if value.strip().isdecimal()}


def words(image: Path) -> list[str]:
    """Return the features that dumpe2fs prints."""
    said = subprocess.run(["/sbin/dumpe2fs", "-h", image], capture_output=True, text=True, check=True).stdout
    return said.split("Filesystem features:")[1].split("\n")[0].split()


def a_tree(folder: Path, files: int = 50, size: int = 10_000) -> Path:
    """Write a tree of files with data."""
    source = folder / "source"
    with open(source, "wb") as file:
        file.truncate(SOURCE_SIZE)
    entries = [Entry("/", "dir"), *(Entry(f"/f{n}", "file", size=size, data=(0, n)) for n in range(files))]
    (folder / "tree.jsonl").unlink(missing_ok=True)
    tree.write(folder / "tree.jsonl", Tree([SourceFile(str(source))], entries))
    return folder / "tree.jsonl"


def made(folder: Path, *options: str, files: int = 50) -> tuple[Path, dict[str, Any]]:
    """Make an image of a tree, let e2fsck look at it, and return it with its section of the manifest."""
    out = support.run_ok("bg-mkext4", "-f", "-C", folder, *options, a_tree(folder, files))
    trees.fsck(folder / "rootfs.ext4")
    return folder / "rootfs.ext4", support.manifest_of(out)["rootfs"]


@pytest.mark.parametrize(
    "options", [(), ("--size=8M",), ("--minimal",), ("--free=30M",), ("--minimal", "--no-journal"), ("--inodes=9999",)]
)
def test_manifest_says_what_dumpe2fs_says(tmp_path: Path, options: tuple[str, ...]) -> None:
    image, section = made(tmp_path, *options)
    found = numbers(image)
    assert section["size"] == image.stat().st_size
    assert section["free_bytes"] == found["Free blocks"] * 4096
    assert section["free_inodes"] == found["Free inodes"]
    assert found["Reserved block count"] == 0


def test_default_is_a_quarter_more_than_needed_and_1_gib_at_least(tmp_path: Path) -> None:
    assert made(tmp_path)[1]["size"] == 1 << 30
    source = SourceFile(str(tmp_path / "source"))
    entries = [Entry("/", "dir"), *(Entry(f"/f{n}", "file", size=60 * MIB, data=(0, n)) for n in range(40))]
    built = builder.build(tmp_path / "large.ext4", Tree([source], entries), builder.Wanted())
    least = builder.build(tmp_path / "least.ext4", Tree([source], entries), builder.Wanted(minimal=True))
    assert 1.25 <= built.size / least.size < 1.3  # the least has the smallest journal


@pytest.mark.root
@pytest.mark.parametrize("journal", [(), ("--no-journal",)])
def test_free_is_what_can_be_written_by_anybody(tmp_path: Path, journal: tuple[str, ...]) -> None:
    image, section = made(tmp_path, "--free=100M", *journal)
    assert section["size"] < 170 * MIB
    with trees.mounted(image, tmp_path / "mount", "rw,loop") as folder:
        free = os.statvfs(folder)
        assert free.f_bavail * free.f_frsize >= 100 * MIB
        with open(folder / "new", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 99 * MIB)
    trees.fsck(image)


def test_inodes_are_as_many_as_wished_used_ones_too(tmp_path: Path) -> None:
    for wished in (1000, 70_000):
        found = numbers(made(tmp_path, f"--inodes={wished}", "--size=64M")[0])
        assert wished <= found["Inode count"] < wished + 64
    done = support.run("bg-mkext4", "--inodes=60", "-o", tmp_path / "x", tmp_path / "tree.jsonl")
    assert done.returncode == 64
    assert "60 inodes are too few: this tree needs 61" in done.stderr.decode()
    found = numbers(made(tmp_path, "--inodes=61", "--minimal")[0])
    assert (found["Inode count"], found["Free inodes"]) == (64, 64 - 50 - 11)


@pytest.mark.slow
def test_default_fits_however_many_inodes_are_wished(tmp_path: Path) -> None:
    image, section = made(tmp_path, "--inodes=300000000")
    assert section["free_inodes"] >= 300_000_000 - 100
    trees.fsck(image)


def test_more_inodes_than_groups_can_be_described_for_are_refused(tmp_path: Path) -> None:
    done = support.run("bg-mkext4", "--inodes=4000000000", "-C", tmp_path, a_tree(tmp_path))
    assert done.returncode == 64
    assert b"hint: ask for fewer: --inodes" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["source", "tree.jsonl"]


def test_many_empty_files_are_held_by_groups_with_more_inodes_than_usual(tmp_path: Path) -> None:
    entries = [Entry("/", "dir"), *(Entry(f"/{n % 300:03}/{n}", "file") for n in range(70_000))]
    tree.write(tmp_path / "tree.jsonl", Tree([], entries))
    support.run_ok("bg-mkext4", "--minimal", "-C", tmp_path, tmp_path / "tree.jsonl")
    trees.fsck(tmp_path / "rootfs.ext4")
    assert numbers(tmp_path / "rootfs.ext4")["Free inodes"] < 100


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (["--size=20M", "--minimal"], "--size and --minimal exclude each other"),
        (["--free=20M", "--minimal"], "--free and --minimal exclude each other"),
        (["--size=20M", "--free=1M"], "--size and --free exclude each other"),
        (["--inodes=many"], "'many' is not a number"),
        (["--inodes=0"], "'0' is not a number"),
        (["--free=-1"], "'-1' is not a size"),
        ([b"--label=caf\xe9"], "is not UTF-8"),
        (["--features=encrypt"], "'encrypt' is not supported: the programs"),
        (["--features=^orphan_file,orphan_file"], "both asked for and left out"),
        (["--features=^filetype"], "'filetype' cannot be left out"),
        (["--features=fancy"], "'fancy' is not a feature"),
        (["--features=^fancy"], "'fancy' is not a feature"),
        (["--features=fast_commit", "--no-journal"], "'fast_commit' needs has_journal"),
        (["--features=metadata_csum_seed,^metadata_csum"], "'metadata_csum_seed' needs metadata_csum"),
        (["--features=has_journal", "--no-journal"], "both asked for and left out"),
    ],
)
def test_wishes_that_cannot_be_are_refused(tmp_path: Path, options: list[str], wrong: str) -> None:
    done = support.run("bg-mkext4", *options, "-C", tmp_path, a_tree(tmp_path))
    assert done.returncode == 64
    assert wrong in done.stderr.decode()
    assert sorted(os.listdir(tmp_path)) == ["source", "tree.jsonl"]


@pytest.mark.parametrize("name", features.ADDABLE)
def test_feature_that_is_added_is_there_and_the_image_is_right(tmp_path: Path, name: str) -> None:
    assert_used(tmp_path, made(tmp_path, f"--features={name}", "--size=300M", files=3000)[0])
    assert name in words(tmp_path / "rootfs.ext4")


@pytest.mark.parametrize("names", [*(f"^{name}" for name in features.REMOVABLE), "^64bit,^flex_bg,^metadata_csum"])
def test_feature_that_is_left_out_is_not_there_and_the_image_is_right(tmp_path: Path, names: str) -> None:
    assert_used(tmp_path, made(tmp_path, f"--features={names}", "--size=300M", files=3000)[0])
    assert not {name.removeprefix("^") for name in names.split(",")} & set(words(tmp_path / "rootfs.ext4"))


def assert_used(folder: Path, image: Path) -> None:
    """Let the kernel, where we are root, look up names in a hashed folder and add some."""
    if os.geteuid() != 0:
        return
    with trees.mounted(image, folder / "mount", "rw,loop") as mount:
        assert all((mount / f"f{n}").stat().st_size == 10_000 for n in range(0, 3000, 7))
        for n in range(500):
            (mount / f"new-{n}").write_text("new")
    trees.fsck(image)


def test_manifest_records_the_options(tmp_path: Path) -> None:
    out = support.run_ok(
        "bg-mkext4", "-C", tmp_path, "--minimal", "--no-journal", "--features=verity", a_tree(tmp_path)
    )
    assert json.loads(out)["history"][-1]["options"] == {"minimal": True, "features": "verity,^has_journal"}


LESS = (["^has_journal"], ["^64bit", "^metadata_csum"], ["^flex_bg"])
kinds = st.sampled_from(["none", "small", "block", "big", "sparse", "link", "deep", "xattr", "long", "many"])
wishes = st.fixed_dictionaries(
    {},
    optional={
        "inodes": st.integers(2_500, 40_000),
        "features": st.sampled_from([features.chosen(words) for words in LESS]),
    },
)


def grown(parts: list[tuple[str, int]]) -> list[Entry]:
    """Return a tree with so many of each kind of thing."""
    found = [Entry("/", "dir")]
    for index, (kind, count) in enumerate(parts):
        top = f"/{index}"
        found.append(Entry(top, "dir"))
        for n in range(count):
            found += _things(kind, f"{top}/{n}", n)
    return found


def _things(kind: str, path: str, n: int) -> list[Entry]:
    value = "QUJD" * 700
    match kind:
        case "none":
            return [Entry(path, "fifo")]
        case "small":
            return [Entry(path, "file", size=n % 300 + 1, data=(0, n))]
        case "block":
            return [Entry(path, "file", size=4096, data=(0, n))]
        case "big":
            return [Entry(path, "file", size=40 * MIB + n, data=(0, 0))] if n < 8 else []
        case "sparse":
            segments = [(k * 8192, k, 10) for k in range(n * 40 % 2000)]
            return [Entry(path, "file", size=1 << 33, data=(0, 0), segments=segments)] if n < 50 else []
        case "link":
            first = [Entry(path, "file", size=9, data=(0, n))]
            return [*first, Entry(path + "-link", "hardlink", target=path)]
        case "deep":
            return [Entry(path + "/d" * depth, "dir") for depth in range(n % 30)]
        case "xattr":
            return [Entry(path, "file", xattrs={"user.long": value, "user.more": str(1000 + n)})]
        case "long":
            return [Entry(path, "symlink", target="t" * (n % 3000 + 1))]
        case _:
            return [Entry(f"{path}-{'n' * 240}", "fifo")]


@given(st.lists(st.tuples(kinds, st.integers(0, 200)), min_size=1, max_size=4), wishes)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_least_size_of_any_tree_works_and_less_does_not(parts: list[tuple[str, int]], wish: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open(folder / "source", "wb") as file:
            file.truncate(SOURCE_SIZE)
        found = Tree([SourceFile(str(folder / "source"))], tree.identified([], grown(parts)).entries, str(parts))
        tree.write(folder / "tree.jsonl", found)
        found = tree.read(folder / "tree.jsonl")
        least = builder.build(folder / "least", found, builder.Wanted(minimal=True, **wish)).size
        trees.fsck(folder / "least")
        again = builder.build(folder / "again", found, builder.Wanted(least, **wish)).size
        trees.fsck(folder / "again")
        assert again == least
        with pytest.raises(errors.BadUsage, match=f"needs {sizes.exact(least)} at least"):
            builder.build(folder / "less", found, builder.Wanted(least - MIB, **wish))
        free = builder.build(folder / "free", found, builder.Wanted(free=7 * MIB, **wish))
        trees.fsck(folder / "free")
        assert free.free_bytes >= 7 * MIB
        assert (
            free.size <= 1.1 * least + 40 * MIB
        )  # nothing beyond what is asked for, spare inodes and the usual journal
        default = builder.build(folder / "default", found, builder.Wanted(least=8 * MIB, uuid=uuid.UUID(int=1), **wish))
        assert least <= default.size
