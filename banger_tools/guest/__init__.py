"""The guest program: one static binary that is init and agent in every machine, and the files that go with it.

Its sources are in `src/`, what `bg-inject` writes beside it in `files/`; `build` compiles it for every
architecture into `bin/`, and wheels carry the result.

The guest config that the program reads is JSON on a small raw disk, padded with newlines to whole blocks of
4096 bytes, and begins exactly with `{"schema": "banger-guest/1"`. All other keys are optional:

    hostname  disks {root, type, read_only, grow, work}  network {address, gateway, dns}  time (seconds since 1970)
    init (auto, image or banger)  run  argv  env  user  cwd  power (off or reboot)  ssh_keys
    git {name, email}  token (what clients of the agent have to say first)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from banger_tools import errors

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

ARCHITECTURES = ("x86_64", "aarch64")
CONFIG_SCHEMA = "banger-guest/1"
FOLDER = Path(__file__).resolve().parent
FILES = FOLDER / "files"

# The names of an image's config, and of ELF headers
_KERNEL_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}
_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}


def architecture(name: str) -> str:
    """Return the kernel's name of an architecture (`x86_64`) for its name there or in OCI images (`amd64`).

    Raises Unavailable for one that the guest program is not made for.
    """
    kernel_name = _KERNEL_NAMES.get(name, name)
    if kernel_name not in ARCHITECTURES:
        raise errors.Unavailable(f"there is no guest program for the architecture '{name}'")
    return kernel_name


def program(arch: str) -> Path:
    """Return the path of the guest program for an architecture.

    Raises Unavailable if it was not built.
    """
    path = FOLDER / "bin" / architecture(arch) / "banger-guest"
    if not path.is_file():
        raise errors.Unavailable(f"the guest program for '{arch}' is not built", "make setup")
    return path


def check_program(path: Path, arch: str) -> None:
    """Check that a file is a static ELF program for an architecture.

    Raises BadInput saying what it is instead, NoInput or Denied if it cannot be read.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            _check_machine(path, elf, architecture(arch))
            _check_static(path, elf)
    except (ELFError, ValueError, EOFError, AssertionError) as error:
        raise errors.BadInput(f"'{path}' is no ELF program") from error
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error


def _check_machine(path: Path, elf: ELFFile, arch: str) -> None:
    header = elf.header
    if header["e_type"] not in ("ET_EXEC", "ET_DYN"):
        raise errors.BadInput(f"'{path}' is an ELF file, but no program")
    if header["e_machine"] != _MACHINES[arch] or elf.elfclass != 64:
        found = str(header["e_machine"]).removeprefix("EM_").lower()
        raise errors.BadInput(f"'{path}' is a program for {found}, not for {arch}")


def _check_static(path: Path, elf: ELFFile) -> None:
    """Raise BadInput unless a program needs nothing of the image: no interpreter, no libraries."""
    from elftools.elf.dynamic import DynamicSegment

    segments = list(elf.iter_segments())
    needed = [
        tag for segment in segments if isinstance(segment, DynamicSegment) for tag in segment.iter_tags("DT_NEEDED")
    ]
    if needed or any(segment["p_type"] == "PT_INTERP" for segment in segments):
        raise errors.BadInput(f"'{path}' is not static: it needs libraries that the image may not have")
    if not any(segment["p_type"] == "PT_LOAD" for segment in segments):
        raise errors.BadInput(f"'{path}' has nothing to load")
