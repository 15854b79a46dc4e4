"""The build of the guest program, and the check that a program must pass before it goes into an image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from banger_tools import agent, errors, guest
from banger_tools.guest import build
from tests import support


def built(arch: str) -> Path:
    try:
        return guest.program(arch)
    except errors.Unavailable as error:
        support.cannot(error.message)


@pytest.mark.parametrize("arch", guest.ARCHITECTURES)
def test_program_is_static_small_and_for_its_machine(arch: str) -> None:
    path = built(arch)
    guest.check_program(path, arch)
    assert path.stat().st_size < 150_000
    header = subprocess.run(["readelf", "-hld", path], capture_output=True, text=True, check=True).stdout
    assert {"x86_64": "X86-64", "aarch64": "AArch64"}[arch] in header
    assert "INTERP" not in header and "NEEDED" not in header


def test_no_path_of_the_build_machine_is_in_the_program() -> None:
    for arch in guest.ARCHITECTURES:
        assert str(guest.FOLDER).encode() not in built(arch).read_bytes()


def test_names_of_oci_and_of_the_kernel_are_the_same_program() -> None:
    built("x86_64")
    assert guest.program("amd64") == guest.program("x86_64")
    assert guest.program("arm64") == guest.program("aarch64")
    with pytest.raises(errors.Unavailable, match="riscv64"):
        guest.program("riscv64")


def test_missing_program_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "FOLDER", tmp_path)
    with pytest.raises(errors.Unavailable) as caught:
        guest.program("x86_64")
    assert caught.value.hint == "make setup"


def test_program_of_another_machine_is_refused() -> None:
    with pytest.raises(errors.BadInput, match="is a program for aarch64, not for x86_64"):
        guest.check_program(built("aarch64"), "amd64")


def test_program_that_needs_libraries_is_refused() -> None:
    arch = os.uname().machine
    shared = Path("/bin/true")
    if arch not in guest.ARCHITECTURES or b"ld-linux" not in shared.read_bytes():
        support.cannot("/bin/true is not a dynamic program of a known machine")
    with pytest.raises(errors.BadInput, match="is not static"):
        guest.check_program(shared, arch)


@pytest.mark.parametrize(
    "data", [b"", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(40), b"\x7fELF" + b"\xff" * 200]
)
def test_what_is_no_program_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "program"
    path.write_bytes(data)
    with pytest.raises(errors.BadInput):
        guest.check_program(path, "x86_64")


def test_program_that_is_not_there_is_missing_input(tmp_path: Path) -> None:
    with pytest.raises(errors.NoInput):
        guest.check_program(tmp_path / "none", "x86_64")


def test_cut_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(built("x86_64").read_bytes()[:100])
    with pytest.raises(errors.BadInput):
        guest.check_program(path, "x86_64")


def test_unchanged_sources_are_not_compiled_again(tmp_path: Path) -> None:
    for arch in guest.ARCHITECTURES:
        (tmp_path / arch).mkdir()
        shutil.copy(built(arch), tmp_path / arch / "banger-guest")
        (tmp_path / arch / "stamp").write_text(build.stamp(compiler_version()))
    before = (tmp_path / "x86_64" / "banger-guest").stat()
    command = [sys.executable, "-m", "banger_tools.guest.build", "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=support.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "" and done.stderr.count("is up to date") == 2
    assert (tmp_path / "x86_64" / "banger-guest").stat().st_mtime_ns == before.st_mtime_ns


def compiler_version() -> str:
    try:
        return build.compiler_version()
    except errors.Unavailable as error:
        support.cannot(error.message)


def test_stamp_follows_sources_and_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / "a.c").write_text("int a;")
    first = build.stamp("1")
    assert first == build.stamp("1") and first != build.stamp("2")
    (tmp_path / "a.c").write_text("int b;")
    assert build.stamp("1") != first


def test_source_that_does_not_compile_leaves_the_old_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler_version()
    sources, output = tmp_path / "src", tmp_path / "bin"
    sources.mkdir()
    (sources / "main.c").write_text("int main(void) { return }\n")
    (output / "x86_64").mkdir(parents=True)
    (output / "x86_64" / "banger-guest").write_bytes(b"old")
    monkeypatch.setattr(build, "SOURCES", sources)
    with pytest.raises(errors.Unavailable, match="cannot compile"):
        build.build("x86_64", output, "new")
    assert [path.name for path in (output / "x86_64").iterdir()] == ["banger-guest"]
    assert (output / "x86_64" / "banger-guest").read_bytes() == b"old"


@pytest.mark.slow
def test_program_is_the_same_whatever_folder_and_cache_it_is_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler_version()
    sources = tmp_path / "elsewhere" / "src"
    shutil.copytree(build.SOURCES, sources)
    monkeypatch.setattr(build, "SOURCES", sources)
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(tmp_path / "cache"))
    assert build.build("x86_64", tmp_path / "bin", "again")
    assert (tmp_path / "bin" / "x86_64" / "banger-guest").read_bytes() == built("x86_64").read_bytes()


def test_both_sides_have_one_port_and_one_schema() -> None:
    header = (guest.FOLDER / "src" / "guest.h").read_text()
    match = re.search(r"#define AGENT_PORT (\d+)", header)
    assert match and int(match[1]) == agent.AGENT_PORT
    assert f'#define CONFIG_SCHEMA "{{\\"schema\\": \\"{guest.CONFIG_SCHEMA}\\""' in header
