"""The token that opens the agent of a guest whose vsock address any user of the host can connect to."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import errors, guest
from banger_tools.agent import protocol, transport
from banger_tools.agent.client import Agent
from banger_tools.store import records
from banger_tools.vmm import fit, guest_config, holder, interface, qemu, qemu_machine, qemu_vsock
from banger_tools.vmm import spec as specs
from tests import guest_lab, support

TOKEN = "0123456789abcdef" * 4
LINE = f"TOKEN {TOKEN}\n".encode()
QUESTION = b"GET /healthz HTTP/1.1\r\nHost: guest\r\n\r\n"
LAST_QUESTION = QUESTION.replace(b"Host", b"Connection: close\r\nHost")
SPEC = specs.Spec(
    "0580f416-9a01-4b34-8662-80f05a24dab6",
    "web",
    "tiny",
    "amd64",
    "qemu",
    1,
    128 << 20,
    "none",
    specs.Boot("/k/vmlinux", None, "/k/initrd.img"),
    specs.Guest(),
)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of an agent whose guest config, as it is on the disk, has a token."""
    folder = tmp_path_factory.mktemp("agent")
    guest_config.write(SPEC, folder, None, power="off", token=TOKEN)
    path = folder / "agent.sock"
    with guest_lab.running("agent", "--listen-unix", path, "--config", folder / specs.CONFIG_DISK):
        assert guest_lab.until(path.exists)
        yield path


def said(path: Path, *pieces: bytes) -> bytes:
    """Send pieces, each by itself, and return all that comes until the agent closes."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(60)
        stream.connect(str(path))
        try:
            for piece in pieces:
                stream.sendall(piece)
                time.sleep(0.001 if len(pieces) > 1 else 0)
            while piece := stream.recv(65536):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            pass
    return answer


@pytest.mark.parametrize(
    "words",
    [
        b"",
        LINE[:-1],
        LINE[:-1] + b"\r\n",
        b" " + LINE,
        LINE.lower(),
        LINE.upper(),
        LINE.replace(b"0", b"1", 1),
        LINE.replace(b"f\n", b"0\n"),
        LINE[6:],
        LINE[:20] + b"\n",
        b"TOKEN \n",
        b"\n" + LINE,
        b"\0" * len(LINE),
        b"x" * 100_000,
    ],
    ids=lambda words: repr(words[:12]),
)
def test_client_that_does_not_know_the_token_hears_not_a_byte(listener: Path, words: bytes) -> None:
    assert said(listener, words + LAST_QUESTION) == b""


def test_client_that_is_silent_is_closed(listener: Path) -> None:
    began = time.monotonic()
    assert said(listener, LINE[:10]) == b""
    assert time.monotonic() - began > 5  # and not for its first words


def test_token_opens_the_agent(listener: Path) -> None:
    assert said(listener, LINE + QUESTION + LAST_QUESTION).count(b"HTTP/1.1 200") == 2
    assert b'"banger-agent"' in said(listener, *(bytes([byte]) for byte in LINE), LAST_QUESTION)
    assert said(listener, LINE + LINE + LAST_QUESTION).startswith(b"HTTP/1.1 400")


def test_client_says_the_token(listener: Path) -> None:
    agent = Agent(transport.unix(listener, TOKEN))
    agent.wait_ready(time.monotonic() + guest_lab.SECONDS, lambda: True)
    assert guest_lab.execute(agent, "echo", "in").stdout == b"in\n"
    for other in (None, "f" * 64):
        with pytest.raises(errors.Retry):
            Agent(transport.unix(listener, other)).health(5)


def test_config_that_is_not_there_starts_no_agent(tmp_path: Path) -> None:
    with guest_lab.running("agent", "--listen-unix", tmp_path / "s", "--config", tmp_path / "none") as process:
        assert process.wait(guest_lab.SECONDS) == 66
    assert not (tmp_path / "s").exists()


def test_page_has_the_time_that_the_program_gives() -> None:
    source = (guest.FOLDER / "src" / "token.c").read_text()
    match = re.search(r"TOKEN_WAIT_MS (\d+)", source)
    assert match and f"within {int(match[1]) // 1000} seconds" in (protocol.__doc__ or "")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> interface.Run:
    """A run of a machine whose kernel has vsock."""
    support.need("qemu-system-x86_64")
    monkeypatch.setattr(qemu, "_hears_vsock", lambda spec: True)
    monkeypatch.setattr(qemu_machine, "best", lambda spec, accelerator: qemu_machine.usual("amd64"))
    monkeypatch.setattr(fit, "booted_kernel", lambda boot: None)
    guest_config.write(SPEC, tmp_path, None, power=qemu.POWER)
    return interface.Run(SPEC, tmp_path, "tcg", None)


def config(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / specs.CONFIG_DISK).read_bytes())
    return found


def test_each_start_with_an_address_has_a_token_of_its_own_that_only_the_owner_sees(
    run: interface.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu_vsock, "free_cid", lambda machine: 77)
    tokens = []
    for _ in range(2):
        launch = qemu.prepare(run)
        assert launch.token is not None and re.fullmatch("[0-9a-f]{64}", launch.token)
        assert config(run.folder)["token"] == launch.token
        assert launch.token not in " ".join(launch.argv)
        assert (run.folder / specs.CONFIG_DISK).stat().st_mode & 0o777 == 0o600
        tokens.append(launch.token)
    assert tokens[0] != tokens[1]


def test_start_without_an_address_has_no_token(run: interface.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_vsock, "free_cid", lambda machine: None)
    assert qemu.prepare(run).token is None
    assert "token" not in config(run.folder)


def test_record_with_a_token_is_its_owners_alone(tmp_path: Path) -> None:
    process = specs.Process(os.getpid(), 1, holder.boot_id(), "kvm", "q35", 77, None, TOKEN)
    previous = os.umask(0o022)
    try:
        records.write(tmp_path, specs.RECORD, specs.Record(specs.SCHEMA, SPEC, process))
    finally:
        os.umask(previous)
    assert TOKEN in (tmp_path / specs.RECORD).read_text()
    assert (tmp_path / specs.RECORD).stat().st_mode & 0o777 == 0o600


def test_socket_behind_a_symlink_is_not_connected_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "real.sock"))
        listening.listen(4)
        (tmp_path / "v.sock").symlink_to("real.sock")
        transport.connect_unix(tmp_path / "real.sock").close()
        with pytest.raises(OSError):
            transport.connect_unix(tmp_path / "v.sock")
