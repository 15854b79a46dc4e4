"""The guest under the real Firecracker: its agent over vsock, its end, and what a snapshot brings back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.agent import AGENT_PORT
from banger_tools.agent.client import Agent
from tests import boots, firecracker_lab, guest_lab
from tests.firecracker_lab import CURL, SECONDS, Inner, Outer

pytestmark = [pytest.mark.boot, pytest.mark.firecracker]


@pytest.fixture(scope="module")
def outer(
    pytestconfig: pytest.Config, bootable_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outer]:
    """A machine that has KVM; its kernel, and that of its guests, is the one that the tests of bg-boot boot, too."""
    assert pytestconfig.cache
    binaries = firecracker_lab.programs(pytestconfig.cache.mkdir("firecracker-1.12.1"))
    kernel = firecracker_lab.kernel(bootable_home, tmp_path_factory.mktemp("kernel"))
    inner_disk = firecracker_lab.inner_image(tmp_path_factory.mktemp("inner"), kernel)
    disk = firecracker_lab.outer_image(tmp_path_factory.mktemp("outer"), kernel, binaries, inner_disk)
    with firecracker_lab.outer_machine(tmp_path_factory.mktemp("vm"), kernel, disk) as machine:
        yield machine


@pytest.fixture(scope="module")
def inner(outer: Outer) -> Inner:
    """A guest of Firecracker whose agent answers."""
    return Inner(outer, "guest").start("--config-file", "vm.json").ready()


def test_agent_answers_over_firecrackers_vsock_socket(inner: Inner) -> None:
    health = inner.agent.health()
    assert health.boot_id == inner.sh("cat /proc/sys/kernel/random/boot_id").strip()
    assert inner.sh("hostname") == "inner\n"
    result = guest_lab.execute(inner.agent, "sh", "-c", "cat; echo no >&2; exit 42", stdin=b"yes\n")
    assert result == (42, b"yes\n", b"no\n")
    assert inner.agent.stats().disks[0].device == "/dev/vda"


def test_files_go_both_ways_over_vsock(inner: Inner) -> None:
    data = os.urandom(1 << 20)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("big")
        entry.size, entry.uid, entry.mode = len(data), 1000, 0o640
        tar.addfile(entry, io.BytesIO(data))
    inner.agent.put_files("/new", [stream.getvalue()])
    summed = inner.sh("busybox sha256sum /new/big; stat -c '%u %a' /new/big")
    assert summed == f"{hashlib.sha256(data).hexdigest()}  /new/big\n1000 640\n"
    assert fetched(inner.agent, "/new/big") == data


def fetched(agent: Agent, path: str) -> bytes:
    """Return the content of a file behind an agent."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(agent.get_files(path)))) as tar:
        file = tar.extractfile(os.path.basename(path))
        assert file is not None
        return file.read()


def test_ports_over_vsock_are_those_of_the_guest(inner: Inner) -> None:
    pid = int(inner.sh("socat TCP-LISTEN:8080,fork EXEC:cat </dev/null >/dev/null 2>&1 & echo $!"))
    assert guest_lab.until(lambda: inner.agent.ports(), SECONDS)
    port = inner.agent.ports()[0]
    assert (port.protocol, port.port, port.pid, port.program) == ("tcp", 8080, pid, "socat")
    inner.sh(f"kill {pid}")


def test_commands_at_once_over_vsock_keep_their_own_statuses(inner: Inner) -> None:
    statuses: list[int] = []

    def one(number: int) -> None:
        statuses.append(guest_lab.execute(inner.agent, "sh", "-c", f"sleep 0.1; exit {number}").status)

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert sorted(statuses) == list(range(8))


def test_curl_alone_can_say_the_connect_line(inner: Inner) -> None:
    said = inner.outer.sh(f"""cd {inner.folder}
        {CURL} --http0.9 --unix-socket v.sock -X "$(printf 'CONNECT 10240\nGET')" \
          -H 'Connection: close' http://guest/healthz""")
    first, head, body = said.replace("\r\n", "\n").split("\n", 2)
    assert first.startswith("OK ") and head == "HTTP/1.1 200 OK"
    assert '"name": "banger-agent"' in body


