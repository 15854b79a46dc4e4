"""The commands that lead several machines: what each tells of real ones, and that one failure stops no other."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools import errors
from tests import logins, support
from tests.boots import delete, guest, monitors, processes, said, show, vm_folders

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]

PAIR = ("first", "second")


@pytest.fixture(scope="module")
def host_port() -> int:
    return logins.free_port()


@pytest.fixture(scope="module")
def pair(bootable_home: Path, host_port: int) -> Iterator[tuple[str, str]]:
    """Two machines that run; of the first a port is published."""
    env = support.environment({"BANGER_HOME": str(bootable_home)})
    words = [["--name=first", f"--publish={host_port}:80", "--cpus=2"], ["--name=second"]]
    running = [
        subprocess.Popen(support.argv("bg-boot", "--image=tiny", "--memory=128M", *more), stdout=-3, env=env)
        for more in words
    ]
    assert [process.wait(200) for process in running] == [0, 0]
    yield PAIR
    support.run("banger", "vm", "delete", "--force", *PAIR, env=env)


def vm(*words: str) -> subprocess.CompletedProcess[bytes]:
    return support.run("banger", "vm", *words)


def listed(*words: str) -> dict[str, dict[str, Any]]:
    rows = json.loads(support.run_ok("banger", "vm", "list", "--json", *words))
    return {row["name"]: row for row in rows}


def states(*names: str) -> list[str]:
    found = listed()
    return [found[name]["state"] for name in names]


@pytest.fixture
def runs(pair: tuple[str, str]) -> tuple[str, str]:
    """The two machines, started again if the test before stopped them."""
    if states(*pair) != ["running", "running"]:
        vm("start", *pair)
    return pair


@pytest.fixture
def idle(home: Path) -> Iterator[str]:
    """A machine that was made and never started."""
    support.run_ok("bg-boot", "--image=tiny", "--name=idle", "--no-start")
    yield "idle"
    delete("idle")


def test_list_tells_of_each_machine(runs: tuple[str, str], host_port: int, idle: str) -> None:
    found = listed()
    first, second = (found[name] for name in runs)
    assert (first["state"], first["image"], first["vmm"], first["cpus"]) == ("running", "tiny", "qemu", 2)
    assert (first["memory"], second["memory"]) == (128 << 20, 128 << 20)
    assert (first["publish"], second["publish"]) == ([f"127.0.0.1:{host_port}:80/tcp"], [])
    assert Path(f"/proc/{first['pid']}/cwd").resolve() == Path(first["path"])
    assert (found[idle]["state"], found[idle]["pid"], found[idle]["up"]) == ("stopped", None, None)
    since = Path(f"/proc/{first['pid']}").stat().st_mtime  # when somebody first looked: not before its start
    assert first["up"] > time.time() - since - 5


def test_list_is_a_table_or_names_or_only_what_runs(runs: tuple[str, str], idle: str) -> None:
    lines = vm("list").stdout.decode().splitlines()
    assert lines[0].split()[:4] == ["NAME", "STATE", "IMAGE", "VMM"]
    assert [line.split()[:2] for line in lines[1:]] == [["first", "running"], [idle, "stopped"], ["second", "running"]]
    assert vm("list", "--names").stdout.decode().split() == ["first", idle, "second"]
    assert sorted(listed("--running")) == ["first", "second"]


def test_show_prints_one_manifest_after_the_other_in_the_order_of_the_names(runs: tuple[str, str]) -> None:
    done = vm("show", "second", "nosuch", "first")
    decoder, text = json.JSONDecoder(), done.stdout.decode()
    one, end = decoder.raw_decode(text)
    other, _ = decoder.raw_decode(text[end:].lstrip())
    assert (one["vm"]["name"], other["vm"]["name"]) == ("second", "first")
    assert (done.returncode, b"'nosuch'" in done.stderr) == (66, True)


def processor_seconds(name: str) -> int:
    """Return the processor time of a machine's monitor, as ps tells it: in whole seconds."""
    argv = ["ps", "-o", "cputimes=", "-p", str(show(name)["pid"])]
    return int(subprocess.run(argv, capture_output=True, check=True).stdout)


