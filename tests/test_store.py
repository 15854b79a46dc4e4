"""The store: names, folders that appear whole, and errors that tell missing from unreadable from broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from banger_tools import errors, files, manifest
from banger_tools.store import images, kernels, names, records, staging, vms
from tests import machines, support

HOLDER = """
import sys, time
from pathlib import Path
from banger_tools.store import staging
with staging.staged(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["debian-bookworm", "a", "cloud-amd64", "alpine-3.20", "x_1", "a" * 63])
def test_good_names_are_accepted(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a/b", "..", ".", "a..b", "a b", "a\n", "a" * 64, "é", "x.staging-1", "x.tmp", "~"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(errors.BadUsage):
        names.check(name)


@pytest.mark.parametrize("name", ["a.b", "a_b", "-a", "A", ""])
def test_vm_names_are_host_names(name: str) -> None:
    with pytest.raises(errors.BadUsage):
        names.check_vm(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker.io/library/debian:bookworm", "debian-bookworm"),
        ("apt:bookworm", "apt-bookworm"),
        ("localhost:5000/team/My_App:1.2", "my_app-1.2"),
        ("...", "rootfs"),
        ("build/disk-1.2.old", "disk-1-2-old"),
    ],
)
def test_names_are_derived_from_references(text: str, name: str) -> None:
    assert names.derived(text) == name


@given(st.text(max_size=100))
@example("a.tmp.old")
@example("a.staging-1.x")
@example("." + "a" * 58 + ".tmp.gz")  # what is left of it ends with .tmp
def test_a_derived_name_is_a_name(text: str) -> None:
    derived = names.derived(text)
    assert names.check(derived) == derived
    vm = names.derived_vm(text)
    assert names.check_vm(vm) == vm


def fill(target: Path, content: str, *, replace: bool = False) -> None:
    with staging.staged(target, replace=replace) as folder:
        (folder / "file").write_text(content)


def test_staged_folder_appears_whole_and_private(tmp_path: Path) -> None:
    target = tmp_path / "objects" / "one"
    with staging.staged(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in target.parent.iterdir()] == ["one"]
    assert (target / "file").read_text() == "x"


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging.staged(tmp_path / "one") as folder:
        (folder / "file").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_taken_name_is_refused_before_the_work_and_kept(tmp_path: Path) -> None:
    fill(tmp_path / "one", "old")
    with pytest.raises(errors.CannotCreate, match="'one' exists already"):
        fill(tmp_path / "one", "new")
    assert (tmp_path / "one" / "file").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_name_taken_during_the_work_is_refused_and_kept(tmp_path: Path) -> None:
    with pytest.raises(errors.CannotCreate, match="'one' exists already"), staging.staged(tmp_path / "one") as folder:
        (folder / "file").write_text("new")
        (tmp_path / "one").mkdir()
    assert list((tmp_path / "one").iterdir()) == []
    assert len(list(tmp_path.iterdir())) == 1


