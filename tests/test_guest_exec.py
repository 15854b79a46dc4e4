"""Commands run by the guest program's agent, judged by what the commands themselves print and do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from tests import guest_lab, support

STDIN, STDOUT, STDERR, EXIT, SIGNAL, WINSIZE, TAKEN = range(7)


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a running agent."""
    with guest_lab.listening(tmp_path_factory.mktemp("agent")) as path:
        yield path


@pytest.fixture
def agent(listener: Path) -> Agent:
    """A client of a running agent."""
    return Agent(transport.unix(listener))


class Raw:
    """A client that speaks frames by itself, so that what ours would never send can be sent."""

    def __init__(self, path: Path, **body: object) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.settimeout(guest_lab.SECONDS)
        self.stream.connect(str(path))
        data = json.dumps(body).encode()
        self.stream.sendall(b"POST /exec HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        self.reader = self.stream.makefile("rb")
        assert self.reader.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        while self.reader.readline() != b"\r\n":
            pass

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.stream.sendall(struct.pack(">B3xI", kind, len(payload)) + payload)

    def frame(self) -> tuple[int, bytes] | None:
        head = self.reader.read(8)
        if len(head) < 8:
            return None
        kind, length = struct.unpack(">B3xI", head)
        return kind, self.reader.read(length)

    def until(self, kind: int) -> bytes:
        while frame := self.frame():
            if frame[0] == kind:
                return frame[1]
        raise AssertionError(f"no frame of type {kind} came")

    def close(self) -> None:
        self.reader.close()
        self.stream.close()


@pytest.mark.parametrize("status", [0, 1, 42, 126, 127, 255])
def test_exit_status_arrives_verbatim(agent: Agent, status: int) -> None:
    assert guest_lab.execute(agent, "sh", "-c", f"exit {status}").status == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_death_by_signal_is_128_and_its_number(agent: Agent, number: int) -> None:
    assert guest_lab.execute(agent, "sh", "-c", f"kill -{number:d} $$").status == 128 + number


def test_stdin_comes_back_and_stderr_stays_apart(agent: Agent) -> None:
    data = os.urandom(3_000_000)
    result = guest_lab.execute(agent, "sh", "-c", "cat; echo err >&2", stdin=data)
    assert result.stdout == data
    assert result.stderr == b"err\n"


def test_command_that_reads_no_stdin_does_not_hang(agent: Agent) -> None:
    assert guest_lab.execute(agent, "true", stdin=bytes(3_000_000)).status == 0


def test_without_stdin_the_command_reads_its_end(agent: Agent) -> None:
    assert guest_lab.execute(agent, "cat", stdin=None) == guest_lab.Result(0, b"", b"")


def test_missing_command_is_127_and_unstartable_126(agent: Agent) -> None:
    missing = guest_lab.execute(agent, "no-such-command")
    assert (missing.status, missing.stdout) == (127, b"")
    assert b"'no-such-command': not found" in missing.stderr
    assert guest_lab.execute(agent, "/etc/passwd").status == 126
    assert guest_lab.execute(agent, "/").status == 126


@pytest.mark.parametrize(
    "options", [{"cwd": "/no/such/folder"}, {"user": "no-such-user"}, {"user": "root:no-such-group"}]
)
def test_bad_folder_or_user_is_126_with_its_name(agent: Agent, options: dict[str, str]) -> None:
    result = guest_lab.execute(agent, "true", **options)
    assert result.status == 126
    assert b"no" in result.stderr and result.stdout == b""


def test_folder_and_environment_are_as_asked(agent: Agent, tmp_path: Path) -> None:
    result = guest_lab.execute(agent, "sh", "-c", 'pwd; echo "$A|$B"', cwd=str(tmp_path), env={"A": "x y", "B": "é=\\"})
    assert result.stdout.decode() == f"{tmp_path}\nx y|é=\\\n"


def test_bytes_that_are_no_utf8_reach_the_command(agent: Agent) -> None:
    result = guest_lab.execute(agent, "printenv", "ODD", env=["ODD=\udcff\udc80\u20ac"])
    assert result.stdout == b"\xff\x80" + "\u20ac\n".encode()


def test_path_of_the_request_finds_the_command(agent: Agent, tmp_path: Path) -> None:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    assert guest_lab.execute(agent, "only-here", env={"PATH": f"/nowhere:{tmp_path}"}).stdout == b"found\n"
    assert guest_lab.execute(agent, "only-here").status == 127


def test_command_line_that_no_kernel_takes_is_126_and_a_long_one_arrives(agent: Agent) -> None:
    """Linux takes 128 KiB in one argument, and many arguments."""
    assert guest_lab.execute(agent, "echo", *["word"] * 20_000).stdout == b"word " * 19_999 + b"word\n"
    assert guest_lab.execute(agent, "printf", "%s", "x" * 131_000).stdout == b"x" * 131_000
    refused = guest_lab.execute(agent, "echo", "x" * 132_000)
    assert (refused.status, refused.stdout) == (126, b"")
    assert b"'echo': Argument list too long" in refused.stderr


def test_empty_path_is_the_folder_to_start_in(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("/bin/echo")
    assert guest_lab.execute(agent, "here", "found", cwd=str(tmp_path), env={"PATH": ""}).stdout == b"found\n"
    assert guest_lab.execute(agent, "echo", cwd=str(tmp_path), env={"PATH": ""}).status == 127


def test_program_whose_name_is_no_utf8_runs(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "odd\udcff").symlink_to("/bin/echo")
    assert guest_lab.execute(agent, f"{tmp_path}/odd\udcff", "\udcfe").stdout == b"\xfe\n"


def test_own_environment_of_the_agent_stays_its_own(listener: Path, agent: Agent) -> None:
    names = {line.split(b"=")[0] for line in guest_lab.execute(agent, "env").stdout.splitlines()}
    assert names <= {b"PATH", b"HOME", b"USER"}


@pytest.mark.root
def test_users_get_the_groups_that_the_system_gives_them(agent: Agent) -> None:
    for user in ("nobody", "daemon", "www-data", "65534"):
        expected = subprocess.run(["id", user], capture_output=True, check=True).stdout
        assert guest_lab.execute(agent, "id", user=user).stdout == expected
    assert guest_lab.execute(agent, "id", "-G", user="1234:4321").stdout == b"4321\n"
    assert guest_lab.execute(agent, "id", "-gn", user="nobody:daemon").stdout == b"daemon\n"
    assert guest_lab.execute(agent, "printenv", "HOME", user="daemon").stdout == b"/usr/sbin\n"


@pytest.mark.root
def test_ordinary_user_may_open_its_standard_streams_anew(agent: Agent) -> None:
    assert guest_lab.execute(agent, "sh", "-c", "echo x > /dev/stdout", user="nobody").stdout == b"x\n"


def test_no_descriptor_and_no_blocked_signal_leaks_into_a_command(agent: Agent) -> None:
    result = guest_lab.execute(agent, "sh", "-c", "ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status")
    lines = result.stdout.split()
    assert int(lines[0]) == 4  # the three streams, and the folder that ls reads
    # make(1) ignores 32 and 33, which belong to the C library and cannot be set back by it
    assert {int(lines[2], 16) & 0x7FFFFFFF, int(lines[4], 16) & 0x7FFFFFFF} == {0}


def test_orphan_that_keeps_the_pipe_does_not_keep_the_client(agent: Agent) -> None:
    began = time.monotonic()
    result = guest_lab.execute(agent, "sh", "-c", "sleep 30 & echo done; exit 3")
    assert (result.status, result.stdout) == (3, b"done\n")
    assert time.monotonic() - began < 10


def test_all_output_before_the_end_arrives(agent: Agent) -> None:
    for _ in range(20):
        assert len(guest_lab.execute(agent, "head", "-c", "200000", "/dev/zero").stdout) == 200_000


def test_terminal_has_its_size_and_follows_a_resize(listener: Path) -> None:
    client = Raw(
        listener, argv=["sh", "-c", "tty; stty size; read x; stty size"], tty=True, rows=11, cols=22, stdin=True
    )
    shown = client.until(STDOUT)
    while b"11 22" not in shown:
        shown += client.until(STDOUT)
    assert shown.startswith(b"/dev/pts/")
    client.send(WINSIZE, struct.pack(">HH", 33, 44))
    client.send(STDIN, b"\n")
    while b"33 44" not in shown:
        shown += client.until(STDOUT)
    assert json.loads(client.until(EXIT)) == {"status": 0}
    client.close()


def test_interrupt_key_reaches_the_foreground_of_a_terminal(listener: Path) -> None:
    client = Raw(listener, argv=["cat"], tty=True, stdin=True)  # a shell may lose the key between two commands
    client.send(STDIN, b"ready\n")
    shown = b""
    while shown.count(b"ready") < 2:  # the terminal's echo, and cat's own
        shown += client.until(STDOUT)
    client.send(STDIN, b"\x03")
    assert json.loads(client.until(EXIT)) == {"signal": signal.SIGINT, "status": 130}
    client.close()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGKILL])
