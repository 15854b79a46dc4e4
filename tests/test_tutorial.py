"""banger-pipeline(7) as a new user goes through it: every command typed in a bash, and what it says compared."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from banger_tools.pages import pipeline
from tests import support, tutorials

pytestmark = pytest.mark.boot
TEXT = pipeline.__doc__ or ""


class Typed(NamedTuple):
    """A command of the page, the lines that it shows below it, and what the shell said and returned."""

    command: str
    shown: list[str]
    said: list[str]
    status: int


def written() -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of the page and the lines shown below each."""
    for paragraph in re.findall(r"(?:^    .*\n)+", TEXT, re.MULTILINE):
        for part in re.split(r"^    \$ ", paragraph, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, [line.removeprefix("    ") for line in shown]


def makefile() -> str:
    """Return the page's Makefile."""
    (found,) = re.findall(r"(?:^    [^$\n].*\n)*^    REF = (?:.*\n)(?:^    .*\n)+", TEXT, re.MULTILINE)
    return re.sub("^    ", "", str(found), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def typed(bootable_home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Typed]:
    """All commands of the page, typed one after the other into one shell; each leaves its status to the next."""
    support.need("jq", "make", "e2fsck", "debugfs", "tar")
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "Makefile").write_text(makefile())
    lines = ["exec 2>&1; set +e; unset MAKEFLAGS MAKELEVEL"]
    for number, (command, _) in enumerate(written()):
        copied = f"cp '{folder}/Makefile' .; " if command == "make -s all" else ""
        lines.append(f"{copied}(exit $last); {command}\nlast=$?; printf '\\n\\001{number} %s\\n' $last")
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(bootable_home / "cache")  # the packages of the kernel
    with tutorials.hub(tmp_path_factory.mktemp("hub"), home):
        done = tutorials.shell("\n".join(lines), folder, home)
    parts = re.split(r"\n\x01\d+ (\d+)\n", done.stdout)
    said = [(lines_of(text), int(status)) for text, status in zip(parts[::2], parts[1::2], strict=False)]
    assert len(said) == len(list(written())), done.stdout
    return [Typed(*one, *answer) for one, answer in zip(written(), said, strict=True)]


def lines_of(said: str) -> list[str]:
    """Return the lines of what was said, without what debugfs says of itself each time."""
    return [line for line in said.strip("\n").splitlines() if not line.startswith("debugfs 1.")]


def matches(shown: list[str], said: list[str]) -> bool:
    patterns = [line.replace("[", "[[]").replace("...", "*") for line in shown]
    if shown and shown[-1].endswith(": ..."):  # any number of such lines
        return all(fnmatch.fnmatchcase(line, patterns[-1]) for line in said)
    return len(shown) == len(said) and all(map(fnmatch.fnmatchcase, said, patterns))


def test_every_command_says_what_the_page_shows(typed: list[Typed]) -> None:
    wrong = [one for one in typed if one.shown and not matches(one.shown, one.said)]
    assert wrong == [], "\n".join(map(str, wrong))


def test_every_command_succeeds_but_those_that_show_a_failure(typed: list[Typed]) -> None:
    failed = [one for one in typed if one.status and not any(re.match(r"[a-z0-9-]+: ", line) for line in one.shown)]
    assert failed == []
    assert len(typed) > 45


def test_no_command_warns_without_the_page_saying_so(typed: list[Typed]) -> None:
    ours = re.compile("(bg-[a-z0-9]+|banger[a-z ]*): (warning|error): ")
    assert [one for one in typed if not one.shown and any(map(ours.match, one.said))] == []
