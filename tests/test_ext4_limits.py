"""The far ends of what ext4 can hold, compared under the kernel's mount with what the tree says."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest

from banger_tools import errors, tree
from banger_tools.ext4 import builder, directory, dirhash, mke2fs
from banger_tools.ext4.plan import MAX_FILE, plan
from banger_tools.tree import Entry, SourceFile, Tree
from tests import support, trees

GIB = 1 << 30


def built(folder: Path, entries: list[Entry], data: bytes = b"", hole: int = 0) -> tuple[Path, Tree]:
    """Make an image by the program, of entries whose data is `data` and a hole after it; return it with its tree."""
    source = folder / "source"
    with open(source, "wb") as file:
        file.write(data)
        file.truncate(len(data) + hole)
    given = Tree([SourceFile(str(source))], [Entry("/", "dir", mtime=(1, 2)), *entries])
    tree.write(folder / "tree.jsonl", given)
    support.run_ok("bg-mkext4", "-C", folder, folder / "tree.jsonl")
    trees.fsck(folder / "rootfs.ext4")
    return folder / "rootfs.ext4", tree.read(folder / "tree.jsonl")


def debugfs(image: Path, command: str) -> str:
    return subprocess.run(["/sbin/debugfs", "-R", command, image], capture_output=True, text=True, check=True).stdout


def assert_kernel_agrees(image: Path, found: Tree, folder: Path) -> None:
    with trees.mounted(image, folder / "mount") as mount:
        seen = trees.of_folder(mount, ignore=frozenset([b"/lost+found"]))
    assert trees.differences(seen, trees.of_tree(found)) == []


@pytest.mark.root
def test_times_owners_devices_and_targets_at_their_ends(tmp_path: Path) -> None:
    last = (1 << 34) - (1 << 31) - 1
    seconds = [-(1 << 31), -1, 0, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 33) + 5, last]
    times = [(second, part) for second in seconds for part in (0, 1, 999_999_999)]
    entries = [Entry(f"/time{n}", "file", mtime=time) for n, time in enumerate(times)]
    ids = [0, 1, 65_534, 65_535, 65_536, 1 << 31, tree.MAX_ID]
    entries += [Entry(f"/id{n}", "symlink", uid=n, gid=ids[-1 - k], target="x", mode="0777") for k, n in enumerate(ids)]
    numbers = [(0, 0), (1, 3), (255, 255), (255, 256), (256, 1), (259, 70_000), (4095, (1 << 20) - 1)]
    entries += [Entry(f"/dev{n}", "char", rdev=n, mode="0600") for n in numbers]
    entries += [Entry(f"/disk{n}", "block", rdev=n, mode="0660") for n in numbers]
    lengths = (1, 58, 59, 60, 61, 255, 4094, 4095)
    entries += [Entry(f"/link{n}", "symlink", target="t" * n, mode="0777") for n in lengths]
    entries += [Entry(f"/mode{mode}", "file", mode=mode) for mode in ("0000", "0777", "1644", "2755", "4755", "7777")]
    names = [b"/\xff\xfe", b"/caf\xe9", b"/\n\t\x01", b"/\\x41'\"", b"/" + b"\xf0" * 255, "/\u202e\u0301".encode()]
    entries += [tree.new_entry(name, "fifo") for name in names]
    assert_kernel_agrees(*built(tmp_path, entries), tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("total", [90, 100, 120, 3900, 4060])
def test_xattrs_fill_the_inode_and_the_block(tmp_path: Path, total: int) -> None:
    def value(size: int) -> str:
        return base64.b64encode(os.urandom(size)).decode()

    entries = [Entry("/one", "file", xattrs={"user.a": value(total - 36)})]
    entries.append(Entry("/many", "dir", xattrs={f"user.n{n}": value(n % 5) for n in range(total // 30)}))
    spaces = {"user.x": "", "trusted.t": "AA==", "security.s": value(total // 3), "user." + "n" * 250: "AAE="}
    entries.append(Entry("/spaces", "file", xattrs=dict(sorted(spaces.items()))))
    assert_kernel_agrees(*built(tmp_path, entries), tmp_path)


def test_xattrs_beyond_a_block_are_an_error_that_names_the_file() -> None:
    entries = [Entry("/", "dir"), Entry("/much", "file", xattrs={"user.a": "QUFB" * 1400})]
    with pytest.raises(errors.BadInput, match="'/much' has more xattrs than fit"):
        plan(entries)


@pytest.mark.root
def test_file_over_4_gib_that_is_all_mapped(tmp_path: Path) -> None:
    """Its extents are in a tree of depth 1, and the hole of the source stays a hole of the image's file."""
    data = b"begin" + bytes(5000) + b"end"
    entries = [Entry("/large", "file", size=5 * GIB, data=(0, 0)), Entry("/small", "file", size=5, data=(0, 0))]
    image, _ = built(tmp_path, entries, data, hole=5 * GIB - len(data))
    assert image.stat().st_blocks * 512 < 200 << 20
    assert "(ETB" in debugfs(image, "stat /large")  # a block of the extent tree outside of the inode
    with trees.mounted(image, tmp_path / "mount") as mount:
        info = (mount / "large").stat()
        assert (info.st_size, info.st_blocks * 512 >= 5 * GIB) == (5 * GIB, True)
        with open(mount / "large", "rb") as file:
            assert file.read(len(data) + 9) == data + bytes(9)
            file.seek(-9, os.SEEK_END)
            assert file.read() == bytes(9)


