"""What an ELF kernel says of itself: architecture, entry, and whether a VMM may start it at its PVH entry."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import errors

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

ARCHITECTURES = {"EM_X86_64": "amd64", "EM_AARCH64": "arm64"}
XEN_ELFNOTE_PHYS32_ENTRY = 18  # include/xen/interface/elfnote.h: the entry of the PVH boot protocol


class ElfKernel(NamedTuple):
    """Architecture in the words of OCI, the entry's address, and whether there is a PVH note."""

    architecture: str
    entry: int
    pvh: bool


def read(data: bytes) -> ElfKernel:
    """Look at an uncompressed kernel.

    Raises BadInput if it is no 64-bit ELF executable of an architecture that we boot, or not whole.
    """
    with _opened(data, "the kernel is no ELF file") as elf:
        if elf["e_type"] == "ET_REL":
            raise errors.BadInput("this is a kernel module or another object file, and no kernel")
        if elf.elfclass != 64 or elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise errors.BadInput("the kernel is no 64-bit executable")
        machine = elf["e_machine"]
        if machine not in ARCHITECTURES:
            raise errors.BadInput(f"the kernel is for {machine}, and not for x86_64 or aarch64")
        if any(segment["p_offset"] + segment["p_filesz"] > len(data) for segment in elf.iter_segments()):
            raise errors.BadInput("the kernel is cut short: a segment ends outside of the file")
        return ElfKernel(ARCHITECTURES[machine], int(elf["e_entry"]), _has_pvh_note(elf))


@contextlib.contextmanager
def _opened(data: bytes, what: str) -> Iterator[ELFFile]:
    """Yield an ELF file to read; whatever pyelftools stumbles over in it is BadInput, which begins with `what`."""
    from elftools.elf.elffile import ELFFile

    try:
        yield ELFFile(io.BytesIO(data))
    except errors.BangerError:
        raise
    except Exception as error:  # on hostile bytes it raises far more than the errors of its own
        raise errors.BadInput(f"{what}: {error or type(error).__name__}") from error


def _has_pvh_note(elf: ELFFile) -> bool:
    from elftools.elf.segments import NoteSegment

    return any(
        note["n_name"] == "Xen" and note["n_type"] in (XEN_ELFNOTE_PHYS32_ENTRY, "XEN_ELFNOTE_PHYS32_ENTRY")
        for segment in elf.iter_segments()
        if isinstance(segment, NoteSegment)
        for note in segment.iter_notes()
    )


def module_info(path: Path, data: bytes) -> dict[str, list[str]]:
    """Return the `.modinfo` of a kernel module: each key with its values, as `depends` and `vermagic`.

    Raises BadInput if it is no module.
    """
    what = f"'{path}' is no kernel module"
    with _opened(data, what) as elf:
        section = elf.get_section_by_name(".modinfo")
        if section is None:
            raise errors.BadInput(f"{what}: it has no .modinfo")
        text = section.data().decode("utf-8", "replace")
    found: dict[str, list[str]] = {}
    for line in text.split("\0"):
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found
