"""Completions in the real shells: options, words, files, folders, commands, and the names in the store."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from banger_tools import completions, docs, manuals
from tests.support import BIN, PROGRAMS, ROOT, environment, need, search_path

MANUALS = manuals.manuals()
BASH = ROOT / "completions" / "banger.bash"
IMAGES = {"debian-bookworm", "alpine"}  # in the store, and in the catalog that comes with banger
OWN = "mine.1_x"  # only in the store
MACHINES = {"web", "db"}
KERNELS = {"generic", "mine"}


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH in which our programs say that they were run: completing needs none of them."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho '{name} was run' >&2\nexit 3\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{search_path()}"


@pytest.fixture(autouse=True)
def store(banger_home: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with some of everything, and what is not finished."""
    monkeypatch.setenv("PATH", path)
    return filled(banger_home / "state")


def filled(state: Path) -> Path:
    names = {"images": {*IMAGES, OWN, "half.staging-0123456789ab"}, "vms": MACHINES, "kernels": KERNELS}
    for folder, found in names.items():
        for name in found:
            (state / folder / name).mkdir(parents=True)
        (state / folder / "lock").touch()
    return state


def bash_completes(line: str, cwd: Path = ROOT) -> list[str]:
    """Return what bash offers at the end of a line, by calling the function that it would call."""
    need("bash")
    script = f"""
        source {shlex.quote(str(BASH))}
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
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd)
    assert done.stderr == ""
    return done.stdout.split()


ZSH_PROBE = """
    offered() { compadd() {
      local -a words; builtin compadd -O words "$@"; print -rl -- $words >>$OUT; builtin compadd "$@" } }
    zle -C probe complete-word probing
    probing() { offered; _main_complete; print -r -- DONE >>$OUT; exit }
    bindkey '^I' probe
