"""banger-agent(7) and the program: the page names what there is, and its examples work as they stand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import agent, guest, manuals
from banger_tools.agent import protocol, transport
from banger_tools.agent.client import Agent
from tests import guest_lab, support

PAGE = support.ROOT / "man" / "banger-agent.7"
TEXT = protocol.__doc__ or ""
SOURCES = {path.name: path.read_text() for path in (guest.FOLDER / "src").glob("*.[ch]")}


def section(heading: str) -> str:
    """Return the body of a section of the page's source."""
    match = re.search(rf"^{re.escape(heading)}:\n((?:  .*\n|\n)+)", TEXT, re.MULTILINE)
    assert match, heading
    return match[1]


def constant(name: str) -> int:
    """Return the value of a constant of the program."""
    match = re.search(rf"#define {name} \(?([0-9 *]+)", "\n".join(SOURCES.values()))
    assert match, name
    product = 1
    for factor in match[1].split("*"):
        product *= int(factor)
    return product


def test_page_is_written_from_its_source() -> None:
    assert PAGE.read_text() == manuals.prose_pages()["banger-agent"], "make docs writes it"


def test_page_has_every_request_and_the_program_every_one_of_the_page() -> None:
    served = set(re.findall(r'is\(request, "([A-Z]+)", "(/[a-z]+)"\)', SOURCES["serve.c"]))
    described = set(re.findall(r"^([A-Z]+) (/[a-z]+)(?:\?.*)?:$", TEXT, re.MULTILINE))
    assert served == described
    assert len(served) == 9
    known = set(re.findall(r'"(/[a-z]+)"', SOURCES["serve.c"].partition("paths[] = {")[2].partition("}")[0]))
    assert known == {path for _, path in served}  # of these another method is a 405


def test_page_has_every_status_and_the_program_every_one_of_the_page() -> None:
    text = "\n".join(SOURCES[name] for name in ("http.c", "routes.c", "serve.c", "receive.c", "send.c", "exec.c"))
    reasons = {int(number) for number in re.findall(r"\tcase (\d{3}):", SOURCES["http.c"])} - {200}
    used = set(map(int, re.findall(r"http_refuse\(connection, (\d{3})", text)))
    used |= {int(number) for pair in re.findall(r"\? (\d{3}) : (\d{3})", text) for number in pair}
    used |= set(map(int, re.findall(r"return (\d{3});", SOURCES["receive.c"])))
    described = set(map(int, re.findall(r"^  (\d{3})  ", section("Statuses"), re.MULTILINE)))
    assert described == reasons == used


def test_page_has_every_frame_by_its_number() -> None:
    types = SOURCES["exec.h"].partition("enum frame_type {")[2].partition("}")[0]
    numbers = set(re.findall(r"FRAME_[A-Z]+ = (\d)", types))
    assert set(re.findall(r"^    (\d)  (?:to|from)", section("POST /exec"), re.MULTILINE)) == numbers


def test_page_has_every_member_of_an_exec() -> None:
    read = re.findall(r'(?:json_member|optional_\w+)\(object, "(\w+)"', SOURCES["routes.c"])
    body = section("POST /exec").partition("Its body:")[2].partition("Only `argv`")[0]
    assert set(re.findall(r"^    (\w+)  ", body, re.MULTILINE)) == set(read)


def test_page_has_the_members_of_the_answers(tmp_path: Path) -> None:
    with guest_lab.listening(tmp_path) as path:
        client = Agent(transport.unix(path))
        answers = {heading: client._call(*heading.split()) for heading in ("GET /healthz", "GET /stats")}
        with socket.create_server(("127.0.0.1", 0)):
            answers["GET /ports"] = {"ports": 0, **client._call("GET", "/ports")["ports"][0]}
    for heading, answer in answers.items():
        words = set(re.findall(r"\w+", section(heading)))
        inner = [answer.get("memory", {}), *answer.get("disks", [])]
        assert {*answer, *(key for part in inner for key in part)} <= words, heading


def test_page_has_the_limits_of_the_program() -> None:
    plain = " ".join(TEXT.split())
    assert f"port {agent.AGENT_PORT}." in plain and f"CONNECT {agent.AGENT_PORT}" in plain
    assert f"at most {constant('FRAME_LIMIT')}" in plain
    assert f"up to {constant('STDIN_WINDOW') >> 10} KiB of input" in plain
    assert f"at most {constant('CLIENTS_LIMIT')} connections" in plain
    assert f"larger than {constant('HEADER_LIMIT') >> 10} KiB, or its path is longer than" in plain
    assert f"longer than {constant('TARGET_LIMIT') - 1} bytes" in plain
    assert f"at most {constant('JSON_BODY_LIMIT') >> 20} MiB" in plain
    assert f"have {constant('TAR_EXTENSION_LIMIT') >> 20} MiB of extended headers" in plain
    assert f"closed after {constant('IDLE_LIMIT_MS') // 1000} seconds" in plain
    assert f"`{guest_prefix()}` and a number" in plain


