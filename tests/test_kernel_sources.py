"""Where kernels come from: bundles over HTTP and in files, folders with a build's output, single files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import kernels, machines, stored, support, webserver
from tests.stored import BLK, RELEASE, Member, packed, tar
from tests.support import run, run_ok
from tests.webserver import Handler

SLOW = "x" * 60  # makes a path longer than a tar header has room for


def pull(name: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    return run("banger", "kernel", "pull", *words, name)


def test_bundle_of_a_catalog_is_kept_with_an_initrd_of_its_modules(banger_home: Path, tmp_path: Path) -> None:
    support.need("cpio")
    with webserver.serve() as site:
        entry = stored.offer(site, "guest", packed(tmp_path, tar(*stored.members())), kernel_version=RELEASE)
        stored.configure(banger_home, entry)
        assert run_ok("banger", "kernel", "pull", "guest") == b"guest\n"
    place = stored.folder(banger_home, "guest")
    assert (place / "vmlinuz").read_bytes() == stored.bzimage()
    assert (place / "vmlinux").read_bytes() == kernels.elf()
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=(place / "initrd.img").read_bytes(), capture_output=True)
    assert "lib/modules/virtio_blk.ko" in listed.stdout.decode().splitlines()
    found = stored.record(banger_home, "guest")
    assert (found["version"], found["architecture"], found["modules"]) == (RELEASE, "amd64", ["virtio_blk"])
    assert found["source"] == f"{entry['url']}#sha256:{entry['sha256']}"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_paths_and_the_links_of_an_installation_are_taken_as_tar_makes_them(
    form: int, banger_home: Path, tmp_path: Path
) -> None:
    long = f"modules/lib/modules/{RELEASE}/kernel/{SLOW}/{SLOW}/virtio_blk.ko"
    link: Member = (
        f"modules/lib/modules/{RELEASE}/build",
        b"",
        {"type": tarfile.SYMTYPE, "linkname": "/usr/src/linux"},
    )
    top: Member = ("./", b"", {"type": tarfile.DIRTYPE})
    found = tar(top, ("./vmlinux", stored.bzimage(), {}), (f"./{long}", machines.module(), {}), link, form=form)
    (tmp_path / "k.tar.zst").write_bytes(packed(tmp_path, found))
    run_ok("banger", "kernel", "import", "--name=k", f"--from={tmp_path / 'k.tar.zst'}")
    place = stored.folder(banger_home, "k") / "modules"
    assert (place / "kernel" / SLOW / SLOW / "virtio_blk.ko").read_bytes() == machines.module()
    assert not any(path.is_symlink() for path in place.rglob("*"))


GOOD = stored.members()
HOSTILE: dict[str, tuple[list[Member], str]] = {
    "climbs out": ([*GOOD, ("modules/../../../evil", b"x", {})], "leads out of it"),
    "absolute": ([*GOOD, ("/etc/banger-evil", b"x", {})], "leads out of it"),
    "hardlink": ([*GOOD, ("modules/evil", b"", {"type": tarfile.LNKTYPE, "linkname": "/etc/shadow"})], "a hardlink"),
    "symlink": ([("vmlinux", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"})], "a symlink"),
    "symlink among modules": (
        [*GOOD, ("modules/evil", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("modules/evil/x", b"x", {})],
        "a symlink",
    ),
    "device": ([*GOOD, ("modules/sda", b"", {"type": tarfile.BLKTYPE, "devmajor": 8})], "a device"),
    "fifo": ([*GOOD, ("config", b"", {"type": tarfile.FIFOTYPE})], "a fifo"),
    "another file": ([*GOOD, ("install.sh", b"x", {})], "no part of a kernel"),
    "a file called modules": ([GOOD[0], ("modules", b"x", {})], "no part of a kernel"),
    "a folder beside": ([*GOOD, ("etc", b"", {"type": tarfile.DIRTYPE})], "a folder"),
    "a folder with content": ([*GOOD, ("modules/odd", b"x", {"type": tarfile.DIRTYPE})], "is a folder with content"),
    "twice": ([*GOOD, GOOD[0]], "holds 'vmlinux' twice"),
    "below a file": ([*GOOD, (f"{BLK}/x", b"x", {})], "twice"),
    "no kernel": (GOOD[1:], "has no 'vmlinux'"),
    "not a kernel": ([("vmlinux", b"#!/bin/sh\n" * 200, {}), GOOD[1]], "this is no kernel"),
    "another kernel's modules": (
        [GOOD[0], (BLK, machines.module(vermagic="5.10.0 SMP "), {})],
        f"is for '5.10.0', the kernel is '{RELEASE}'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_or_broken_bundle_is_refused_and_leaves_nothing(case: str, banger_home: Path, tmp_path: Path) -> None:
    found, said = HOSTILE[case]
    (tmp_path / "k.tar.zst").write_bytes(packed(tmp_path, tar(*found)))
    done = run("bg-fetch", f"kernel:{tmp_path / 'k.tar.zst'}")
    assert (done.returncode, done.stdout) == (65, b""), done.stderr.decode()
    assert said in done.stderr.decode()
    left = [path for path in (banger_home / "cache").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"lease", "oci-layout", "index.json"}
    assert not Path("/etc/banger-evil").exists()


def test_wrong_digest_is_refused_and_the_right_one_is_fetched_anew(banger_home: Path, tmp_path: Path) -> None:
    with webserver.serve() as site:
        right = packed(tmp_path, tar(*stored.members()))
        entry = stored.offer(site, "guest", right)
        stored.configure(banger_home, entry)
        site.files["guest.tar.zst"] = right[:-9] + bytes([right[-9] ^ 1]) + right[-8:]
        done = pull("guest")
        assert done.returncode == 65
        assert "the digest must be sha256:" in done.stderr.decode()
        assert stored.names(banger_home) == []
        site.files["guest.tar.zst"] = right
        assert pull("guest").returncode == 0


def cut_once(handler: Handler) -> bool:
    """Send half of a bundle at its first request."""
    if not handler.path.endswith(".zst") or "range" in {name.lower() for name in handler.headers}:
        return False
    data = handler.files[handler.path.lstrip("/")]
    handler.answer(200, data, sent=len(data) // 2)
    return True


def padded(folder: Path) -> bytes:
    """Return a bundle that is large enough to be cut: its module has 300 KB that do not compress."""
    module = machines.module() + os.urandom(300_000)
    return packed(folder, tar(stored.members()[0], (BLK, module, {})))


def test_broken_connection_is_gone_on_with(banger_home: Path, tmp_path: Path) -> None:
    with webserver.serve(cut_once) as site:
        data = padded(tmp_path)
        stored.configure(banger_home, stored.offer(site, "guest", data))
        run_ok("banger", "kernel", "pull", "guest")
        assert stored.data_requests(site) == ["", f"bytes={len(data) // 2}-"]


def stall_after_half(handler: Handler) -> bool:
    """Send half of a bundle at its first request, and then nothing, until the other end goes."""
    if not handler.path.endswith(".zst") or "range" in {name.lower() for name in handler.headers}:
        return False
    data = handler.files[handler.path.lstrip("/")]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.wfile.flush()
    handler.connection.recv(1)
    return True


def wait_for_part(home: Path, process: subprocess.Popen[bytes]) -> int:
    """Return how much of a transfer arrived, once something did."""
    while process.poll() is None:
        for path in (home / "cache" / "partial").glob("sha256-*"):
            if path.stat().st_size:
                return path.stat().st_size
    raise AssertionError("the program ended before anything arrived")


def test_killed_fetch_leaves_what_the_next_one_goes_on_with(banger_home: Path, tmp_path: Path) -> None:
    with webserver.serve(stall_after_half) as site:
        entry = stored.offer(site, "guest", padded(tmp_path))
        ref = f"kernel:{entry['url']}#sha256:{entry['sha256']}"
        argv = support.argv("bg-fetch", "--stall=100", ref)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=support.environment())
        wait_for_part(banger_home, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = support.manifest_of(run_ok("bg-fetch", ref))
        assert stored.data_requests(site)[0] == ""
        assert stored.data_requests(site)[1].startswith("bytes=")
    assert Path(found["kernel"]["vmlinuz"]).read_bytes() == stored.bzimage()
    assert support.leftovers(banger_home) == []  # of the one that was killed


# Folders and files


def build_tree(folder: Path) -> Path:
    """Make what a kernel's build and `make modules_install INSTALL_MOD_PATH=DIR` leave."""
    (folder / "arch" / "x86" / "boot").mkdir(parents=True)
    (folder / "arch" / "x86" / "boot" / "bzImage").write_bytes(stored.bzimage())
    (folder / "vmlinux").write_bytes(kernels.elf())
    (folder / "kernel").mkdir()
    (folder / ".config").write_text(kernels.CONFIG.replace("CONFIG_VIRTIO_BLK=y", "CONFIG_VIRTIO_BLK=m"))
    module = folder / "lib" / "modules" / RELEASE / "kernel" / "virtio_blk.ko"
    module.parent.mkdir(parents=True)
    module.write_bytes(machines.module())
    (module.parent.parent / "build").symlink_to(folder)
    return folder


