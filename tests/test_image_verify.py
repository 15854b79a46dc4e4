"""Images compared with their manifests: each thing that can differ is made to differ, and is the one that is told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from banger_tools.store import digests
from tests import stored, stored_images, support
from tests.stored_images import disk, image, image_ok, publish


def told(*words: str) -> list[str]:
    """Verify, and return what is different; the status must be 1 if and only if anything is."""
    done = image("verify", "--json", *words)
    found = [one["difference"] for one in json.loads(done.stdout)]
    assert done.returncode == int(bool(found)), done.stderr.decode()
    return found


def debugfs(path: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run(["debugfs", "-w", "-R", command, path], check=True, capture_output=True)


def test_image_that_is_whole_has_no_difference(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web", work_seed=stored_images.seed(tmp_path))
    assert image_ok("verify") == image_ok("verify", "web") == ""
    assert told() == []


def test_byte_of_a_file_that_changed_is_found_by_the_digest_alone(banger_home: Path, tmp_path: Path) -> None:
    rootfs = publish(disk(tmp_path, text="x" * 5000), "web") / "rootfs.ext4"
    at = rootfs.read_bytes().index(b"x" * 4096) + 100
    with open(rootfs, "r+b") as file:
        file.seek(at)
        file.write(b"y")
    stored_images.fsck(rootfs)
    (found,) = told("web")
    assert f"'{rootfs}' was changed since it was published" in found


def test_damage_that_e2fsck_finds_is_told_in_its_words(banger_home: Path, tmp_path: Path) -> None:
    rootfs = publish(disk(tmp_path), "web") / "rootfs.ext4"
    debugfs(rootfs, "set_inode_field /greeting links_count 7")
    changed, damaged = told("web")
    assert "was changed" in changed
    assert "is damaged, says e2fsck: Inode 12 ref count is 7, should be 1" in damaged


def test_work_seed_and_size_are_looked_at(banger_home: Path, tmp_path: Path) -> None:
    seed = publish(disk(tmp_path), "web", work_seed=stored_images.seed(tmp_path)) / "work-seed.ext4"
    os.truncate(seed, 9 << 20)
    resized, changed = told("web")
    assert resized == f"'{seed}' has {9 << 20} bytes, and the manifest says {8 << 20}"
    assert f"'{seed}' was changed" in changed


def test_disks_of_others_have_no_digest_and_are_checked_by_e2fsck(banger_home: Path, tmp_path: Path) -> None:
    source = disk(tmp_path)
    image_ok("register", "--name=web", str(source))
    assert told() == []
    source.write_bytes(disk(tmp_path, "other", "other\n").read_bytes())
    assert told() == []
    debugfs(source, "set_inode_field /greeting links_count 7")
    assert "is damaged" in told()[0]


def test_kernel_is_compared_with_its_record(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    source = str(disk(tmp_path))
    folder = Path(
        json.loads(image_ok("register", "--json", f"--kernel={tmp_path / 'bzImage'}", source))["published"]["path"]
    )
    assert told("disk") == []
    vmlinux = folder / "kernel" / "vmlinux"
    data = vmlinux.read_bytes()
    vmlinux.unlink()  # it is a name of the cache's file
    vmlinux.write_bytes(data + b"!")
    assert "have another digest" in told("disk")[0]


def test_broken_image_is_a_difference_and_the_others_are_looked_at(banger_home: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        publish(disk(tmp_path / name), name)
    images = banger_home / "state" / "images"
    (images / "a" / "image.json").write_text("{")
    (images / "b" / "rootfs.ext4").unlink()
    done = image("verify")
    assert done.returncode == 1
    lines = done.stdout.decode().splitlines()
    assert [line[:2] for line in lines] == ["a:", "b:"]
    assert "its 'rootfs.ext4' is missing" in lines[1]


def test_image_that_is_not_there_is_no_difference(banger_home: Path, tmp_path: Path) -> None:
    publish(disk(tmp_path), "web")
    done = image("verify", "web", "other")
    assert (done.returncode, done.stdout) == (66, b"")
    assert image("verify", "../web").returncode == 64


# The tree, and what was put into the image


@pytest.fixture
def kept(banger_home: Path, tmp_path: Path) -> Path:
    """The disk of an image whose tree is still there, made by the real programs of a folder."""
    source = tmp_path / "source"
    for path, text in (("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), ("bin/sh", "#!"), ("srv/data", "data\n")):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_text(text)
    work = tmp_path / "work"
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    words = [f"--keep-work={work}", "--name=web", f"--kernel={tmp_path / 'bzImage'}", f"rootfs:{source}"]
    done = support.run("banger", "image", "pull", *words)
    assert done.returncode == 0, done.stderr.decode()
    return banger_home / "state" / "images" / "web" / "rootfs.ext4"


def forget_digest(rootfs: Path) -> None:
    """Leave only the comparison with the tree to find what follows."""
    record = rootfs.parent / "image.json"
    found = json.loads(record.read_text())
    del found["published"]["digests"]
    record.write_text(json.dumps(found))


def test_pulled_image_is_what_its_tree_and_its_manifest_say(kept: Path) -> None:
    assert told("web") == []


def test_owner_mode_and_names_are_compared_with_the_tree(kept: Path) -> None:
    forget_digest(kept)
    assert told("web") == []
    debugfs(kept, "set_inode_field /etc/passwd uid 7", "set_inode_field /bin/sh mode 0100700", "rm /srv/data")
    debugfs(kept, "mkdir /unheard-of")
    found = told("web")
    assert "/srv/data is in the tree, and not in the image" in found
    assert "/unheard-of is not in the tree" in found
    assert any("'/etc/passwd' is 7:0" in one for one in found)
    assert any("'/bin/sh' is 0:0:0700" in one for one in found)
    assert len(found) == 4


def test_agent_that_is_another_one_is_told(kept: Path, tmp_path: Path) -> None:
    forget_digest(kept)
    agent = "/usr/local/bin/banger-vsock-agent"
    (tmp_path / "other").write_bytes(b"\x7fELF other")
    debugfs(kept, f"rm {agent}", f"write {tmp_path / 'other'} {agent}")
    assert any("is another program than the manifest says" in one for one in told("web"))
    debugfs(kept, f"rm {agent}")
    assert f"{agent} is missing, and was put into the image" in told("web")


def test_tree_that_is_gone_is_not_compared(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "tree.jsonl").unlink(missing_ok=True)
    for path in (tmp_path / "work").glob("*.jsonl"):
        path.unlink()
    done = image("verify", "-v", "web")
    assert done.returncode == 0
    assert "is not there any more, and not compared" in done.stderr.decode()


# The digest


def test_digest_is_what_its_description_says_wherever_the_holes_are(tmp_path: Path) -> None:
    piece = 65536
    data = bytearray(5 * piece + 100)
    data[piece + 5 : piece + 8] = b"abc"
    data[-50:] = b"z" * 50
    expected = hashlib.sha256(len(data).to_bytes(8, "little"))
    for number in range(6):
        block = bytes(data[number * piece : (number + 1) * piece]).ljust(piece, b"\0")
        if any(block):
            expected.update(number.to_bytes(8, "little") + block)
    (tmp_path / "full").write_bytes(data)
    with open(tmp_path / "holes", "wb") as file:
        for offset in (piece, 5 * piece):
            os.pwrite(file.fileno(), data[offset : offset + 100], offset)
    assert digests.of_disk(tmp_path / "full") == f"sha256:{expected.hexdigest()}"
    assert digests.of_disk(tmp_path / "holes") == f"sha256:{expected.hexdigest()}"


def test_digests_of_different_disks_differ(tmp_path: Path) -> None:
    """What is moved by a byte or a piece, and what is only longer, are other disks."""
    found = set()
    for number, (offset, size) in enumerate([(0, 1 << 20), (65536, 1 << 20), (0, 1 + (1 << 20)), (1, 1 << 20)]):
        path = tmp_path / str(number)
        with open(path, "wb") as file:
            file.truncate(size)
            os.pwrite(file.fileno(), b"x" * 100, offset)
        found.add(digests.of_disk(path))
    assert len(found) == 4
