"""What the driver leaves to be looked at, what goes on from there, and the pipe that it shows, pasted into a shell."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import stored, support
from tests.support import BIN, environment, run, run_ok
from tests.test_driver import busybox_layers, oci_layout

STAGES = ["fetch", "flatten", "mkext4", "chown", "inject", "seed", "publish"]
ARTIFACTS = {  # of each stage that makes one, where --keep-work leaves it
    "flatten": "tree.jsonl",
    "mkext4": "rootfs.ext4",
    "chown": "rootfs-chown.ext4",
    "inject": "rootfs-inject.ext4",
    "seed": "work-seed.ext4",
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image as an OCI layout, and a kernel."""
    folder = tmp_path_factory.mktemp("sources")
    oci_layout(folder / "layout", busybox_layers())
    (folder / "bzImage").write_bytes(stored.bzimage())
    return folder


def pull(sources: Path, home: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Pull the image with its kernel, and say what is run."""
    asked = ["--name=busy", "--size=64M", f"--kernel={sources / 'bzImage'}", *words, f"oci:{sources / 'layout'}"]
    done = run("banger", "--verbose", "image", "pull", *asked, env={"BANGER_HOME": str(home)})
    assert (done.returncode, done.stdout) == (0, b"busy\n"), done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def kept(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `home`, and `work` that --keep-work left."""
    folder = tmp_path_factory.mktemp("kept")
    pull(sources, folder / "home", f"--keep-work={folder / 'work'}")
    run_ok(
        "banger",
        "kernel",
        "import",
        "--name=mine",
        f"--kernel={sources / 'bzImage'}",
        env={"BANGER_HOME": str(folder / "home")},
    )
    return folder


def test_each_stages_manifest_and_artifact_are_kept(kept: Path) -> None:
    manifests = [f"{number}-{name}.json" for number, name in enumerate(STAGES, 1)]
    assert sorted(os.listdir(kept / "work")) == sorted([*manifests, *ARTIFACTS.values()])
    for number, name in enumerate(manifests, 1):
        history = json.loads((kept / "work" / name).read_text())["history"]
        assert [one["tool"].removeprefix("bg-") for one in history] == STAGES[:number]
    changed = [digest(kept / "work" / name) for name in ("rootfs.ext4", "rootfs-inject.ext4")]
    assert changed[0] != changed[1]  # each is as its stage left it
    published = kept / "home" / "state" / "images" / "busy"
    assert digest(published / "rootfs.ext4") == changed[1]


@pytest.mark.parametrize("stage", ARTIFACTS)
def test_any_stage_goes_on_from_what_the_one_before_left(stage: str, kept: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(kept / "work", tmp_path / "work"))
    before = work / f"{STAGES.index(stage)}-{STAGES[STAGES.index(stage) - 1]}.json"
    before.write_text(before.read_text().replace(str(kept / "work"), str(work)))  # the edited disk is to be a copy
    size = ["--size=64M"] if stage == "mkext4" else []
    words = ["build", f"--from={stage}", f"--to={stage}", "-C", str(tmp_path), *size, str(before)]
    printed = run_ok("banger", *words, env={"BANGER_HOME": str(kept / "home")})
    history = json.loads(printed)["history"]
    assert [one["tool"].removeprefix("bg-") for one in history] == STAGES[: STAGES.index(stage) + 1]
    made = json.loads(before.read_text())["rootfs"]["path"] if stage in ("chown", "inject") else None
    again = Path(made) if made else tmp_path / ARTIFACTS[stage]
    assert digest(again) == digest(kept / "work" / ARTIFACTS[stage])


@pytest.mark.parametrize("first", ["mkext4", "publish"])
def test_the_rest_of_the_pipe_from_any_stage_is_the_same_image(first: str, kept: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(kept / "work", tmp_path / "work"))
    before = work / f"{STAGES.index(first)}-{STAGES[STAGES.index(first) - 1]}.json"
    before.write_text(before.read_text().replace(str(kept / "work"), str(work)))
    kernel = {"BANGER_HOME": str(kept / "home")}
    size = ["--size=64M"] if first == "mkext4" else []
    words = ["build", f"--from={first}", f"--name=from-{first}", "-f", "-C", str(tmp_path), *size, str(before)]
    done = run("banger", *words, "--kernel-ref=mine", env=kernel)
    assert done.returncode == 0, done.stderr.decode()
    images = kept / "home" / "state" / "images"
    for disk in ("rootfs.ext4", "work-seed.ext4"):
        assert digest(images / f"from-{first}" / disk) == digest(images / "busy" / disk)


def pipes(done: subprocess.CompletedProcess[bytes], program: str) -> list[str]:
    """Return what a program said that it runs."""
    start = f"{program}: run: "
    return [line.removeprefix(start) for line in done.stderr.decode().splitlines() if line.startswith(start)]


def paste(text: str, **env: str) -> bytes:
    """Run a line in a shell that finds the programs, in a folder of its own."""
    found = environment({"PATH": f"{BIN}:{support.search_path()}", **env})
    done = subprocess.run(["sh", "-c", text], capture_output=True, env=found, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_pipe_of_a_build_pasted_gives_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    work = tmp_path / "it's work; $HOME"
    work.mkdir()
    done = run("banger", "build", "-v", "--to=seed", "-C", work, "--size=64M", f"oci:{sources / 'layout'}")
    assert done.returncode == 0, done.stderr.decode()
    before = {path.name: digest(path) for path in work.iterdir()}
    assert sorted(before) == ["rootfs.ext4", "tree.jsonl", "work-seed.ext4"]
    for path in work.iterdir():
        path.unlink()
    (line,) = pipes(done, "banger build")
    assert paste(line) == done.stdout
    assert {path.name: digest(path) for path in work.iterdir()} == before


def test_pipe_of_a_pull_pasted_gives_the_same_image(sources: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    (line,) = pipes(pull(sources, one), "banger image pull")
    assert " bg-seed " in line and "--optional" in line  # a seed that cannot be made is a warning
    paste(line, BANGER_HOME=str(other), TMPDIR=str(tmp_path))
    found = [home / "state" / "images" / "busy" for home in (one, other)]
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in found]
    assert names[0] == names[1]
    for name in names[0]:
        if (found[0] / name).is_file() and not name.endswith(".json"):
            assert digest(found[0] / name) == digest(found[1] / name), name