def test_replacing_swaps_and_removes_the_old(tmp_path: Path) -> None:
    fill(tmp_path / "one", "old")
    with open(tmp_path / "one" / "file") as opened:
        fill(tmp_path / "one", "new", replace=True)
        assert opened.read() == "old"
    assert (tmp_path / "one" / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_replacing_what_is_not_there_makes_it(tmp_path: Path) -> None:
    fill(tmp_path / "one", "new", replace=True)
    assert (tmp_path / "one" / "file").read_text() == "new"


def test_of_many_makers_of_one_name_exactly_one_wins(tmp_path: Path) -> None:
    lost: list[str] = []
    barrier = threading.Barrier(8)

    def make(number: int) -> None:
        try:
            with staging.staged(tmp_path / "one") as folder:
                (folder / "file").write_text(str(number))
                barrier.wait(60)
        except errors.CannotCreate as error:
            lost.append(error.message)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lost) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def hold(target: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a process that is in the middle of staging `target`."""
    env = support.environment({"PYTHONPATH": str(support.ROOT)})
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(target)], stdout=subprocess.PIPE, env=env)
    assert holder.stdout
    return holder, Path(holder.stdout.readline().decode().strip())


def test_staging_of_a_dead_maker_is_swept_and_of_a_living_one_kept(tmp_path: Path) -> None:
    (dead, left), (alive, kept) = hold(tmp_path / "one"), hold(tmp_path / "two")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.exists()
        fill(tmp_path / "three", "x")
        assert not left.exists()
        assert (kept / "half").read_text() == "half"
    finally:
        alive.kill()
        alive.wait()
    assert staging.sweep(tmp_path) == [kept.name]


def test_makers_and_sweepers_side_by_side_never_fail_each_other(tmp_path: Path) -> None:
    """A sweeper may take a folder for a leftover in the moment before its maker locks it."""
    failed: list[BaseException] = []

    def make(number: int) -> None:
        try:
            for turn in range(30):
                fill(tmp_path / f"{number}-{turn}", "x")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert failed == []
    assert len(list(tmp_path.iterdir())) == 8 * 30


def test_retired_folder_is_gone(tmp_path: Path) -> None:
    fill(tmp_path / "one", "x")
    staging.retire(tmp_path / "one")
    assert list(tmp_path.iterdir()) == []


def test_retired_folder_may_be_swept_by_another_program_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:  # in the midst of it
        raise FileNotFoundError

    fill(tmp_path / "one", "x")
    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "rmtree", gone)
        staging.retire(tmp_path / "one")
    assert staging.finished(tmp_path) == []
    staging.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def stored_kernel(home: Path, name: str = "test") -> Path:
    folder = home / "state" / "kernels" / name
    (folder / "modules" / "kernel").mkdir(parents=True)
    (folder / "modules" / "kernel" / "virtio.ko").write_bytes(machines.module())
    (folder / "vmlinux").write_bytes(machines.elf({}, kind=2))
    (folder / "initrd.img").write_bytes(b"initrd")
    fields = {"schema": "banger-kernel/1", "name": name, "version": "6.1.0-test", "architecture": "amd64"}
    record = {**fields, "source": "test", "pvh": False, "packages": {}, "modules": ["virtio"], "initrd_key": "x"}
    (folder / "kernel.json").write_text(json.dumps(record))
    return folder


def test_kernel_is_found_by_name(banger_home: Path) -> None:
    stored_kernel(banger_home)
    assert kernels.find("test").version == "6.1.0-test"
    assert kernels.listed() == ["test"]


def test_missing_kernel_is_missing_and_nothing_else(banger_home: Path) -> None:
    with pytest.raises(records.Missing, match="there is no kernel 'test'"):
        kernels.find("test")


def test_kernel_without_its_record_or_files_is_broken_and_not_missing(banger_home: Path) -> None:
    folder = stored_kernel(banger_home)
    (folder / "vmlinux").unlink()
    with pytest.raises(errors.BadInput, match="'vmlinux' is missing"):
        kernels.find("test")
    (folder / "kernel.json").write_text("{")
    with pytest.raises(errors.BadInput, match="broken"):
        kernels.find("test")
    (folder / "kernel.json").unlink()
    with pytest.raises(errors.BadInput, match=r"'kernel.json' is missing"):
        kernels.find("test")


@pytest.mark.root
def test_unreadable_kernel_is_denied_and_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(os.path.realpath(tmp_path)) / "home"
    monkeypatch.setenv("BANGER_HOME", str(home))
    stored_kernel(home)
    (home / "state" / "kernels" / "test").chmod(0o700)
    pid = os.fork()
    if pid == 0:  # another user, who cannot become root again
        os.setgid(65534)
        os.setuid(65534)
        try:
            kernels.find("test")
        except records.Missing:
            os._exit(1)
        except errors.Denied:
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_kernel_of_another_schema_is_refused(banger_home: Path) -> None:
    folder = stored_kernel(banger_home)
    text = (folder / "kernel.json").read_text()
    (folder / "kernel.json").write_text(text.replace("banger-kernel/1", "banger-kernel/2"))
    with pytest.raises(errors.BadInput, match=r"banger-kernel/2.*banger-kernel/1"):
        kernels.find("test")


def test_initrd_is_made_again_only_for_another_guest_program(
    banger_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "guest"
    program.write_bytes(b"\x7fELF one")
    monkeypatch.setattr("banger_tools.guest.program", lambda _architecture: program)
    initrd = stored_kernel(banger_home) / "initrd.img"
    kernels.obtain("test")
    first = initrd.stat()
    assert b"\x7fELF one" in initrd.read_bytes()
    kernels.obtain("test")
    assert initrd.stat().st_mtime_ns == first.st_mtime_ns
    program.write_bytes(b"\x7fELF two")
    kernels.obtain("test")
    assert b"\x7fELF two" in initrd.read_bytes()


def test_placed_kernel_shares_its_bytes_and_outlives_the_store(banger_home: Path, tmp_path: Path) -> None:
    stored_kernel(banger_home)
    kernel = kernels.described(kernels.root() / "test", "test")
    (tmp_path / "kernel").mkdir()
    placed = kernels.place(kernel, tmp_path / "kernel")
    assert os.stat(placed.kernel).st_ino == os.stat(kernel.kernel).st_ino
    kernels.delete("test")
    assert Path(placed.kernel).read_bytes().startswith(b"\x7fELF")
    assert placed.modules and (Path(placed.modules) / "kernel" / "virtio.ko").exists()
    assert kernels.listed() == []


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("ftp:kernel", "names no kernel"),
        ("https://example.org/kernel", "only bundles are fetched by URL"),
        ("./bzImage", "is a path"),
        ("./kernel.tar.zst", "is a path"),
        ("apt:../x", "is no name of a Debian package"),
    ],
)
def test_reference_of_an_unknown_kind_is_refused(banger_home: Path, ref: str, said: str) -> None:
    with pytest.raises(errors.BadUsage, match=said):
        kernels.obtain(ref)


def published(name: str, tmp_path: Path) -> manifest.Manifest:
    disk = machines.mke2fs(tmp_path / "disk.ext4")
    image = manifest.loads(machines.manifest(disk, name), "test")
    return images.publish(image, name, images.Parts(disk, None, None))


def test_missing_image_names_the_nearest(banger_home: Path, tmp_path: Path) -> None:
    published("debian-bookworm", tmp_path)
    with pytest.raises(records.Missing, match="there is no image 'debian-bokworm'") as caught:
        images.find("debian-bokworm")
    assert "debian-bookworm" in (caught.value.hint or "")


def test_image_moved_with_its_home_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "one"))
    published("tiny", tmp_path)
    os.rename(tmp_path / "one", tmp_path / "two")
    monkeypatch.setenv("BANGER_HOME", str(tmp_path / "two"))
    section = images.find("tiny").get("published", manifest.Published)
    assert Path(section.rootfs).exists()


def test_image_without_its_disk_is_broken_and_not_missing(banger_home: Path, tmp_path: Path) -> None:
    published("tiny", tmp_path)
    (images.root() / "tiny" / "rootfs.ext4").unlink()
    with pytest.raises(errors.BadInput, match=r"'rootfs\.ext4' is missing"):
        images.find("tiny")


def test_unfinished_objects_are_not_listed(banger_home: Path, tmp_path: Path) -> None:
    published("tiny", tmp_path)
    (images.root() / "half.staging-0123").mkdir()
    assert images.listed() == ["tiny"]
    assert vms.listed() == []


def test_lock_of_a_maker_goes_with_it(tmp_path: Path) -> None:
    """A maker killed at a random moment leaves nothing that a later run cannot clear."""
    for number in range(5):
        maker, _ = hold(tmp_path / "one")
        time.sleep(0.01 * number)
        maker.kill()
        maker.wait()
    fill(tmp_path / "one", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