def test_stats_are_what_the_host_and_the_guest_say(runs: tuple[str, str]) -> None:
    least = processor_seconds("first")
    first, second = json.loads(support.run_ok("banger", "vm", "stats", "--json", *runs))
    assert least <= first["host"]["cpu_seconds"] < processor_seconds("first") + 1
    status = Path(f"/proc/{show('first')['pid']}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0]) << 10
    assert resident / 1.5 < first["host"]["resident"] < resident * 1.5
    total = int(said("first", "cat /proc/meminfo").split("MemTotal:")[1].split()[0]) << 10
    assert (first["name"], first["guest"]["memory"]["total"]) == ("first", total)
    path = show("second")["path"]
    blocks = sum(f.stat().st_blocks for f in Path(path).rglob("*") if f.is_file() and f.stat().st_nlink == 1)
    assert second["host"]["disk"] == pytest.approx(blocks * 512, rel=0.1)


@pytest.mark.parametrize("command", ["stats", "ports", "health"])
def test_machine_that_cannot_be_asked_hides_no_other(runs: tuple[str, str], command: str) -> None:
    done = vm(command, "--json", "nothing", *runs)
    assert done.returncode == errors.NoInput.status and b"'nothing'" in done.stderr
    assert {row["name"] for row in json.loads(done.stdout)} >= {"first"}


def test_stats_burn_of_a_guest_is_seen(runs: tuple[str, str]) -> None:
    said("second", "(while :; do :; done) > /dev/null 2>&1 < /dev/null & echo $! > /burner")
    try:
        lines = {line.split()[0]: line.split() for line in vm("stats").stdout.decode().splitlines()}
        assert int(lines["second"][1].rstrip("%")) > int(lines["first"][1].rstrip("%"))
    finally:
        said("second", "kill $(cat /burner)")


def test_ports_show_who_listens_and_where_it_is_reached_from_the_host(runs: tuple[str, str], host_port: int) -> None:
    def ports() -> list[dict[str, Any]]:
        return list(json.loads(support.run_ok("banger", "vm", "ports", "--json", "first")))

    end = f"127.0.0.1:{host_port}"
    assert [(port["port"], port["program"], port["host"]) for port in ports()] == [(80, None, [end])]
    said("first", "busybox nc -ll -p 80 -e cat /proc/sys/kernel/hostname < /dev/null > /dev/null 2>&1 &")
    said("first", "busybox httpd -p 127.0.0.1:81")
    deadline = time.monotonic() + 60
    while len(ports()) < 2 or any(port["program"] is None for port in ports()):
        assert time.monotonic() < deadline
    found = {port["port"]: port for port in ports()}
    assert (found[80]["program"], found[80]["host"], found[81]["host"]) == ("busybox", [end], [])
    assert said("second", "true") == "" and vm("ports").stdout.decode().count(end) == 1
    reached = subprocess.run(["socat", "-t", "30", "-", f"TCP:{end}"], capture_output=True, timeout=60, stdin=-3)
    assert reached.stdout == b"first\n"


def test_health_is_the_agents_answer(runs: tuple[str, str], idle: str) -> None:
    first, second = json.loads(support.run_ok("banger", "vm", "health", "--json", *runs))
    assert (first["health"], second["health"]) == ("ready", "ready")
    assert first["boot_id"] == said("first", "cat /proc/sys/kernel/random/boot_id").strip()
    assert abs(second["uptime"] - float(said("second", "cat /proc/uptime").split()[0])) < 60
    done = vm("health", "first", idle)
    assert (done.returncode, b"is not running" in done.stdout) == (1, True)
    assert vm("health", "nosuch").returncode == 66


def test_one_that_fails_stops_no_other_and_the_first_failure_is_the_status(runs: tuple[str, str]) -> None:
    done = vm("stop", "first", "nosuch", "second")
    assert (done.returncode, done.stdout) == (66, b"")
    assert b"there is no VM 'nosuch'" in done.stderr
    assert states(*runs) == ["stopped", "stopped"]
    assert vm("start", "--all").returncode == 0
    assert states(*runs) == ["running", "running"]
    assert [vm("start", *names).returncode for names in (("first", "nosuch"), ("nosuch", "first"))] == [73, 66]


def test_restart_boots_the_guest_anew_and_keeps_its_disks(runs: tuple[str, str]) -> None:
    before = said("second", "echo data > /kept; cat /proc/sys/kernel/random/boot_id")
    assert vm("restart", "second").returncode == 0
    assert said("second", "cat /kept") == "data\n"
    assert said("second", "cat /proc/sys/kernel/random/boot_id") != before


def test_kill_ends_at_once_and_says_what_may_be_lost(runs: tuple[str, str], home: Path) -> None:
    pid = show("second")["pid"]
    done = vm("kill", "second")
    assert (done.returncode, b"not yet written to its disks is lost" in done.stderr) == (0, True)
    assert (pid in monitors(home), states(*runs)) == (False, ["running", "stopped"])
    assert vm("kill", "second").stderr == b""


def test_what_is_set_is_what_the_guest_gets(runs: tuple[str, str]) -> None:
    done = vm("set", "--memory=192M", "--cpus=2", "second")
    assert (done.returncode, b"banger vm stop second" in done.stderr) == (73, True)
    support.run_ok("banger", "vm", "stop", "second")
    support.run_ok("banger", "vm", "set", "--memory=192M", "--cpus=2", "--disk=128M", "second")
    support.run_ok("banger", "vm", "start", "second")
    assert said("second", "busybox nproc") == "2\n"
    assert 128 << 10 < int(said("second", "cat /proc/meminfo").split()[1]) < 192 << 10
    assert int(said("second", "df -m /").splitlines()[-1].split()[1]) > 100
    for words in (["--memory=1M"], ["--nat=maybe"], ["--nat=on"], []):
        assert vm("set", *words, "first").returncode == 64, words


def test_neither_names_nor_all_is_a_wrong_command_line() -> None:
    for words in (["stop"], ["start"], ["kill"], ["delete"], ["stop", "--all", "first"], ["start", "Not_Good"]):
        assert vm(*words).returncode == 64, words


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_start_of_several_is_undone(pair: tuple[str, str], home: Path, number: int, status: int) -> None:
    vm("stop", *pair)
    argv = support.argv("banger", "vm", "start", *pair)
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, env=support.environment())
    deadline = time.monotonic() + 60
    while len(monitors(home)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == status, stderr.decode()
    assert (processes(home), states(*pair)) == ([], ["stopped", "stopped"])
    assert not [path for name in pair for path in Path(show(name)["path"]).glob("*.sock")]


def test_prune_removes_what_does_not_run_and_nothing_else(runs: tuple[str, str], idle: str, home: Path) -> None:
    left = home / "state" / "vms" / "dead.staging-0123456789ab"
    left.mkdir()
    (left / "root.ext4").write_bytes(bytes(1 << 20))
    told = json.loads(support.run_ok("banger", "vm", "prune", "--dry-run", "--json"))
    assert (told["machines"], told["leftovers"]) == ([idle], [str(left)])
    assert vm_folders(home) == sorted([*runs, idle, left.name])
    asked = vm("prune")
    assert (asked.returncode, b"--force" in asked.stderr) == (64, True)
    done = json.loads(support.run_ok("banger", "vm", "prune", "--force", "--json"))
    assert (done["machines"], done["leftovers"], done["freed"]) == ([idle], [str(left)], told["freed"])
    assert done["freed"] > 2 << 20
    assert vm_folders(home) == sorted(runs)


@pytest.mark.parametrize(("answer", "stays"), [(b"n\n", True), (b"\n", True), (b"y\n", False)])
def test_prune_asks_at_a_terminal(idle: str, home: Path, answer: bytes, *, stays: bool) -> None:
    master, slave = pty.openpty()
    argv = support.argv("banger", "vm", "prune")
    process = subprocess.Popen(argv, stdin=slave, stdout=-1, stderr=-1, env=support.environment())
    os.write(master, answer)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, b"remove them" in stderr) == (0, True)
    assert (idle in vm_folders(home)) is stays


def test_agent_that_is_frozen_is_seen_and_the_machine_still_ends(runs: tuple[str, str], home: Path) -> None:
    pids = "$(busybox pidof banger-agent banger-keeper)"
    guest("second", f"(sleep 1; kill -STOP {pids}) > /dev/null 2>&1 < /dev/null &")
    deadline = time.monotonic() + 60
    while vm("health", "--timeout=1", "second").returncode == 0:
        assert time.monotonic() < deadline
    assert json.loads(support.run_ok("banger", "vm", "stats", "--json", "second"))[0]["guest"] is None
    began = time.monotonic()
    done = vm("stop", "--timeout=1", "second")
    assert (done.returncode, b"did not power off" in done.stderr) == (0, True)
    assert time.monotonic() - began < 60
    assert (states(*runs), len(monitors(home))) == (["running", "stopped"], 1)