@pytest.mark.root
def test_sparse_files_up_to_16_tib_and_trees_of_extents_of_depth_2(tmp_path: Path) -> None:
    data = b"0123456789" * 500
    many = [(n * 12_288 + 100, n % 4000, 900) for n in range(3000)]
    far = [(0, 0, 10), (5 * GIB, 10, 5000 - 10), (MAX_FILE - 9, 1, 9)]
    entries = [
        Entry("/end", "file", size=MAX_FILE, data=(0, 0), segments=far),
        Entry("/hole", "file", size=1 << 40, data=(0, 0), segments=[]),
        Entry("/many", "file", size=3000 * 12_288, data=(0, 0), segments=many),
    ]
    image, _ = built(tmp_path, entries, data)
    assert debugfs(image, "stat /many").count("(ETB") > 9
    with trees.mounted(image, tmp_path / "mount") as mount:
        with open(mount / "end", "rb") as file:
            assert file.seek(0, os.SEEK_END) == MAX_FILE
            assert os.pread(file.fileno(), 11, 0) == data[:10] + b"\0"
            assert os.pread(file.fileno(), 5000, 5 * GIB) == data[10:] + bytes(10)
            assert os.pread(file.fileno(), 99, MAX_FILE - 12) == bytes(3) + data[1:10]
        assert (mount / "hole").stat().st_blocks == 0
        expected = bytearray(3000 * 12_288)
        for offset, place, length in many:
            expected[offset : offset + length] = data[place : place + length]
        assert (mount / "many").read_bytes() == expected


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        (Entry("/x", "file", size=MAX_FILE + 1, data=(0, 0), segments=[]), "more than an ext4 file can have"),
        (Entry("/x", "symlink", target="t" * 4096), "4095 at most"),
        (Entry("/x", "char", rdev=(4096, 0)), "4095:1048575"),
        (Entry("/x", "block", rdev=(0, 1 << 20)), "4095:1048575"),
        (Entry("/x", "file", xattrs={"system.posix_acl_access": "AAAA"}), "'/x': a POSIX ACL is malformed"),
        (Entry("/lost+found", "fifo"), "'/lost\\+found' is a fifo"),
    ],
)
def test_what_ext4_cannot_hold_is_an_error_that_names_it(entry: Entry, wrong: str) -> None:
    with pytest.raises(errors.BadInput, match=wrong) as raised:
        plan([Entry("/", "dir"), entry])
    assert f"'{entry.path}'" in raised.value.message


@pytest.mark.root
def test_65_000_links_of_one_file_and_70_000_subfolders(tmp_path: Path) -> None:
    entries = [Entry("/first", "file", size=3, data=(0, 0)), Entry("/links", "dir"), Entry("/folders", "dir")]
    entries += [Entry(f"/links/{n}", "hardlink", target="/first") for n in range(64_999)]
    entries += [Entry(f"/folders/{n}", "dir") for n in range(70_000)]
    image, _ = built(tmp_path, entries, b"abc")
    with trees.mounted(image, tmp_path / "mount") as mount:
        assert (mount / "links/64998").read_bytes() == b"abc"
        assert (mount / "first").stat().st_nlink == 65_000
        assert (mount / "folders").stat().st_nlink == 1  # "more than can be counted", as the kernel has it
        assert (mount / "folders/69999").stat().st_nlink == 2


def test_65_001_links_are_an_error() -> None:
    entries = [Entry("/", "dir"), Entry("/first", "file")]
    entries += [Entry(f"/{n}", "hardlink", target="/first") for n in range(65_000)]
    with pytest.raises(errors.BadInput, match="'/first' has more than 65000 links"):
        plan(entries)


