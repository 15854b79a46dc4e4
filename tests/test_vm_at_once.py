"""Many machines made at the same time, and what others on this host see of them meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support
from tests.boots import monitors, processes, vm_folders

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]

NUMBER = 16
NAMES = [f"many-{number}" for number in range(NUMBER)]
# Waits until as many monitors as there are machines are being started: a lock that one kept meanwhile would stop it.
# Not for ever: if one of them failed, the test is to tell that, and nothing may be left that turns round and round. Who
# gives up says so: what comes then was not at the same time.
BARRIER = """#!/bin/sh
case $* in *mode=control*)
	: > '{folder}'/arrived.$$
	tries=0
	while [ "$(ls '{folder}' | grep -c arrived)" -lt {number} ]; do
		[ "$((tries += 1))" -lt 600 ] || {{ : > '{folder}'/late.$$; break; }}
		sleep 0.2
	done ;;
esac
exec {real} "$@"
"""


@pytest.fixture
def network(home: Path) -> Iterator[list[str]]:
    """The words that run a program in a network of its own as root, for taps; none for others."""
    if os.geteuid() != 0:
        yield []
        return
    support.need("nft", "ip", "unshare", "nsenter")
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; echo up; exec sleep 900"], stdout=-1)
    assert holder.stdout and holder.stdout.readline() == b"up\n"
    yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]
    holder.kill()
    holder.communicate()


def barrier(tmp_path: Path) -> str:
    """Return a PATH whose QEMU waits for the others."""
    real = shutil.which("qemu-system-x86_64", path=support.search_path())
    (tmp_path / "arrived").mkdir()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "qemu-system-x86_64"
    program.write_text(BARRIER.format(folder=tmp_path / "arrived", number=NUMBER, real=real))
    program.chmod(0o755)
    return f"{program.parent}:{support.search_path()}"


def test_sixteen_machines_start_at_once_and_a_name_is_given_once(
    home: Path, network: list[str], tmp_path: Path
) -> None:
    env, net = support.environment({"PATH": barrier(tmp_path)}), "tap" if network else "user"
    words = ["--image=tiny", "--memory=96M", "--wait=none", f"--net={net}", "--vmm=qemu"]
    names, running = [*NAMES, NAMES[0], NAMES[1]], []
    try:
        running += [
            subprocess.Popen(
                [*network, *support.argv("bg-boot", *words, f"--name={name}")], stdout=-1, stderr=-1, env=env
            )
            for name in names
        ]
        said = [process.communicate(timeout=500) for process in running]
        failed = [(name, p, err) for name, p, (_, err) in zip(names, running, said, strict=True) if p.returncode]
        assert sorted((name, p.returncode) for name, p, _ in failed) == [(NAMES[0], 73), (NAMES[1], 73)], failed
        assert all(b"exists already" in stderr for _, _, stderr in failed)
        made = [json.loads(out)["vm"] for out, _ in said if out]
        assert sorted(vm["pid"] for vm in made) == sorted(monitors(home))
        assert sorted(vm["name"] for vm in made) == vm_folders(home) == sorted(NAMES)
        if network:
            addresses = [vm["address"] for vm in made]
            assert len(set(addresses)) == NUMBER
            assert taps(network) == NUMBER
    finally:
        for process in running:
            process.terminate()
            process.wait(60)
        ended = subprocess.run([*network, *support.argv("banger", "vm", "delete", "--force", *NAMES)], env=env)
    assert ended.returncode == 0
    assert (vm_folders(home), processes(home)) == ([], [])
    assert not list((tmp_path / "arrived").glob("late.*"))  # they did overlap
    if network:
        assert links(network) == ["lo"]


def links(network: list[str]) -> list[str]:
    """Return the network devices, as ip(8) lists them."""
    done = subprocess.run([*network, "ip", "-j", "link"], capture_output=True, check=True, env=support.environment())
    return [link["ifname"] for link in json.loads(done.stdout)]


def taps(network: list[str]) -> int:
    return sum(name.startswith("bg-") for name in links(network))


@pytest.mark.root
def test_start_that_fails_gives_its_tap_back(home: Path, network: list[str], tmp_path: Path) -> None:
    real = shutil.which("qemu-system-x86_64", path=support.search_path())
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(
        f'#!/bin/sh\ncase $* in *mode=control*) ip link > {tmp_path}/seen; exit 1 ;; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    env = support.environment({"PATH": f"{tmp_path}:{support.search_path()}"})
    argv = support.argv("bg-boot", "--image=tiny", "--name=fails", "--net=tap", "--nat", "--vmm=qemu", "--wait=none")
    done = subprocess.run([*network, *argv], capture_output=True, env=env)
    assert done.returncode == 69, done.stderr.decode()
    assert re.search(r"bg-[0-9a-f]{8}", (tmp_path / "seen").read_text())  # it was there when the monitor started
    assert links(network) == ["lo"]
    rules = subprocess.run([*network, "nft", "list", "ruleset"], capture_output=True, check=True, env=env)
    assert (rules.stdout, vm_folders(home)) == (b"", [])


def test_machine_is_private_from_the_first_moment_whatever_the_umask(home: Path, tmp_path: Path) -> None:
    support.need("strace")
    trace = tmp_path / "trace"
    made = support.argv("bg-boot", "--image=tiny", "--name=closed", "--no-start")
    calls = ["strace", "-f", "--seccomp-bpf", "-e", "trace=mkdir,mkdirat,chmod,fchmodat", "-o", str(trace), *made]
    try:
        subprocess.run(["sh", "-c", 'umask 0; exec "$@"', "sh", *calls], check=True, env=support.environment())
        about = [line for line in trace.read_text().splitlines() if re.search(r'vms/closed[^/"]*"', line)]
        assert len(about) == 1, about  # it is made once, and its mode is right from then on
        assert "mkdir(" in about[0]
        assert "0700" in about[0]
        start = support.argv("banger", "vm", "start", "--wait=none", "closed")
        subprocess.run(["sh", "-c", 'umask 0; exec "$@"', "sh", *start], check=True, env=support.environment())
        folder = home / "state" / "vms" / "closed"
        assert folder.stat().st_mode & 0o777 == 0o700
        shared = folder / "kernel"  # with the store
        own = [path for path in folder.rglob("*") if not path.is_relative_to(shared)]
        assert {"vm.json", "image.json", "root.ext4", "config.img", "vmm.log"} < {path.name for path in own}
        assert any(path.is_socket() for path in own)
        assert [path.name for path in own if path.lstat().st_mode & 0o077] == []
    finally:
        support.run("banger", "vm", "delete", "--force", "closed")
