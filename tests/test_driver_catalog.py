"""banger with names of catalogs and with bundles: the stages that it leaves out, and what comes up in the end."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import bundles, machines, stored, support, webserver
from tests.support import run, run_ok
from tests.webserver import Site


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = bundles.parts(tmp_path_factory.mktemp("parts"))
    return bundles.pack(folder, folder / "tiny.tar.zst", "rootfs.ext4", "manifest.json")


@pytest.fixture(scope="module")
def site(bundle: Path) -> Iterator[Site]:
    """A server with the bundle, and a catalog of two names that stand for it."""
    with webserver.serve() as site:
        data = bundle.read_bytes()
        site.files["tiny.tar.zst"] = data
        about = {"url": site.url("tiny.tar.zst"), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        images = [
            {"name": "tiny", "kernel_ref": f"apt:linux-image-{machines.KERNEL}", "arch": "amd64", **about},
            {"name": "debian-bookworm", "description": "not really", **about},
            {"name": "other-kernel", "kernel_ref": "no-such-kernel", **about},
        ]
        site.files["catalog.json"] = json.dumps({"schema": "banger-catalog/1", "images": images}).encode()
        yield site


def configure(home: Path, site: Site) -> Path:
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / "config.toml").write_text(f"[[catalogs]]\nurl = '{site.url('catalog.json')}'\n")
    return home


def pipe_of(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the pipe that a driver with -vv says it runs."""
    lines = [line for line in done.stderr.decode().splitlines() if ": run: " in line and "bg-fetch" in line]
    return lines[0].partition(": run: ")[2]


def test_build_leaves_out_what_was_done_when_the_bundle_was_made(bundle: Path, tmp_path: Path) -> None:
    printed = run_ok("banger", "build", "--to=seed", "--keep-manifests", "-C", tmp_path, f"bundle:{bundle}")
    tools = [line["tool"] for line in json.loads(printed)["history"]]
    assert tools == ["bg-fetch", "bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-fetch", "bg-seed"]
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["1-fetch.json", "2-seed.json", "tiny.ext4", "work-seed.ext4"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to=mkext4"], "is a bundle: its 'mkext4' was done when it was made"),
        (["--size=4G"], "--size is for the stage 'mkext4', which is not to be run"),
    ],
)
def test_stages_that_a_bundle_has_behind_it_are_refused(words: list[str], said: str, bundle: Path) -> None:
    done = run("banger", "build", *words, f"bundle:{bundle}")
    assert done.returncode == 64
    assert said in done.stderr.decode()


def test_kernel_of_the_catalog_goes_before_files(site: Site, banger_home: Path) -> None:
    configure(banger_home, site)
    done = run("banger", "image", "pull", "--kernel=mine", "other-kernel")
    assert done.returncode == 66
    assert "goes with the image, 'no-such-kernel', and not 'mine'" in done.stderr.decode()
    assert "there is no kernel 'no-such-kernel'" in done.stderr.decode()
    done = run("banger", "image", "pull", "--kernel-ref=one", "--kernel=mine", "other-kernel")
    assert done.returncode == 64
    assert "--kernel-ref and --kernel exclude each other" in done.stderr.decode()


def test_kernel_of_the_catalog_goes_with_the_image_unless_another_is_named(
    site: Site, banger_home: Path, tmp_path: Path
) -> None:
    configure(banger_home, site)
    done = run("banger", "image", "pull", "-vv", "other-kernel")
    assert done.returncode == 66
    assert "no-such-kernel" in done.stderr.decode().splitlines()[-3]
    first, second, third = pipe_of(done).split(" | ")
    assert first.endswith("--pull=always -- other-kernel")
    assert second.startswith("bg-seed")
    assert "--kernel-ref=no-such-kernel" in third
    named = run("banger", "image", "pull", "-vv", "--kernel-ref=mine", "--offline", "other-kernel")
    assert "--kernel-ref=mine" in pipe_of(named)
    assert "--pull" not in pipe_of(named)
    assert "'mine'" in named.stderr.decode()
    built = run("banger", "build", "-vv", "-C", tmp_path, "other-kernel")
    assert "--kernel-ref=no-such-kernel" in pipe_of(built)


