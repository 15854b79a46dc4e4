"""What a transfer of files keeps besides bytes: attributes, capabilities, ACLs, hard links. GNU tar is the judge."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from tests import guest_lab, support

pytestmark = pytest.mark.root  # owners, trusted attributes, capabilities, devices

KEPT = ["--xattrs", "--xattrs-include=*", "--numeric-owner"]
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """A client of a running agent."""
    with guest_lab.listening(tmp_path_factory.mktemp("agent")) as path:
        yield Agent(transport.unix(path))


def run(*argv: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(argv, input=data, capture_output=True, check=True, env=support.environment()).stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with everything that is easily lost."""
    support.need("setfattr", "setfacl", "setcap", "getfattr", "getfacl", "getcap")
    folder = tmp_path / "tree"
    (folder / "deep").mkdir(parents=True)
    for name in ("plain", "capable", "shared", "deep/odd"):
        (folder / name).write_bytes(name.encode() * 100)
    os.setxattr(folder / "plain", "user.note", b"\0binary\n=\xff", follow_symlinks=False)
    os.setxattr(folder / "plain", "user.a=b%3D%", b"a name with marks")
    os.setxattr(folder / "plain", "trusted.empty", b"")
    os.setxattr(folder / "deep", "user.folder", b"of a folder")
    os.setxattr(folder / "deep/odd", "user.large", os.urandom(3000))
    run("setcap", "cap_net_bind_service=ep", folder / "capable")
    run("setfacl", "-m", "u:1234:rw,g:4321:r", folder / "shared")
    run("setfacl", "-d", "-m", "u:1234:rwx", folder / "deep")
    os.symlink("plain", folder / "soft")
    os.setxattr(folder / "soft", "trusted.of", b"the link itself", follow_symlinks=False)
    os.mknod(folder / "null", 0o020644, os.makedev(1, 3))
    os.setxattr(folder / "null", "trusted.of", b"a device", follow_symlinks=False)
    for name in ("deep/again", "third"):
        os.link(folder / "plain", folder / name)
    os.link(folder / "soft", folder / "soft too", follow_symlinks=False)
    os.chown(folder / "shared", 1000, 1001)
    return folder


def attributes(folder: Path) -> str:
    """Return all attributes of all entries, as getfattr prints them."""
    names = [".", *sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))]
    command = ["getfattr", "--absolute-names", "-h", "-d", "-m", "-", "-e", "hex", *names]
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True).stdout


def links(folder: Path) -> set[tuple[str, ...]]:
    """Return the groups of names that are one file."""
    groups: dict[int, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or path.is_symlink():
            groups.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(folder)))
    return {tuple(names) for names in groups.values()}


def unpacked(stream: bytes, folder: Path) -> Path:
    """Unpack with GNU tar."""
    folder.mkdir()
    run("tar", "-xp", *KEPT, "--strip-components=1", "-C", folder, data=stream)
    return folder


def test_what_comes_out_has_its_attributes_and_links(agent: Agent, tree: Path, tmp_path: Path) -> None:
    found = unpacked(b"".join(agent.get_files(str(tree))), tmp_path / "out")
    assert attributes(found) == attributes(tree)
    assert links(found) == links(tree)
    assert run("getcap", found / "capable").endswith(b"cap_net_bind_service=ep\n")
    assert run("getfacl", "-cn", found / "shared") == run("getfacl", "-cn", tree / "shared")


def test_file_of_several_names_is_sent_once(agent: Agent, tree: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(agent.get_files(str(tree))))) as tar:
        same = [member for member in tar if member.name in ("tree/plain", "tree/deep/again", "tree/third")]
    assert sorted(member.type for member in same) == [tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.LNKTYPE]
    first = next(member.name for member in same if member.isreg())
    assert {member.linkname for member in same if member.islnk()} == {first}


def test_what_gnu_tar_packed_goes_in_with_its_attributes_and_links(agent: Agent, tree: Path, tmp_path: Path) -> None:
    stream = run("tar", "-c", "--format=pax", *KEPT, "-C", tree, ".")
    agent.put_files(str(tmp_path / "in"), [stream])
    theirs = unpacked(stream, tmp_path / "theirs")
    os.mkdir(tmp_path / "bare")  # the folder that was named is made, and otherwise left alone
    assert attributes(tmp_path / "in") == attributes(theirs).replace(attributes(tmp_path / "bare"), "")
    assert links(tmp_path / "in") == links(tree)
    assert run("getcap", tmp_path / "in" / "capable").endswith(b"cap_net_bind_service=ep\n")