def guest_prefix() -> str:
    match = re.search(r'#define SERIAL_PREFIX "(.*)"', SOURCES["guest.h"])
    assert match
    return match[1]


@pytest.mark.parametrize("viewer", [["mandoc", "-T", "lint", "-W", "warning"], ["man", "--warnings", "-l"]], ids=str)
def test_page_is_shown_without_a_complaint(viewer: list[str]) -> None:
    support.need(viewer[0])
    env = support.environment({"MANROFFSEQ": "", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})
    done = subprocess.run([*viewer, PAGE], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert viewer[0] == "man" or done.stdout == ""


class VsockSocket:
    """Firecracker's side of its vsock socket: a line that names the port, an answer, then the guest's stream."""

    def __init__(self, path: Path, guest_path: Path) -> None:
        self.guest_path = guest_path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self.listener.accept()[0],), daemon=True).start()

    def _serve(self, host: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += host.recv(1)
        if line != b"CONNECT %d\n" % agent.AGENT_PORT:
            host.close()
            return
        host.sendall(b"OK 1073741824\n")
        inner = socket.socket(socket.AF_UNIX)
        inner.connect(str(self.guest_path))
        threading.Thread(target=_copy, args=(host, inner), daemon=True).start()
        _copy(inner, host)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a Firecracker's v.sock, and the agent.sock that the page's first commands make of it."""
    support.need("socat", "curl", "tar", "od")
    where = tmp_path_factory.mktemp("m")
    with guest_lab.listening(tmp_path_factory.mktemp("agent")) as path:
        vsock = VsockSocket(where / "v.sock", path)
        bridge = subprocess.Popen(
            ["sh", "-ec", "\n".join([*commands()[:2], "wait"])], cwd=where, start_new_session=True
        )
        assert guest_lab.until((where / "agent.sock").exists)
        yield where
        os.killpg(bridge.pid, signal.SIGTERM)
        bridge.wait(guest_lab.SECONDS)
        vsock.listener.close()


def commands() -> list[str]:
    """Return the page's commands that run anywhere: those with a prompt."""
    return re.findall(r"^    \$ (.*)$", section("Examples"), re.MULTILINE)


def run(folder: Path, mark: str, lines: int = 1) -> str:
    """Run the command of the page that holds some words, with those that lead to it, and leave nothing elsewhere."""
    number = next(number for number, command in enumerate(commands()) if mark in command)
    script = "\n".join(commands()[number - lines + 1 : number + 1]).replace("/tmp/", f"{folder}/")
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_of_the_page_is_tried_here() -> None:
    tried = ["connect", "UNIX-LISTEN", "healthz", "ports", "stats", "etc/ssl", "banger-agent'", "body=", ">request"]
    tried += ["od -c", "guest/time", "guest/sync", "guest/shutdown"]
    assert len(commands()) == len(tried)
    assert all(mark in command for mark, command in zip(tried, commands(), strict=True))


def test_questions_of_the_page_are_answered(folder: Path) -> None:
    assert json.loads(run(folder, "guest/healthz"))["name"] == "banger-agent"
    assert isinstance(json.loads(run(folder, "guest/ports"))["ports"], list)
    assert json.loads(run(folder, "guest/stats"))["memory"]["total"] > 0
    assert json.loads(run(folder, "guest/sync")) == {"synced": True}


def test_files_of_the_page_come_and_go(folder: Path) -> None:
    assert "ssl/certs" in run(folder, "etc/ssl").splitlines()
    assert json.loads(run(folder, "-T -")) == {"entries": 1}
    assert (folder / "banger-agent" / "connect").read_bytes() == (folder / "connect").read_bytes()


def test_command_of_the_page_answers_in_frames(folder: Path) -> None:
    began = time.monotonic()
    shown = "".join(re.sub(r"(?m)^\d{7} ?", "", run(folder, "od -c", lines=3)).split())
    assert "101SwitchingProtocols" in shown
    frame, end = r"001\0\0\0\0\0\0006hello\n", r'003\0\0\0\0\0\0\r{"status":0}'
    assert frame in shown and end in shown
    assert time.monotonic() - began < 50  # it ended by itself, not by socat's patience


def test_what_would_change_this_machine_is_refused_to_an_agent_without_system(folder: Path) -> None:
    for mark in ("guest/time", "guest/shutdown"):
        assert "--system" in json.loads(run(folder, mark))["error"]
