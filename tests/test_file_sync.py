"""Files of the host on work disks: what is put there and how, judged by debugfs and e2fsck, and by a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.config import FileSync
from banger_tools.vmm import disks, file_sync
from banger_tools.vmm import spec as specs
from tests import support
from tests.boots import boot, delete, said

support.need("mke2fs", "debugfs", "e2fsck")


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty work disk, to be copied."""
    disk = tmp_path_factory.mktemp("blank") / specs.WORK_DISK
    disks.empty(disk, 8 << 20)
    return disk


@pytest.fixture
def folder(tmp_path: Path, blank: Path) -> Path:
    """The folder of a machine that has an empty work disk."""
    made = tmp_path / "vm"
    made.mkdir()
    shutil.copy(blank, made / specs.WORK_DISK)
    return made


def debugfs(folder: Path, command: str, *, write: bool = False) -> str:
    words = ["debugfs", *(["-w"] if write else []), "-R", command, str(folder / specs.WORK_DISK)]
    done = subprocess.run(words, capture_output=True, text=True, env=support.environment(), check=True)
    return done.stdout


def check(folder: Path) -> None:
    words = ["e2fsck", "-fn", str(folder / specs.WORK_DISK)]
    subprocess.run(words, capture_output=True, check=True, env=support.environment())


def mode_and_owner(folder: Path, path: str) -> str:
    words = debugfs(folder, f"stat {path}").split()
    return f"{words[words.index('Mode:') + 1]} {words[words.index('User:') + 1]}:{words[words.index('Group:') + 1]}"


def host_file(tmp_path: Path, name: str, text: str) -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_arrive_with_their_mode_as_roots_own(folder: Path, tmp_path: Path) -> None:
    wanted = [
        FileSync(host_file(tmp_path, "netrc", "secret"), "/root/.netrc"),
        FileSync(host_file(tmp_path, "it's", "echo 1"), '/root/.local/bin/it\'s "odd"', "0755"),
    ]
    written = file_sync.sync(folder, wanted)
    assert written == ["/.local", "/.local/bin", '/.local/bin/it\'s "odd"', "/.netrc"]
    assert debugfs(folder, "cat /.netrc") == "secret"
    assert debugfs(folder, 'cat "/.local/bin/it\'s ""odd"""') == "echo 1"
    assert mode_and_owner(folder, "/.netrc") == "0600 0:0"
    assert mode_and_owner(folder, "/.local/bin") == "0700 0:0"
    assert mode_and_owner(folder, '"/.local/bin/it\'s ""odd"""') == "0755 0:0"
    check(folder)
    assert left_in(folder) == [specs.WORK_DISK]


def test_only_what_changed_is_written(folder: Path, tmp_path: Path) -> None:
    wanted = [FileSync(host_file(tmp_path, name, name), f"/root/{name}") for name in ("one", "two")]
    file_sync.sync(folder, wanted)
    before = (folder / specs.WORK_DISK).stat().st_mtime_ns
    assert file_sync.sync(folder, wanted) == []
    assert (folder / specs.WORK_DISK).stat().st_mtime_ns == before
    host_file(tmp_path, "two", "new")
    assert file_sync.sync(folder, wanted) == ["/two"]
    assert (debugfs(folder, "cat /one"), debugfs(folder, "cat /two")) == ("one", "new")
    check(folder)


def test_what_cannot_be_read_is_warned_of_and_the_rest_arrives(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    there = FileSync(host_file(tmp_path, "there", "x"), "/root/there")
    others = [FileSync(str(tmp_path / name), f"/root/{name}") for name in ("gone", "fifo", "folder")]
    assert file_sync.sync(folder, [*others, there]) == ["/there"]
    said = capfd.readouterr().err.splitlines()
    assert [line.partition(": warning: ")[2] for line in said] == [
        f"file_sync: '/root/gone' is left out: '{tmp_path}/gone': no such file or directory",
        f"file_sync: '/root/fifo' is left out: '{tmp_path}/fifo': it is no regular file",
        f"file_sync: '/root/folder' is left out: '{tmp_path}/folder': it is no regular file",
    ]


def test_what_does_not_fit_is_warned_of_and_the_rest_arrives(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "huge").write_bytes(os.urandom(9 << 20))
    small = FileSync(host_file(tmp_path, "small", "x"), "/root/small")
    assert file_sync.sync(folder, [FileSync(str(tmp_path / "huge"), "/root/huge"), small]) == ["/small"]
    assert "has no room: 9.0M" in capfd.readouterr().err
    check(folder)


def test_machine_without_a_work_disk_is_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert file_sync.sync(tmp_path, [FileSync(host_file(tmp_path, "x", "x"), "/root/x")]) == []
    assert "has no work disk" in capfd.readouterr().err
    assert file_sync.sync(tmp_path, []) == []
    assert capfd.readouterr().err == ""


def test_symlink_of_the_machine_is_not_followed(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    debugfs(folder, "symlink /.config /etc", write=True)
    debugfs(folder, "symlink /.netrc /etc/shadow", write=True)
    text = host_file(tmp_path, "text", "mine")
    wanted = [FileSync(text, "/root/.config/file"), FileSync(text, "/root/.netrc")]
    assert file_sync.sync(folder, wanted) == ["/.netrc"]
    assert "'/root/.config' is a symlink in the machine" in capfd.readouterr().err
    assert debugfs(folder, "cat /.netrc") == "mine"
    check(folder)


def test_disk_of_a_machine_that_was_killed_is_mended_first(folder: Path, tmp_path: Path) -> None:
    debugfs(folder, "set_super_value state 0", write=True)
    file_sync.sync(folder, [FileSync(host_file(tmp_path, "x", "x"), "/root/x")])
    assert debugfs(folder, "cat /x") == "x"
    check(folder)


@pytest.fixture
def home(tmp_path: Path, bootable_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of our own with the image of the bootable one, and a config.toml that lists a file of the host."""
    home = tmp_path / "home"
    images = Path("state", "images")
    shutil.copytree(bootable_home / images, home / images, copy_function=os.link)
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text(
        "[vm_defaults]\nmemory = '128M'\nwork-disk = '40M'\nnet = 'none'\ntimeout = 300\n"
        "[[file_sync]]\nhost = 'notes'\nguest = '/root/.notes/today'\nmode = '0640'\n"
    )
    (home / "config" / "notes").write_text("first")
    monkeypatch.setenv("BANGER_HOME", str(home))
    yield home
    delete("synced")


@pytest.mark.boot
def test_machine_finds_the_file_as_it_is_at_each_start(home: Path) -> None:
    vm = boot("--name=synced")
    assert vm["memory"] == 128 << 20
    assert said("synced", "cd /root/.notes; stat -c '%a %u:%g' . today; cat today") == "700 0:0\n640 0:0\nfirst"
    assert said("synced", "df -m /root").splitlines()[-1].split()[1] in map(str, range(30, 41))
    said("synced", "echo lost >/root/.notes/today; echo kept >/root/.notes/other; sync")
    (home / "config" / "notes").write_text("second")
    support.run_ok("banger", "vm", "kill", "synced")  # its journal is left for e2fsck to replay
    support.run_ok("banger", "vm", "start", "synced")
    assert said("synced", "cd /root/.notes; cat today other") == "secondkept\n"
