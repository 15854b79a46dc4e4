"""Manual pages: as the programs are now, and shown by man; their examples are command lines that parse."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from banger_tools import config, docs, formats, manuals
from tests.support import ROOT, environment, need

MANUALS = manuals.manuals()


def test_generated_files_are_up_to_date() -> None:
    made = manuals.files()
    stale = [path for path, text in made.items() if not (ROOT / path).exists() or (ROOT / path).read_text() != text]
    assert stale == [], "make docs writes them"


def test_no_page_is_left_of_a_program_that_is_gone() -> None:
    known = set(manuals.files())
    present = {
        str(path.relative_to(ROOT)) for path in (ROOT / "man").glob("*") if b"make docs" in path.read_bytes()[:200]
    }
    assert present <= known


def shown(page: Path) -> str:
    need("mandoc")
    done = subprocess.run(["mandoc", "-T", "utf8", page], capture_output=True, text=True, check=True)
    return re.sub(".\b", "", done.stdout)


@pytest.mark.parametrize("name", MANUALS)
def test_page_shows_every_option_and_every_exit_status(name: str) -> None:
    manual = MANUALS[name]
    text = shown(ROOT / "man" / f"{manuals.file_name(name)}.1")
    for option in manual.options:
        assert re.search(rf"^ +.*{re.escape(option.spelling)}\b", text, re.MULTILINE), option
    for status in re.findall(r"^  (\d+) ", manual.sections["Exit status"], re.MULTILINE):
        assert re.search(rf"^ +{status}\b", text, re.MULTILINE), status


@pytest.mark.parametrize("name", MANUALS)
def test_groff_renders_the_page_without_a_complaint(name: str) -> None:
    need("man")
    page = ROOT / "man" / f"{manuals.file_name(name)}.1"
    env = environment({"MANROFFSEQ": "", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_references_lead_to_pages_that_exist() -> None:
    pages = {path.name for path in (ROOT / "man").iterdir()}
    for name, manual in MANUALS.items():
        for title, section in re.findall(r"([a-z][a-z0-9-]*)\((\d)\)", manual.sections["See also"]):
            if title.startswith(("bg-", "banger")):
                assert f"{title}.{section}" in pages, (name, title)


def test_manifest_page_describes_every_section() -> None:
    from banger_tools import manifest

    text = shown(ROOT / "man" / "banger-manifest.5")
    assert all(re.search(rf"^ +{section}$", text, re.MULTILINE) for section in manifest.SECTIONS)
    assert "diff_id (digest)" in text


@pytest.mark.parametrize(("name", "keys"), [("config", ["ca-file", "url"]), ("catalog", ["kernel_ref", "sha256"])])
def test_pages_of_formats_show_every_key(name: str, keys: list[str]) -> None:
    need("man")
    page = ROOT / "man" / f"banger-{name}.5"
    env = environment({"MANROFFSEQ": "", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n       {key} (" in shown(page) for key in keys)


@pytest.mark.parametrize("name", sorted(formats.pages()))
def test_pages_of_formats_say_of_every_key_what_it_is(name: str) -> None:
    keys = re.findall(r"^\.TP\n(.*)\n(.*)$", formats.pages()[name], re.MULTILINE)
    assert len(keys) > 10
    assert [key for key, text in keys if not text.strip()] == []


def test_environment_names_every_setting_of_a_machine() -> None:
    from banger_tools import precedence

    text = MANUALS["banger"].sections["Environment"]
    assert all(
        re.search(rf"\b{precedence.variable(key)}\b", text) for key in config.VmDefaults.__struct_encode_fields__
    )
    shown_too = (ROOT / "man" / "bg-boot.1").read_text()
    assert all(name in shown_too for name in re.findall(r"\b[A-Z]+_[A-Z_]+\b", text))


@pytest.mark.parametrize(
    ("module", "rows"),
    [
        ("doctor", ["Check"]),
        ("image_list", ["Row", "Offer"]),
        ("image_verify", ["Found"]),
        ("kernel_catalog", ["Offer"]),
        ("kernel_list", ["Row"]),
        ("vm_health", ["Row"]),
        ("vm_list", ["Row"]),
        ("vm_ports", ["Row"]),
        ("vm_stats", ["Row", "Host"]),
    ],
)
def test_manual_names_every_key_of_the_json_that_a_command_prints(module: str, rows: list[str]) -> None:
    code = importlib.import_module(f"banger_tools.commands.{module}")
    text = next(option.text for option in docs.parse(code.__doc__ or "").options if option.long == "--json")
    keys = {key for row in rows for key in getattr(code, row)._fields}
    assert keys - set(re.findall(r"\w+", text.partition(": ")[2])) == set()


def test_examples_are_command_lines_that_parse() -> None:
    from banger_tools import cli

    tried = 0
    for manual in MANUALS.values():
        for line in manual.sections["Examples"].splitlines():
            for words in commands_in(line.strip().removeprefix("$ ")):
                command, arguments = called(words)
                if command is not None:
                    cli.parse(command, arguments, nested="COMMAND" in command.synopsis[0])
                    tried += 1
    assert tried > 20


def commands_in(line: str) -> list[list[str]]:
    """Return the commands of a shell line, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|;&()"):
            found.append([])
        else:
            found[-1].append(word)
    return [words[: next((i for i, w in enumerate(words) if set(w) <= set("<>")), None)] for words in found if words]


