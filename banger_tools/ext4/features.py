"""The features of the filesystems that we make: the usual ones, which may be added or left out, and why others not.

The names are those of mke2fs -O; ext4(5) says what each one means.
"""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools import errors

USUAL = (
    "has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super",
    "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum",
)  # fmt: skip
# They allow the kernel more, and change nothing of what we write.
ADDABLE = ("ea_inode", "fast_commit", "large_dir", "metadata_csum_seed", "verity")
REMOVABLE = ("has_journal", "resize_inode", "64bit", "flex_bg", "metadata_csum")

_UNKNOWN_HERE = "the programs that edit images do not know it"
_REFUSED = {
    "bigalloc": _UNKNOWN_HERE,
    "casefold": _UNKNOWN_HERE,
    "encrypt": _UNKNOWN_HERE,
    "inline_data": "files and folders would have to be written into their inodes",
    "journal_dev": "it makes a journal, not a filesystem",
    "meta_bg": "the descriptors would stand elsewhere than they are written",
    "mmp": _UNKNOWN_HERE,
    "orphan_file": "it takes an inode that is given to a file of the tree",
    "project": "a kernel without quotas would not mount it",
    "quota": "the usage of each owner would have to be counted",
    "sparse_super2": "the copies of the superblock would stand elsewhere than they are written",
    "stable_inodes": "the filesystem could not be made smaller",
    "uninit_bg": "metadata_csum does the same and more",
}
_NEEDS = {"fast_commit": "has_journal", "metadata_csum_seed": "metadata_csum"}
_OTHER_NAMES = {"extents": "extent", "gdt_csum": "uninit_bg", "largedir": "large_dir"}


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """Return the usual features changed by words as mke2fs -O takes them: a name adds, ^name leaves out.

    Raises BadUsage naming a word that is unknown, refused, or does not go with another.
    """
    found = dict.fromkeys(USUAL)
    for word in words:
        name = word.removeprefix("^")
        name = _OTHER_NAMES.get(name, name)
        if f"^{name}" in words and name in words:
            raise errors.BadUsage(f"--features: '{name}' is both asked for and left out")
        if word.startswith("^"):
            _check_removal(name)
            found.pop(name, None)
        else:
            _check_addition(name)
            found[name] = None
    for name, needed in _NEEDS.items():
        if name in found and needed not in found:
            raise errors.BadUsage(f"--features: '{name}' needs {needed}, which is left out")
    return tuple(found)


def _check_addition(name: str) -> None:
    if name not in USUAL and name not in ADDABLE:
        raise _refusal(name)


def _check_removal(name: str) -> None:
    if name in USUAL and name not in REMOVABLE:
        raise errors.BadUsage(f"--features: '{name}' cannot be left out: what is written relies on it")
    if name not in REMOVABLE and name not in ADDABLE and name not in _REFUSED:
        raise _refusal(name)


def _refusal(name: str) -> errors.BadUsage:
    if name in _REFUSED:
        return errors.BadUsage(f"--features: '{name}' is not supported: {_REFUSED[name]}")
    return errors.BadUsage(
        f"--features: '{name}' is not a feature of ext4 that is known here",
        f"these may be added: {', '.join(ADDABLE)}; these left out: {', '.join('^' + name for name in REMOVABLE)}",
    )