def test_folder_of_a_build_is_taken_with_configuration_and_modules(banger_home: Path, tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "linux")
    run_ok("banger", "kernel", "import", "--name=mine", f"--from={tree}")
    found = stored.record(banger_home, "mine")
    assert (found["format"], found["evidence"]) == ("bzImage", "the configuration beside it")
    assert (found["features"]["virtio_blk"], found["features"]["virtio_net"]) == ("module", "built in")
    shutil.rmtree(tree)
    assert (stored.folder(banger_home, "mine") / "initrd.img").exists()
    assert (stored.folder(banger_home, "mine") / "vmlinuz").read_bytes() == stored.bzimage()


def test_build_without_installed_modules_gives_those_in_its_own_folders(banger_home: Path, tmp_path: Path) -> None:
    tree = build_tree(tmp_path / "linux")
    shutil.rmtree(tree / "lib")
    (tree / "modules.order").write_text("drivers/block/virtio_blk.ko\n")
    (tree / "drivers" / "block").mkdir(parents=True)
    (tree / "drivers" / "block" / "virtio_blk.ko").write_bytes(machines.module())
    run_ok("banger", "kernel", "import", "--name=mine", f"--from={tree}")
    assert stored.record(banger_home, "mine")["modules"] == ["virtio_blk"]


