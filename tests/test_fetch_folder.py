"""bg-fetch rootfs:DIR: a folder as one layer, judged by what GNU tar takes out of it again."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from banger_tools import tree
from tests import folders, pulls, support, trees


def fetch(folder: Path, **kwargs: Any) -> dict[str, Any]:
    support.need("tar")
    return support.manifest_of(support.run_ok("bg-fetch", f"rootfs:{folder}", **kwargs))


def diff_id(folder: Path, **kwargs: Any) -> str:
    return str(fetch(folder, **kwargs)["layers"][0]["diff_id"])


def extracted(found: dict[str, Any], target: Path) -> Path:
    """Take a layer out with GNU tar, as root."""
    target.mkdir()
    words = ["tar", "--extract", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--same-permissions"]
    words += [f"--directory={target}", f"--file={found['layers'][0]['path']}"]
    subprocess.run(words, check=True, env=support.environment())
    return target


@pytest.mark.root
def test_a_folder_is_the_same_when_it_is_taken_out_again(banger_home: Path, tmp_path: Path) -> None:
    folder = folders.make(tmp_path / "root")
    (folder / "disk-again").unlink()  # a device of two names is two devices for tar
    found = fetch(folder)
    assert found["name"] == "root" and found["source"]["kind"] == "rootfs"
    again = extracted(found, tmp_path / "again")
    assert trees.differences(trees.of_folder(again), trees.of_folder(folder)) == []


def test_holes_stay_holes(banger_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    with open(folder / "sparse", "wb") as file:
        file.seek(300 << 20)
        file.write(b"x" * 5000)
        file.truncate(500 << 20)
    found = fetch(folder)
    assert found["layers"][0]["tar_size"] < 1 << 20
    out = extracted(found, tmp_path / "out") / "sparse"
    assert out.stat().st_blocks * 512 < 1 << 20 and out.stat().st_size == 500 << 20
    with open(out, "rb") as file:
        assert file.seek(300 << 20) and file.read(5000) == b"x" * 5000


def test_file_of_20_000_pieces_is_merged_as_it_was_fetched(banger_home: Path, tmp_path: Path) -> None:
    """The map of its holes has more than a megabyte."""
    folder = tmp_path / "root"
    folder.mkdir()
    with open(folder / "holes", "wb") as file:
        for number in range(20_000):
            os.pwrite(file.fileno(), b"%d" % number, 8192 * number)
        file.truncate(8192 * 20_000)
    if (folder / "holes").stat().st_blocks * 512 > 100 << 20:
        support.cannot("the filesystem of the tests has no holes of 4 KiB")
    text = support.run_ok("bg-fetch", f"rootfs:{folder}")
    assert support.manifest_of(text)["layers"][0]["tar_size"] < 100 << 20
    support.run_ok("bg-flatten", "-C", tmp_path, stdin=text)
    merged = trees.of_tree(tree.read(tmp_path / "tree.jsonl"))
    owner = {"uid": os.geteuid(), "gid": os.getegid()} if os.geteuid() else {}  # who fetches is root in the image
    ours = {path: one._replace(**owner) for path, one in merged.items()}
    assert trees.differences(ours, trees.of_folder(folder)) == []


def test_the_same_files_give_the_same_bytes_in_another_order_and_process(banger_home: Path, tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        folder = tmp_path / str(number) / "root"
        folder.mkdir(parents=True)
        names = [f"{letter}{n}" for letter in "azB" for n in range(40)]
        random.Random(number).shuffle(names)
        for name in names:
            (folder / name).mkdir()
            (folder / name / "file").write_text(name)
            with open(folder / name / "hole", "wb") as file:
                file.truncate(1 << 20)
            os.utime(folder / name / "file", ns=(number * 10**9, 123_456_789_012_345_678))
        for path in [*folder.rglob("*"), folder]:
            if path.name != "file":
                os.utime(path, ns=(number * 10**9, 987_654_321))
        digests |= {diff_id(folder), diff_id(folder)}
    assert len(digests) == 1


def test_an_ordinary_user_s_own_files_are_root_s_and_others_stay(user: support.OrdinaryUser) -> None:
    folder = user.home / "own"
    made = user.run("bash", "-c", f"mkdir -p {folder}/etc && echo x >{folder}/etc/file && ln -s file {folder}/etc/link")
    assert made.returncode == 0
    if os.geteuid() == 0:
        (folder / "foreign").write_text("x")
        os.chown(folder / "foreign", 1234, 5678)
    done = user.run("bg-fetch", f"rootfs:{folder}")
    assert done.returncode == 0, done.stderr.decode()
    path = support.manifest_of(done.stdout)["layers"][0]["path"]
    listed = subprocess.run(["tar", "-tvf", path, "--numeric-owner"], capture_output=True, text=True, check=True).stdout
    owners = {line.split()[5]: line.split()[1] for line in listed.splitlines()}
    foreign = {"./foreign": "1234/5678"} if os.geteuid() == 0 else {}
    assert owners == {"./": "0/0", "./etc/": "0/0", "./etc/file": "0/0", "./etc/link": "0/0", **foreign}


def test_what_may_not_be_read_is_named(user: support.OrdinaryUser) -> None:
    folder = user.home / "secrets"
    made = user.run(
        "bash", "-c", f"mkdir -p {folder}/dir && touch {folder}/{{a,secret,dir/x}} && chmod 0 {folder}/{{secret,dir}}"
    )
    assert made.returncode == 0
    done = user.run("bg-fetch", f"rootfs:{folder}")
    assert (done.returncode, done.stdout) == (77, b"")
    assert f"'{folder}/secret'".encode() in done.stderr and f"'{folder}/dir'".encode() in done.stderr
    user.run("chmod", "0", str(folder))
    done = user.run("bg-fetch", f"rootfs:{folder}")
    assert done.returncode == 77 and str(folder).encode() in done.stderr


def test_a_folder_that_holds_nothing_or_is_not_there_is_refused(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, status in (("empty", 65), ("missing", 66)):
        done = support.run("bg-fetch", f"rootfs:{tmp_path / name}")
        assert (done.returncode, done.stdout) == (status, b"")
        assert f"'{tmp_path / name}'" in done.stderr.decode()


@pytest.mark.root
def test_sockets_and_mounts_are_left_out_with_a_warning(banger_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    (folder / "proc").mkdir(parents=True)
    (folder / "file").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "proc"], check=True)
    try:
        (folder / "proc" / "inside").write_text("x")
        done = support.run("bg-fetch", f"rootfs:{folder}")
    finally:
        subprocess.run(["umount", folder / "proc"], check=True)
    assert done.returncode == 0, done.stderr.decode()
    said = done.stderr.decode()
    assert f"warning: '{folder}/socket' is left out" in said and f"mounted on '{folder}/proc' is left out" in said
    out = extracted(support.manifest_of(done.stdout), tmp_path / "out")
    assert sorted(path.name for path in out.rglob("*")) == ["file", "proc"]


def test_a_file_that_is_written_meanwhile_is_an_error(banger_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "log").write_bytes(bytes(range(256)) * (200 << 10))
    ended = threading.Event()

    def grow() -> None:
        with open(folder / "log", "ab") as file:
            while not ended.wait(0.001):
                file.write(b"more")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        done = support.run("bg-fetch", f"rootfs:{folder}")
    finally:
        ended.set()
        writer.join()
    assert (done.returncode, done.stdout) == (75, b"")
    assert f"'{folder}/log' was changed while it was read" in done.stderr.decode()
    assert list((banger_home / "cache" / "partial").iterdir()) == []
    assert list((banger_home / "cache" / "layers" / "sha256").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fetch_of_a_folder_ends_tar_too(number: int, banger_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "large").write_bytes(random.Random(1).randbytes(64 << 20) * 4)
    partial = banger_home / "cache" / "partial"
    worker = subprocess.Popen(support.argv("bg-fetch", f"rootfs:{folder}"), stdout=subprocess.PIPE)
    pulls.wait_for_bytes(worker, banger_home)
    worker.send_signal(number)
    worker.communicate(timeout=60)
    assert worker.returncode == 128 + number
    assert list(partial.iterdir()) == []
    running = subprocess.run(["pgrep", "-f", f"directory={folder}"], capture_output=True, env=support.environment())
    assert running.stdout == b""
