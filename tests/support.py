"""What tests share: running the programs as a user does, and saying that this machine cannot run a test."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / "bin"
PROGRAMS = (
    "bg-fetch",
    "bg-flatten",
    "bg-mkext4",
    "bg-chown",
    "bg-inject",
    "bg-seed",
    "bg-publish",
    "bg-boot",
    "banger",
)
STAGES = PROGRAMS[:-1]
USER = "banger-test"


def cannot(reason: str) -> NoReturn:
    """Skip a test that this machine cannot run; fail it instead where BANGER_TEST_REQUIRE_ALL says that it must."""
    if os.environ.get("BANGER_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"BANGER_TEST_REQUIRE_ALL=1, and this machine cannot run the test: {reason}", pytrace=False)
    pytest.skip(reason)


def need(*programs: str) -> None:
    """Go on only if these programs are installed."""
    missing = [name for name in programs if not shutil.which(name, path=search_path())]
    if missing:
        cannot(f"not installed: {', '.join(missing)}")


def need_root() -> None:
    """Go on only as root."""
    if os.geteuid() != 0:
        cannot("needs root")


def search_path() -> str:
    """Return PATH with the folders where Debian keeps the administrator's programs."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def argv(program: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """Return the command line of one of the programs, or of any other that is found in PATH."""
    launcher = BIN / program
    return [str(launcher) if launcher.exists() else program, *map(os.fspath, arguments)]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment without what would change how the programs speak, and with `extra`."""
    ours = ("NO_COLOR", "SOURCE_DATE_EPOCH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return {**kept, "PATH": search_path(), **(extra or {})}


def run(
    program: str,
    *arguments: str | os.PathLike[str],
    stdin: bytes | str = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[bytes]:
    """Run one of the programs by its launcher to its end; stdin is a pipe that holds `stdin`."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    return subprocess.run(
        argv(program, *arguments), input=data, capture_output=True, env=environment(env), cwd=cwd, timeout=timeout
    )


def run_ok(
    program: str,
    *arguments: str | os.PathLike[str],
    stdin: bytes | str = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 300,
) -> bytes:
    """Run a program that must succeed, and return its stdout; its stderr is shown when it does not."""
    done = run(program, *arguments, stdin=stdin, env=env, cwd=cwd, timeout=timeout)
    assert done.returncode == 0, f"{program} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')}"
    return done.stdout


@contextlib.contextmanager
def tmpfs(where: Path, options: str = "rw") -> Iterator[Path]:
    """Mount a filesystem in memory, for as long as the body runs; needs root."""
    need_root()
    where.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


def manifest_of(stdout: bytes) -> dict[str, Any]:
    """Return the manifest that a program printed."""
    value = json.loads(stdout)
    assert isinstance(value, dict)
    return value


def leftovers(folder: Path) -> list[str]:
    """Return the temporary files and folders that a program left anywhere below `folder`."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(".tmp"))


class OrdinaryUser:
    """A user who is not root: ourselves, or a system user that root runs programs as."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.home = home
        self.bin = BIN

    def at(self, home: Path) -> OrdinaryUser:
        """Return the same user with another home."""
        found = OrdinaryUser(self.name, home)
        found.bin = self.bin
        return found

    def argv(self, program: str, *arguments: str | os.PathLike[str]) -> list[str]:
        """Return the command line that runs a program as this user."""
        launcher = self.bin / program
        words = [str(launcher) if (BIN / program).exists() else program, *map(os.fspath, arguments)]
        if os.geteuid() != 0:
            return words
        return ["setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups", "--", *words]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return this user's environment: a home of their own and no folder of root's."""
        kept = {key: value for key, value in environment().items() if not key.startswith(("XDG_", "BANGER_HOME"))}
        return {**kept, "HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, **(extra or {})}

    def run(
        self,
        program: str,
        *arguments: str | os.PathLike[str],
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program as this user, in their home."""
        command, settings = self.argv(program, *arguments), self.environment(env)
        return subprocess.run(command, input=stdin, capture_output=True, env=settings, cwd=self.home, timeout=timeout)


def ordinary_user(home: Path) -> OrdinaryUser:
    """Return a user who is not root and may use user namespaces, made if need be; `home` becomes theirs."""
    if os.geteuid() != 0:
        return OrdinaryUser(pwd.getpwuid(os.geteuid()).pw_name, home)
    need("setpriv", "useradd")
    with _users_locked():
        _make_user()
    found = OrdinaryUser(USER, home)
    give(home, found)
    return found


@contextlib.contextmanager
def _users_locked() -> Iterator[None]:
    """Keep other processes of tests from changing the users of this machine: useradd does not wait for another one."""
    folder = os.open("/etc", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _make_user() -> None:
    """Make the user, and their subordinate ids, if they are not there."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--user-group", "--no-create-home", USER], check=True, env=environment())
    if not any(line.startswith(f"{USER}:") for line in Path("/etc/subuid").read_text().splitlines()):
        ranges = ["--add-subuids", "400000-465535", "--add-subgids", "400000-465535"]
        subprocess.run(["usermod", *ranges, USER], check=True, env=environment())


def give(folder: Path, user: OrdinaryUser) -> None:
    """Make a folder that we made the user's own."""
    if os.geteuid() == 0:
        shutil.chown(folder, user.name, user.name)


def let_run(user: OrdinaryUser, copy: Path) -> None:
    """Make sure that the user can run the programs: from this checkout, or from a copy where it is private."""
    if user.run("bg-fetch", "--version").returncode == 0:
        return
    skipped = shutil.ignore_patterns("__pycache__", "ziglang*", "mypy*", "ruff*", "hypothesis*")
    for name in ("bin", "banger_tools", ".venv"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skipped)
    user.bin = copy / "bin"
    done = user.run("bg-fetch", "--version")
    if done.returncode != 0:
        cannot(f"'{user.name}' cannot run the programs: {done.stderr.decode(errors='replace')[-300:]}")
