"""Images and kernels that are missing are fetched; nothing else starts that, and no fetch that is not allowed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import machines, stored, support
from tests.support import OrdinaryUser, run
from tests.webserver import Site, serve


@pytest.fixture
def site() -> Iterator[Site]:
    """A server that counts what is asked of it; a kernel can be had there."""
    with serve() as found:
        yield found


def configure(home: Path, site: Site, tmp_path: Path, *images: dict[str, Any]) -> None:
    """Give a home a catalog: a kernel named `guest-6.12`, which is on the server, and images."""
    kernel = stored.offer(site, "guest-6.12", stored.packed(tmp_path, stored.tar(*stored.members())))
    catalog = {"schema": "banger-catalog/1", "images": list(images), "kernels": [kernel]}
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / "config.toml").write_text("[[catalogs]]\nfile = 'catalog.json'\n")
    (home / "config" / "catalog.json").write_text(json.dumps(catalog))


def fetched(site: Site) -> list[str]:
    """Return what was asked of the server."""
    return [path for path, _ in site.seen]


def publish(home: Path, tmp_path: Path, *words: str) -> Path:
    """Put an empty image into the store, by bg-publish, and return its folder; there is a `bzImage`, too."""
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    disk = machines.mke2fs(tmp_path / "empty.ext4", None, "8M")
    support.run_ok("bg-publish", "--name=empty", *(words or ["--no-kernel"]), disk, env={"BANGER_HOME": str(home)})
    return home / "state" / "images" / "empty"


def boot(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Ask for a machine without starting it; it gets as far as its kernel."""
    return run("banger", "vm", "create", "--no-start", *words)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode()


def test_name_that_is_in_no_catalog_says_so_with_the_nearest_ones(
    banger_home: Path, site: Site, tmp_path: Path
) -> None:
    configure(banger_home, site, tmp_path, {"name": "webserver", "source": "alpine:3.20"})
    publish(banger_home, tmp_path)
    for asked, near in (("websever", "'webserver'"), ("emtpy", "'empty'"), ("debian-bokworm", "'debian-bookworm'")):
        done = boot(f"--image={asked}")
        assert done.returncode == 66
        assert f"there is no image '{asked}', here or in a catalog" in said(done)
        assert f"hint: did you mean {near}" in said(done)
    assert "or look: banger image list" in said(boot("--image=qqqq"))
    assert fetched(site) == []


@pytest.mark.parametrize("damage", ["record", "disk", "kernel"])
def test_image_that_is_broken_is_told_as_such_and_nothing_is_fetched(
    damage: str, banger_home: Path, site: Site, tmp_path: Path
) -> None:
    configure(banger_home, site, tmp_path, {"name": "empty", "source": "rootfs:/none"})
    folder = publish(banger_home, tmp_path, f"--kernel-file={tmp_path / 'bzImage'}")
    if damage == "record":
        (folder / "image.json").write_text("{")
    else:
        (folder / {"disk": "rootfs.ext4", "kernel": "kernel/vmlinux"}[damage]).unlink()
    done = boot("--image=empty")
    assert done.returncode in (65, 66), said(done)
    assert str(folder) in said(done) or "the image 'empty' is broken" in said(done)
    assert "making it from" not in said(done)
    assert fetched(site) == []


def test_image_that_may_not_be_looked_at_is_no_missing_one(user: OrdinaryUser, site: Site, tmp_path: Path) -> None:
    home = user.home / "banger"
    configure(home, site, tmp_path, {"name": "empty", "source": "rootfs:/none"})
    images = home / "state" / "images"
    (images / "empty").mkdir(parents=True)
    for folder in (home, home / "state"):
        os.chmod(folder, 0o755)
    images.chmod(0)
    done = user.run("banger", "vm", "create", "--image=empty", env={"BANGER_HOME": str(home)})
    images.chmod(0o700)
    assert done.returncode == 77, said(done)
    assert "permission denied" in said(done)
    assert fetched(site) == []


def test_kernel_that_may_not_be_read_is_no_missing_one(user: OrdinaryUser, site: Site, tmp_path: Path) -> None:
    home = user.home / "banger"
    configure(home, site, tmp_path)
    folder = publish(home, tmp_path, f"--kernel-file={tmp_path / 'bzImage'}")
    subprocess.run(["chown", "-R", user.name, home], check=True)
    kernel = folder / "kernel" / "vmlinux"
    kernel.chmod(0)
    done = user.run("banger", "vm", "create", "--image=empty", env={"BANGER_HOME": str(home)})
    assert done.returncode == 77, said(done)
    assert f"cannot read '{kernel}': permission denied" in said(done)
    assert "making it from" not in said(done)
    assert fetched(site) == []


