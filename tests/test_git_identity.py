"""--git-identity: the words that it takes, and what this host's own git says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from msgspec import structs

from banger_tools import errors
from banger_tools.vmm import git_identity, guest_config
from banger_tools.vmm.spec import Boot, GitIdentity, Guest, Spec
from tests import support

SPEC = Spec("id", "web", "debian", "amd64", "qemu", 1, 1 << 30, "none", Boot("/k"), Guest())


@pytest.mark.parametrize(
    ("text", "name", "email"),
    [
        ("Ada <ada@host>", "Ada", "ada@host"),
        ("  Ada  King  < ada@host>", "", ""),
        ("Ada King<ada@host> ", "Ada King", "ada@host"),
        ('the "Ada" \\ king <a+b@host>', 'the "Ada" \\ king', "a+b@host"),
        ("Ünï <ü@host>", "Ünï", "ü@host"),
        ("Ada", "", ""),
        ("<ada@host>", "", ""),
        (" <ada@host>", "", ""),
        ("Ada <>", "", ""),
        ("Ada <a@h> <b@h>", "", ""),
        ("Ada\nKing <a@h>", "", ""),
        ("Ada <a\x7f@h>", "", ""),
        ("A" * 256 + " <a@h>", "", ""),
    ],
)
def test_words_are_taken_as_git_writes_them_or_refused(text: str, name: str, email: str) -> None:
    if name:
        assert git_identity.parse(text) == GitIdentity(name, email)
        return
    with pytest.raises(errors.BadUsage, match="--git-identity"):
        git_identity.parse(text)


@pytest.fixture
def git_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose git knows nobody, and no repository around."""
    support.need("git")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_identity_of_the_host_is_what_its_git_says(git_home: Path) -> None:
    for key, value in (("user.name", 'A "B" C'), ("user.email", "a@b")):
        subprocess.run(["git", "config", "--global", key, value], check=True)
    assert git_identity.parse("host") == GitIdentity('A "B" C', "a@b")


def test_host_whose_git_knows_nobody_is_told_how_to_say_it(git_home: Path) -> None:
    done = support.run("bg-boot", "--image=none", "--git-identity=host")
    assert done.returncode == 66
    assert "this host's git has no user.name" in done.stderr.decode()
    assert "hint: git config --global user.name" in done.stderr.decode()


def test_host_without_git_is_told_the_package(git_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banger_tools.process.search_path", lambda: str(git_home))
    with pytest.raises(errors.Unavailable, match="'git' is not installed"):
        git_identity.parse("host")


def test_guest_is_told_of_an_identity_only_where_there_is_one() -> None:
    told = structs.replace(SPEC, guest=Guest(git=GitIdentity('A "B"', "a@b")))
    config = guest_config.build(told, None, work_disk=False, power="off", now=1)
    assert json.loads(guest_config.encode(config))["git"] == {"name": 'A "B"', "email": "a@b"}
    assert "git" not in guest_config.build(SPEC, None, work_disk=False, power="off", now=1)
