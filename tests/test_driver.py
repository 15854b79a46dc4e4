"""banger: what the driver adds to the programs that it runs, with and without a machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests import machines, support
from tests.support import BIN, environment, run, run_ok


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a tar entry with its fields, and its content."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def folder(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode)


def tar(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def busybox_layers() -> list[bytes]:
    """Return two layers: a static busybox, and one that replaces a file of it."""
    path = shutil.which("busybox", path=support.search_path())
    if path is None:
        support.cannot("not installed: busybox-static")
    busybox = Path(path).read_bytes()
    words = ("sh", "cat", "stat", "id", "ls", "sleep", "test", "echo")
    links = [member(f"bin/{word}", type=tarfile.SYMTYPE, linkname="busybox") for word in words]
    lower = [folder("bin"), member("bin/busybox", busybox, mode=0o755), *links]
    lower += [folder("data"), folder("etc")]
    lower += [member("etc/version", b"lower"), folder("root", 0o700), member("root/.profile", b"hello\n")]
    return [tar(lower), tar([member("etc/version", b"upper")])]


def blob(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (layout / "blobs" / "sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def oci_layout(layout: Path, layers: list[bytes]) -> Path:
    """Write an OCI image layout of these layers, written here by hand so that no tool of ours is asked."""
    kind = "application/vnd.oci.image."
    (layout / "blobs" / "sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    described = [blob(layout, gzip.compress(layer, mtime=0), f"{kind}layer.v1.tar+gzip") for layer in layers]
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    body = {
        "schemaVersion": 2,
        "mediaType": f"{kind}manifest.v1+json",
        "config": blob(layout, json.dumps(config).encode(), f"{kind}config.v1+json"),
        "layers": described,
    }
    entry = blob(layout, json.dumps(body).encode(), f"{kind}manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The busybox image as an OCI layout."""
    return oci_layout(tmp_path_factory.mktemp("oci") / "layout", busybox_layers())


# Without a machine


def test_build_runs_the_stages_asked_for_and_keeps_their_artifacts(layout: Path, tmp_path: Path) -> None:
    printed = run_ok("banger", "build", "--to=seed", "-C", tmp_path, "--keep-manifests", f"oci:{layout}")
    tools = [line["tool"] for line in json.loads(printed)["history"]]
    assert tools == ["bg-fetch", "bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed"]
    kept = sorted(path.name for path in tmp_path.glob("*.json"))
    assert kept == [f"{n}-{tool.removeprefix('bg-')}.json" for n, tool in enumerate(tools, 1)]
    assert (tmp_path / "6-seed.json").read_bytes() == printed
    subprocess.run(["e2fsck", "-fn", tmp_path / "rootfs.ext4"], check=True, capture_output=True, env=environment())
    again = run_ok("banger", "build", "--from=chown", "--to=seed", "-f", "-C", tmp_path, tmp_path / "3-mkext4.json")
    assert json.loads(again)["rootfs"] == json.loads(printed)["rootfs"]


def test_sections_and_keys_of_others_pass_through_every_stage(layout: Path, tmp_path: Path) -> None:
    text = json.loads(run_ok("bg-fetch", f"oci:{layout}"))
    foreign = {"deep": [1, {"ünïcode": None}], "z": 1.5}
    manifest = json.dumps({**text, "x-foreign": foreign, "annotations": {"a": "b"}})
    for program in ("bg-flatten", "bg-mkext4", "bg-chown", "bg-inject", "bg-seed"):
        words = [] if program in ("bg-chown", "bg-inject") else ["-C", str(tmp_path)]
        manifest = run_ok(program, *words, stdin=manifest).decode()
    after = json.loads(manifest)
    assert (after["x-foreign"], after["annotations"]) == (foreign, {"a": "b"})
    assert after["layers"] == text["layers"]


