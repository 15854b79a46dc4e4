"""A start that is killed before it could write down what it started: nothing of it stays, whoever comes next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from banger_tools.store import vms
from banger_tools.vmm import holder, jailer
from banger_tools.vmm import spec as specs
from tests import machines, netlab
from tests.netlab import Host
from tests.test_vmm import SPEC

pytestmark = pytest.mark.root

# Starts the machine with something else in the monitor's place, and is killed before that starts, or right after it.
_STARTER = """
import os, signal, sys
from pathlib import Path
from banger_tools.vmm import firecracker, holder, jailer, life
point, jailer.RESERVED = sys.argv[1], Path(sys.argv[2])
firecracker.check = lambda spec: None
start = holder.start
def start_and_die(argv, folder, pipes):
    if point == "after":
        found, machine = jailer.cgroups(), argv[argv.index("--id") + 1]
        for mount in found.mounts if found else []:  # as the jailer makes them
            (mount / jailer.parent_cgroup(machine) / machine).mkdir(parents=True)
        start(["sleep", "600"], folder, pipes)
    os.kill(os.getpid(), signal.SIGKILL)
holder.start = start_and_die
life.start("web")
"""

_NEXT = """
import sys
from pathlib import Path
from banger_tools.net import taps
from banger_tools.store import vms
from banger_tools.vmm import jailer, life
jailer.RESERVED = Path(sys.argv[2])
match sys.argv[1]:
    case "settle":
        life.settle(vms.load("web"))
    case "stop":
        life.stop(vms.load("web"), 0.1)
    case "delete":
        life.delete("web", force=True)
    case "sweep":
        for tap in taps.leftovers(life.may_run):
            assert taps.discard(tap, life.may_run)
"""


class Killed:
    """A machine at a tap and in a jail whose start was killed, and the host as it was before."""

    def __init__(self, host: Host, tmp_path: Path) -> None:
        self.host, self.reserved, self.programs = host, tmp_path / "reserved", tmp_path / "bin"
        self.before = host.state()
        self.folder = vms.folder("web")
        self.folder.mkdir(parents=True)
        (tmp_path / "vmlinux").touch()
        self.id = f"killed-{os.getpid()}"
        spec = structs.replace(SPEC, id=self.id, vmm="firecracker", net="tap", jail=True, nat=True)
        spec = structs.replace(spec, boot=specs.Boot(str(tmp_path / "vmlinux")), forwards=[specs.Forward(8080, 80)])
        machines.mke2fs(self.folder / specs.ROOT_DISK, size="4M")
        vms.save(specs.Record(specs.SCHEMA, spec))
        self.programs.mkdir()
        for name in ("firecracker", "jailer"):
            (self.programs / name).write_text("#!/bin/false\n")
            (self.programs / name).chmod(0o755)

    def run(self, script: str, word: str) -> int:
        env = self.host.environment()
        env["PATH"] = f"{self.programs}:{env['PATH']}"
        words = [sys.executable, "-c", script, word, str(self.reserved)]
        return self.host.run(*words, check=False, env=env).returncode

    def start(self, point: str) -> None:
        assert self.run(_STARTER, point) == -9
        assert vms.load("web").process is None
        assert self.host.state() != self.before
        assert (self.folder / jailer.FOLDER).is_dir()
        assert holder.is_alive(self.folder) == (point == "after")

    def left(self) -> list[str]:
        """Return what is left of the start."""
        groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/*{self.id}*")]
        users = [name for name in os.listdir(self.reserved) if name != ".lock"]
        changed = [str(path) for path in self.folder.glob("*") if path.stat().st_uid != os.geteuid()]
        jail = [str(path) for path in self.folder.glob(jailer.FOLDER)]
        network = ["network"] if self.host.state() != self.before else []
        return [*groups, *users, *changed, *jail, *network]


@pytest.fixture
def killed(banger_home: Path, tmp_path: Path) -> Iterator[Killed]:
    with netlab.host() as host:
        yield Killed(host, tmp_path)


@pytest.mark.parametrize(("point", "action"), [("before", "settle"), ("before", "delete"), ("after", "delete")])
def test_nothing_is_left_of_a_start_that_was_killed(killed: Killed, point: str, action: str) -> None:
    killed.start(point)
    assert killed.left()
    assert killed.run(_NEXT, action) == 0
    assert killed.left() == []
    assert vms.listed() == (["web"] if action == "settle" else [])


def test_machine_whose_starter_was_killed_runs_until_it_is_stopped(killed: Killed) -> None:
    killed.start("after")
    for action in ("sweep", "settle"):
        assert killed.run(_NEXT, action) == 0
        assert "network" in killed.left()
    assert killed.run(_NEXT, "stop") == 0
    assert killed.left() == []


def test_tap_of_a_start_that_was_killed_is_swept_by_itself(killed: Killed) -> None:
    killed.start("before")
    assert killed.run(_NEXT, "sweep") == 0
    assert "network" not in killed.left()
