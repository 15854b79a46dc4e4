"""Which guest program bg-inject puts in: the one for the image's programs, and none that would not run there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from banger_tools import guest
from tests import support, trees

CODE = """
import pathlib, sys
from banger_tools import guest, inject
guest.FOLDER = pathlib.Path(sys.argv.pop())
raise SystemExit(inject.main(sys.argv[1:]))
"""


def image_with(folder: Path, shell: bytes) -> Path:
    with trees.new_tar(folder / "content.tar") as out:
        trees.add(out, "bin/sh", data=shell, mode=0o755)
    arguments = ["--path", "--size=8M", "-C", folder, folder / "content.tar"]
    return Path(support.run_ok("bg-mkext4", *arguments).decode().strip())


def header(machine: int, bits: int = 64, kind: int = 2) -> bytes:
    """Return the beginning of an ELF file; its kind is a program."""
    start = b"\x7fELF" + bytes([bits // 32, 1, 1]) + bytes(9)
    return start + kind.to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(100)


def machine_of(image: Path) -> int:
    said = subprocess.run(["/sbin/debugfs", "-R", "cat /usr/local/bin/banger-vsock-agent", image], capture_output=True)
    return int.from_bytes(said.stdout[18:20], "little")


@pytest.mark.parametrize(
    ("stated", "shell", "agent"),
    [
        (None, header(62), 62),
        (None, header(183), 183),
        ("arm64", header(183), 183),
        ("arm64", b"#!/bin/none", 183),
        ("amd64", header(3, bits=32), 62),  # programs of 32 bits run beside one of 64
    ],
)
def test_agent_is_one_for_the_image_s_programs(tmp_path: Path, stated: str | None, shell: bytes, agent: int) -> None:
    image = image_with(tmp_path, shell)
    out = support.run_ok("bg-inject", *([] if stated else [image]), stdin=manifest(image, stated) if stated else "")
    trees.fsck(image)
    assert machine_of(image) == agent
    assert support.manifest_of(out)["guest"]["architecture"] == {62: "amd64", 183: "arm64"}[agent]


def manifest(image: Path, architecture: str | None) -> str:
    rootfs = {"path": str(image), "size": image.stat().st_size, "uuid": "u", "label": "", "free_bytes": 1}
    rootfs |= {"free_inodes": 1, "mediaType": "application/vnd.banger.ext4"}
    return json.dumps({"schema": "banger-manifest/1", "image": {"architecture": architecture}, "rootfs": rootfs})


@pytest.mark.parametrize(
    ("stated", "shell", "status", "words"),
    [
        ("amd64", header(183), 65, "are for arm64, and the manifest says amd64"),
        ("arm64", header(62), 65, "are for amd64, and the manifest says arm64"),
        (None, header(22), 69, "for the architecture 's390x'"),
    ],
)
def test_programs_that_no_agent_is_for_are_refused_and_the_image_untouched(
    tmp_path: Path, stated: str | None, shell: bytes, status: int, words: str
) -> None:
    image = image_with(tmp_path, shell)
    before = image.read_bytes()
    done = support.run("bg-inject", *([] if stated else [image]), stdin=manifest(image, stated) if stated else "")
    assert done.returncode == status, done.stderr.decode()
    assert words in done.stderr.decode()
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    ("program", "status", "words"),
    [
        (None, 69, "is not built"),
        (Path(__file__), 65, "is no ELF program"),
        (Path("/bin/ls"), 65, "is not static"),
        (guest.FOLDER / "bin/aarch64/banger-guest", 65, "not for x86_64"),
        (header(62, kind=1), 65, "is an ELF file, but no program"),
        (header(62), 65, "has nothing to load"),
    ],
)
def test_program_that_would_not_run_there_is_refused_and_the_image_untouched(
    tmp_path: Path, program: Path | bytes | None, status: int, words: str
) -> None:
    image = image_with(tmp_path, header(62))
    before = image.read_bytes()
    place = tmp_path / "guest/bin/x86_64/banger-guest"
    place.parent.mkdir(parents=True)
    if isinstance(program, bytes):
        place.write_bytes(program)
    elif program is not None:
        shutil.copy(program, place)
    argv = [sys.executable, "-P", "-c", CODE, image, tmp_path / "guest"]
    done = subprocess.run(argv, capture_output=True, env=support.environment({"PYTHONPATH": str(support.ROOT)}))
    assert done.returncode == status, done.stderr.decode()
    assert words in done.stderr.decode()
    assert image.read_bytes() == before


def test_no_agent_needs_no_program_and_leaves_what_a_run_before_put_in(tmp_path: Path) -> None:
    image = image_with(tmp_path, header(62))
    first = support.run_ok("bg-inject", stdin=manifest(image, "amd64"))
    second = support.manifest_of(support.run_ok("bg-inject", "--no-agent", "--hostname=web", stdin=first))
    assert machine_of(image) == 62
    assert second["guest"]["agent"] == support.manifest_of(first)["guest"]["agent"]
    assert {"/etc/hostname", "/usr/local/bin/banger-vsock-agent"} <= set(second["guest"]["files"])
    (tmp_path / "alone").mkdir()
    alone = image_with(tmp_path / "alone", header(22))
    out = support.manifest_of(support.run_ok("bg-inject", "--no-agent", "--hostname=web", alone))
    assert out["guest"]["agent"] is None
    assert out["history"][-1]["options"] == {"hostname": "web", "no_agent": True}
