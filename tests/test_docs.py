"""Manual pages and completions: as the programs are now, and working in the real shells and in man."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from banger_tools import completions, docs, manuals
from tests.support import BIN, ROOT, environment, need, search_path

MANUALS = manuals.manuals()
ENV = {"PATH": f"{BIN}{os.pathsep}{search_path()}"}


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


# The shells themselves


def bash_completes(line: str, cwd: Path = ROOT) -> list[str]:
    """Return what bash offers at the end of a line, by calling the function that it would call."""
    need("bash")
    script = f"""
        source {shlex.quote(str(ROOT / "completions" / "banger.bash"))}
        compopt() {{ :; }}
        COMP_LINE=$1 COMP_POINT=${{#1}}
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _banger
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    words = [part for word in line.split(" ") for part in re.split("(=)", word) if part or word == ""]
    words += [""] if line.endswith("=") else []
    command = ["bash", "--norc", "-c", script, "bash", line, *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(ENV), cwd=cwd)
    assert done.stderr == ""
    return done.stdout.split()


def zsh_completes(line: str, cwd: Path = ROOT) -> list[str]:
    """Return what zsh offers at the end of a line typed into a real one, on a terminal of its own."""
    need("zsh")
    setup = f"""
        PS1= ; unsetopt zle_bracketed_paste 2>/dev/null
        fpath=({shlex.quote(str(ROOT / "completions"))} $fpath)
        autoload -U compinit && compinit -u -D
        bindkey '^I' complete-word
        zstyle ':completion:*' list-colors ''
        zstyle ':completion:*' format ''
        offered() {{ compadd() {{
          local -a words; builtin compadd -O words "$@"; print -rl -- $words >>$OUT; builtin compadd "$@" }} }}
        zle -C probe complete-word probing
        probing() {{ offered; _main_complete; print -r -- DONE >>$OUT; exit }}
        bindkey '^I' probe
    """
    return pty_answers(["zsh", "-f", "-i"], setup, line, cwd)


def pty_answers(command: list[str], setup: str, line: str, cwd: Path) -> list[str]:
    """Type a line and a tab into a shell on a terminal, and return what it wrote to the file $OUT."""
    import pty
    import tempfile
    import time

    with tempfile.TemporaryDirectory() as folder:
        rc, out = Path(folder) / "rc", Path(folder) / "out"
        rc.write_text(setup)
        out.touch()
        leader, follower = pty.openpty()
        env = environment({**ENV, "OUT": str(out), "TERM": "dumb", "COLUMNS": "200", "HOME": folder})
        shell = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=cwd, start_new_session=True
        )
        os.close(follower)
        os.write(leader, f"source {rc}\n{line}\t".encode())
        deadline = time.monotonic() + 20
        while "DONE" not in out.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        shell.kill()
        shell.wait()
        seen = os.read(leader, 1 << 16)
        os.close(leader)
        words = out.read_text().split("\n")
        assert "DONE" in words, seen
        return [word for word in words if word not in ("", "DONE")]


def fish_completes(line: str, cwd: Path = ROOT) -> list[str]:
    """Return what fish offers at the end of a line."""
    need("fish")
    script = f"source {ROOT}/completions/banger.fish; complete --do-complete {shlex.quote(line)}"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, env=environment(ENV), cwd=cwd
    )
    assert done.stderr == ""
    return [word.split("\t")[0] for word in done.stdout.splitlines()]


SHELLS = {"bash": bash_completes, "zsh": zsh_completes, "fish": fish_completes}
every_shell = pytest.mark.parametrize("shell", SHELLS)


def offered(shell: str, line: str, cwd: Path = ROOT) -> set[str]:
    """Return the words that a shell offers, without what only some shells add to them."""
    return {word.rstrip("=/ ").removeprefix("--progress=") for word in SHELLS[shell](line, cwd)}


@every_shell
def test_options_are_completed(shell: str) -> None:
    wanted = {option.long for option in MANUALS["bg-flatten"].options if option.long}
    assert wanted <= offered(shell, "bg-flatten --")


@every_shell
def test_words_of_an_option_are_completed(shell: str) -> None:
    assert offered(shell, "bg-fetch --progress=") == {"auto", "always", "never", "json"}


@every_shell
def test_folders_and_files_are_completed(shell: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "some.json").touch()
    assert offered(shell, "bg-flatten -C s", tmp_path) == {"sub"}
    assert offered(shell, "bg-flatten s", tmp_path) == {"sub", "some.json"}


@every_shell
def test_commands_of_the_driver_are_completed(shell: str) -> None:
    names = docs.commands(MANUALS["banger"])
    assert offered(shell, "banger ") >= {name.split()[0] for name in names}
    assert offered(shell, "banger image ") == {name.split()[1] for name in names if name.startswith("image ")}
    assert {"--image", "--rm"} <= offered(shell, "banger vm run --")


@every_shell
def test_names_of_images_are_completed(shell: str, banger_home: Path) -> None:
    for name in ("debian-bookworm", "alpine"):
        (banger_home / "state" / "images" / name).mkdir(parents=True)
    assert offered(shell, "banger vm run --image ") == {"alpine", "debian-bookworm"}


def test_values_are_read_off_the_text_of_an_option() -> None:
    option = docs.Option(None, "--pull", "WHEN", "Ask again: missing, always or never [default: missing].")
    assert completions.value_of(option) == ("words", ("missing", "always", "never"))
    assert completions.value_of(docs.Option(None, "--name", "NAME", "The name, or not.")) == ("any", ())
