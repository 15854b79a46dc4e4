"""A wheel, built as pip builds it: complete, working in an environment of its own, and gone when uninstalled."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from banger_tools import __version__
from tests.support import PROGRAMS, ROOT, cannot, environment

pytestmark = pytest.mark.slow
PARTS = ("banger_tools", "build_backend", "man", "completions")
NETWORK = re.compile(r"Could not find a version|Failed to establish|Temporary failure|Connection")


def python(folder: Path) -> str:
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources; the guest program is compiled if this checkout's is out of date."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for part in PARTS:
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode != 0 and NETWORK.search(done.stderr):
        cannot(f"pip cannot get what builds the wheel: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; the packages that it needs are those of this Python."""
    folder = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python(folder), "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    (own,) = (folder / "lib").glob("python*/site-packages")
    (own / "needed.pth").write_text(site + "\n")
    return folder


def test_wheel_has_the_guest_program_of_both_architectures_the_pages_and_the_completions(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for architecture in ("x86_64", "aarch64"):
        assert f"banger_tools/guest/bin/{architecture}/banger-guest" in names
    pages = ("man1/bg-fetch.1", "man5/banger-manifest.5", "man5/banger-catalog.5", "man7/banger-agent.7")
    for end in (*pages, "_banger", "banger.bash", "banger.fish"):
        assert any(name.endswith(f"/{end}") for name in names), end
    assert "banger_tools/py.typed" in names
    assert "banger_tools/catalog/embedded.json" in names
    assert not [name for name in names if name.startswith(("tests", "build_backend"))]


@pytest.mark.parametrize("program", PROGRAMS)
def test_installed_program_runs(installed: Path, program: str) -> None:
    done = subprocess.run([installed / "bin" / program, "--version"], capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n"), done.stderr


def test_installed_driver_runs_the_installed_programs(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    subprocess.run(["tar", "-cf", tmp_path / "root.tar", "-C", tmp_path / "root", "."], check=True)
    env = environment({"BANGER_HOME": str(tmp_path / "home")})
    command = [installed / "bin" / "banger", "build", "--to=seed", f"rootfs:{tmp_path}/root.tar"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert '"guest"' in done.stdout


def test_uninstalling_leaves_nothing(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    before = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts}
    pip = [python(tmp_path), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    subprocess.run([tmp_path / "bin" / "bg-fetch", "--help"], capture_output=True)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", "banger-tools"], check=True)
    after = {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts and path.is_file()}
    assert sorted(after - before) == []
