"""A short soak; and that one, as `make soak` runs it for long, finds what is left, what failed and what grew."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import boots, support
from tests.soak import look, report
from tests.soak.look import Machine, Sample
from tests.soak.report import Round
from tests.soak.shelter import Places, argv
from tests.soak.worker import Operation

# A round in which what is planted takes the place of the errands, and no machine runs.
PLANTED = """
import contextlib, fcntl, os, subprocess, sys
from tests.soak import errands, look, rounds, wares, worker
home = os.environ["BANGER_HOME"]
def plant(one, wares, turn):
    with contextlib.suppress(worker.Broken):
        {plants}
errands.errand, look.PATIENCE = plant, 0
wares.make = lambda *_: []
rounds.Soak._pull = rounds.Soak._create = rounds.Soak._delete = lambda self: None
sys.exit(rounds.main())
"""
# What is left, and what is to be told of it.
PLANTS = {
    "open(os.environ['TMPDIR'] + '/of-a-stage', 'w').close()": "files left: tmp/of-a-stage",
    "open(os.environ['XDG_RUNTIME_DIR'] + '/socket', 'w').close()": "files left: run/socket",
    "open('/dev/shm/of-a-monitor', 'w').close()": "files left: shm/of-a-monitor",
    "os.makedirs(home + '/state/vms/x.staging-1')": "'banger prune' would remove the half-made object",
    "subprocess.Popen(['sleep', '1001'], start_new_session=True)": "sleep 1001\n",
    "fcntl.flock(os.open(home, 0), fcntl.LOCK_SH)": "locks left: ",
    "subprocess.run(['ip', 'tuntap', 'add', 'dev', 'bg-1', 'mode', 'tap'], check=True)": "links left: bg-1\n",
    "subprocess.run(['nft', 'add', 'table', 'inet', 'forgotten'], check=True)": "rules left: table inet forgotten {",
    "subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', os.environ['HOME']], check=True)": "mounts left: ",
    "one.banger('pull', 'image', 'pull', 'rootfs:x')": "rootfs:x: status 66",
}


def soak(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = support.environment({"PYTHONPATH": str(support.ROOT), **env})
    return subprocess.run([*words], capture_output=True, text=True, env=environment, cwd=folder, timeout=900)


def planted(folder: Path, plants: str) -> subprocess.CompletedProcess[str]:
    """Run one round of one worker, which does this."""
    places = Places(folder / "soak")
    places.make()
    options = {"seconds": 900, "rounds": 1, "workers": 1, "errands": 1, "seed": 1}
    code = PLANTED.format(plants=plants)
    words = [sys.executable, "-P", "-c", code, str(places.folder), json.dumps(options)]
    return soak(folder, *argv(words), **places.environment())


@pytest.mark.boot
def test_images_and_machines_that_come_and_go_leave_nothing(bootable_home: Path, tmp_path: Path) -> None:
    support.need("docker-registry", "umoci", "ip", "nft")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        support.cannot("no /dev/net/tun: machines would have no taps")
    shutil.copytree(bootable_home / "state" / "kernels", tmp_path / "home" / "state" / "kernels")
    words = [f"--folder={tmp_path}", "--rounds=1", "--workers=2", "--errands=1"]
    done = soak(tmp_path, sys.executable, "-P", "-m", "tests.soak", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rounds: nothing failed, nothing is left, nothing grew" in done.stdout
    head, _, start, *_ = (line.split(" | ") for line in done.stdout.splitlines())
    assert int(start[head.index("links")]) > 1, "the machine that runs all the time has a tap"
    operations = {line.split(" | ")[0] for line in done.stdout.splitlines()}
    assert {"| run", "| run, interrupted", "| stop", "| delete image", "| e2fsck"} <= operations


@pytest.mark.root
def test_soak_tells_what_is_left_and_what_failed(tmp_path: Path) -> None:
    support.need("docker-registry", "nft", "ip")
    done = planted(tmp_path, "\n        ".join(PLANTS))
    assert done.returncode == 1, done.stdout + done.stderr
    assert [told for told in PLANTS.values() if told not in done.stdout] == [], done.stdout + done.stderr


@pytest.mark.root
def test_soak_in_which_nothing_happens_finds_nothing(tmp_path: Path) -> None:
    support.need("docker-registry")
    done = planted(tmp_path, "pass")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.boot
def test_what_goes_on_in_a_guest_is_seen(home: Path, visited: str) -> None:
    vm = boots.show(visited)
    sleeper = boots.said(visited, "sleep 3000 > /dev/null 2>&1 < /dev/null & echo $!").strip()
    most = look.machine(visited, home, vm["memory"])
    boots.said(visited, f"kill {sleeper}")
    without = most._replace(guest_processes=most.guest_processes - 1, guest_descriptors=most.guest_descriptors - 3)
    found = look.settled_machine(visited, home, vm["memory"], without)
    assert found.guest_processes <= without.guest_processes
    assert found.guest_descriptors <= without.guest_descriptors
    assert found.guest_memory > 0
    pages = int(Path(f"/proc/{vm['pid']}/statm").read_text().split()[1])
    assert 0 < found.memory < pages * os.sysconf("SC_PAGE_SIZE")
    assert found.descriptors > len(os.listdir(f"/proc/{vm['pid']}/fd"))  # there is its recorder, too
    assert found.processes == 2


# What grows ------------------------------------------------------------------------

EMPTY = Sample(*[frozenset() if name != "taken" else 0 for name in Sample._fields])  # type: ignore[arg-type]
MACHINE = Machine(2, 50, 60 << 20, 64, 13, 2 << 20)
ROUND = Round("1", 60.0, [Operation("run", ["vm", "run"], 9.0, "")], [200 << 20], EMPTY, MACHINE, [])


def verdict(*rounds: Round) -> tuple[int, str]:
    """Return the exit status, and what is said, of a soak of these rounds."""
    out = io.StringIO()
    table = report.Table(out)
    for one in (ROUND._replace(name="start"), *rounds, ROUND._replace(name="end", resident=None)):
        table.add(one)
    return table.verdict(), out.getvalue()


def test_rounds_that_are_alike_are_sound() -> None:
    status, said = verdict(*[ROUND] * 9)
    assert (status, "soak: 11 operations in 9 rounds: nothing failed" in said) == (0, True), said


@pytest.mark.parametrize("field", Machine._fields)
def test_machine_that_takes_more_and_more_is_told(field: str) -> None:
    limit = report.LIMITS[field]
    enough, much = (MACHINE._replace(**{field: getattr(MACHINE, field) + limit + more}) for more in (0, 1))
    assert verdict(ROUND, ROUND._replace(resident=enough))[0] == 0
    status, said = verdict(ROUND, ROUND._replace(resident=much))
    assert (status, f"- {field.replace('_', ' ')} grew from" in said) == (1, True), said


def test_files_that_grow_are_told() -> None:
    status, said = verdict(ROUND, ROUND._replace(sample=EMPTY._replace(taken=2 << 20)))
    assert (status, "what files take grew from 0 to 2097152" in said) == (1, True), said


def test_fresh_machines_that_take_more_and_more_are_told() -> None:
    rounds = [ROUND._replace(fresh=[(200 + 10 * number) << 20]) for number in range(9)]
    assert "memory of fresh machines grew" in verdict(*rounds)[1]
    assert verdict(*rounds[:3])[0] == 0
