"""The commands of banger for kernels, and the two programs below them that do the work."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import kernels, stored, support, webserver
from tests.stored import packed, tar
from tests.support import run, run_ok


def imported(folder: Path, name: str, mark: bytes = b"") -> None:
    """Take a small kernel into the store."""
    (folder / "bzImage").write_bytes(stored.bzimage(mark))
    run_ok("banger", "kernel", "import", f"--name={name}", f"--kernel={folder / 'bzImage'}", "--force")


def listed() -> list[dict[str, Any]]:
    found = json.loads(run_ok("banger", "kernel", "list", "--json"))
    assert isinstance(found, list)
    return found


def error_of(*words: str | Path, status: int) -> str:
    done = run("banger", "kernel", *words)
    assert (done.returncode, done.stdout) == (status, b""), done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    return done.stderr.decode()


# Looking


def test_kernels_are_listed_and_a_broken_one_is_called_that(banger_home: Path, tmp_path: Path) -> None:
    imported(tmp_path, "good")
    imported(tmp_path, "bad")
    (stored.folder(banger_home, "bad") / "kernel.json").write_text("{")
    bad, good = listed()
    assert (good["name"], good["version"], good["architecture"]) == ("good", kernels.RELEASE, "amd64")
    assert good["boots"] == ["qemu", "microvm", "firecracker"]
    assert (bad["name"], bad["version"]) == ("bad", None)
    assert "broken" in bad["problem"]
    done = run("banger", "kernel", "list")
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["NAME", "bad", "good"]
    assert "warning: kernel 'bad'" in done.stderr.decode()
    assert run_ok("banger", "kernel", "list", "--names") == b"bad\ngood\n"


def test_no_kernels_are_an_empty_list(banger_home: Path) -> None:
    assert listed() == []


def test_show_tells_what_a_kernel_has_and_why_it_does_not_boot(banger_home: Path, tmp_path: Path) -> None:
    text = kernels.CONFIG.replace("CONFIG_VIRTIO_VSOCKETS=y", "# CONFIG_VIRTIO_VSOCKETS is not set")
    (tmp_path / "vmlinux").write_bytes(kernels.elf(kernels.BANNER + kernels.NAMES + kernels.ikconfig(text)))
    run_ok("banger", "kernel", "import", "--name=k", f"--kernel={tmp_path / 'vmlinux'}")
    found = json.loads(run_ok("banger", "kernel", "show", "--json", "k"))
    assert (found["features"]["vsock"], found["features"]["ext4"]) == ("missing", "built in")
    assert found["machines"]["qemu"] == {"boots": True, "lacks": [], "by_initrd": []}
    assert found["machines"]["firecracker"]["lacks"] == ["vsock"]
    assert found["files"]["vmlinux"] == (tmp_path / "vmlinux").stat().st_size
    table = run_ok("banger", "kernel", "show", "k").decode()
    assert "vsock                            missing" in table
    assert "Firecracker       no: lacks vsock" in table
    assert "QEMU (q35, virt)  yes" in table


def test_missing_kernel_is_missing(banger_home: Path, tmp_path: Path) -> None:
    imported(tmp_path, "other")
    assert "there is no kernel 'k'" in error_of("show", "k", status=66)
    assert "kernels here: other" in error_of("delete", "k", status=66)


# Catalogs


def test_catalog_lists_what_is_embedded_and_what_the_user_added(banger_home: Path) -> None:
    mine = {"name": "mine", "arch": "amd64", "kernel_version": "6.12.9", "description": "of ours"}
    foreign = {"name": "theirs", "arch": "amd64", "distro": "plan9", "source": "apt:linux-image-x"}
    about = {"url": "https://example.org/mine.tar.zst", "sha256": "0" * 64, "size": 5 << 20}
    stored.configure(banger_home, {**mine, **about}, foreign)
    found = json.loads(run_ok("banger", "kernel", "catalog", "--json"))
    assert [one["name"] for one in found[:3]] == ["mine", "theirs", "cloud-amd64"]
    assert (found[0]["kernel_version"], found[0]["size"], found[0]["why_not"]) == ("6.12.9", 5 << 20, None)
    assert "this host is no plan9" in found[1]["why_not"]
    assert found[2]["source"] == "apt:linux-image-cloud-amd64"
    table = run_ok("banger", "kernel", "catalog")
    assert run_ok("banger", "kernel", "list", "--available") == table
    assert table.decode().splitlines()[1].split()[:5] == ["mine", "6.12.9", "amd64", "5.0M", "yes"]
    assert "no entry of the kernel 'theirs' can be used here" in error_of("pull", "theirs", status=69)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sha256": "xyz"}, "kernels[0].sha256: must be 64 hexadecimal digits"),
        ({"size": None}, "kernels[0]: a bundle needs 'size', too"),
        ({"url": "https://example.org/k.zip"}, "kernels[0].url"),
        ({"url": None, "source": "/boot/vmlinuz"}, "kernels[0].source: '/boot/vmlinuz' is not apt:PACKAGE"),
        ({"source": "apt:linux-image-x"}, "kernels[0]: needs either 'url' or 'source'"),
        ({"name": "../k"}, "kernels[0].name"),
        ({"arch": None}, "kernels[0]"),
    ],
)
def test_wrong_entry_of_a_catalog_is_pointed_at(changes: dict[str, Any], said: str, banger_home: Path) -> None:
    entry = {"name": "k", "arch": "amd64", "url": "https://example.org/k.tar.zst", "sha256": "0" * 64, "size": 1}
    stored.configure(banger_home, {key: value for key, value in {**entry, **changes}.items() if value is not None})
    assert said in error_of("pull", "k", status=65)


def test_of_two_entries_of_a_name_the_one_for_this_architecture_is_taken(banger_home: Path, tmp_path: Path) -> None:
    with webserver.serve() as site:
        mine = stored.offer(site, "k", packed(tmp_path, tar(*stored.members())))
        stored.configure(banger_home, {**mine, "arch": "arm64", "url": site.url("wrong.tar.zst")}, mine)
        run_ok("banger", "kernel", "pull", "k")
        assert {path for path, _ in site.seen} == {"/k.tar.zst"}
        done = run("bg-fetch", "--platform=linux/riscv64", "kernel:k")
    assert done.returncode == 69
    assert "it is for amd64, and riscv64 is needed" in done.stderr.decode()


# Getting


def test_second_pull_does_nothing_and_another_source_is_not_taken_for_the_first(
    banger_home: Path, tmp_path: Path
) -> None:
    with webserver.serve() as site:
        one = stored.offer(site, "one", packed(tmp_path, tar(*stored.members())))
        two = stored.offer(site, "two", packed(tmp_path, tar(*stored.members(b"two"))))
        stored.configure(banger_home, one, two)
        run_ok("banger", "kernel", "pull", "--name=k", "one")
        site.seen.clear()
        assert run_ok("banger", "kernel", "pull", "--name=k", "one") == b"k\n"
        assert site.seen == []
        assert "the kernel 'k' here is of 'http" in error_of("pull", "--name=k", "two", status=73)
        assert (stored.folder(banger_home, "k") / "vmlinuz").read_bytes() == stored.bzimage()
        run_ok("banger", "kernel", "pull", "--force", "--name=k", "two")
    assert (stored.folder(banger_home, "k") / "vmlinuz").read_bytes() == stored.bzimage(b"two")
    assert stored.names(banger_home) == ["k"]


def test_broken_kernel_is_reported_and_not_pulled_again(banger_home: Path, tmp_path: Path) -> None:
    with webserver.serve() as site:
        stored.configure(banger_home, stored.offer(site, "k", packed(tmp_path, tar(*stored.members()))))
        run_ok("banger", "kernel", "pull", "k")
        (stored.folder(banger_home, "k") / "vmlinux").unlink()
        site.seen.clear()
        assert "the kernel 'k' is broken: its 'vmlinux' is missing" in error_of("pull", "k", status=65)
        done = run("bg-boot", "--image=none", "--kernel-ref=k")
        assert done.returncode == 66  # no image: a kernel is not even looked for
        assert site.seen == []
        run_ok("banger", "kernel", "pull", "--force", "k")
    assert (stored.folder(banger_home, "k") / "vmlinux").exists()


@pytest.mark.root
def test_unreadable_kernel_is_reported_and_not_pulled_again(user: support.OrdinaryUser, tmp_path: Path) -> None:
    home = user.home / "banger"
    settings = {"BANGER_HOME": str(home)}
    with webserver.serve() as site:
        url = stored.offer(site, "k", packed(tmp_path, tar(*stored.members())))["url"]
        done = user.run("banger", "kernel", "pull", url, env=settings)
        assert done.returncode == 0, done.stderr.decode()
        (home / "state" / "kernels" / "k").chmod(0)
        site.seen.clear()
        for words in (["pull", url], ["show", "k"], ["list"]):
            done = user.run("banger", "kernel", *words, env=settings)
            assert done.returncode == (0 if words == ["list"] else 77)
            assert "permission denied" in done.stderr.decode()
        assert site.seen == []


def test_pipe_by_hand_is_what_the_command_runs(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    fetched = run_ok("bg-fetch", f"kernel:{tmp_path / 'bzImage'}")
    section = support.manifest_of(fetched)["kernel"]
    assert Path(section["vmlinuz"]).read_bytes() == stored.bzimage()
    assert Path(section["kernel"]).is_relative_to(banger_home / "cache")
    published = support.manifest_of(run_ok("bg-publish", "--kernel", "--name=k", stdin=fetched))
    assert published["kernel"]["kernel"] == str(stored.folder(banger_home, "k") / "vmlinux")
    assert [line["tool"] for line in published["history"]] == ["bg-fetch", "bg-publish"]
    again = run("bg-publish", "--kernel", "--name=k", "--path", stdin=fetched)
    assert again.stdout.decode() == f"{stored.folder(banger_home, 'k')}\n"
    done = run("banger", "kernel", "import", "-vv", "--name=other", f"--kernel={tmp_path / 'bzImage'}")
    assert f"run: bg-fetch -v -v -- kernel:{tmp_path / 'bzImage'} | bg-publish -v -v --kernel --name=other" in (
        done.stderr.decode()
    )


def test_files_that_changed_since_they_were_fetched_are_refused(banger_home: Path, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    fetched = run_ok("bg-fetch", f"kernel:{tmp_path / 'bzImage'}")
    with open(support.manifest_of(fetched)["kernel"]["vmlinuz"], "r+b") as file:
        file.write(b"x")
    done = run("bg-publish", "--kernel", "--name=k", stdin=fetched)
    assert done.returncode == 65
    assert "are not those that the manifest speaks of" in done.stderr.decode()
    assert stored.names(banger_home) == []
    run_ok("bg-publish", "--kernel", "--name=k", stdin=run_ok("bg-fetch", f"kernel:{tmp_path / 'bzImage'}"))


def test_image_is_no_kernel_for_bg_publish(banger_home: Path) -> None:
    done = run("bg-publish", "--kernel", "--name=k", stdin='{"schema": "banger-manifest/1"}')
    assert done.returncode == 65
    assert "the manifest has no 'kernel' section" in done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "--name=k"], "--from or --kernel is missing"),
        (["import", "--kernel=x"], "--name is missing"),
        (["import", "--name=k", "--from=x", "--kernel=y"], "--from and --kernel exclude each other"),
        (["import", "--name=k", "--from=x", "--modules=y"], "--modules goes with --kernel only"),
        (["import", "--name=K!", "--kernel=y"], "'K!' is no name for the store"),
        (["pull", "./bzImage"], "'./bzImage' is a path"),
        (["pull", "ftp:x"], "'ftp:x' names no kernel"),
        (["pull", "--name=../x", "cloud-amd64"], "'../x' is no name for the store"),
        (["delete"], "missing argument: NAME"),
    ],
)
def test_wrong_command_line_is_refused(words: list[str], said: str, banger_home: Path) -> None:
    assert said in error_of(*words, status=64)


def test_taken_name_is_refused_before_the_work(banger_home: Path, tmp_path: Path) -> None:
    imported(tmp_path, "k")
    before = sorted((banger_home / "cache").rglob("*"))
    assert "the kernel 'k' exists already" in error_of(
        "import", "--name=k", f"--kernel={tmp_path / 'bzImage'}", status=73
    )
    assert sorted((banger_home / "cache").rglob("*")) == before


def test_cache_lists_kernels_and_prunes_them(banger_home: Path, tmp_path: Path) -> None:
    imported(tmp_path, "k")
    found = json.loads(run_ok("banger", "cache", "list", "--json"))
    assert [(one["kind"], one["name"]) for one in found["entries"]] == [("kernel", str(tmp_path / "bzImage"))]
    for path in (banger_home / "cache").rglob("*"):  # as if it had been used long ago
        os.utime(path, (0, 0))
    run_ok("banger", "cache", "prune", "--keep=0")
    assert not (banger_home / "cache" / "kernels").exists()
    assert (stored.folder(banger_home, "k") / "vmlinuz").read_bytes() == stored.bzimage()
