"""Compiles the guest program with the C compiler of the `ziglang` package: `python -m banger_tools.guest.build`.

The result depends on the sources, the flags and the compiler alone; a stamp of these beside each program
tells whether it has to be built again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from banger_tools import __version__, errors
from banger_tools.guest import ARCHITECTURES, FOLDER

SOURCES = FOLDER / "src"
SIZE_LIMIT = 150_000
FLAGS = (
    "-std=gnu11",
    "-D_GNU_SOURCE",
    f'-DGUEST_VERSION="{__version__}"',
    "-static",
    "-Os",
    "-s",
    "-ffunction-sections",
    "-fdata-sections",
    "-Wl,--gc-sections",
    "-fno-unwind-tables",  # a seventh of the program, and nothing reads them
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wmissing-prototypes",
    "-Wvla",
)


def compiler() -> list[str]:
    """Return the words that begin a command of the compiler.

    Raises Unavailable if `ziglang` is not installed.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise errors.Unavailable(
            "the Python package 'ziglang', which holds the C compiler, is not installed", "make setup"
        )
    return [sys.executable, "-m", "ziglang"]


def compiler_version() -> str:
    """Return the compiler's version."""
    done = subprocess.run([*compiler(), "version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise errors.Unavailable("the compiler of the Python package 'ziglang' does not run")
    return done.stdout.strip()


def stamp(version: str) -> str:
    """Return what a build is made of, as one line."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        data = path.read_bytes()
        digest.update(f"{path.name} {len(data)}\n".encode() + data)
    digest.update("\n".join([version, *FLAGS]).encode())
    return f"sha256:{digest.hexdigest()}\n"


def build(arch: str, output: Path, wanted: str) -> bool:
    """Compile the program for one architecture into `output`; return False if it was up to date.

    Raises Unavailable if the compiler fails (it has said why), BadInput if the program came out too large.
    """
    program, mark = output / arch / "banger-guest", output / arch / "stamp"
    if program.is_file() and mark.is_file() and mark.read_text() == wanted:
        return False
    program.parent.mkdir(parents=True, exist_ok=True)
    temporary = program.with_name(f".banger-guest.{os.getpid()}.tmp")
    try:
        _compile(arch, temporary)
        _check_size(temporary)
        temporary.chmod(0o755)
        temporary.replace(program)
    finally:
        temporary.unlink(missing_ok=True)
    mark.write_text(wanted)
    return True


def _compile(arch: str, target: Path) -> None:
    # relative names and the sources' own folder: no path of this machine can get into the program
    sources = sorted(path.name for path in SOURCES.glob("*.c"))
    command = [*compiler(), "cc", "-target", f"{arch}-linux-musl", *FLAGS, "-o", str(target.resolve()), *sources]
    if subprocess.run(command, cwd=SOURCES, check=False).returncode != 0:
        raise errors.Unavailable(f"cannot compile the guest program for '{arch}'")


def _check_size(program: Path) -> None:
    size = program.stat().st_size
    if size > SIZE_LIMIT:
        raise errors.BadInput(f"the guest program came out at {size} bytes, more than {SIZE_LIMIT}")


def main(argv: Sequence[str] | None = None) -> int:
    """Build the program for every architecture."""
    parser = argparse.ArgumentParser(prog="banger_tools.guest.build", description="Compile the guest program.")
    parser.add_argument("--output", type=Path, default=FOLDER / "bin", help="folder for the programs")
    options = parser.parse_args(argv)
    try:
        wanted = stamp(compiler_version())
        for arch in ARCHITECTURES:
            built = build(arch, options.output, wanted)
            sys.stderr.write(f"guest: {arch} {'built' if built else 'is up to date'}\n")
    except errors.BangerError as error:
        sys.stderr.write(f"guest: error: {error.message}\n" + (f"guest: hint: {error.hint}\n" if error.hint else ""))
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