def test_what_comes_out_goes_in_again_the_same(agent: Agent, tree: Path, tmp_path: Path) -> None:
    agent.put_files(str(tmp_path / "in"), agent.get_files(str(tree)))
    found = tmp_path / "in" / "tree"
    assert attributes(found) == attributes(tree)
    assert links(found) == links(tree)
    assert run("getfacl", "-cn", found / "deep") == run("getfacl", "-cn", tree / "deep")
    format_ = ["-printf", "%P %y %m %U %G %s %l %n\n"]
    shown = [sorted(run("find", folder, "!", "-type", "d", *format_).splitlines()) for folder in (found, tree)]
    assert shown[0] == shown[1]
    assert (found / "shared").read_bytes() == (tree / "shared").read_bytes()


def test_many_hard_links_keep_together(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(600):
        (tmp_path / "many" / f"{number}.a").write_bytes(b"%d" % number)
        os.link(tmp_path / "many" / f"{number}.a", tmp_path / "many" / f"{number}.b")
    agent.put_files(str(tmp_path / "in"), agent.get_files(str(tmp_path / "many")))
    assert links(tmp_path / "in" / "many") == {(f"{number}.a", f"{number}.b") for number in range(600)}
    assert {(tmp_path / "in" / "many" / f"{number}.b").read_bytes() for number in range(600)} == {
        b"%d" % number for number in range(600)
    }


def pax(name: str, headers: dict[str, str], **fields: object) -> bytes:
    """Return an archive of one file with a pax header."""
    entry = tarfile.TarInfo(name)
    entry.pax_headers = headers
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def test_attribute_that_cannot_be_set_is_refused_by_its_name(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match=r"cannot set the attribute 'nonsense\.x' of 'file'"):
        agent.put_files(str(tmp_path / "in"), [pax("file", {"SCHILY.xattr.nonsense.x": "1"})])


def test_attributes_of_one_entry_are_not_given_to_the_next(agent: Agent, tmp_path: Path) -> None:
    stream = pax("first", {"SCHILY.xattr.user.x": "1"})[:-1024] + tarfile.TarInfo("second").tobuf() + bytes(1024)
    agent.put_files(str(tmp_path / "in"), [stream])
    assert os.listxattr(tmp_path / "in" / "first") == ["user.x"]
    assert os.listxattr(tmp_path / "in" / "second") == []


def test_capability_survives_the_owner_that_is_set_after_it_is_named(agent: Agent, tree: Path, tmp_path: Path) -> None:
    os.chown(tree / "capable", 1000, 1000)  # which drops it
    run("setcap", "cap_net_raw=ep", tree / "capable")
    agent.put_files(str(tmp_path / "in"), agent.get_files(str(tree / "capable")))
    assert (tmp_path / "in" / "capable").stat().st_uid == 1000
    assert run("getcap", tmp_path / "in" / "capable").endswith(b"cap_net_raw=ep\n")


def test_guest_that_is_full_or_read_only_says_so(agent: Agent, tmp_path: Path) -> None:
    support.need("mount")
    where = tmp_path / "small"
    where.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", where], check=False)
    if mounted.returncode != 0:
        support.cannot("tmpfs cannot be mounted")
    try:
        entry = tarfile.TarInfo("big")
        entry.size = 200_000
        with pytest.raises(errors.IOFailure, match="cannot write 'big': No space left"):
            agent.put_files(str(where), [entry.tobuf(), bytes(200_192), bytes(1024)])
        subprocess.run(["mount", "-o", "remount,ro", where], check=True)
        with pytest.raises(errors.Denied, match="cannot replace 'file': Read-only file system"):
            agent.put_files(str(where), [tarfile.TarInfo("file").tobuf() + bytes(1024)])
    finally:
        subprocess.run(["umount", where], check=True)


def test_folder_that_changes_meanwhile_is_sent_to_its_end(agent: Agent, tmp_path: Path) -> None:
    """Names that come and go under the agent's eyes are none of its failures."""
    (tmp_path / "busy").mkdir()
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            (tmp_path / "busy" / f"{number}").write_bytes(b"x")
            if number > 50:
                (tmp_path / "busy" / f"{number - 50}").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            with tarfile.open(fileobj=io.BytesIO(b"".join(agent.get_files(str(tmp_path / "busy"))))) as tar:
                assert tar.getnames()[0] == "busy"
    finally:
        stop.set()
        thread.join()