def test_failing_stage_alone_speaks_and_its_status_is_ours(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no tar at all" * 100)
    done = run("banger", "build", "-C", tmp_path, f"rootfs:{tmp_path}/noise")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 65
    assert all(line.startswith(("bg-fetch: ", "banger build: ")) for line in lines), lines
    assert lines[-1] == "banger build: error: 'bg-fetch' failed with status 65"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["noise"]


def test_stages_in_the_wrong_order_are_refused() -> None:
    done = run("banger", "build", "--from=seed", "--to=flatten")
    assert (done.returncode, done.stdout) == (64, b"")
    assert b"--from seed comes after --to flatten" in done.stderr


def test_name_that_is_taken_is_refused_before_any_work(banger_home: Path, layout: Path) -> None:
    (banger_home / "state" / "images" / "busy").mkdir(parents=True)
    done = run("banger", "image", "pull", f"oci:{layout}", "--name=busy")
    assert done.returncode == 73
    assert done.stderr.decode().startswith("banger image pull: error: the image 'busy' exists already")
    assert not (banger_home / "cache").exists()


def test_work_folder_that_is_not_empty_is_refused(tmp_path: Path, layout: Path) -> None:
    (tmp_path / "mine").touch()
    done = run("banger", "image", "pull", f"--keep-work={tmp_path}", f"oci:{layout}")
    assert done.returncode == 73
    assert b"is not an empty folder" in done.stderr


def test_empty_list_of_images(banger_home: Path) -> None:
    assert run_ok("banger", "image", "list", "--json") == b"[]\n"
    assert run_ok("banger", "image", "list", "--names") == b""


def test_broken_image_is_listed_as_such_and_never_pulled_again(banger_home: Path) -> None:
    broken = banger_home / "state" / "images" / "debian-bookworm"
    broken.mkdir(parents=True)
    (row,) = json.loads(run_ok("banger", "image", "list", "--json"))
    assert row["name"] == "debian-bookworm"
    assert "is broken" in row["problem"]
    done = run("banger", "vm", "run", "--", "true")
    assert done.returncode == 65
    assert b"the image 'debian-bookworm' is broken" in done.stderr
    assert not (banger_home / "cache").exists()


def test_image_that_is_missing_and_of_unknown_origin_is_an_error(banger_home: Path) -> None:
    done = run("banger", "vm", "run", "--image=nowhere", "--", "true")
    assert done.returncode == 66
    assert b"there is no image 'nowhere'" in done.stderr


def test_pull_never_holds(banger_home: Path) -> None:
    done = run("banger", "vm", "run", "--pull=never", "--", "true")
    assert done.returncode == 66
    assert b"there is no image 'debian-bookworm'" in done.stderr
    assert not (banger_home / "cache").exists()


@pytest.mark.parametrize("given", ["docker.io/library/tiny:1.0", "tiny:1.0", "tiny-1.0"])
def test_image_pulled_by_its_reference_is_found_by_it(given: str, banger_home: Path) -> None:
    (banger_home / "state" / "images" / "tiny-1.0").mkdir(parents=True)
    done = run("banger", "vm", "run", "--image", given, "--", "true")
    assert done.returncode == 65
    assert b"the image 'tiny-1.0' is broken" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["imge", "pull"], "unknown command 'imge'"),
        (["image"], "'image' needs one more word: pull, list"),
        (["image", "pul"], "did you mean 'banger image pull'?"),
        (["vm", "runn"], "did you mean 'banger vm run'?"),
    ],
)
def test_mistyped_commands_are_helped(words: list[str], said: str) -> None:
    done = run("banger", *words)
    assert (done.returncode, done.stdout) == (64, b"")
    assert said in done.stderr.decode()


# With a machine


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Path:
    """A home with the busybox image, pulled by one command."""
    support.need("apt-get", "qemu-system-x86_64")
    home = tmp_path_factory.mktemp("home")
    done = run("banger", "image", "pull", f"oci:{layout}", "--name=busy", env={"BANGER_HOME": str(home)})
    if b"cannot download the package" in done.stderr:
        support.cannot(done.stderr.decode())
    assert (done.returncode, done.stdout) == (0, b"busy\n"), done.stderr.decode()
    said = done.stderr.decode()
    assert all(f"bg-{stage} " in said for stage in ("fetch", "flatten", "mkext4", "chown", "inject", "seed", "publish"))
    return home


def vm_run(home: Path, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return run("banger", "vm", "run", *words, stdin=stdin, env={"BANGER_HOME": str(home)})


@pytest.mark.boot
def test_streams_and_status_are_the_commands_own(home: Path) -> None:
    done = vm_run(home, "--rm", "--image=busy", "--", "sh", "-c", "cat; echo err >&2; exit 42", stdin=b"in\x00\xff")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"in\x00\xff", b"err\n")
    assert machines_left(home) == []


@pytest.mark.boot
def test_machine_runs_on_without_rm_and_the_hint_says_how_to_go_on(home: Path) -> None:
    who = "--git-identity=Ada <ada@host>"
    done = vm_run(home, "--image=busy", "--name=stays", who, "--", "sh", "-c", "echo kept >/data/file")
    try:
        assert done.returncode == 0, done.stderr.decode()
        assert b"banger vm exec stays" in done.stderr
        command = ["cat", "/data/file", "/root/.gitconfig-banger"]
        again = run("banger", "vm", "exec", "stays", *command, env={"BANGER_HOME": str(home)})
        assert again.stdout == b'kept\n[user]\n\tname = "Ada"\n\temail = "ada@host"\n'
    finally:
        run("banger", "vm", "delete", "--force", "stays", env={"BANGER_HOME": str(home)})
    assert machines_left(home) == []


@pytest.mark.boot
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_the_command_and_removes_the_machine(home: Path, number: int) -> None:
    command = [BIN / "banger", "vm", "run", "--rm", "--image=busy", "--", "sh", "-c", "echo up; sleep 100"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment({"BANGER_HOME": str(home)}),
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait(60) == 128 + number
    assert machines_left(home) == []


@pytest.mark.boot
def test_list_tells_of_the_image(home: Path) -> None:
    (row,) = json.loads(run_ok("banger", "image", "list", "--json", env={"BANGER_HOME": str(home)}))
    assert (row["name"], row["architecture"], row["problem"]) == ("busy", "amd64", None)
    assert row["kernel"] == machines.KERNEL
    assert 0 < row["used"] < row["size"]


def machines_left(home: Path) -> list[str]:
    folder = home / "state" / "vms"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