def test_signal_frame_reaches_the_whole_group(listener: Path, number: int) -> None:
    client = Raw(listener, argv=["sh", "-c", "sleep 60 & echo $!; wait"], stdin=False)
    sleeper = int(client.until(STDOUT))
    client.send(SIGNAL, bytes([number]))
    assert json.loads(client.until(EXIT)) == {"signal": number, "status": 128 + number}
    assert guest_lab.until(lambda: not alive(sleeper))
    client.close()


def test_signal_is_heard_behind_a_full_window_of_stdin(listener: Path) -> None:
    client = Raw(listener, argv=["sleep", "60"], stdin=True)
    for _ in range(4):
        client.send(STDIN, bytes(65536))
    client.send(SIGNAL, bytes([signal.SIGTERM]))
    assert json.loads(client.until(EXIT))["status"] == 143
    client.close()


@pytest.mark.parametrize("script", ["sleep 60 & echo $!; wait", "trap '' HUP; echo $$; while :; do sleep 60; done"])
def test_client_that_goes_away_ends_its_command(listener: Path, script: str) -> None:
    client = Raw(listener, argv=["sh", "-c", script], stdin=True)
    pid = int(client.until(STDOUT))
    assert alive(pid)
    client.close()
    assert guest_lab.until(lambda: not alive(pid), 10)


