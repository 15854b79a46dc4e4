"""banger vm cp without a machine: what is kept of files, and which ones are meant, with a real agent on this host."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from banger_tools.vmm import inside, transfer
from tests import guest_lab, support

pytestmark = pytest.mark.root  # owners, capabilities, trusted attributes


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with guest_lab.listening(tmp_path_factory.mktemp("agent")) as path:
        yield Agent(transport.unix(path))


@pytest.fixture(autouse=True)
def _reached(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "agent", lambda name: agent)


def cp(*words: str | Path, archive: bool = False) -> None:
    *sources, target = [transfer.place(str(word)) for word in words]
    transfer.copy(sources, target, archive=archive)


def guest(path: Path) -> str:
    return f"web:{path}"


def run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, env=support.environment())


def attributes(folder: Path) -> str:
    """Return all attributes of all entries, as getfattr prints them."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    command = ["getfattr", "-h", "-d", "-m", "-", "-e", "hex", *names]
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True).stdout


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of another owner, with all that a plain copy loses."""
    support.need("setcap", "setfacl", "getfattr")
    site = tmp_path / "site"
    (site / "sub").mkdir(parents=True)
    for name in ("tool", "capable", "shared"):
        (site / name).write_text(name)
    os.link(site / "tool", site / "sub" / "again")
    for path in (site / "tool", site / "sub"):
        os.chown(path, 1234, 4321)
        path.chmod(0o6755)
    os.setxattr(site / "tool", "user.a=b%3D%", b"\0binary\n=\xff\xed\xa0\x80\xc3\xa9")
    os.setxattr(site / "sub", "trusted.empty", b"")
    run("setcap", "cap_net_bind_service=ep", site / "capable")
    run("setfacl", "-m", "u:1234:rw", site / "shared")
    run("setfacl", "-d", "-m", "u:1234:rwx", site / "sub")
    return site


def test_archive_of_this_host_keeps_owners_modes_and_attributes(site: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    cp(site, guest(there), archive=True)
    cp(guest(there), back, archive=True)
    for word in ("user.a", "trusted.empty", "security.capability", "posix_acl_access", "posix_acl_default"):
        assert word in attributes(site)
    for copy in (there, back):
        assert attributes(copy) == attributes(site)
        for name in ("tool", "sub"):
            found = (copy / name).stat()
            assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o6755)


def test_what_becomes_roots_is_not_set_id(site: Path, tmp_path: Path) -> None:
    cp(site, guest(tmp_path / "there"))
    for name in ("tool", "sub", "sub/again"):
        found = (tmp_path / "there" / name).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o755)
    assert attributes(tmp_path / "there") == ""


@pytest.mark.parametrize("way", ["in", "out"])
def test_slash_after_a_symlink_means_what_it_leads_to(way: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "into").mkdir()

    def copy(source: str, target: Path) -> None:
        cp(*((source, guest(target)) if way == "in" else (f"web:{source}", target)))

    copy(f"{tmp_path}/link/", tmp_path / "made")
    copy(f"{tmp_path}/link/", tmp_path / "into")
    copy(f"{tmp_path}/link", tmp_path / "same")
    assert (tmp_path / "made" / "file").read_text() == "x" and not (tmp_path / "made").is_symlink()
    assert (tmp_path / "into" / "link" / "file").is_file() and not (tmp_path / "into" / "link").is_symlink()
    assert os.readlink(tmp_path / "same") == "real"
    (tmp_path / "file").touch()
    with pytest.raises(errors.BangerError, match=r"[Nn]ot a directory"):
        copy(f"{tmp_path}/file/", tmp_path / "into")


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize("path", ["real/deep/..", "real/.", "real/./", "link/.."])
def test_dots_are_what_is_in_the_folder_that_they_lead_to(way: str, path: str, tmp_path: Path) -> None:
    """Where they lead is for the side to say whose path it is: `link/..` is the folder above the link's target."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "file").write_text("x")
    (tmp_path / "link").symlink_to("real/deep")
    for into in ("there", "new"):
        target = tmp_path / into
        (tmp_path / "there").mkdir(exist_ok=True)
        source = f"{tmp_path}/{path}"
        cp(*((source, guest(target)) if way == "in" else (f"web:{source}", target)))
        assert sorted(os.listdir(target)) == ["deep", "file"]
