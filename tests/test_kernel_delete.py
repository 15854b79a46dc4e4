"""Kernels in use: who is named when one is to be deleted, what stays of it, and what many programs do at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.store import kernels as store
from tests import boots, kernels, machines, stored, support, webserver
from tests.stored import packed, tar
from tests.support import run, run_ok
from tests.webserver import Site


def kept(folder: Path, name: str, mark: bytes = b"") -> Path:
    """Take a small kernel into the store, and return its folder there."""
    (folder / "bzImage").write_bytes(stored.bzimage(mark))
    run_ok("banger", "kernel", "import", f"--name={name}", f"--kernel={folder / 'bzImage'}")
    return store.root() / name


def published(folder: Path, *words: str) -> Path:
    """Publish a small image with a kernel, and return its folder in the store."""
    text = machines.manifest(machines.mke2fs(folder / "disk.ext4"), image={"architecture": "amd64"})
    return Path(run_ok("bg-publish", "--path", *words, stdin=text).decode().strip())


def delete(*words: str) -> subprocess.CompletedProcess[bytes]:
    return run("banger", "kernel", "delete", *words)


# Deleting


def test_kernel_of_an_image_is_not_deleted_and_the_image_named(banger_home: Path, tmp_path: Path) -> None:
    kept(tmp_path, "used")
    kept(tmp_path, "unused", b"another")
    image = published(tmp_path, "--name=web", "--kernel-ref=used")
    done = delete("unused", "used")
    assert done.returncode == 73
    assert "the kernel 'used' is used by image 'web'" in done.stderr.decode()
    assert stored.names(banger_home) == ["unused", "used"]
    assert delete("--force", "unused", "used").returncode == 0
    assert stored.names(banger_home) == []
    assert (image / "kernel" / "vmlinuz").read_bytes() == stored.bzimage()
    own = json.loads((image / "image.json").read_text())["published"]["kernel"]
    assert Path(own["vmlinuz"]) == image / "kernel" / "vmlinuz"


def test_several_are_deleted_or_none(banger_home: Path, tmp_path: Path) -> None:
    kept(tmp_path, "one")
    assert delete("one", "two").returncode == 66
    assert stored.names(banger_home) == ["one"]
    assert delete("one", "one").returncode == 0
    assert stored.names(banger_home) == []


def test_broken_kernel_can_be_deleted(banger_home: Path, tmp_path: Path) -> None:
    (kept(tmp_path, "k") / "kernel.json").write_text("{")
    assert delete("k").returncode == 0
    assert stored.names(banger_home) == []


def test_image_that_cannot_be_read_is_warned_of(banger_home: Path, tmp_path: Path) -> None:
    kept(tmp_path, "k")
    (published(tmp_path, "--name=web", "--no-kernel") / "image.json").write_text("{")
    done = delete("k")
    assert done.returncode == 0
    assert "whether the image 'web' uses the kernel cannot be told" in done.stderr.decode()


@pytest.mark.root
def test_kernel_of_another_user_is_denied(user: support.OrdinaryUser, tmp_path: Path) -> None:
    home = user.home / "banger"
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    words = ("banger", "kernel", "import", "--name=k", f"--kernel={tmp_path / 'bzImage'}")
    run_ok(*words, env={"BANGER_HOME": str(home)})
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o666)
    done = user.run("banger", "kernel", "delete", "k", env={"BANGER_HOME": str(home)})
    assert done.returncode == 77
    assert "permission denied" in done.stderr.decode()
    assert stored.names(home) == ["k"]


# Choosing


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("bg-publish", ["--kernel-ref=k", "--kernel-file=x"]),
        ("bg-publish", ["--no-kernel", "--kernel-file=x"]),
        ("bg-publish", ["--kernel", "--kernel-ref=k"]),
        ("bg-publish", ["--initrd=x"]),
        ("bg-boot", ["--kernel-ref=k", "--kernel=x"]),
        ("bg-boot", ["--modules=x"]),
        ("bg-fetch", ["--modules=x", "debian"]),
        ("bg-fetch", ["--initrd=x", "kernel:cloud-amd64"]),
        ("bg-fetch", ["--inspect", "kernel:cloud-amd64"]),
    ],
)
def test_ways_to_name_a_kernel_exclude_each_other(program: str, words: list[str], banger_home: Path) -> None:
    assert run(program, *words).returncode == 64


def test_image_has_the_files_that_were_named_and_the_store_no_other_copy(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage(b"mine"))
    module = tmp_path / "lib" / "modules" / kernels.RELEASE / "kernel" / "virtio_blk.ko"
    module.parent.mkdir(parents=True)
    module.write_bytes(machines.module())
    words = [f"--kernel-file={tmp_path / 'bzImage'}", f"--modules={tmp_path / 'lib'}"]
    image = published(tmp_path, "--name=web", *words)
    (tmp_path / "bzImage").write_bytes(b"built anew")
    assert machines.module() in (image / "kernel" / "initrd.img").read_bytes()
    assert (image / "kernel" / "vmlinuz").read_bytes() == stored.bzimage(b"mine")
    assert stored.names(banger_home) == []


def test_kernel_of_a_catalog_is_pulled_on_first_use_only(banger_home: Path, tmp_path: Path) -> None:
    with webserver.serve() as site:
        stored.configure(banger_home, stored.offer(site, "guest", packed(tmp_path, tar(*stored.members()))))
        for name in ("web", "db"):
            (tmp_path / name).mkdir()
            image = published(tmp_path / name, f"--name={name}", "--kernel-ref=guest")
            assert (image / "kernel" / "vmlinuz").read_bytes() == stored.bzimage()
        assert stored.data_requests(site) == [""]
        (store.root() / "guest" / "vmlinux").unlink()
        text = machines.manifest(machines.mke2fs(tmp_path / "other.ext4"), image={"architecture": "amd64"})
        done = run("bg-publish", "--name=x", "--kernel-ref=guest", stdin=text)
        assert done.returncode == 65
        assert "the kernel 'guest' is broken" in done.stderr.decode()
        assert stored.data_requests(site) == [""]


def test_kernel_that_nobody_knows_is_missing(banger_home: Path, tmp_path: Path) -> None:
    text = machines.manifest(machines.mke2fs(tmp_path / "disk.ext4"))
    done = run("bg-publish", "--kernel-ref=nobody", stdin=text)
    assert done.returncode == 66
    assert "there is no kernel 'nobody'" in done.stderr.decode()
    assert "banger kernel catalog" in done.stderr.decode()


# At once


@pytest.fixture
def site(banger_home: Path, tmp_path: Path) -> Iterator[Site]:
    """A server with one kernel that a catalog of the user's names."""
    with webserver.serve() as found:
        stored.configure(banger_home, stored.offer(found, "guest", packed(tmp_path, tar(*stored.members()))))
        yield found


