"""What a guest sends as its host keys, and names and folders that ssh could misread."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.vmm import inside, ssh
from banger_tools.vmm import spec as specs
from tests import support
from tests.test_vmm import SPEC

KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 root@guest\n"
ED25519 = "/etc/ssh/ssh_host_ed25519_key.pub"


class Guest:
    """An agent that sends what it likes, by path."""

    def __init__(self, sent: Mapping[str, bytes]) -> None:
        self.sent = sent

    def get_files(self, path: str) -> Iterator[bytes]:
        if path not in self.sent:
            raise errors.NoInput(f"there is no '{path}'")
        yield self.sent[path]


def archive(content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("key.pub")
        info.type, info.size, info.linkname = kind, len(content), target
        tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def keys(monkeypatch: pytest.MonkeyPatch, sent: Mapping[str, bytes]) -> list[str]:
    monkeypatch.setattr(inside, "agent", lambda name: Guest(sent))
    return ssh.host_keys("web")


def test_host_key_is_read_also_by_way_of_symlinks(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [" ".join(KEY.decode().split()[:2])]
    assert keys(monkeypatch, {ED25519: archive(KEY)}) == expected
    linked = {
        ED25519: archive(kind=tarfile.SYMTYPE, target="../keys/a"),
        "/etc/ssh/../keys/a": archive(kind=tarfile.SYMTYPE, target="/persistent/b"),
        "/persistent/b": archive(KEY),
    }
    assert keys(monkeypatch, linked) == expected


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"garbage" * 1000,
        archive(KEY)[:700],
        archive(bytes(1 << 20)),
        gzip.compress(archive(bytes(60 << 10))),
        archive(kind=tarfile.DIRTYPE),
        archive(kind=tarfile.LNKTYPE, target="elsewhere"),
        archive(kind=tarfile.SYMTYPE, target=ED25519),
        bytes(1024),
    ],
    ids=["empty", "garbage", "cut", "large", "compressed", "folder", "hard link", "endless", "nothing"],
)
def test_what_is_no_host_key_is_refused(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    with pytest.raises(errors.BadInput, match="'web'"):
        keys(monkeypatch, {ED25519: sent})


def test_file_without_a_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.NoInput, match="no ssh host key"):
        keys(monkeypatch, {ED25519: archive(b"\n")})


def settings(*words: str) -> dict[str, str]:
    """Return what ssh makes of its arguments."""
    support.need("ssh")
    said = subprocess.run(["ssh", "-G", *words], capture_output=True, text=True, check=True).stdout
    return dict(line.partition(" ")[::2] for line in said.splitlines())


def test_ssh_finds_the_host_keys_in_folders_with_odd_names(tmp_path: Path, banger_home: Path) -> None:
    record = specs.Record(specs.SCHEMA, SPEC)
    for name in ("100%", "%d", "a b"):
        known = tmp_path / name / "known_hosts"
        got = settings("-F", "none", *ssh.command(record, known, "root", [], []))
        assert got["userknownhostsfile"] == str(known)


def test_name_with_a_quote_is_none_of_a_machine(tmp_path: Path, banger_home: Path) -> None:
    """This ssh may refuse one by itself; so another character stands for the quote."""
    config = tmp_path / "config"
    config.write_bytes(support.run_ok("banger", "ssh-config").replace(b"*'*", b"*_*"))
    assert "proxycommand" in settings("-F", str(config), "web.vm")
    assert "proxycommand" not in settings("-F", str(config), "we_b.vm")
    support.run_ok("banger", "ssh-config", "--install", f"--file={config}")
    made = tmp_path / "made"
    subprocess.run(["ssh", "-F", config, f"x'; touch {made}; '.vm"], capture_output=True, check=False)
    assert not made.exists()