def test_no_kernel_is_fetched_for_an_image_whose_machine_has_another(
    site: Site, banger_home: Path, tmp_path: Path
) -> None:
    configure(banger_home, site)
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    run_ok("banger", "kernel", "import", "--name=mine", f"--kernel={tmp_path / 'bzImage'}")
    for named in ("--kernel-ref=mine", f"--kernel={tmp_path / 'bzImage'}"):
        run("banger", "vm", "create", "--no-start", "--image=other-kernel", named)
        assert json.loads(run_ok("banger", "image", "show", "--json", "other-kernel"))["kernel"] is None
        assert "no-such-kernel" in run("banger", "image", "pull", "--replace", "other-kernel").stderr.decode()
        run_ok("banger", "image", "delete", "--force", "other-kernel")
    assert stored.names(banger_home) == ["mine"]
    for other in ("--kernel-ref=mine", "--kernel=mine"):
        done = run("banger", "image", "pull", "--no-kernel", other, "other-kernel")
        assert (done.returncode, b"exclude each other" in done.stderr) == (64, True)


def test_names_that_can_be_had_are_listed(site: Site, banger_home: Path) -> None:
    names = run_ok("banger", "image", "list", "--available", "--names").decode().split()
    assert {"debian-bookworm", "alpine"} <= set(names)
    assert len(names) == len(set(names))
    configure(banger_home, site)
    found: list[dict[str, Any]] = json.loads(run_ok("banger", "image", "list", "--available", "--json"))
    assert [one["name"] for one in found[:3]] == ["tiny", "debian-bookworm", "other-kernel"]
    assert found[0]["catalog"] == f"the catalog '{site.url('catalog.json')}'"
    site.files["broken.json"] = b"{}"
    config = banger_home / "config" / "config.toml"
    config.write_text(config.read_text() + f"[[catalogs]]\nurl = '{site.url('broken.json')}'\n")
    done = run("banger", "image", "list", "--available")
    assert done.returncode == 0
    assert f"the catalog '{site.url('broken.json')}' cannot be read" in done.stderr.decode()
    assert b"tiny" in done.stdout and b"alpine" in done.stdout


def test_name_of_the_catalog_that_is_taken_is_refused_before_any_work(site: Site, banger_home: Path) -> None:
    configure(banger_home, site)
    (banger_home / "state" / "images" / "tiny").mkdir(parents=True)
    done = run("banger", "image", "pull", "tiny")
    assert done.returncode == 73
    assert b"the image 'tiny' exists already" in done.stderr
    assert b"bg-fetch" not in done.stderr


def test_name_of_no_catalog_and_no_image_starts_nothing(site: Site, banger_home: Path) -> None:
    configure(banger_home, site)
    done = run("banger", "vm", "run", "--image=nowhere", "--", "true")
    assert done.returncode == 66
    assert b"there is no image 'nowhere'" in done.stderr


@pytest.mark.boot
def test_bundle_of_a_catalog_comes_up(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    support.need("apt-get")
    home = configure(tmp_path_factory.mktemp("home"), site)
    env = {"BANGER_HOME": str(home)}
    done = run("banger", "image", "pull", "tiny", env=env)
    said = done.stderr.decode()
    if "cannot download the package" in said:
        support.cannot(said)
    assert (done.returncode, done.stdout) == (0, b"tiny\n"), said
    timed = [line.split()[3] for line in said.splitlines() if line.startswith("banger image pull: bg-")]
    assert timed == ["bg-fetch", "bg-seed", "bg-publish"]
    manifest = json.loads((home / "state" / "images" / "tiny" / "image.json").read_text())
    assert manifest["published"]["kernel"]["name"] == machines.KERNEL
    came_up = run(
        "banger", "vm", "run", "--rm", "--image=tiny", "--", "sh", "-c", "cat /root/.profile; exit 7", env=env
    )
    assert (came_up.returncode, came_up.stdout) == (7, b"greeting=hello\n"), came_up.stderr.decode()
    # The default image is what the catalogs call so, here ours; it is made once, of what the cache has.
    requests = [path for path, _ in site.seen]
    default = run("banger", "vm", "run", "--rm", "--", "cat", "/root/.profile", env=env)
    assert (default.returncode, default.stdout) == (0, b"greeting=hello\n"), default.stderr.decode()
    assert "'debian-bookworm' is bundle:" in default.stderr.decode()
    assert [path for path, _ in site.seen] == requests
