"""Completions for bash, zsh and fish, out of the same docstrings as `--help` and the manual pages.

Here is what may stand where: read off the text of an option (`auto, always, never or json`), off the name of its value,
and off the usage. The three modules beside put it into the words of their shells. The shells look up the names of
images, kernels and machines themselves, as folders of the store: a start of Python at each TAB would be felt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from banger_tools import docs

FOLDERS = {"DIR"}
PATHS = {"FILE", "PATH", "INPUT", "REF", "ROOTFS", "TREE"}
STORE = {"image": "images", "kernel": "kernels", "vm": "vms"}  # kinds of names, and their folders in the store
NOTICE = "# Written by `make docs`; edit the program's docstring instead."

_WORDS = re.compile(r"(?:: |^|\()((?:[a-z0-9-]+, )*[a-z0-9-]+ or [a-z0-9-]+)\b")
_POSITIONAL = re.compile(r"\[?([A-Z][A-Z_]*)\]?(\.\.\.)?")


class Value(NamedTuple):
    """What may stand for a value: folders, files, names of the store or of machines' files, certain words, or anything.

    `words` may stand there besides what the kind says.
    """

    kind: str
    words: tuple[str, ...] = ()


class Places(NamedTuple):
    """What the arguments of a program may be, in their order; `endless` if the last may be repeated."""

    values: tuple[Value, ...]
    endless: bool


ANY = Value("any")


def value_of(option: docs.Option) -> Value:
    """Return what may stand for an option's value."""
    if option.value in FOLDERS:
        return Value("folder")
    if option.long == "--kernel-ref":
        return Value("kernel", catalog_names("kernels"))
    if option.value == "IMAGE":
        return Value("image", catalog_names("images"))
    if option.value == "NAME" and option.long in ("--image", "--connect"):
        return Value("image" if option.long == "--image" else "vm")
    if option.value in PATHS:
        return Value("file")
    return _told(option.text)


def _told(text: str) -> Value:
    match = _WORDS.search(text)
    return Value("words", tuple(re.split(r", | or ", match[1]))) if match else ANY


def catalog_names(part: str) -> tuple[str, ...]:
    """Return the names in the catalog that comes with banger, each once: its `images` or its `kernels`."""
    from banger_tools.catalog import origins

    return tuple(dict.fromkeys(entry.name for entry in getattr(origins.embedded(), part)))


def places(manual: docs.Manual) -> Places:
    """Return what the arguments of a program may be."""
    words = [word for word in manual.synopsis[0].removeprefix(manual.name).split() if _POSITIONAL.fullmatch(word)]
    values = tuple(_argument(manual, match[1]) for word in words if (match := _POSITIONAL.fullmatch(word)))
    return Places(values, bool(words) and words[-1].endswith("..."))


def _argument(manual: docs.Manual, word: str) -> Value:
    group = manual.name.split()[1] if " " in manual.name else ""
    if word in ("NAME", "OLD"):
        return Value(group) if group in STORE else ANY
    if word == "REF" and group in STORE:
        return Value("file", catalog_names(STORE[group]))
    if word == "PATH" and group == "vm":
        return Value("remote")
    if word in PATHS:
        return Value("file")
    texts = re.findall(rf"^  {word}  +(\S.*)$", manual.sections.get("Arguments", ""), re.MULTILINE)
    return _told(texts[0]) if texts else ANY


def spellings(option: docs.Option) -> list[str]:
    """Return the ways to spell an option."""
    return [spelling for spelling in (option.short, option.long) if spelling]


def programs(manuals: Mapping[str, docs.Manual]) -> list[str]:
    """Return the names of the programs: those of one word."""
    return [name for name in manuals if " " not in name]


def commands(manuals: Mapping[str, docs.Manual]) -> Iterator[tuple[str, str]]:
    """Yield the driver's commands, each with its first line in the manual."""
    yield from docs.commands(manuals["banger"]).items()


def files(manuals: Mapping[str, docs.Manual]) -> dict[str, str]:
    """Return the completion files by their path in a checkout."""
    from banger_tools.completions import bash, fish, zsh

    return {
        **{f"completions/{name}": text for name, text in bash.files(manuals).items()},
        "completions/_banger": zsh.script(manuals),
        "completions/banger.fish": fish.script(manuals),
    }
