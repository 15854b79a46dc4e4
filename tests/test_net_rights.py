"""Who may have taps, and which name servers machines on them are told."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools.net import resolvers
from tests import netlab, support
from tests.netlab import Host

NOBODY = "65534"


@pytest.fixture
def host() -> Iterator[Host]:
    with netlab.host() as one:
        yield one


@pytest.fixture
def open_tun(tmp_path: Path) -> list[str]:
    """The words before a program that give it a tun device as distributions have it: open to all."""
    node = tmp_path / "tun"
    os.mknod(node, 0o666 | 0o020000, os.makedev(10, 200))
    node.chmod(0o666)
    tmp_path.chmod(0o755)
    return ["unshare", "--mount", "sh", "-c", f'mount --bind {node} /dev/net/tun && exec "$@"', "sh"]


def as_user(*rights: str) -> list[str]:
    """Return the words before a program that make an ordinary user of it, with some rights."""
    kept = [f"--{kind}-caps=-all{''.join(f',+{right}' for right in rights)}" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *kept]


def attach(host: Host, user: support.OrdinaryUser, *before: str) -> dict[str, Any]:
    """Attach with a program that the user can read."""
    environment = user.environment({"PYTHONPATH": str(user.bin.parent)})
    python = str(user.bin.parent / ".venv" / "bin" / "python")
    program = [python, *host.program(**netlab.wanted("/", nat=True))[1:]]
    done = host.run(*before, *program, env=environment)
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.root
def test_user_without_the_right_is_offered_the_user_network(host: Host, user: support.OrdinaryUser) -> None:
    got = attach(host, user, *as_user())
    assert (got["error"], "CAP_NET_ADMIN" in got["message"]) == ("Denied", True)
    assert "--net user" in got["hint"]


@pytest.mark.root
def test_right_over_the_network_is_enough(host: Host, user: support.OrdinaryUser, open_tun: list[str]) -> None:
    before = host.state()
    words = [*open_tun, *as_user("net_admin")]
    got = attach(host, user, *words)
    assert host.links()[got["tap"]]["linkinfo"]["info_data"]["user"] == "nobody"
    with host.opened(got["tap"], *open_tun, *as_user()):
        assert "LOWER_UP" in host.links()[got["tap"]]["flags"]
    host.detach(got)
    assert host.state() == before


@pytest.mark.root
def test_user_without_the_right_to_a_tap_cannot_open_it(host: Host, open_tun: list[str]) -> None:
    got = host.attach("/")
    argv = [sys.executable, "-c", netlab.OPEN, got["tap"]]
    done = host.run(*open_tun, *as_user(), *argv, check=False, input="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "PermissionError: [Errno 1] " in done.stderr  # of the tap: where the device itself is closed it is 13


@pytest.mark.root
def test_rights_of_a_user_namespace_are_none_over_the_network_above(host: Host) -> None:
    got = host.attach("/", "unshare", "--user", "--map-root-user")
    assert (got["error"], "--net user" in got["hint"]) == ("Denied", True)


@pytest.mark.root
def test_network_of_a_user_namespace_is_its_own(host: Host) -> None:
    before = host.state()
    got = host.attach("/", "unshare", "--user", "--map-root-user", "--net", env={"PATH": os.environ["PATH"]})
    assert (got.get("address", "").startswith("172.16."), host.state()) == (True, before)


@pytest.mark.root
def test_missing_programs_are_named_with_their_package(host: Host, tmp_path: Path) -> None:
    hidden = f'mount --bind {tmp_path} /usr/sbin && exec "$@"'
    got = host.attach("/", "unshare", "--mount", "sh", "-c", hidden, "sh")
    assert got["error"] == "Unavailable" and "install" in got["hint"]


@pytest.mark.root
def test_missing_tun_device_is_named(host: Host, tmp_path: Path) -> None:
    hidden = f'mount --bind {tmp_path} /dev/net && exec "$@"'
    got = host.attach("/", "unshare", "--mount", "sh", "-c", hidden, "sh")
    assert got["error"] == "Unavailable" and "/dev/net/tun" in got["message"] and "modprobe tun" in got["hint"]


@pytest.mark.root
def test_detaching_what_is_gone_needs_no_right(host: Host) -> None:
    got = host.attach("/")
    host.detach(got)
    answer = host.run(
        "setpriv", "--bounding-set=-all", "--inh-caps=-all", *host.program(detach=got), env=host.environment()
    )
    assert answer.stdout == "null\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["nameserver 192.0.2.53\nnameserver 192.0.2.54\n"], ["192.0.2.53", "192.0.2.54"]),
        (["# nameserver 192.0.2.1\nsearch x\n  nameserver\t192.0.2.53 # mine\n"], ["192.0.2.53"]),
        (["nameserver 127.0.0.53\n", "nameserver 192.0.2.7\n"], ["192.0.2.7"]),
        (["nameserver 127.0.0.1\nnameserver 192.0.2.8\n", "nameserver 192.0.2.7\n"], ["192.0.2.8"]),
        (["nameserver ::1\nnameserver fd00::1\nnameserver 0.0.0.0\nnameserver x\n"], ["9.9.9.9", "1.1.1.1"]),
        (["".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 9))], [f"192.0.2.{n}" for n in range(1, 4)]),
        ([], ["9.9.9.9", "1.1.1.1"]),
    ],
)
def test_name_servers_are_those_that_a_guest_can_reach(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    paths = [tmp_path / str(number) for number in range(2)]
    for path, text in zip(paths, files, strict=False):
        path.write_text(text)
    assert resolvers.servers(paths) == expected


@pytest.mark.root
def test_name_servers_of_the_configuration_come_first(host: Host, banger_home: Path) -> None:
    (banger_home / "config").mkdir()
    (banger_home / "config" / "config.toml").write_text('[network]\ndns = ["192.0.2.99"]\n')
    assert host.attach("/")["dns"] == ["192.0.2.99"]
