"""README and docs/: what they show parses, what they link to exists, and the tour does what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from banger_tools import cli, docs
from tests import registry, support, tutorials
from tests.support import ROOT
from tests.test_docs import MANUALS, called, commands_in

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def blocks(page: Path, kind: str) -> list[str]:
    """Return the code blocks of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def shown(page: Path) -> list[str]:
    """Return the command lines that a page shows."""
    typed = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return [line for block in blocks(page, "sh") for line in block.splitlines()] + typed


def parsed(lines: list[str]) -> int:
    """Give every command line of ours to the parser, and return how many there were."""
    tried = 0
    for words in (words for line in lines for words in commands_in(line.partition(" #")[0])):
        command, arguments = called(words)
        if command is not None:
            cli.parse(command, arguments, nested="COMMAND" in command.synopsis[0])
            tried += 1
    return tried


def test_commands_of_readme_and_recipes_parse() -> None:
    assert sum(parsed(shown(page)) for page in PAGES) > 60


def test_make_words_of_the_pages_are_those_of_the_makefile() -> None:
    offered = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        named = set(re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
        assert named <= offered, page


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_program_and_every_other_page_is_linked_from_the_readme() -> None:
    links = set(re.findall(r"\]\((man/[^)]+)\)", PAGES[0].read_text()))
    pages = {f"man/{path.name}" for path in (ROOT / "man").iterdir() if not path.name.startswith("banger-")}
    pages |= {f"man/{path.name}" for path in (ROOT / "man").glob("banger-*.[57]")}
    assert pages <= links


def test_prefixes_that_the_table_names_are_those_of_the_manual() -> None:
    row = next(line for line in PAGES[0].read_text().splitlines() if line.startswith("| [bg-fetch]"))
    text = docs.help_text(MANUALS["bg-fetch"])
    assert all(prefix in text for prefix in re.findall(r"`([a-z-]+:)`", row))


def tour() -> list[tuple[str, list[str]]]:
    """Return the commands of the tour, each with the lines shown below it."""
    (block,) = blocks(PAGES[0], "console")
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(part.splitlines()[0], part.splitlines()[1:]) for part in parts]


@pytest.mark.boot
def test_tour_does_what_it_shows(bootable_home: Path, tmp_path: Path) -> None:
    """The image is a small one of ours by the same name, so what depends on it is not compared."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").symlink_to(bootable_home / "cache")  # the packages of the kernel
    catalog = {
        "schema": "banger-catalog/1",
        "images": [{"name": "debian-bookworm", "source": f"docker.io/library/{tutorials.IMAGE}"}],
    }
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    lines = []
    for command, _ in tour():
        port = command.replace("8080:", f"{registry.free_port()}:").replace("$PWD/bin:", f"{support.BIN}:")
        lines.append(f"{port}\nprintf '\\001%s\\n' $?")
    with tutorials.hub(tmp_path / "hub", home):
        config = home / "config" / "config.toml"
        config.write_text(f'{config.read_text()}[[catalogs]]\nfile = "{tmp_path}/catalog.json"\n')
        done = tutorials.shell(f"cd {ROOT}; set +e\n" + "\n".join(lines), tmp_path, home)
    parts = re.split(r"\x01(\d+)\n", done.stdout)
    said, statuses = parts[:-1:2], list(map(int, parts[1::2]))
    assert statuses == [0] * len(tour()), (done.stdout, done.stderr)
    for (command, expected), text in zip(tour(), said, strict=True):
        if not {"..."} & set(expected) and "vm list" not in command:
            assert text.splitlines() == expected, command
    listed = next(text for (command, _), text in zip(tour(), said, strict=True) if command == "banger vm list")
    assert re.search(r"^web +running +debian-bookworm ", listed, re.MULTILINE)