def called(words: list[str]) -> tuple[docs.Manual | None, list[str]]:
    """Return the manual that a command line is for, and its arguments; None if it is no program of ours."""
    for length in (3, 2, 1):
        name = " ".join(words[:length])
        if name in MANUALS:
            return MANUALS[name], words[length:]
    return None, []


PROSE = [path.name for path in sorted((ROOT / "man").glob("*.[57]"))]


@pytest.mark.parametrize("page", PROSE)
def test_groff_renders_the_other_pages_without_a_complaint(page: str) -> None:
    need("man")
    env = environment({"MANROFFSEQ": "", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    done = subprocess.run(["man", "--warnings", "-l", ROOT / "man" / page], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_tree_page_describes_every_key_and_its_example_is_a_tree(tmp_path: Path) -> None:
    from banger_tools import tree

    text = shown(ROOT / "man" / "banger-tree.5")
    keys = [name for struct in (tree.Header, tree.Entry, tree.Origin) for name in struct.__struct_fields__]
    assert all(re.search(rf"^ +{key} \(", text, re.MULTILINE) for key in keys)
    example = tmp_path / "tree.jsonl"
    lines = re.findall(r"^\{.*\}$", tree.__doc__ or "", re.MULTILINE)
    example.write_text("".join(f"{line}\n" for line in lines))
    found = tree.read(example)
    assert [entry.path for entry in found.entries] == ["/", "/etc", "/etc/os-release"]


def test_messages_of_the_troubleshooting_page_are_those_of_the_programs() -> None:
    from banger_tools.pages import troubleshooting

    sources = [path.read_text() for path in (ROOT / "banger_tools").rglob("*.py") if path.parent.name != "pages"]
    messages = re.findall(r"^'(.*)':$", troubleshooting.__doc__ or "", re.MULTILINE)
    assert len(messages) > 15
    messages.remove(os.strerror(errno.ENOSPC).replace("No", "no"))
    for message in messages:
        wanted = re.compile("[^\n]*".join(re.escape(piece) for piece in message.split("...")))
        assert any(map(wanted.search, sources)), message


def test_commands_of_the_other_pages_parse() -> None:
    from banger_tools import cli
    from banger_tools.pages import pipeline, troubleshooting

    tried = 0
    for text in (pipeline.__doc__ or "", troubleshooting.__doc__ or ""):
        lines = re.findall(r"^    \$ (.*)$", text, re.MULTILINE)
        for words in (words for line in lines for words in commands_in(line)):
            command, arguments = called(words)
            if command is not None:
                cli.parse(command, arguments, nested="COMMAND" in command.synopsis[0])
                tried += 1
    assert tried > 20
