"""The small judgements of the HTTP side: pauses, stalls, loopback, credentials; and the threads behind them."""

from __future__ import annotations

import base64
import email.utils
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.oci import credentials, http
from banger_tools.oci.authorizer import challenges
from banger_tools.oci.cancel import Cancel, Cancelled, run_all
from banger_tools.oci.connections import Guard


def test_retry_after_is_read_in_both_forms() -> None:
    assert http.retry_after("7") == 7
    later = http.retry_after(email.utils.formatdate(time.time() + 30, usegmt=True))
    assert later is not None and 25 < later <= 30
    assert http.retry_after(email.utils.formatdate(time.time() - 30, usegmt=True)) == 0
    assert http.retry_after("soon") is None and http.retry_after(None) is None


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000", "x.localhost"]
)
def test_this_machine_is_known(host: str) -> None:
    assert http.is_loopback(host)


@pytest.mark.parametrize("host", ["example.org", "localhost.example.org", "10.0.0.1:5000", "127.0.0.1.example.org"])
def test_other_machines_are_known(host: str) -> None:
    assert not http.is_loopback(host)


def test_a_connection_that_trickles_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(http.time, "monotonic", lambda: now[0])
    watch = http.Watch()
    for _ in range(40):
        now[0] += 1
        watch.saw(1000)
    with pytest.raises(http.Busy):
        for _ in range(80):
            now[0] += 1
            watch.saw(1)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", {}),
        ("Basic", {"basic": {}}),
        ('Basic realm="a, b=c"', {"basic": {"realm": "a, b=c"}}),
        ("BASIC Realm=x", {"basic": {"realm": "x"}}),
        ('Bearer realm="https://a/t",service="s t",scope="repository:a/b:pull,push"',
         {"bearer": {"realm": "https://a/t", "service": "s t", "scope": "repository:a/b:pull,push"}}),
        ('Bearer realm="https://a/t", Basic realm="x"', {"bearer": {"realm": "https://a/t"}, "basic": {"realm": "x"}}),
        ('Negotiate, Bearer realm = "a\\"b"', {"negotiate": {}, "bearer": {"realm": 'a"b'}}),
    ],
)  # fmt: skip
def test_challenges_are_told_apart(header: str, expected: dict[str, dict[str, str]]) -> None:
    assert challenges(header) == expected


def test_a_step_that_takes_too_long_is_broken_off() -> None:
    ours, theirs = socket.socketpair()
    guard = Guard(0.2)
    began = time.monotonic()
    with pytest.raises(TimeoutError), guard.step(ours):
        ours.recv(1)
    assert 0.2 <= time.monotonic() - began < 10
    with guard.step(theirs):
        pass
    guard.end()


def test_patience_ends_and_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    cancel = Cancel()
    monkeypatch.setattr(cancel, "sleep", pauses.append)
    transport = http.Transport("x", http.Settings(), cancel)

    def busy() -> None:
        raise http.Busy("not now")

    with pytest.raises(errors.Retry, match="not now"):
        transport.patiently("it", busy)
    assert pauses == sorted(pauses) and len(pauses) == http.ATTEMPTS - 1


def config(folder: Path, name: str, value: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def auth(user: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:pw:x".encode()).decode()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("key", ["docker.io", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_is_found_under_all_its_names(key: str, home: Path) -> None:
    config(home, ".docker/config.json", {"auths": {key: auth("me")}})
    found = credentials.find("docker.io", "library/debian")
    assert found is not None and (found.user, found.password) == ("me", "pw:x")
    assert credentials.find("ghcr.io", "library/debian") is None


def test_the_most_special_key_wins_and_the_token_is_kept(home: Path) -> None:
    auths = {"reg:1": auth("host"), "reg:1/team": auth("team"), "reg:1/team/app": {"identitytoken": "T"}}
    config(home, ".config/containers/auth.json", {"auths": auths})
    assert [getattr(credentials.find("reg:1", name), "user", None) for name in ("x", "team/x")] == ["host", "team"]
    found = credentials.find("reg:1", "team/app")
    assert found is not None and found.identity_token == "T"


def test_damaged_files_are_named_and_secrets_are_not_shown(home: Path) -> None:
    path = config(home, ".docker/config.json", {"auths": {"reg": {"auth": "%%%"}}})
    with pytest.raises(errors.BadInput, match=str(path)):
        credentials.find("reg", "x")
    path.write_text("{")
    with pytest.raises(errors.BadInput, match="JSON"):
        credentials.find("reg", "x")
    assert "hidden" not in repr(credentials.Credentials("u", "hidden"))


def test_the_first_error_stops_the_other_threads() -> None:
    cancel = Cancel()
    stopped = threading.Event()

    def waits() -> None:
        try:
            cancel.sleep(60)
        except Cancelled:
            stopped.set()
            raise

    def fails() -> None:
        raise errors.BadInput("the reason")

    began = time.monotonic()
    with pytest.raises(errors.BadInput, match="the reason"):
        run_all([waits, fails], 2, cancel)
    assert stopped.is_set() and time.monotonic() - began < 10


def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs = [lambda n=n: time.sleep(0.01 * (5 - n)) or n for n in range(5)]
    assert run_all(jobs, 3, Cancel()) == [0, 1, 2, 3, 4]
