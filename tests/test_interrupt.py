"""Each stage stopped at a random moment, twenty times, and on a full disk: nothing temporary is left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import support, trees

TIMES = 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the input of every stage: an OCI layout, and the manifests that the stages before leave."""
    support.need("umoci")
    folder = tmp_path_factory.mktemp("inputs")
    archive = folder / "root.tar"
    with trees.new_tar(archive) as out:
        for number in range(3_000):
            trees.add(out, f"usr/share/d{number % 40}/file-{number}", data=os.urandom(3_000))
        trees.add(out, "root/.profile", data=os.urandom(20 << 20))
        trees.add(out, "usr/lib/systemd/systemd", data=b"elf", mode=0o755)
    layout = folder / "oci"
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:x"], check=True)
    subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:x", archive], check=True)
    env = {"BANGER_HOME": str(folder / "home")}
    out_bytes = support.run_ok("bg-fetch", f"oci:{layout}:x", env=env)
    (folder / "bg-flatten").write_bytes(out_bytes)
    stages = ("bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed")
    copied = {"bg-chown": ["-o", folder / "owned"], "bg-inject": ["-o", folder / "guest"]}
    for stage, following in zip(stages, (*stages[1:], "bg-publish"), strict=True):
        words = copied.get(stage, [])  # or the next run would find its work done in its input
        out_bytes = support.run_ok(stage, "-C", folder, *words, folder / stage, env=env)
        (folder / following).write_bytes(out_bytes)
    return folder


def command(stage: str, inputs: Path, work: Path) -> list[str]:
    """Return the command line of a stage; those that edit an image in place get a copy to edit."""
    if stage == "bg-fetch":
        return support.argv(stage, f"oci:{inputs}/oci:x")
    if stage == "bg-publish":
        return support.argv(stage, "--no-kernel", inputs / stage)
    words: list[str | Path] = ["-C", work, inputs / stage]
    if stage == "bg-chown":
        words = ["-o", work / "owned.ext4", "--set=/usr/share=7:7", inputs / stage]
    if stage == "bg-inject":
        words = ["-o", work / "guest.ext4", inputs / stage]
    return support.argv(stage, *words)


def leftovers(folder: Path) -> list[str]:
    """Return what an interrupted run may not leave; what resumes a download may stay, in the cache's `partial`."""
    found = support.leftovers(folder)
    found += [str(path.relative_to(folder)) for path in folder.rglob("*staging*")]
    return [name for name in found if "cache/partial/" not in name]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", support.STAGES[:-1])
def test_stage_stopped_at_any_moment_leaves_nothing_and_runs_again(
    stage: str, sign: signal.Signals, inputs: Path, tmp_path: Path
) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    env = support.environment({"BANGER_HOME": str(home)})
    argv = command(stage, inputs, work)
    work.mkdir()
    began = time.monotonic()
    usually = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stderr
    usual = time.monotonic() - began
    moments = random.Random(f"{stage}{sign}")
    stopped = 0
    for _ in range(TIMES // 2):
        for folder in (work, home):
            shutil.rmtree(folder, ignore_errors=True)
        work.mkdir()
        process = subprocess.Popen(
            argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        time.sleep(moments.uniform(0.03, usual))
        os.killpg(process.pid, sign)  # as a terminal does: to the helpers of the stage, too
        said = process.communicate(timeout=60)[1].decode()
        early = process.returncode not in (0, 128 + sign)  # before our first line, Python answers
        assert not early or process.returncode == -sign or "KeyboardInterrupt" in said, said
        assert "in _worked" not in said if early else usually.startswith(said), said
        stopped += process.returncode != 0
        assert leftovers(tmp_path) == []
    assert stopped > 0
    done = subprocess.run(
        [*argv, *(["--force"] if stage not in ("bg-publish", "bg-fetch") else [])], env=env, capture_output=True
    )
    taken = (73,) if stage == "bg-publish" else ()  # the last of them may have been done, or nearly
    assert done.returncode in (0, *taken), done.stderr.decode()


@pytest.mark.parametrize("stage", support.STAGES[:-1])
def test_stage_on_a_full_disk_says_so_and_leaves_nothing(stage: str, inputs: Path, small_disk: Path) -> None:
    work = small_disk / "work"
    work.mkdir()
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - (100 << 10)))
    done = subprocess.run(
        command(stage, inputs, work),
        env=support.environment({"BANGER_HOME": str(small_disk / "home")}),
        capture_output=True,
        cwd=work,
    )
    said = done.stderr.decode()
    assert done.returncode == 74, said
    assert "no space left" in said.lower()
    assert "Traceback" not in said
    assert leftovers(small_disk) == []
    assert list(work.iterdir()) == []
