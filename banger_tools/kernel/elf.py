"""What an ELF kernel says of itself: architecture, entry, and whether a VMM may start it at its PVH entry."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from banger_tools import errors

ARCHITECTURES = {"EM_X86_64": "amd64", "EM_AARCH64": "arm64"}
XEN_ELFNOTE_PHYS32_ENTRY = 18  # include/xen/interface/elfnote.h: the entry of the PVH boot protocol


class ElfKernel(NamedTuple):
    """Architecture in the words of OCI, the entry's address, and whether there is a PVH note."""

    architecture: str
    entry: int
    pvh: bool


def read(data: bytes) -> ElfKernel:
    """Look at an uncompressed kernel.

    Raises BadInput if it is no 64-bit ELF executable of an architecture that we boot.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(data))
        if elf.elfclass != 64 or elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise errors.BadInput("the kernel is no 64-bit executable")
        machine = elf["e_machine"]
        if machine not in ARCHITECTURES:
            raise errors.BadInput(f"the kernel is for {machine}, and not for x86_64 or aarch64")
        return ElfKernel(ARCHITECTURES[machine], int(elf["e_entry"]), _has_pvh_note(elf))
    except (ELFError, KeyError, ValueError) as error:
        raise errors.BadInput(f"the kernel is no ELF file: {error}") from error


def _has_pvh_note(elf: object) -> bool:
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import NoteSegment

    assert isinstance(elf, ELFFile)
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
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".modinfo")
    except (ELFError, KeyError, ValueError) as error:
        raise errors.BadInput(f"'{path}' is no kernel module: {error}") from error
    if section is None:
        raise errors.BadInput(f"'{path}' is no kernel module: it has no .modinfo")
    found: dict[str, list[str]] = {}
    for line in section.data().decode("utf-8", "replace").split("\0"):
        key, equals, value = line.partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found
