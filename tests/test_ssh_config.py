"""The block in ssh's configuration: read by ssh as meant, and no byte that is not ours is changed."""

from __future__ import annotations

import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests import support

USERS = b"# mine\nHost build\n  User me\n\tPort 2200\n\nHost *\n  User anybody\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "dot ssh" / "config"


def change(file: Path, action: str) -> None:
    support.run_ok("banger", "ssh-config", f"--{action}", f"--file={file}")


def settings(file: Path, host: str) -> dict[str, str]:
    """Return what ssh makes of a host."""
    support.need("ssh")
    said = subprocess.run(["ssh", "-F", file, "-G", host], capture_output=True, text=True, check=True).stdout
    return dict(line.partition(" ")[::2] for line in said.splitlines())


def write(file: Path, content: bytes, mode: int = 0o600) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ssh_asks_banger_where_a_machine_is_and_what_keys_it_has(file: Path, banger_home: Path) -> None:
    write(file, USERS)
    change(file, "install")
    got = settings(file, "web.vm")
    assert got["proxycommand"].endswith(" ssh-config --connect 'web.vm'") or "--connect '%n'" in got["proxycommand"]
    assert (got["user"], got["proxyusefdpass"], got["stricthostkeychecking"]) == ("root", "yes", "true")
    assert got["userknownhostsfile"] == f"{banger_home}/state/ssh/web.vm"


@pytest.mark.parametrize("host", ["build", "example.org", "vm", "web.vm.example.org"])
def test_other_hosts_are_as_before(file: Path, banger_home: Path, host: str) -> None:
    write(file, USERS)
    before = settings(file, host)
    change(file, "install")
    assert settings(file, host) == before


@pytest.mark.parametrize("name", ["a b", "100%", "%d", "it's", "$HOME", "ümläut", "#x", "[x]*?"])
def test_folders_with_odd_names_are_found(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = tmp_path / name
    home.mkdir()
    monkeypatch.setenv("BANGER_HOME", str(home))
    change(file, "install")
    assert settings(file, "web.vm")["userknownhostsfile"] == f"{home}/state/ssh/web.vm"
    # the command is the shell's: what it runs there finds the same home
    command = settings(file, "web.vm")["proxycommand"].replace("%%", "%").partition(" -q ")[0]
    done = subprocess.run(["sh", "-c", f"{command} ssh-config"], capture_output=True, text=True, check=True, env={})
    assert str(home).replace("%", "%%") in done.stdout


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "${HOME}"])
def test_folders_that_ssh_cannot_be_told_of_are_refused(tmp_path: Path, file: Path, name: str) -> None:
    write(file, USERS)
    done = support.run("banger", "ssh-config", "--install", f"--file={file}", env={"BANGER_HOME": str(tmp_path / name)})
    assert (done.returncode, file.read_bytes()) == (69, USERS)


@pytest.mark.parametrize(
    "content",
    [USERS, b"", b"Host x", b"\xff\x00binary\r\nHost y\r\n", b"\n\n# >>> other >>>\nHost z\n# <<< other <<<\n"],
)
@pytest.mark.parametrize("permissions", [0o600, 0o644, 0o400])
@pytest.mark.usefixtures("banger_home")
def test_install_and_uninstall_change_no_other_byte(file: Path, content: bytes, permissions: int) -> None:
    write(file, content, permissions)
    change(file, "install")
    once = file.read_bytes()
    change(file, "install")
    assert file.read_bytes() == once and once.endswith(content) and once.count(b">>> banger >>>") == 1
    assert mode(file) == permissions
    for _ in range(2):
        change(file, "uninstall")
        assert (file.read_bytes(), mode(file)) == (content, permissions)


@pytest.mark.usefixtures("banger_home")
def test_block_that_was_moved_is_put_back_to_the_beginning(file: Path) -> None:
    change(file, "install")
    block = file.read_bytes()
    write(file, USERS + block + b"Host last\n")
    change(file, "install")
    assert file.read_bytes() == block + USERS + b"Host last\n"


@pytest.mark.usefixtures("banger_home")
def test_symlink_stays_and_leads_to_the_file_that_is_changed(file: Path, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles" / "ssh-config"
    write(real, USERS)
    file.parent.mkdir()
    file.symlink_to("../dotfiles/ssh-config")
    change(file, "install")
    assert file.is_symlink() and real.read_bytes().endswith(USERS) and real.read_bytes() != USERS
    assert [path.name for path in file.parent.iterdir()] == ["config"]
    change(file, "uninstall")
    assert file.is_symlink() and real.read_bytes() == USERS


@pytest.mark.usefixtures("banger_home")
def test_missing_file_is_made_private(file: Path) -> None:
    change(file, "install")
    assert (mode(file.parent), mode(file)) == (0o700, 0o600)


@pytest.mark.usefixtures("banger_home")
def test_file_of_the_home_is_the_one_that_is_changed(tmp_path: Path) -> None:
    support.run_ok("banger", "ssh-config", "--install", env={"HOME": str(tmp_path)})
    assert b"Include" in (tmp_path / ".ssh" / "config").read_bytes()


def test_what_was_included_is_private_and_gone_with_the_block(file: Path, banger_home: Path) -> None:
    mine = banger_home / "config" / "config.toml"
    mine.parent.mkdir()
    mine.write_text("")
    change(file, "install")
    assert mode(banger_home / "config" / "ssh_config") == 0o600
    printed = support.run_ok("banger", "ssh-config").decode()
    assert (banger_home / "config" / "ssh_config").read_text() == printed
    change(file, "uninstall")
    assert list(mine.parent.iterdir()) == [mine]


@pytest.mark.parametrize(
    "damaged",
    [
        b"# >>> banger >>> x\nInclude y\n" + USERS,
        USERS + b"# <<< banger <<<\n",
        b"# >>> banger >>>\n# >>> banger >>>\n# <<< banger <<<\n# <<< banger <<<\n",
    ],
)
@pytest.mark.parametrize("action", ["install", "uninstall"])
@pytest.mark.usefixtures("banger_home")
def test_damaged_block_is_left_to_the_user(file: Path, damaged: bytes, action: str) -> None:
    write(file, damaged)
    done = support.run("banger", "ssh-config", f"--{action}", f"--file={file}")
    assert (done.returncode, file.read_bytes()) == (65, damaged)
    assert b"damaged" in done.stderr


@pytest.mark.usefixtures("banger_home")
def test_connecting_is_for_ssh_alone() -> None:
    done = support.run("banger", "ssh-config", "--connect=web.vm")
    assert done.returncode == 64 and b"ssh web.vm" in done.stderr
    ours, theirs = socket.socketpair()
    with ours, theirs:
        argv = support.argv("banger", "ssh-config", "--connect=web.vm")
        asked = subprocess.run(argv, stdout=theirs, stderr=subprocess.PIPE, env=support.environment())
    assert asked.returncode == 66 and b"'web'" in asked.stderr


@pytest.mark.parametrize(
    "words",
    [("--install", "--uninstall"), ("--install", "--connect=x.vm"), ("--file=x",), ("--file=x", "--connect=x.vm")],
)
def test_options_that_contradict_each_other_are_refused(words: tuple[str, ...]) -> None:
    assert support.run("banger", "ssh-config", *words).returncode == 64