def test_kernel_with_all_built_in_is_kept_without_an_initrd(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(kernels.elf(kernels.BANNER + kernels.NAMES + kernels.ikconfig()))
    run_ok("banger", "kernel", "import", "--name=whole", f"--kernel={tmp_path / 'vmlinux'}")
    assert sorted(path.name for path in stored.folder(banger_home, "whole").iterdir()) == ["kernel.json", "vmlinux"]


def test_initrd_that_is_given_is_kept_as_it_is(banger_home: Path, tmp_path: Path) -> None:
    support.need("cpio")
    (tmp_path / "init").write_text("#!/bin/sh\n")
    packing = ["cpio", "-o", "-H", "newc", "--quiet"]
    mine = subprocess.run(packing, cwd=tmp_path, input=b"init\n", capture_output=True, check=True).stdout
    (tmp_path / "initrd").write_bytes(mine)
    tree = build_tree(tmp_path / "linux")
    words = [f"--kernel={tree / 'vmlinux'}", f"--initrd={tmp_path / 'initrd'}", f"--modules={tree / 'lib'}"]
    run_ok("banger", "kernel", "import", "--name=k", *words)
    assert (stored.folder(banger_home, "k") / "initrd.img").read_bytes() == mine


@pytest.mark.parametrize(
    ("made", "status", "said"),
    [
        ([], 66, "holds no kernel"),
        (["vmlinuz-6.1.0", "vmlinuz-6.2.0"], 65, "holds several: 'vmlinuz-6.1.0', 'vmlinuz-6.2.0'"),
        (["arch/x86/boot/bzImage", "arch/arm64/boot/Image"], 65, "holds several"),
    ],
)
def test_folder_without_one_kernel_is_refused(
    made: list[str], status: int, said: str, banger_home: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name in made:
        (tmp_path / "empty" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "empty" / name).write_bytes(stored.bzimage(name.encode()))
    done = run("banger", "kernel", "import", "--name=k", f"--from={tmp_path / 'empty'}")
    assert done.returncode == status
    assert said in done.stderr.decode()


def test_kernel_of_the_hosts_package_manager_is_what_the_package_holds(banger_home: Path, tmp_path: Path) -> None:
    real = kernels.real("linux-image-cloud-amd64", tmp_path)
    assert run_ok("banger", "kernel", "pull", "cloud-amd64") == b"cloud-amd64\n"
    place = stored.folder(banger_home, "cloud-amd64")
    assert (place / "vmlinuz").read_bytes() == real.vmlinuz.read_bytes()
    found = stored.record(banger_home, "cloud-amd64")
    assert found["version"] == real.release
    assert set(found["packages"]) == {"linux-image-cloud-amd64", f"linux-image-{real.release}"}
    header = subprocess.run(["readelf", "-h", place / "vmlinux"], capture_output=True, check=True).stdout.decode()
    assert "Advanced Micro Devices X86-64" in header
    again = run_ok("bg-fetch", "--offline", "kernel:apt:linux-image-cloud-amd64")
    assert Path(support.manifest_of(again)["kernel"]["vmlinuz"]).read_bytes() == real.vmlinuz.read_bytes()
