"""Installing: wheel, source distribution, editable, pipx; complete, working, gone when uninstalled."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from banger_tools import __version__
from tests.support import PROGRAMS, ROOT, cannot, environment, need, search_path

pytestmark = pytest.mark.slow
PARTS = ("banger_tools", "build_backend", "man", "completions")
NETWORK = re.compile(r"Could not find a version|Failed to establish|Temporary failure|Connection")


def python(folder: Path) -> str:
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, with the guest program as this checkout has it."""
    folder = tmp_path_factory.mktemp("source") / "banger"
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    script = f"import sys; sys.path.insert(0, 'build_backend'); import backend; backend.build_sdist({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=source, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources; the guest program is compiled if this checkout's is out of date."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode != 0 and NETWORK.search(done.stderr):
        cannot(f"pip cannot get what builds the wheel: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def with_our_packages(folder: Path) -> Path:
    """Make a virtual environment in which the packages that we need are those of this Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    (own,) = (folder / "lib").glob("python*/site-packages")
    (own / "needed.pth").write_text(site + "\n")
    return folder


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; the packages that it needs are those of this Python."""
    folder = with_our_packages(tmp_path_factory.mktemp("venv"))
    subprocess.run([python(folder), "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    return folder


def test_wheel_has_the_guest_program_of_both_architectures_the_pages_and_the_completions(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for architecture in ("x86_64", "aarch64"):
        assert f"banger_tools/guest/bin/{architecture}/banger-guest" in names
    pages = [f"man{path.suffix[1:]}/{path.name}" for path in (ROOT / "man").iterdir()]
    for end in (*pages, *(path.name for path in (ROOT / "completions").iterdir())):
        assert any(name.endswith(f"/{end}") for name in names), end
    assert "banger_tools/py.typed" in names
    assert "banger_tools/catalog/embedded.json" in names
    assert not [name for name in names if name.startswith(("tests", "build_backend"))]


def test_source_distribution_has_all_that_the_wheel_is_made_of(wheel: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    built = re.compile(r"banger_tools/guest/bin/|banger_tools-[^/]*\.(dist-info|data)/")
    wanted = {name for name in zipfile.ZipFile(wheel).namelist() if not built.match(name)}
    wanted |= {str(path.relative_to(ROOT)) for part in ("man", "completions") for path in (ROOT / part).iterdir()}
    wanted |= {"setup.cfg", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "build_backend/backend.py"}
    assert wanted <= names
    assert not [name for name in names if name.startswith("banger_tools/guest/bin/")]  # compiled where it is built


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


def readme_line() -> str:
    """Return the line of the README that lets man and bash find what is in an environment."""
    (line,) = re.findall(r"^share=.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return str(line)


def found_by_a_shell(binaries: Path, home: Path) -> list[str]:
    """Return the pages that man finds and what bash completes with, after the README's line."""
    need("man", "bash")
    script = f"{readme_line()}\nman -w 1 bg-fetch 5 banger-tree 7 banger-pipeline 1 banger-vm-run"
    script += "\ncomplete -p bg-seed banger"
    path = f"{binaries}:{search_path()}"
    env = {key: value for key, value in environment({"PATH": path, "HOME": str(home)}).items() if key != "MANPATH"}
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, env=env, cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_line_of_the_readme_lets_man_and_bash_find_what_is_in_an_environment(installed: Path, tmp_path: Path) -> None:
    *pages, seed, driver = found_by_a_shell(installed / "bin", tmp_path)
    names = ("bg-fetch.1", "banger-tree.5", "banger-pipeline.7", "banger-vm-run.1")
    assert [Path(page).name for page in pages] == list(names)
    assert all(Path(page).resolve().is_relative_to(installed.resolve()) for page in pages)
    assert (seed, driver) == ("complete -F _banger bg-seed", "complete -F _banger banger")


def test_editable_install_runs_the_sources_and_goes_without_a_trace(source: Path, tmp_path: Path) -> None:
    folder = with_our_packages(tmp_path / "venv")
    flags = ["--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [python(folder), "-m", "pip", "install", *flags, "--editable", source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run([folder / "bin" / "bg-fetch", "--help"], capture_output=True, text=True, cwd="/")
    assert shown.stdout.startswith("bg-fetch: "), shown.stderr
    where = [python(folder), "-c", "import banger_tools; print(banger_tools.__file__)"]
    assert subprocess.check_output(where, text=True, cwd="/").startswith(str(source))
    subprocess.run([python(folder), "-m", "pip", "uninstall", "--quiet", "--yes", "banger-tools"], check=True)
    assert not list(folder.rglob("*banger*"))


def test_pipx_installs_it_and_takes_it_away(wheel: Path, tmp_path: Path) -> None:
    need("pipx")
    home = {"HOME": str(tmp_path), "PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    env = environment({**home, "USE_EMOJI": "0", "PIP_CACHE_DIR": pip_cache()})
    done = subprocess.run(["pipx", "install", wheel], capture_output=True, text=True, env=env)
    if done.returncode != 0 and NETWORK.search(done.stderr):
        cannot(f"pipx cannot get the packages that we need: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    version = subprocess.run([tmp_path / "bin" / "bg-mkext4", "--version"], capture_output=True, text=True, env=env)
    assert version.stdout == f"bg-mkext4 {__version__}\n", version.stderr
    (tmp_path / "root").mkdir()
    made = subprocess.run(
        [tmp_path / "bin" / "bg-mkext4", "--path", "root"], capture_output=True, env=env, cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert found_by_a_shell(tmp_path / "bin", tmp_path)[-1] == "complete -F _banger banger"
    subprocess.run(["pipx", "uninstall", "banger-tools"], capture_output=True, check=True, env=env)
    assert list((tmp_path / "bin").iterdir()) == []
    assert not [path for path in (tmp_path / "pipx").rglob("*") if re.search("banger|^bg-", path.name)]


def pip_cache() -> str:
    """Return pip's folder of what it has downloaded before: the home is another one here."""
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