"""


def zsh_setup(*lines: str) -> str:
    start = ["PS1= ; unsetopt zle_bracketed_paste 2>/dev/null", *lines]
    return "\n".join([*start, "zstyle ':completion:*' list-colors ''", "zstyle ':completion:*' format ''", ZSH_PROBE])


def zsh_completes(line: str, cwd: Path = ROOT) -> list[str]:
    """Return what zsh offers at the end of a line typed into a real one, on a terminal of its own."""
    need("zsh")
    fpath = f"fpath=({shlex.quote(str(ROOT / 'completions'))} $fpath)"
    return pty_answers(
        ["zsh", "-f", "-i"], zsh_setup(fpath, "autoload -U compinit && compinit -u -D"), f"{line}\t", cwd
    )


def pty_answers(command: list[str], setup: str, keys: str, cwd: Path) -> list[str]:
    """Type keys into a shell on a terminal, and return what it wrote to the file $OUT before DONE."""
    import pty
    import tempfile
    import time

    with tempfile.TemporaryDirectory() as folder:
        rc, out = Path(folder) / "rc", Path(folder) / "out"
        rc.write_text(setup)
        out.touch()
        leader, follower = pty.openpty()
        env = environment({"OUT": str(out), "TERM": "dumb", "COLUMNS": "200", "HOME": folder})
        shell = subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=cwd, start_new_session=True
        )
        os.close(follower)
        os.write(leader, f"source {rc}\n{keys}".encode())
        deadline = time.monotonic() + 60
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
        ["fish", "--no-config", "-c", script], capture_output=True, text=True, env=environment(), cwd=cwd
    )
    assert done.stderr == ""
    return [word.split("\t")[0] for word in done.stdout.splitlines()]


SHELLS = {"bash": bash_completes, "zsh": zsh_completes, "fish": fish_completes}
every_shell = pytest.mark.parametrize("shell", SHELLS)


def offered(shell: str, line: str, cwd: Path = ROOT) -> set[str]:
    """Return the words that a shell offers, without what only some shells add to them."""
    return {re.sub("^--[a-z-]+=(?=.)", "", word).rstrip("=/: ") for word in SHELLS[shell](line, cwd)}


@every_shell
def test_options_are_completed(shell: str) -> None:
    wanted = {option.long for option in MANUALS["bg-flatten"].options if option.long}
    assert wanted <= offered(shell, "bg-flatten --")


@pytest.mark.parametrize("name", MANUALS)
def test_every_option_of_every_manual_is_offered_by_bash(name: str) -> None:
    wanted = {option.long or option.short for option in MANUALS[name].options}
    assert offered("bash", f"{name} -") == wanted


def test_every_option_of_every_manual_stands_in_the_files_of_the_other_shells() -> None:
    zsh, fish = ((ROOT / "completions" / name).read_text() for name in ("_banger", "banger.fish"))
    for name, manual in MANUALS.items():
        function = zsh.partition(f"\n_banger_for_{re.sub('[^a-z0-9]', '_', name)}() {{")[2].partition("\n}")[0]
        program, *words = name.split()
        called = f" -n '__banger_called {' '.join(words)}'" if words else " -n '__banger_at 0'" * (name == "banger")
        called = called.replace("'", "") if name != "banger" and len(words) == 0 else called
        lines = [line for line in fish.splitlines() if line.startswith(f"complete -c {program}{called} ")]
        for option in manual.options:
            named = f"-l {option.long[2:]}" if option.long else f"-s {(option.short or '')[1:]}"
            assert any(f"{named} " in line for line in lines), (name, option)
            assert name == "banger" or option.spelling in function, (name, option)


@every_shell
def test_words_of_an_option_are_completed(shell: str) -> None:
    assert offered(shell, "bg-fetch --progress=") == {"auto", "always", "never", "json"}


@every_shell
def test_folders_and_files_are_completed(shell: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "some.json").touch()
    assert offered(shell, "bg-flatten -C s", tmp_path) == {"sub"}
    assert offered(shell, "bg-flatten s", tmp_path) == {"sub", "some.json"}
    assert offered(shell, "banger build --from mkext4 s", tmp_path) == {"sub", "some.json"}


@every_shell
def test_commands_of_the_driver_are_completed(shell: str) -> None:
    names = docs.commands(MANUALS["banger"])
    assert offered(shell, "banger ") == {name.split()[0] for name in names}
    assert offered(shell, "banger image ") == {name.split()[1] for name in names if name.startswith("image ")}
    assert {"--image", "--rm"} <= offered(shell, "banger vm run --")


@every_shell
def test_names_of_images_are_completed(shell: str) -> None:
    assert {*IMAGES, OWN, "ubuntu-noble"} <= offered(shell, "banger vm run --image ")
    assert offered(shell, "bg-boot --image ") == {*IMAGES, OWN}
    assert offered(shell, "bg-boot --image=min") & {OWN, "alpine"} == {OWN}


@every_shell
def test_names_of_machines_are_completed(shell: str) -> None:
    assert offered(shell, "banger vm stop ") == MACHINES
    assert offered(shell, "banger vm stop web ") >= {"db"}
    assert offered(shell, "banger vm exec ") == MACHINES
    assert offered(shell, "banger -v vm logs --lines 5 ") == MACHINES
    assert all(word.startswith("-") for word in offered(shell, "banger vm logs web "))


@every_shell
def test_names_of_kernels_are_completed(shell: str) -> None:
    assert offered(shell, "banger kernel show ") == KERNELS
    assert {*KERNELS, "cloud-amd64"} == {*KERNELS, "cloud-amd64"} & offered(shell, "bg-publish --kernel-ref ")
    assert offered(shell, "banger vm create --kernel-ref gen") == {"generic"}


@every_shell
def test_names_that_can_be_pulled_are_completed(shell: str, tmp_path: Path) -> None:
    (tmp_path / "debian.tar").touch()
    assert offered(shell, "banger image pull deb", tmp_path) == {"debian-bookworm", "debian-trixie", "debian.tar"}


@every_shell
def test_machines_and_files_are_completed_where_either_is_copied(shell: str, tmp_path: Path) -> None:
    (tmp_path / "weather.txt").touch()
    assert offered(shell, "banger vm cp we", tmp_path) == {"web", "weather.txt"}


@every_shell
def test_store_is_found_where_the_programs_find_it(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BANGER_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert not MACHINES & offered(shell, "banger vm stop ")
    filled(tmp_path / "xdg" / "banger")
    assert offered(shell, "banger vm stop ") == MACHINES


@pytest.mark.parametrize(("line", "said"), [("banger vm stop w", "vm stop web"), ("bg-mkext4 --mini", "--minimal")])
def test_tab_in_an_interactive_bash_completes_the_word(line: str, said: str, tmp_path: Path) -> None:
    need("bash")
    program = line.split()[0]
    name = "banger" if program == "banger" else "bg-mkext4"
    setup = f"""
        source {ROOT}/completions/{name}.bash
        {program}() {{ printf '%s\\n' "$*" DONE >>"$OUT"; }}
    """
    assert pty_answers(["bash", "--norc", "-i"], setup, f"{line}\t\n", tmp_path) == [said]


def test_zsh_may_source_the_file_as_well(tmp_path: Path) -> None:
    need("zsh")
    setup = zsh_setup("autoload -U compinit && compinit -u -D", f"source {ROOT}/completions/_banger")
    assert pty_answers(["zsh", "-f", "-i"], setup, "banger vm stop w\t", tmp_path) == ["web"]


def test_bash_completion_loads_the_file_of_every_program(tmp_path: Path) -> None:
    need("bash")
    loader = Path("/usr/share/bash-completion/bash_completion")
    if not loader.exists():
        need("bash-completion")
    folder = tmp_path / "share" / "bash-completion"
    folder.mkdir(parents=True)
    (folder / "completions").symlink_to(ROOT / "completions")
    script = f'. {loader}; for name; do __load_completion "$name" || echo "$name"; complete -p "$name"; done'
    env = environment({"XDG_DATA_DIRS": str(tmp_path / "share"), "PATH": f"{BIN}{os.pathsep}{search_path()}"})
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", *PROGRAMS], capture_output=True, text=True, env=env)
    assert done.stdout.splitlines() == [f"complete -F _banger {name}" for name in PROGRAMS], done.stderr


def test_values_are_read_off_the_text_of_an_option() -> None:
    option = docs.Option(None, "--pull", "WHEN", "Ask again: missing, always or never [default: missing].")
    assert completions.value_of(option) == ("words", ("missing", "always", "never"))
    assert completions.value_of(docs.Option(None, "--name", "NAME", "The name, or not.")) == ("any", ())
