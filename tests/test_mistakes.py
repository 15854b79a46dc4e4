"""The mistakes of a first hour: each is answered by what happened, to what, and what to do next."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import machines, support
from tests.support import BIN, environment, run

USAGE, INPUT, NO_INPUT, UNAVAILABLE, TAKEN, FULL, DENIED = 64, 65, 66, 69, 73, 74, 77


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which somebody made a tree and an image of a folder; manifests in tree.json and disk.json."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "root").mkdir()
    (folder / "root" / "file").write_text("content\n")
    for program, source, target in (("bg-flatten", "root", "tree"), ("bg-mkext4", "tree.json", "disk")):
        (folder / f"{target}.json").write_bytes(support.run_ok(program, source, cwd=folder))
    return folder


@pytest.fixture(autouse=True)
def empty(banger_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no registry that a look-up could reach."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return banger_home


def said(status: int, *words: str | Path, cwd: Path | None = None, **more: str) -> str:
    """Return what a command line says that must end with a status: every line an error or a hint, nothing on stdout."""
    done = run(str(words[0]), *words[1:], cwd=cwd, env=more)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b""), text
    assert "Traceback" not in text
    first = next(line for line in text.splitlines() if ": error: " in line)
    message = first.partition(": error: ")[2]
    assert not message.endswith(".") and not re.match("[A-Z][a-z]", message), first
    return text


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("vm strat web", "'banger vm start'"),
        ("vms list", "'banger vm list'"),
        ("images", "'banger image list'"),
        ("stop web", "'banger vm stop'"),
        ("run alpine", "'banger vm run'"),
        ("pull alpine", "'banger image pull' or 'banger kernel pull'"),
        ("kernals list", "'banger kernel list'"),
        ("doktor", "'banger doctor'"),
    ],
)
def test_wrong_command_is_answered_with_the_nearest(words: str, meant: str) -> None:
    text = said(USAGE, "banger", *words.split())
    assert re.search(rf"hint: did you mean .*{re.escape(meant)}.*\?", text), text


def test_command_like_no_other_is_answered_with_those_there_are() -> None:
    assert "hint: after 'vm' comes one of: run, create," in said(USAGE, "banger", "vm", "frobnicate")
    assert "hint: banger --help lists the commands" in said(USAGE, "banger", "frobnicate")
    assert "'vm' needs one more word: run, create," in said(USAGE, "banger", "vm")
    assert "hint: banger --help lists the commands" in said(USAGE, "banger")


def test_typo_in_an_option_is_answered_with_the_nearest() -> None:
    text = said(USAGE, "banger", "vm", "run", "--memroy", "1G", "--", "true")
    assert "error: unknown option '--memroy'\n" in text and "hint: did you mean '--memory'?" in text


@pytest.mark.parametrize(
    ("program", "given", "found", "hint"),
    [
        ("bg-flatten", "rootfs.ext4", "an ext4 image", "bg-chown, bg-inject, bg-seed and bg-publish go on with it"),
        ("bg-chown", "tree.jsonl", "a tree", "bg-mkext4 makes an ext4 image of a tree"),
        ("bg-inject", "tree.jsonl", "a tree", "bg-mkext4 makes an ext4 image of a tree"),
        ("bg-seed", "tree.jsonl", "a tree", "bg-mkext4 makes an ext4 image of a tree"),
        ("bg-publish", "root", "a folder", "bg-mkext4 makes an ext4 image of a folder"),
    ],
)
def test_artifact_of_another_kind_is_named_with_who_takes_it(
    program: str, given: str, found: str, hint: str, work: Path, tmp_path: Path
) -> None:
    text = said(INPUT, program, work / given, cwd=tmp_path)
    assert f"'{work / given}' is {found}, and " in text
    assert f"{program}: hint: " in text and hint in text


@pytest.mark.parametrize(
    ("program", "manifest", "before"),
    [
        ("bg-chown", "tree.json", "bg-mkext4"),
        ("bg-inject", "tree.json", "bg-mkext4"),
        ("bg-boot", "disk.json", "bg-publish"),
    ],
)
def test_stage_out_of_order_names_the_one_before(program: str, manifest: str, before: str, work: Path) -> None:
    assert f"hint: run {before} before this tool" in said(INPUT, program, work / manifest)


def test_nothing_on_stdin_is_said_to_be_the_stage_before(tmp_path: Path) -> None:
    text = said(INPUT, "bg-flatten", cwd=tmp_path)
    assert "error: stdin is empty: no manifest came\n" in text
    assert "hint: the stage before this one failed, or printed none" in text


def test_terminal_on_stdin_is_said_to_be_none(tmp_path: Path) -> None:
    leader, follower = os.openpty()
    done = subprocess.run([BIN / "bg-flatten"], stdin=follower, capture_output=True, cwd=tmp_path, env=environment())
    os.close(leader)
    os.close(follower)
    assert done.returncode == USAGE
    assert b"hint: name an INPUT, or pipe the stage before into this one" in done.stderr


def test_reference_given_to_a_later_stage_is_led_to_the_first(tmp_path: Path) -> None:
    text = said(NO_INPUT, "bg-flatten", "alpine:3.20", cwd=tmp_path)
    assert "hint: for an image: bg-fetch alpine:3.20 | ..." in text


def test_path_where_a_reference_is_wanted_is_led_to_the_prefixes() -> None:
    text = said(USAGE, "bg-fetch", "./rootfs.tar")
    assert "'./rootfs.tar' is not a reference: it looks like a path" in text and "rootfs:./rootfs.tar" in text


def test_reference_that_is_none_is_told_why() -> None:
    text = said(USAGE, "banger", "image", "pull", "Alpine:3.20")
    assert "'Alpine:3.20' is not a reference: " in text and "repository names are lower case" in text


def test_host_that_cannot_be_found_is_named_with_what_to_check() -> None:
    text = said(UNAVAILABLE, "bg-fetch", "registry.invalid/name:1", https_proxy="", HTTPS_PROXY="")
    assert "'registry.invalid'" in text and "network" in text


def test_what_is_not_in_the_cache_is_not_asked_for_offline() -> None:
    text = said(UNAVAILABLE, "bg-fetch", "--offline", "busybox:1.36")
    assert "'docker.io/library/busybox:1.36' is not in the cache" in text
    assert "hint: " in text and "--offline" in text


def test_output_that_exists_is_kept_and_the_ways_on_are_named(work: Path) -> None:
    text = said(TAKEN, "bg-mkext4", "tree.json", cwd=work)
    assert f"'{work / 'rootfs.ext4'}' exists\n" in text
    assert "hint: choose another name with -o, or replace it with --force" in text


def test_size_that_does_not_fit_is_told_the_one_that_does(work: Path, tmp_path: Path) -> None:
    text = said(USAGE, "bg-mkext4", "--size=1M", "-o", tmp_path / "x.ext4", work / "tree.json")
    least = re.search(r"hint: (--size=\d+M)\n", text)
    assert least, text
    support.run_ok("bg-mkext4", least[1], "-o", tmp_path / "x.ext4", work / "tree.json")


def test_size_that_is_none_is_told_how_to_write_one(work: Path) -> None:
    text = said(USAGE, "bg-mkext4", "--size=10Q", work / "tree.json")
    assert "--size: '10Q' is not a size" in text and "hint: write bytes, or a number with K, M, G or T" in text


@pytest.mark.root
def test_full_disk_is_said_to_be_full_and_nothing_is_left(work: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(7 << 20))
    (work / "big").write_bytes(os.urandom(4 << 20))
    text = said(
        FULL, "bg-flatten", "--dir", small_disk / "out", "-C", small_disk, "--layer", _folder(work), work / "root"
    )
    assert "no space left on device" in text and "hint: free some space" in text
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def _folder(work: Path) -> Path:
    folder = work / "layer"
    folder.mkdir(exist_ok=True)
    (work / "big").rename(folder / "big")
    return folder


def test_folder_that_is_not_there_is_told_how_to_make_it(work: Path) -> None:
    assert "hint: mkdir -p '/nowhere'" in said(NO_INPUT, "bg-mkext4", "-C", "/nowhere", work / "tree.json")


def test_folder_that_may_not_be_written_is_named(work: Path, user: support.OrdinaryUser, tmp_path: Path) -> None:
    text = user.run("bg-flatten", "-o", "/usr/tree.jsonl", "rootfs").stderr.decode()
    assert "cannot" in text and "rootfs" in text  # there is none: what is missing comes before what is forbidden
    (user.home / "rootfs").mkdir(mode=0o755)
    done = user.run("bg-flatten", "-o", "/usr/tree.jsonl", "rootfs")
    assert done.returncode == DENIED
    assert "'/usr/tree.jsonl'" in done.stderr.decode() and "permission denied" in done.stderr.decode()


def test_missing_program_is_named_with_its_package(work: Path, tmp_path: Path) -> None:
    text = without("mke2fs", "bg-mkext4", "-o", tmp_path / "x.ext4", work / "tree.json")
    assert "error: 'mke2fs' is not installed\n" in text and "hint: apt-get install e2fsprogs" in text


def without(program: str, *words: str | Path) -> str:
    """Return what a command line says where a program of the host is not installed: it is hidden below /dev/null."""
    support.need_root()
    support.need("unshare", program)
    hidden = " && ".join(
        f"mount --bind /dev/null {folder}/{program}"
        for folder in ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin")
        if (Path(folder) / program).exists()
    )
    shell = f'{hidden} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", shell, "sh", *support.argv(str(words[0]), *words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == UNAVAILABLE, done.stderr
    return done.stderr


@pytest.fixture
def named(empty: Path, tmp_path: Path) -> str:
    """The name of an image in the store, with a kernel that is none that boots."""
    disk = machines.mke2fs(tmp_path / "d.ext4", None, "8M")
    support.run_ok("bg-publish", "--name=tour", "--no-kernel", stdin=machines.manifest(disk))
    return "tour"


def test_monitor_that_is_missing_is_named_with_its_package(home: Path) -> None:
    text = without("qemu-system-x86_64", "bg-boot", "--image=tiny", "--vmm=qemu")
    assert "'qemu-system-x86_64' is not installed" in text and "apt-get install qemu-system-x86" in text


def test_name_that_is_taken_is_told_the_ways_on(named: str, tmp_path: Path) -> None:
    disk = machines.mke2fs(tmp_path / "other.ext4", None, "8M")
    done = run("bg-publish", "--name=tour", "--no-kernel", stdin=machines.manifest(disk))
    assert done.returncode == TAKEN
    assert b"the image 'tour' exists already" in done.stderr
    assert b"hint: choose another name, or have it replaced with --replace" in done.stderr


def test_name_with_a_typo_is_answered_with_the_nearest(named: str, empty: Path) -> None:
    assert "tour" in said(NO_INPUT, "bg-boot", "--image=tuor").partition("hint: ")[2]
    for name in ("web", "db"):
        (empty / "state" / "vms" / name).mkdir(parents=True)
    assert "hint: did you mean 'web'?" in said(NO_INPUT, "banger", "vm", "stop", "wbe")
    assert "hint: VMs here: db, web" in said(NO_INPUT, "banger", "vm", "exec", "nosuch", "ls")


def test_nothing_by_that_name_says_that_there_is_none_at_all() -> None:
    assert "hint: VMs here: none" in said(NO_INPUT, "banger", "vm", "stop", "web")
    assert "hint: kernels here: none" in said(NO_INPUT, "banger", "kernel", "delete", "generic")


def test_image_given_as_a_command_is_pointed_out(named: str) -> None:
    done = run("banger", "vm", "run", "--pull=never", "tour")
    assert done.returncode == NO_INPUT
    assert b"'tour' is run as a command in 'debian-bookworm'; to run the image: --image tour" in done.stderr


def test_copy_within_this_host_is_told_how_a_machine_is_written() -> None:
    assert "hint: write a path of a machine as NAME:PATH" in said(USAGE, "banger", "vm", "cp", "a", "b")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cpus=0", "--cpus: '0' is not 1 to 255"),
        ("--memory=1", "--memory: '1' is less than 64M"),
        ("--publish=80", "--publish: '80' is no port forward"),
        ("--net=bridge", "--net: 'bridge' is none of user, tap, none"),
        ("--name=My VM", "--name: 'My VM' is no name for a VM"),
    ],
)
def test_value_that_is_none_is_named_with_its_option(option: str, message: str, named: str) -> None:
    assert message in said(USAGE, "banger", "vm", "run", f"--image={named}", option, "--", "true")


def test_manifest_that_was_cut_is_named_with_the_place(work: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_text((work / "disk.json").read_text()[:100])
    text = said(INPUT, "bg-chown", cut)
    assert f"'{cut}' is not a manifest: " in text and "line " in text


def test_tree_that_was_edited_badly_is_named_with_the_line(work: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.jsonl"
    edited.write_text((work / "tree.jsonl").read_text().replace('"mode":"0644"', '"mode":"rw-"'))
    text = said(INPUT, "bg-mkext4", "-o", tmp_path / "x.ext4", edited)
    assert f"'{edited}', line 3: '/file' has a mode that is no number" in text


def test_edited_tree_by_its_old_manifest_is_told_how_to_be_given(work: Path, tmp_path: Path) -> None:
    manifest = json.loads((work / "tree.json").read_text())
    edited = tmp_path / "tree.jsonl"
    edited.write_text((work / "tree.jsonl").read_text().replace("0644", "0600"))
    manifest["tree"]["path"] = str(edited)
    done = run("bg-mkext4", "-o", tmp_path / "x.ext4", stdin=json.dumps(manifest))
    assert done.returncode == INPUT
    assert f"hint: to use an edited tree, name it: bg-mkext4 '{edited}'".encode() in done.stderr


def test_stages_of_a_build_in_the_wrong_order_are_told_the_right_one(work: Path) -> None:
    text = said(USAGE, "banger", "build", "--from=chown", "--to=mkext4", work / "tree.json")
    assert "hint: the order is: fetch, flatten, mkext4, chown" in text
