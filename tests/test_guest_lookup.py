"""How names become addresses: /etc/hosts and /etc/resolv.conf after init, as container runtimes have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import namespaced
from tests.namespaced import run

pytestmark = pytest.mark.root

DNS = {"dns": ["10.9.8.7", "10.9.8.6"]}
RESOLVER = "nameserver 10.9.8.7\nnameserver 10.9.8.6\n"
LOCALHOST = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of one static busybox, without /etc."""
    return namespaced.make_root(tmp_path / "root")


@pytest.fixture
def etc(root: Path) -> Path:
    """The folder /etc of a root that has one."""
    (root / "etc").mkdir()
    return root / "etc"


def test_names_are_written_where_the_image_has_none(root: Path) -> None:
    assert run(root, "hostname", hostname="web", network=DNS).startswith("web\n")
    assert (root / "etc" / "hostname").read_text() == "web\n"
    assert (root / "etc" / "hosts").read_text() == f"{LOCALHOST}127.0.1.1 web\t# this machine\n"
    assert (root / "etc" / "resolv.conf").read_text() == RESOLVER


def test_empty_files_as_docker_export_leaves_them_are_filled(root: Path, etc: Path) -> None:
    for name in ("hosts", "resolv.conf", "hostname"):
        (etc / name).touch()
    run(root, ":", hostname="web.example.org", network=DNS)
    assert (etc / "hosts").read_text() == f"{LOCALHOST}127.0.1.1 web.example.org web\t# this machine\n"
    assert (etc / "resolv.conf").read_text() == RESOLVER


def test_lines_of_the_image_stay_and_the_host_name_is_added_once(root: Path, etc: Path) -> None:
    own = "127.0.0.1\tlocalhost # web\n1.2.3.4 mine"
    (etc / "hosts").write_text(own)
    for _ in range(2):
        run(root, ":", hostname="web")
    assert (etc / "hosts").read_text() == f"{own}\n127.0.1.1 web\t# this machine\n"


def test_machine_with_a_new_name_forgets_the_old_one(root: Path, etc: Path) -> None:
    run(root, ":", hostname="old")
    run(root, ":", hostname="new")
    assert (etc / "hosts").read_text() == f"{LOCALHOST}127.0.1.1 new\t# this machine\n"


def test_hosts_that_name_the_machine_are_left_alone(root: Path, etc: Path) -> None:
    own = "127.0.0.1 localhost\n10.0.0.9 other WEB\n"
    (etc / "hosts").write_text(own)
    os.utime(etc / "hosts", (1, 1))
    run(root, ":", hostname="web")
    assert (etc / "hosts").read_text() == own
    assert (etc / "hosts").stat().st_mtime == 1


def test_list_too_long_to_be_read_whole_is_not_cut(root: Path, etc: Path) -> None:
    own = "".join(f"0.0.0.0 ads{number}.example\n" for number in range(12_000))
    (etc / "hosts").write_text(own)
    run(root, ":", hostname="web")
    assert (etc / "hosts").read_text() == own


def test_servers_of_the_host_win_over_those_of_the_machine_that_made_the_image(root: Path, etc: Path) -> None:
    (etc / "resolv.conf").write_text("nameserver 192.0.2.1\nsearch build.example\n")
    run(root, ":", network=DNS)
    assert (etc / "resolv.conf").read_text() == RESOLVER


def test_resolver_of_the_image_stays_without_servers_of_the_host(root: Path, etc: Path) -> None:
    (etc / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    run(root, ":", network={"dns": []})
    assert (etc / "resolv.conf").read_text() == "nameserver 192.0.2.1\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_link_to_resolved_stays_only_where_it_will_run(root: Path, etc: Path, *, enabled: bool) -> None:
    link = etc / "resolv.conf"
    link.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    script = "#!/bin/sh\n/bin/cat /run/systemd/resolved.conf.d/banger.conf\n/bin/echo the end\nexec /bin/sleep 60\n"
    namespaced.program(root, "/lib/systemd/systemd", script)
    wants = etc / "systemd" / "system" / "sysinit.target.wants"
    wants.mkdir(parents=True)
    if enabled:
        (wants / "systemd-resolved.service").symlink_to("/lib/systemd/systemd")  # it only has to be there
    with namespaced.machine(root, network=DNS) as made:
        said = made.until("the end")
    assert ("[Resolve]\nDNS=10.9.8.7 10.9.8.6\n" in said) == enabled
    assert link.is_symlink() == enabled
    if not enabled:
        assert link.read_text() == RESOLVER
