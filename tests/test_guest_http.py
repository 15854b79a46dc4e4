"""The agent's HTTP: what it answers, what it refuses, and that it refuses within bounds; and its file transfers."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import __version__, errors
from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from tests import guest_lab, support


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a running agent."""
    with guest_lab.listening(tmp_path_factory.mktemp("agent")) as path:
        yield path


@pytest.fixture
def agent(listener: Path) -> Agent:
    """A client of a running agent."""
    return Agent(transport.unix(listener))


class Client(http.client.HTTPConnection):
    """Python's own HTTP client on a Unix socket: a judge that we did not write."""

    def __init__(self, path: Path) -> None:
        super().__init__("guest")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(guest_lab.SECONDS)
        self.sock.connect(str(self.path))


def raw(path: Path, data: bytes) -> bytes:
    """Send bytes and return all that comes until the agent closes."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(guest_lab.SECONDS)
        stream.connect(str(path))
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := stream.recv(65536):
            answer += piece
    return answer


def test_health_is_told_to_any_http_client_on_one_connection(listener: Path) -> None:
    client = Client(listener)
    for _ in range(3):
        client.request("GET", "/healthz")
        answer = json.loads(client.getresponse().read())
        assert answer["name"] == "banger-agent" and answer["version"] == __version__ and answer["ready"] is True
        assert answer["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert abs(answer["uptime"] - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5
    client.close()


def test_curl_can_speak_to_it(listener: Path) -> None:
    support.need("curl")
    command = ["curl", "-sS", "--unix-socket", str(listener), "http://guest/healthz"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["name"] == "banger-agent"


def test_ports_are_those_that_listen(agent: Agent) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        found = {(port.address, port.port): port for port in agent.ports() if port.protocol == "tcp"}
        mine = found["127.0.0.1", server.getsockname()[1]]
        assert ("::1", six.getsockname()[1]) in found
    if os.geteuid() == 0:
        assert mine.pid == os.getpid()
        assert mine.program == Path("/proc/self/comm").read_text().strip()


@pytest.mark.root
def test_listener_of_another_user_is_named_on_each_protocol(agent: Agent) -> None:
    """The program's name is no UTF-8, as one that the kernel cut in the middle of a character is not."""
    code = """if True:
        import ctypes, os, socket
        sockets = [socket.socket(f, t) for f in (socket.AF_INET, socket.AF_INET6)
                   for t in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
        for each in sockets:
            each.bind(("::1" if each.family == socket.AF_INET6 else "127.0.0.1", 0))
            if each.type == socket.SOCK_STREAM:
                each.listen()
        ctypes.CDLL(None).prctl(15, b"odd\\xff\\"name")
        os.setuid(65534)
        print(*[each.getsockname()[1] for each in sockets], flush=True)
        input()
    """
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        numbers = list(map(int, process.stdout.readline().split()))
        found = {(port.protocol, port.address, port.port): port for port in agent.ports()}
        process.communicate(b"\n", guest_lab.SECONDS)
    kinds = [("tcp", "127.0.0.1"), ("udp", "127.0.0.1"), ("tcp", "::1"), ("udp", "::1")]
    for (protocol, address), number in zip(kinds, numbers, strict=True):
        port = found[protocol, address, number]
        assert (port.pid, port.program) == (process.pid, 'odd\udcff"name')


def test_stats_are_those_of_the_machine(agent: Agent) -> None:
    stats = agent.stats()
    assert stats.memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert stats.cpus == os.sysconf("SC_NPROCESSORS_ONLN")
    root = os.statvfs("/")
    assert {"/": root.f_blocks * root.f_frsize}.items() <= {d.path: d.size for d in stats.disks}.items()


def test_sync_answers(agent: Agent) -> None:
    agent.sync()


