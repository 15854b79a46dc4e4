"""The linters are tests: one command runs them all, and nothing is merged that they refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, cannot, need

GUEST_SCRIPTS = sorted((ROOT / "banger_tools" / "guest" / "files").rglob("*"))


def module(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program of the test requirements on the checkout."""
    probe = subprocess.run([sys.executable, "-P", "-m", name, "--version"], capture_output=True)
    if probe.returncode != 0:
        cannot(f"'{name}' is not installed: make test installs it")
    return subprocess.run([sys.executable, "-P", "-m", name, *arguments], capture_output=True, text=True, cwd=ROOT)


def shell_scripts() -> list[Path]:
    """Return every file of the checkout that a POSIX shell runs."""
    found = [
        *ROOT.glob("bin/*"),
        *ROOT.glob("scripts/*"),
        *ROOT.glob(".ci/*"),
        *ROOT.glob("examples/**/*"),
        *GUEST_SCRIPTS,
    ]
    return [path for path in found if path.is_file() and re.match(rb"#! ?/bin/sh\b", path.read_bytes())]


def test_ruff_finds_nothing() -> None:
    done = module("ruff", "check", ".")
    assert done.returncode == 0, done.stdout


def test_code_is_formatted() -> None:
    done = module("ruff", "format", "--check", ".")
    assert done.returncode == 0, done.stdout


def test_strict_typing_holds() -> None:
    done = module("mypy")
    assert done.returncode == 0, done.stdout


def test_shell_scripts_are_clean() -> None:
    need("shellcheck")
    scripts = shell_scripts()
    assert len(scripts) > 12
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_completion_for_bash_is_clean() -> None:
    need("shellcheck")
    done = subprocess.run(["shellcheck", ROOT / "completions" / "banger.bash"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[1-9]")), ids=lambda path: path.name)
def test_manual_pages_are_clean(page: Path) -> None:
    need("mandoc")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_makefile_lists_every_word_it_offers() -> None:
    need("make")
    text = (ROOT / "Makefile").read_text()
    words = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert words is not None
    shown = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    internal = {"packages", "test-packages", "help"}
    assert all(f"  {word} " in shown for word in set(words[1].split()) - internal)
