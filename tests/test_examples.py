"""The examples, run as they stand: with small images, and by a user who is not root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import images, machines, support
from tests.test_fetch_daemon import podman_store

EXAMPLES = support.ROOT / "examples"
NAMES = ("one", "two", "three")
STAGES = ("fetch", "flatten", "mkext4", "chown", "inject", "seed", "publish")
MAKE = ("--no-builtin-rules", f"IMAGES={' '.join(NAMES)}", "PUBLISHFLAGS=--no-kernel")


class Place:
    """A copy of the examples that belongs to a user, in that user's home."""

    def __init__(self, user: support.OrdinaryUser) -> None:
        self.user = user
        self.folder = user.home / "examples"
        shutil.copytree(EXAMPLES, self.folder)
        self.give()

    def give(self) -> None:
        """Make all that the test put there the user's own."""
        for path in (self.folder, *self.folder.rglob("*")):
            support.give(path, self.user)

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the folder, with the programs in PATH."""
        path = f"{self.user.bin}:{support.search_path()}"
        command = self.user.argv(words[0], *words[1:])
        settings = self.user.environment({"PATH": path, **env})
        return subprocess.run(
            command, env=settings, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=600
        )

    def ok(self, *words: str, **env: str) -> str:
        """Run one that must succeed, and return what it printed."""
        done = self.run(*words, **env)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    def rootfs(self, name: str, *, content: str = "") -> Path:
        """Put in the tar of a root filesystem with busybox; `content` makes it different from others."""
        root = self.folder.parent / f"{name}-root"
        if not root.exists():
            machines.busybox_root(root)
            (root / "root" / ".profile").write_text("greeting=hello\n")
            (root / "bin" / "setid").write_text("#!/bin/sh\n")
            (root / "bin" / "setid").chmod(0o6755)
        (root / "name").write_text(f"{name} {content}\n")
        target = self.folder / f"{name}.tar"
        support.run_ok("tar", "-C", root, "--owner=0", "--group=0", "--sort=name", "--mtime=@9", "-cf", target, ".")
        self.give()
        return target

    def image(self, name: str) -> Path:
        """Return the folder of a published image."""
        found = list(self.user.home.glob(f".local/*/banger/images/{name}"))
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def place(user: support.OrdinaryUser) -> Place:
    return Place(user)


@pytest.fixture(scope="module")
def made(_ordinary_user: tuple[support.OrdinaryUser, Path]) -> Place:
    """A place in which make, with two jobs, has made three images of tars."""
    support.need("make")
    user, base = _ordinary_user
    home = base / "made"
    home.mkdir()
    support.give(home, user)
    place = Place(user.at(home))
    for name in NAMES:
        place.rootfs(name)
    place.ok("make", "-j2", *MAKE)
    return place


def content(disk: Path, path: str) -> str:
    """Return what debugfs reads out of a file in a disk."""
    return images.debugfs(disk, f"cat {path}").partition("\n")[2]  # its first line is the command


def ran(printed: str) -> set[tuple[str, str]]:
    """Return which stages make ran for which images."""
    lines = [line.split() for line in printed.splitlines() if line.startswith("./keep")]
    return {(line[1].partition(".")[0], line[2].removeprefix("bg-")) for line in lines}


def test_make_publishes_three_whole_images(made: Place) -> None:
    for name in NAMES:
        disk = made.image(name) / "rootfs.ext4"
        assert subprocess.run(["/sbin/e2fsck", "-fn", disk], capture_output=True).returncode == 0
        assert content(disk, "/name").startswith(name)
        assert images.stat(disk, "/bin/busybox") == (0, 0, "100755")
        assert (made.image(name) / "work-seed.ext4").exists()


def test_make_has_nothing_to_do_a_second_time(made: Place) -> None:
    assert "Nothing to be done" in made.ok("make", *MAKE)


def test_make_makes_only_the_image_that_changed(made: Place) -> None:
    made.rootfs("two", content="changed")
    os.utime(made.folder / "one.tar", (9, 9))
    os.utime(made.folder / "three.tar", (9, 9))
    assert ran(made.ok("make", "-j2", *MAKE)) == {("two", stage) for stage in STAGES}
    assert content(made.image("two") / "rootfs.ext4", "/name").startswith("two changed")
    assert ran(made.ok("make", *MAKE)) == set()


def test_make_stops_where_a_stage_makes_the_same_again(made: Place) -> None:
    made.ok("touch", "one.tar")
    assert ran(made.ok("make", *MAKE)) == {("one", "fetch")}
    made.ok("touch", "--reference=one.fetch.json", "one.tar")
    assert ran(made.ok("make", *MAKE)) == set()


def test_make_begins_with_the_stage_whose_options_changed(made: Place) -> None:
    printed = made.ok("make", *MAKE, "--what-if=three.owned.json", "INJECTFLAGS=--hostname=kiosk")
    assert ran(printed) == {("three", stage) for stage in STAGES[4:]}
    assert content(made.image("three") / "rootfs.ext4", "/etc/hostname") == "kiosk\n"


def test_make_lays_a_folder_over_an_image(made: Place) -> None:
    overlay = made.folder / "one.d" / "etc"
    overlay.mkdir(parents=True)
    (overlay / "motd").write_text("welcome\n")
    made.give()
    assert ran(made.ok("make", *MAKE)) == {("one", stage) for stage in STAGES[1:]}
    assert content(made.image("one") / "rootfs.ext4", "/etc/motd") == "welcome\n"
    assert images.stat(made.image("one") / "rootfs.ext4", "/etc/motd") == (0, 0, "100644")


def test_make_keeps_what_was_there_when_a_stage_fails(made: Place) -> None:
    before = (made.folder / "two.base.json").read_text()
    made.ok("rm", "two.base.ext4", "two.owned.json")
    made.ok("touch", "two.flat.json")
    failed = made.run("make", *MAKE, "MKEXT4FLAGS=--size=1M")
    assert failed.returncode == 2 and b"bg-mkext4: error:" in failed.stderr
    assert (made.folder / "two.base.json").read_text() == before
    assert not list(made.folder.glob("*.new"))
    made.ok("make", *MAKE)


def test_reference_in_a_file_is_fetched(place: Place) -> None:
    place.rootfs("small").rename(place.folder / "elsewhere")
    (place.folder / "alpine.ref").write_text("rootfs:elsewhere\n")
    place.ok("make", "alpine.flat.json")
    assert json.loads((place.folder / "alpine.flat.json").read_text())["source"]["requested"] == "rootfs:elsewhere"


def test_hardened_image_has_no_set_id_program_and_says_so(place: Place) -> None:
    support.need("jq")
    place.rootfs("small")
    printed = place.ok("./harden.sh", "rootfs:small.tar", "hardened", "--no-kernel")
    folder = place.image("hardened")
    assert printed == f"{folder}\n"
    assert images.stat(folder / "rootfs.ext4", "/bin/setid") == (0, 0, "100755")
    assert images.stat(folder / "rootfs.ext4", "/bin/busybox") == (0, 0, "100755")
    record = json.loads((folder / "image.json").read_text())
    assert record["image"]["config"]["Labels"] == {"hardened": "yes"}
    assert [line["tool"] for line in record["history"]][:3] == ["bg-fetch", "bg-flatten", "bg-flatten"]


def test_pipeline_with_a_source_that_is_not_there_fails_and_publishes_nothing(place: Place) -> None:
    failed = place.run("./harden.sh", "rootfs:missing.tar", "hardened", "--no-kernel")
    assert failed.returncode != 0 and b"'missing.tar'" in failed.stderr
    assert json.loads(place.ok("banger", "image", "list", "--json")) == []


@pytest.mark.parametrize("script", ["harden.sh", "from-container.sh", "ci.sh"])
def test_scripts_say_how_they_are_used(script: str, place: Place) -> None:
    done = place.run(f"./{script}")
    assert (done.returncode, done.stdout) == (64, b"")
    assert done.stderr.startswith(f"usage: {script} ".encode())


def test_container_becomes_an_image_that_runs_what_it_ran(tmp_path: Path, banger_home: Path) -> None:
    support.need("podman", "jq")
    env = support.environment({**podman_store(tmp_path), "ENGINE": "podman"})
    env["PATH"] = f"{support.BIN}:{env['PATH']}"
    root = machines.busybox_root(tmp_path / "root")
    (root / "data").write_text("of the image\n")
    support.run_ok("tar", "-C", root, "--owner=0", "--group=0", "-cf", tmp_path / "root.tar", ".")
    changes = ["ENV GREETING=hello", 'ENTRYPOINT ["/bin/sh", "/main"]', 'CMD ["now"]', "WORKDIR /srv"]
    words = [word for change in changes for word in ("--change", change)]
    edited = tmp_path / "main"
    edited.write_text("echo main\n")
    for command in (
        ["podman", "import", *words, str(tmp_path / "root.tar"), "localhost/app"],
        ["podman", "create", "--name=web", "localhost/app"],
        ["podman", "cp", str(edited), "web:/main"],
        [str(EXAMPLES / "from-container.sh"), "web", "web-image", "--no-kernel"],
    ):
        done = subprocess.run(command, env=env, capture_output=True, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr.decode())
    folder = banger_home / "state" / "images" / "web-image"
    assert done.stdout.decode() == f"{folder}\n"
    assert content(folder / "rootfs.ext4", "/main") == "echo main\n"
    assert content(folder / "rootfs.ext4", "/data") == "of the image\n"
    config = json.loads((folder / "image.json").read_text())["image"]["config"]
    assert (config["Entrypoint"], config["Cmd"], config["WorkingDir"]) == (["/bin/sh", "/main"], ["now"], "/srv")
    assert "GREETING=hello" in config["Env"] and "container=podman" not in config["Env"]


@pytest.mark.boot
def test_ci_job_runs_the_tests_of_a_checkout_and_passes_on_their_status(place: Place, bootable_home: Path) -> None:
    target = place.user.home / "banger"
    shutil.copytree(bootable_home / "state" / "kernels", target / "state" / "kernels")
    for path in (target, *target.rglob("*")):
        support.give(path, place.user)
    place.rootfs("small")
    checkout = place.folder / "checkout"
    checkout.mkdir()
    (checkout / "test.sh").write_text('pwd\necho "$1" for $(id -u)\nexit 7\n')
    place.give()
    words = ["./ci.sh", "rootfs:small.tar", "checkout", "sh", "test.sh", "two words"]
    done = place.run(*words, BANGER_HOME=str(target), VMFLAGS="--memory=256M --timeout=300")
    said = done.stderr.decode()
    assert (done.returncode, done.stdout.decode()) == (7, "/src\ntwo words for 0\n"), said
    assert not list((target / "state" / "vms").glob("[!.]*")), said
    assert not list((target / "state" / "images").glob("[!.]*")), said