MALFORMED = {
    "no request": (b"hello\r\n\r\n", 400),
    "only a method": (b"GET\r\n\r\n", 400),
    "other protocol": (b"GET / HTTP/2.0\r\n\r\n", 400),
    "relative target": (b"GET healthz HTTP/1.1\r\n\r\n", 400),
    "control byte": (b"GET /\x01 HTTP/1.1\r\n\r\n", 400),
    "field without colon": (b"GET / HTTP/1.1\r\nnothing\r\n\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "NUL in a field": (b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n", 400),
    "negative length": (b"POST /exec HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (b"POST /exec HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
    "length and chunks": (b"POST /exec HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "huge length": (b"POST /exec HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
    "JSON in chunks": (b"POST /exec HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
    "body too large": (b"POST /exec HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
    "target too long": (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 431),
    "head too large": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 4000 + b"\r\n", 431),
    "unknown coding": (b"PUT /files HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "no JSON": (b"POST /exec HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", 400),
    "JSON of a list": (b"POST /exec HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
    "empty argv": (b'POST /exec HTTP/1.1\r\nContent-Length: 11\r\n\r\n{"argv":[]}', 400),
    "NUL in argv": (b'POST /exec HTTP/1.1\r\nContent-Length: 19\r\n\r\n{"argv":["\\u0000"]}', 400),
    "wrong type": (b'POST /exec HTTP/1.1\r\nContent-Length: 24\r\n\r\n{"argv":["a"],"cwd":   7}', 400),
    "unknown mode": (b'POST /shutdown HTTP/1.1\r\nContent-Length: 13\r\n\r\n{"mode":"up"}', 400),
    **{
        f"time {body.decode()}": (b"POST /time HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), status)
        for status, bodies in {
            400: [
                b"",
                b"null",
                b"-1",
                b"1e9",
                b"7258118400",
                b'"1"',
                b"[1]",
                b"{}",
                b'{"seconds": 1, "microseconds": -1}',
            ],
            403: [b"1", b"1700000000.123456789", b'{"seconds": 1, "microseconds": 999999}'],  # good, but not for tests
        }.items()
        for body in bodies
    },
    "unknown path": (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
    "wrong method": (b"DELETE /exec HTTP/1.1\r\n\r\n", 405),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_is_refused(listener: Path, name: str) -> None:
    data, status = MALFORMED[name]
    answer = raw(listener, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_shutdown_asked_for_with_a_wrong_mode_is_refused_before_anything_else(listener: Path) -> None:
    assert b"400" in raw(listener, b'POST /shutdown HTTP/1.1\r\nContent-Length: 10\r\n\r\n{"mode":1}')[:20]


def test_request_that_comes_byte_by_byte_is_understood(listener: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(str(listener))
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            stream.sendall(bytes([byte]))
        assert stream.recv(100).startswith(b"HTTP/1.1 200 OK")


def archive(*entries: tuple[tarfile.TarInfo, bytes], pax: bool = True) -> bytes:
    """Return a tar."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT) as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return output.getvalue()


def entry(name: str, **fields: object) -> tarfile.TarInfo:
    """Return a tar entry."""
    made = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@pytest.mark.root
@pytest.mark.parametrize("pax", [True, False])
def test_files_go_in_and_come_out_as_gnu_tar_would(agent: Agent, tmp_path: Path, *, pax: bool) -> None:
    long = "l" * 150 + "/" + "m" * 150
    sent = archive(
        (entry("d", type=tarfile.DIRTYPE, mode=0o1777, uid=5, gid=6), b""),
        (entry("d/setuid", mode=0o4755, uid=1000, gid=1001, mtime=12345), b"x" * 1000),
        (entry(long, uid=3_000_000, gid=3_000_001, mode=0o600), b"long"),
        (entry("link", type=tarfile.SYMTYPE, linkname="../" * 40 + "etc/passwd", uid=7, gid=8), b""),
        (entry("hard", type=tarfile.LNKTYPE, linkname="d/setuid"), b""),
        (entry("null", type=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3), b""),
        (entry("pipe", type=tarfile.FIFOTYPE, mode=0o640, uid=9), b""),
        pax=pax,
    )
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    theirs.mkdir()
    assert agent.put_files(str(ours), [sent]) == 7
    subprocess.run(["tar", "-xp", "--numeric-owner", "-C", theirs], input=sent, check=True)
    format_ = ["-printf", "%P %y %m %U %G %s %l\n"]

    def listing(folder: Path) -> list[str]:
        shown = subprocess.run(["find", ".", "-mindepth", "1", *format_], cwd=folder, capture_output=True, check=True)
        return sorted(line for line in shown.stdout.decode().splitlines() if " d " not in line or line.startswith("d "))

    assert listing(ours) == listing(theirs)
    assert (ours / "hard").stat().st_ino == (ours / "d" / "setuid").stat().st_ino
    assert (ours / "d" / "setuid").stat().st_mtime == 12345
    back = tmp_path / "back"
    back.mkdir()
    stream = b"".join(agent.get_files(str(ours)))
    subprocess.run(["tar", "-xp", "--numeric-owner", "--strip-components=1", "-C", back], input=stream, check=True)
    assert listing(back) == listing(ours)


def test_large_file_keeps_its_bytes_both_ways(agent: Agent, tmp_path: Path) -> None:
    data = os.urandom(20_000_000)
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    sent = archive((entry("big", **owner), data))
    agent.put_files(str(tmp_path), (sent[at : at + 50_001] for at in range(0, len(sent), 50_001)))
    assert hashlib.sha256((tmp_path / "big").read_bytes()).digest() == hashlib.sha256(data).digest()
    with tarfile.open(fileobj=io.BytesIO(b"".join(agent.get_files(str(tmp_path / "big"))))) as tar:
        file = tar.extractfile("big")
        assert file is not None and file.read() == data


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (entry("../evil"), "leads out"),
        (entry("a/../../evil"), "leads out"),
        (entry("hard", type=tarfile.LNKTYPE, linkname="../outside"), "leads out"),
        (entry("x", type=b"S"), "unknown type"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_archive_that_reaches_out_is_refused(agent: Agent, tmp_path: Path, made: tarfile.TarInfo, why: str) -> None:
    (tmp_path / "outside").write_text("safe")
    with pytest.raises(errors.BadInput, match=why):
        agent.put_files(str(tmp_path / "in"), [made.tobuf() + bytes(1024)])
    assert not (tmp_path / "evil").exists()


def test_link_planted_by_an_archive_is_not_followed_out_of_the_folder(agent: Agent, tmp_path: Path) -> None:
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    sent = archive(
        (entry("way", type=tarfile.SYMTYPE, linkname=str(tmp_path / "victim"), **owner), b""),
        (entry("way/planted", **owner), b"evil"),
    )
    (tmp_path / "victim").mkdir()
    with_refusal = None
    try:
        agent.put_files(str(tmp_path / "in"), [sent])
    except errors.BadInput as error:
        with_refusal = error
    assert list((tmp_path / "victim").iterdir()) == []
    assert with_refusal is not None or (tmp_path / "in" / str(tmp_path / "victim").lstrip("/") / "planted").exists()


@pytest.mark.parametrize("cut", [1, 511, 512, 700, 1100])
def test_archive_that_is_cut_or_damaged_is_refused(agent: Agent, tmp_path: Path, cut: int) -> None:
    owner = {"uid": os.getuid(), "gid": os.getgid()}
    sent = archive((entry("file", **owner), b"x" * 600))
    with pytest.raises(errors.BadInput, match="ends early"):
        agent.put_files(str(tmp_path / "in"), [sent[:cut]])
    damaged = bytes([sent[0] ^ 1]) + sent[1:]
    with pytest.raises(errors.BadInput, match="damaged"):
        agent.put_files(str(tmp_path / "in"), [damaged])


def test_missing_path_is_named(agent: Agent) -> None:
    with pytest.raises(errors.NoInput, match="/no/such/path"):
        list(agent.get_files("/no/such/path"))
    with pytest.raises(errors.BadInput, match="from the root on"):
        list(agent.get_files("relative"))


def test_names_that_are_no_utf8_and_hold_odd_bytes_are_reached(agent: Agent, tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/a b%&?=\xff"
    with open(odd, "wb") as file:
        file.write(b"odd")
    stream = b"".join(agent.get_files(os.fsdecode(odd)))
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        assert os.fsencode(tar.getnames()[0]) == b"a b%&?=\xff"