def test_curl_speaks_with_the_agent_behind_a_socket_that_says_the_connect_line(inner: Inner) -> None:
    """The relay has no cat: one that splices holds the pipe's lock while it waits for the socket."""
    relay = "{ echo CONNECT 10240; socat -u - -; } | socat -t 1 - UNIX:v.sock | { read ok; socat -u - -; }"
    said = inner.outer.sh(f"""cd {inner.folder}
        echo '{relay}' > connect
        socat UNIX-LISTEN:agent.sock,fork EXEC:'sh connect' </dev/null >/dev/null 2>&1 &
        for second in $(busybox seq 100); do test -S agent.sock && break; sleep 1; done
        ask="{CURL} --unix-socket agent.sock"
        $ask http://guest/healthz http://guest/stats
        echo hello > file
        busybox tar -c file | $ask -T - 'http://guest/files?path=/curl'
        $ask 'http://guest/files?path=/curl' | busybox tar -xO curl/file
        $ask -d '' http://guest/sync
        kill $!""")
    health, stats, *others = said.splitlines()
    assert json.loads(health)["name"] == "banger-agent" and json.loads(stats)["cpus"] == 1
    assert others == ['{"entries": 1}', "hello", '{"synced": true}']


def test_program_in_the_guest_cannot_use_the_agent_over_vsock(inner: Inner) -> None:
    """Cid 1 is the machine itself, and so is its own number: loopback works, but the agent serves cid 2, the host."""
    inner.sh("busybox insmod /vsock_loopback.ko")
    inner.sh("socat VSOCK-LISTEN:999,fork EXEC:cat </dev/null >/dev/null 2>&1 &")
    ask = "printf 'GET /healthz HTTP/1.1\\r\\n\\r\\n' | socat -t 60 - VSOCK-CONNECT"
    assert guest_lab.until(lambda: "GET" in inner.sh(f"{ask}:1:999 || true"), SECONDS)
    for cid in (1, firecracker_lab.GUEST_CID):
        assert inner.sh(f"{ask}:{cid}:{AGENT_PORT} || true") == ""


def test_restored_snapshot_answers_and_takes_the_time(inner: Inner) -> None:
    inner.sh("echo kept > /dev/shm/kept")
    inner.freeze()
    inner.kill()
    inner.thaw().ready()
    assert inner.sh("cat /dev/shm/kept") == "kept\n"
    inner.agent.set_time(time.time() + 10**6)
    assert abs(int(inner.sh("busybox date +%s")) - time.time() - 10**6) < SECONDS


def test_what_was_synced_survives_a_firecracker_that_is_killed(inner: Inner, tmp_path: Path) -> None:
    inner.sh("echo kept > /synced")
    inner.agent.sync()
    inner.freeze()
    inner.kill()
    disk = disk_of(inner, tmp_path)
    inner.thaw()
    assert boots.fsck(disk, "-p") in (0, 1)  # 1: the journal was replayed
    assert boots.fsck(disk) == 0
    assert content(disk, "/synced") == b"kept\n"


def disk_of(machine: Inner, folder: Path) -> Path:
    """Return a copy of a guest's disk."""
    disk = folder / "root.ext4"
    disk.write_bytes(fetched(machine.outer.agent, f"{machine.folder}/root.ext4"))
    return disk


def content(disk: Path, path: str) -> bytes:
    """Return the content of a file of a disk."""
    return subprocess.run(["debugfs", "-R", f"cat {path}", disk], capture_output=True, check=True).stdout


def test_shutdown_ends_firecracker_and_loses_nothing(outer: Outer, tmp_path: Path) -> None:
    guest = Inner(outer, "short-lived").start("--config-file", "vm.json").ready()
    guest.sh("echo kept > /kept")
    guest.agent.shutdown("graceful")
    assert guest.ended() == 0, guest.log.read_text(errors="replace")
    assert "banger-init: powering down" in guest.log.read_text(errors="replace")
    disk = disk_of(guest, tmp_path)
    assert boots.fsck(disk) == 0
    assert content(disk, "/kept") == b"kept\n"