def test_kernel_that_is_missing_is_fetched_as_a_stage_of_its_own(banger_home: Path, site: Site, tmp_path: Path) -> None:
    configure(banger_home, site, tmp_path)
    publish(banger_home, tmp_path)
    done = boot("--image=empty", "--kernel-ref=guest-6.12", "--progress=json")
    stages = [json.loads(line) for line in said(done).splitlines() if line.startswith("{")]
    assert "kernel fetch" in [line["what"] for line in stages if line["finished"]]
    assert "there is no kernel 'guest-6.12' yet: fetching" in said(done)
    assert stored.names(banger_home) == ["guest-6.12"]
    assert fetched(site) == ["/guest-6.12.tar.zst"]


@pytest.mark.parametrize("word", ["--pull=never", "--offline"])
def test_kernel_that_is_missing_is_not_fetched_where_that_is_not_allowed(
    word: str, banger_home: Path, site: Site, tmp_path: Path
) -> None:
    configure(banger_home, site, tmp_path)
    publish(banger_home, tmp_path)
    done = boot("--image=empty", "--kernel-ref=guest-6.12", word)
    assert done.returncode == 69, said(done)
    assert stored.names(banger_home) == []
    assert fetched(site) == []


def test_kernel_that_is_broken_is_told_as_such_and_nothing_is_fetched(
    banger_home: Path, site: Site, tmp_path: Path
) -> None:
    configure(banger_home, site, tmp_path)
    publish(banger_home, tmp_path)
    broken = stored.folder(banger_home, "guest-6.12")
    broken.mkdir(parents=True)
    done = boot("--image=empty", "--kernel-ref=guest-6.12")
    assert done.returncode == 65
    assert "the kernel 'guest-6.12' is broken" in said(done)
    assert fetched(site) == []


def test_kernel_of_no_catalog_is_told_with_the_nearest_one(banger_home: Path, site: Site, tmp_path: Path) -> None:
    configure(banger_home, site, tmp_path)
    publish(banger_home, tmp_path)
    done = boot("--image=empty", "--kernel-ref=gest-6.12")
    assert done.returncode == 66
    assert "there is no kernel 'gest-6.12', here or in a catalog" in said(done)
    assert "hint: did you mean 'guest-6.12'?" in said(done)
    assert fetched(site) == []


@pytest.mark.parametrize("word", ["--pull=never", "--offline"])
def test_image_that_is_missing_is_not_fetched_where_that_is_not_allowed(
    word: str, banger_home: Path, site: Site, tmp_path: Path
) -> None:
    bundle = {"name": "far", "url": site.url("far.tar.zst"), "sha256": "0" * 64, "size": 100}
    configure(banger_home, site, tmp_path, bundle)
    done = boot("--image=far", word)
    assert done.returncode in (66, 69), said(done)
    assert "'far'" in said(done)
    assert fetched(site) == []


def test_always_makes_an_image_anew_that_is_here(banger_home: Path, site: Site, tmp_path: Path) -> None:
    configure(banger_home, site, tmp_path, {"name": "empty", "source": f"rootfs:{tmp_path / 'new.tar'}"})
    publish(banger_home, tmp_path)
    done = boot("--image=empty", "--pull=always")
    assert done.returncode != 0
    assert "new.tar" in said(done)  # which is not there; without the option nobody looks
    assert "new.tar" not in said(boot("--image=empty", "--kernel-ref=guest-6.12"))
    done = boot("--image=empty", "--pull=always", "--offline")
    assert (done.returncode, "exclude each other" in said(done)) == (64, True)


def test_name_that_no_registry_has_either_is_told_with_the_nearest_one(banger_home: Path) -> None:
    done = run("banger", "image", "pull", "--offline", "debian-bokworm")
    assert done.returncode == 69, said(done)
    first, second = said(done).splitlines()[-2:]
    assert first == "banger image pull: error: 'bg-fetch' failed with status 69"
    assert second.startswith("banger image pull: hint: did you mean 'debian-bookworm'")
