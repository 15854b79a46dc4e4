"""A client of the guest's agent: health, commands, files, the clock, and the end of the machine."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from banger_tools import errors
from banger_tools.agent import http
from banger_tools.agent.transport import Connection, Connector

if TYPE_CHECKING:
    from banger_tools.agent.answers import Health, Port, Stats

ANSWER_SECONDS = 30.0
SYNC_SECONDS = 300.0
TRANSFER_SECONDS = 60.0
_ATTEMPT_SECONDS, _LONGEST_ATTEMPT = 1.0, 5.0
_PAUSE = 0.02

_KINDS: dict[int, type[errors.BangerError]] = {
    403: errors.Denied,
    404: errors.NoInput,
    501: errors.Unavailable,
    503: errors.Retry,
    507: errors.IOFailure,
}


class Agent:
    """The agent of one machine; each call is a connection of its own."""

    def __init__(self, connect: Connector) -> None:
        self._connect = connect

    def health(self, timeout: float = ANSWER_SECONDS) -> Health:
        """Return what the agent says of itself.

        Raises Retry if it does not answer in time, BadInput if something else answers.
        """
        from banger_tools.agent import answers

        answer = answers.read(self._call("GET", "/healthz", timeout=timeout), answers.Health)
        if answer.name != "banger-agent":
            raise errors.BadInput("something else than banger's agent answers in the guest")
        return answer

    def wait_ready(self, deadline: float, alive: Callable[[], bool]) -> Health:
        """Return the first answer of the agent to a question for its health.

        Raises Unavailable as soon as the machine is not alive any more, Retry at the deadline (monotonic).
        """
        began = time.monotonic()
        while True:
            left = deadline - time.monotonic()
            # what took long already may need long for one answer, too; but a machine's end is seen in between
            patience = min(max(_ATTEMPT_SECONDS, (time.monotonic() - began) / 2), _LONGEST_ATTEMPT)
            with contextlib.suppress(errors.Retry):
                answer = self.health(max(min(patience, left), 0.001))
                if answer.ready:
                    return answer
            if not alive():
                raise errors.Unavailable("the machine ended before its agent answered")
            if left <= 0:
                raise errors.Retry("the guest's agent did not answer in time")
            time.sleep(_PAUSE)

    def exec(
        self,
        argv: Sequence[str],
        *,
        env: Sequence[str] | Mapping[str, str] = (),
        cwd: str | None = None,
        user: str | None = None,
        tty: bool = False,
        stdin_fd: int | None = 0,
        stdout_fd: int = 1,
        stderr_fd: int = 2,
    ) -> int:
        """Run a command with our descriptors as its streams and return its status (128 + signal if killed).

        Signals and window sizes are passed on, and the terminal is put back on any exit. Raises Retry if the
        guest goes away before the status is known, BrokenPipeError if nobody reads our output any more.
        """
        from banger_tools.agent import terminal
        from banger_tools.agent.session import Session

        words = [f"{name}={value}" for name, value in env.items()] if isinstance(env, Mapping) else list(env)
        asked: dict[str, Any] = {"argv": list(argv), "env": words, "cwd": cwd, "user": user}
        asked |= {"tty": tty, "stdin": stdin_fd is not None}
        if tty and stdin_fd is not None:
            asked["rows"], asked["cols"] = terminal.size(stdin_fd)
        with self._open(ANSWER_SECONDS) as connection:
            _upgrade(connection, asked)
            raw_fd = stdin_fd if tty else None
            with terminal.raw(raw_fd), terminal.signals(resize=raw_fd is not None) as caught:
                return Session(connection, caught, stdin_fd, stdout_fd, stderr_fd, terminal_fd=raw_fd).run()

    def sync(self, timeout: float = SYNC_SECONDS) -> None:
        """Have the guest write everything to its disks."""
        self._call("POST", "/sync", timeout=timeout)

    def shutdown(self, mode: str = "graceful", timeout: float = ANSWER_SECONDS) -> None:
        """Have the guest end: `graceful` is its init's own way, `now` kills, syncs and powers off."""
        self._call("POST", "/shutdown", {"mode": mode}, timeout=timeout)

    def stats(self, timeout: float = ANSWER_SECONDS) -> Stats:
        """Return memory, load and disks of the guest; raises BadInput for an answer that makes no sense."""
        from banger_tools.agent import answers

        return answers.read(self._call("GET", "/stats", timeout=timeout), answers.Stats)

    def ports(self, timeout: float = ANSWER_SECONDS) -> list[Port]:
        """Return who listens in the guest; raises BadInput for an answer that makes no sense."""
        from banger_tools.agent import answers

        return answers.read(self._call("GET", "/ports", timeout=timeout), answers.Ports).ports

    def set_time(self, seconds: float) -> None:
        """Set the guest's clock, as after the restore of a snapshot."""
        micros = round(seconds * 1_000_000)
        self._call("POST", "/time", {"seconds": micros // 1_000_000, "microseconds": micros % 1_000_000})

    def put_files(self, path: str, archive: Iterable[bytes]) -> int:
        """Unpack a tar stream below a folder of the guest and return the number of its entries.

        Raises BadInput if the guest refuses the archive.
        """
        from banger_tools.agent import answers

        with self._open(ANSWER_SECONDS) as connection:
            head = http.upload(connection, "PUT", f"/files?path={_quoted(path)}", archive, TRANSFER_SECONDS)
            answer = _answer(connection, head, time.monotonic() + ANSWER_SECONDS)
        return answers.read(answer, answers.Unpacked).entries

    def get_files(self, path: str) -> Iterator[bytes]:
        """Yield a tar stream of a file or folder of the guest.

        Raises NoInput if it is not there, Retry if the stream ends early.
        """
        with self._open(ANSWER_SECONDS) as connection:
            deadline = time.monotonic() + ANSWER_SECONDS
            head = http.request(connection, "GET", f"/files?path={_quoted(path)}", b"", deadline)
            if head.status != 200:
                _answer(connection, head, deadline)
            yield from http.read_chunks(connection, TRANSFER_SECONDS)

    def _open(self, timeout: float) -> Connection:
        return self._connect(time.monotonic() + timeout)

    def _call(
        self, method: str, target: str, body: object | None = None, *, timeout: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        data = b"" if body is None and method == "GET" else json.dumps({} if body is None else body).encode()
        with self._connect(deadline) as connection:
            return _answer(connection, http.request(connection, method, target, data, deadline), deadline)


def _quoted(path: str) -> str:
    return quote(path.encode("utf-8", "surrogateescape"), safe="/")


def _upgrade(connection: Connection, asked: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    # ASCII only: a byte that is no UTF-8 goes as its surrogate escape, which the agent turns back
    head = http.request(connection, "POST", "/exec", json.dumps(asked).encode(), deadline)
    if head.status != 101:
        _answer(connection, head, deadline)
        raise errors.BadInput("the guest's agent did not start a command")


def _answer(connection: Connection, head: http.Head, deadline: float) -> dict[str, Any]:
    """Return the JSON object of an answer.

    Raises the error that a refusal stands for.
    """
    body = http.read_body(connection, head, deadline)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.BadInput("the guest's agent sends an answer that is no JSON") from error
    if not isinstance(answer, dict):
        raise errors.BadInput("the guest's agent sends an answer that makes no sense")
    if head.status != 200:
        kind = _KINDS.get(head.status, errors.BadInput)
        raise kind(f"the guest's agent refused: {str(answer.get('error'))[:1000]}")
    return answer