def test_client_that_goes_away_while_output_is_stuck_ends_its_command(listener: Path) -> None:
    client = Raw(listener, argv=["sh", "-c", "echo $$; exec yes"], stdin=False)
    pid = int(client.until(STDOUT).split()[0])
    time.sleep(0.5)  # the pipes are full by now
    client.close()
    assert guest_lab.until(lambda: not alive(pid), 10)


@pytest.mark.parametrize(
    "frame", [b"\x00\x00\x00\x00\x00\x01\x00\x01", b"\x00\x01\x00\x00\x00\x00\x00\x00", b"\xff" * 8], ids=repr
)
def test_malformed_frame_ends_the_command(listener: Path, frame: bytes) -> None:
    client = Raw(listener, argv=["sh", "-c", "echo $$; exec sleep 60"], stdin=True)
    pid = int(client.until(STDOUT))
    client.stream.sendall(frame)
    assert guest_lab.until(lambda: not alive(pid), 10)
    client.close()


def test_output_that_nobody_reads_stops_the_command_and_not_the_memory(listener: Path) -> None:
    client = Raw(listener, argv=["sh", "-c", "echo $$ $PPID; exec yes"], stdin=False)
    server = int(client.until(STDOUT).split()[1])
    time.sleep(1)
    status = Path(f"/proc/{server}/status").read_text()
    resident = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
    assert resident < 4096  # KiB
    client.close()


def test_thirty_two_commands_run_at_once(agent: Agent) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda n: statuses.append(guest_lab.execute(agent, "sh", "-c", f"sleep 0.3; exit {n}").status),
            args=(number,),
        )
        for number in range(32)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == list(range(32))
    assert time.monotonic() - began < 0.3 * 32


def test_our_own_signals_are_passed_on(listener: Path) -> None:
    """A client in a process of its own gets ^C; the command in the guest dies of it and so tells its status."""
    code = (
        "import sys; from pathlib import Path; from banger_tools.agent import transport;"
        "from banger_tools.agent.client import Agent;"
        "sys.exit(Agent(transport.unix(Path(sys.argv[1]))).exec(['sh','-c','echo up; exec sleep 60'], stdin_fd=None))"
    )
    command = [sys.executable, "-c", code, str(listener)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=support.ROOT)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(guest_lab.SECONDS) == 130
    process.stdout.close()


def alive(pid: int) -> bool:
    """Tell whether a process lives; one that nobody reaped yet does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