def test_pulls_at_once_do_the_work_once(site: Site, banger_home: Path) -> None:
    argv = support.argv("banger", "kernel", "pull", "guest")
    pulls = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for one in pulls:
        out, err = one.communicate()
        assert (one.returncode, out) == (0, b"guest\n"), err.decode()
    assert stored.data_requests(site) == [""]
    assert stored.names(banger_home) == ["guest"]


def test_killed_publication_leaves_a_staging_folder_that_the_next_removes(banger_home: Path, tmp_path: Path) -> None:
    place = kept(tmp_path, "one").parent
    script = "import os, signal, sys; from pathlib import Path; from banger_tools.store import staging\n"
    script += "with staging.staged(Path(sys.argv[1])) as f:\n"
    script += " (f / 'vmlinux').write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", script, place / "two"], cwd=support.ROOT)
    assert done.returncode == -signal.SIGKILL
    left = stored.names(banger_home)
    assert len(left) == 2 and left[1].startswith("two.staging-")
    assert run_ok("banger", "kernel", "list", "--names") == b"one\n"
    kept(tmp_path, "two", b"two")
    assert stored.names(banger_home) == ["one", "two"]


REPLACER = """
import itertools, json, sys
from banger_tools import manifest
from banger_tools.store import kernels
sections = [manifest.loads(open(path).read(), path).get("kernel", manifest.Kernel) for path in sys.argv[1:]]
print("ready", flush=True)
for section in itertools.cycle(sections):
    kernels.keep(section, "k", replace=True)
"""


def test_copy_of_a_kernel_that_is_being_replaced_has_parts_of_one_only(banger_home: Path, tmp_path: Path) -> None:
    paths = []
    for mark in ("one", "two"):
        tree = tmp_path / mark
        tree.mkdir()
        (tree / "bzImage").write_bytes(stored.bzimage(mark.encode()))
        (tree / ".config").write_text(f"{kernels.CONFIG}# {mark}\n")
        (tmp_path / f"{mark}.json").write_bytes(run_ok("bg-fetch", f"kernel:{tree}"))
        paths.append(str(tmp_path / f"{mark}.json"))
    run_ok("bg-publish", "--kernel", "--name=k", paths[0])
    argv = [sys.executable, "-c", REPLACER, *paths]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=support.ROOT) as replacer:
        try:
            assert replacer.stdout is not None and replacer.stdout.readline() == b"ready\n"
            seen = {copied(tmp_path / f"copy-{number}") for number in range(40)}
        finally:
            replacer.kill()
    assert seen <= {"one", "two"}
    assert replacer.returncode == -signal.SIGKILL  # it did not fail by itself


def copied(folder: Path) -> str:
    """Copy the kernel of the store, and return the mark that all of its parts must have."""
    folder.mkdir()
    store.place(store.described(store.root() / "k", "k"), folder)
    mark = (folder / "config").read_text().rsplit("# ", 1)[1].strip()
    assert (folder / "vmlinuz").read_bytes() == stored.bzimage(mark.encode())
    assert json.loads((folder / "kernel.json").read_text())["source"].endswith(f"/{mark}")
    return mark


# Booting


@pytest.mark.boot
def test_machine_boots_a_pulled_kernel_and_starts_again_without_it(home: Path, tmp_path: Path) -> None:
    real = kernels.real("linux-image-cloud-amd64", tmp_path)
    (tmp_path / "k").mkdir()
    os.link(real.vmlinuz, tmp_path / "k" / "vmlinux")
    os.link(real.config, tmp_path / "k" / "config")
    argv = ["tar", "-C", real.modules.parents[2], "-c", f"lib/modules/{real.release}/kernel", "-C"]
    argv += [tmp_path / "k", "--transform=s,^lib,modules/lib,", "vmlinux", "config"]
    data = subprocess.run(argv, capture_output=True, check=True).stdout
    (tmp_path / "kernel.tar.zst").write_bytes(packed(tmp_path, data))
    run_ok("banger", "kernel", "import", "--name=bundled", f"--from={tmp_path / 'kernel.tar.zst'}")
    try:
        boots.boot("--name=k", "--kernel-ref=bundled", "--net=none")
        assert boots.said("k", "cat /proc/version").split()[2] == real.release
        done = delete("bundled")
        assert done.returncode == 73
        assert "is used by VM 'k'" in done.stderr.decode()
        assert delete("--force", "bundled").returncode == 0
        run_ok("banger", "vm", "stop", "k")
        run_ok("banger", "vm", "start", "k")
        assert boots.said("k", "cat /proc/version").split()[2] == real.release
    finally:
        boots.delete("k")