@pytest.mark.root
def test_folder_of_200_000_long_names_has_two_levels_of_index_and_every_name_is_found(tmp_path: Path) -> None:
    entries = [Entry("/flat", "dir"), *(Entry(f"/flat/{n:06}-{'long' * 20}", "fifo") for n in range(200_000))]
    image, _ = built(tmp_path, entries)
    assert "Indirect levels: 1" in debugfs(image, "htree_dump /flat")[:2000]
    with trees.mounted(image, tmp_path / "mount") as mount:
        assert len(os.listdir(mount / "flat")) == 200_000
        for n in range(0, 200_000, 61):
            os.lstat(mount / f"flat/{n:06}-{'long' * 20}")


def test_folder_with_more_names_than_two_levels_hold_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_LEAVES", 20)  # else it takes some 60 million names
    with pytest.raises(errors.BadInput, match="'/flat' has 5000 names, more than an ext4 folder can index"):
        plan([Entry("/", "dir"), Entry("/flat", "dir"), *(Entry(f"/flat/{n:0100}", "fifo") for n in range(5000))])


@pytest.mark.root
def test_names_of_one_hash_on_both_sides_of_a_leaf_are_found(tmp_path: Path) -> None:
    seed = mke2fs.derived_uuid("fixed", "hash seed").bytes
    words = tuple(int.from_bytes(seed[n : n + 4], "little") for n in range(0, 16, 4))
    names = [b"%08d" % n for n in range(300_000)]  # 16 bytes an entry, 255 entries a leaf
    by_hash = sorted(zip(dirhash.half_md4(names, (words[0], words[1], words[2], words[3])), names, strict=True))
    twins = [n for n in range(300, len(names) - 300) if by_hash[n][0] == by_hash[n + 1][0]]
    assert twins, "no two of so many names have one hash"
    at = twins[0]
    chosen = [name for _, name in by_hash[at - 254 : at + 300]]  # the twins are the 255th and the 256th
    entries = [Entry("/", "dir"), *(Entry(f"/{name.decode()}", "fifo") for name in sorted(chosen))]
    builder.build(tmp_path / "image", Tree([], entries, "fixed"), builder.Wanted())
    trees.fsck(tmp_path / "image")
    assert f"{by_hash[at][0] | 1:08x}" in debugfs(tmp_path / "image", "htree_dump /").lower()
    with trees.mounted(tmp_path / "image", tmp_path / "mount") as mount:
        for name in chosen:
            os.lstat(os.fsencode(mount) + b"/" + name)


@pytest.mark.root
def test_folders_200_deep(tmp_path: Path) -> None:
    paths = ["/" + "/".join(f"{n}" for n in range(depth)) for depth in range(1, 201)]
    entries = [Entry(path, "dir", uid=n) for n, path in enumerate(paths)]
    entries += [Entry(f"{paths[-1]}/file", "file", size=4, data=(0, 0))]
    assert_kernel_agrees(*built(tmp_path, entries, b"deep"), tmp_path)


def names_in(image: Path, folder: str) -> list[str]:
    """Return the names in a folder as debugfs lists them: /inode/mode/uid/gid/name/size/."""
    lines = debugfs(image, f"ls -p {folder}").splitlines()
    return sorted(line.split("/")[5] for line in lines if line.startswith("/") and line.split("/")[1] != "0")


@pytest.mark.parametrize("count", [0, 1, 200, 254, 300, 500, 520, 800, 2000])
def test_lost_and_found_of_a_mended_disk_keeps_what_is_in_it(count: int, tmp_path: Path) -> None:
    """mke2fs gives it four blocks, of which an index need not have all."""
    entries = [Entry("/", "dir"), Entry("/lost+found", "dir", mode="0700")]
    entries += [Entry(f"/lost+found/#{1_000_000 + n}", "fifo") for n in range(count)]
    builder.build(tmp_path / "image", Tree([], entries, "fixed"), builder.Wanted())
    trees.fsck(tmp_path / "image")
    assert names_in(tmp_path / "image", "/lost+found") == [*(f"#{1_000_000 + n}" for n in range(count)), ".", ".."]


@pytest.mark.root
def test_kernel_adds_to_lost_and_found_and_takes_away(tmp_path: Path) -> None:
    entries = [Entry("/", "dir"), Entry("/lost+found", "dir", mode="0700")]
    entries += [Entry(f"/lost+found/#{1_000_000 + n}", "fifo") for n in range(400)]
    builder.build(tmp_path / "image", Tree([], entries, "fixed"), builder.Wanted())
    with trees.mounted(tmp_path / "image", tmp_path / "mount", "loop") as mount:
        for n in range(400):
            (mount / f"lost+found/new{n}").touch()
            (mount / f"lost+found/#{1_000_000 + n}").unlink()
    trees.fsck(tmp_path / "image")
    assert names_in(tmp_path / "image", "/lost+found") == sorted([".", "..", *(f"new{n}" for n in range(400))])
