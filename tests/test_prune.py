"""banger prune: what a program left that was killed goes, and nothing else; it is what banger doctor tells of."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import files, lease, leftovers, locations
from banger_tools.commands import pruning
from banger_tools.doctor import stored as checks
from banger_tools.store import images, kernels, staging, vms
from tests import netlab, stored, stored_images, support
from tests.stored_images import disk, machine, publish

# Makes one thing of each kind that programs work on, as they do, and is killed in the middle or, told so, waits.
MAKER = """
import contextlib, os, signal, sys
from pathlib import Path
from banger_tools import files, lease, locations
from banger_tools.oci.cache import Cache
from banger_tools.store import images, kernels, staging, vms
from banger_tools.vmm import life
from banger_tools.commands import image_pull
stack = contextlib.ExitStack()
cache = Cache(locations.cache())
cache.partial.mkdir(parents=True, exist_ok=True)
stack.enter_context(lease.held(cache.sweep))
for parent in (images.root(), kernels.root(), vms.root()):
    (stack.enter_context(staging.staged(parent / "new")) / "file").write_bytes(b"x" * 10000)
(stack.enter_context(image_pull.work_folder(None)) / "tree.jsonl").write_text("half")
(cache.partial / "download.tar").write_bytes(b"x" * 5000)
(stack.enter_context(files.temporary_folder(cache.partial / "kernel")) / "vmlinux").write_text("half")
stack.enter_context(images.locked("web"))
stack.enter_context(life.held("vm"))
stack.enter_context(kernels.locked("k"))
for parent, record in ((images, "web/image.json"), (vms, "vm/vm.json"), (kernels, "k/kernel.json")):
    stack.enter_context(files.atomic(parent.root() / record, force=True)).write_text("half")
print("ready", flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
KINDS = {
    "half-made object": 3,
    "work folder": 1,
    "temporary file": 3,
    "transfer": 2,
    "lock": 1,
}


@pytest.fixture
def store(banger_home: Path, tmp_path: Path) -> Path:
    """A store with an image, a kernel and a machine, all whole, and nothing else."""
    publish(disk(tmp_path), "web")
    machine("vm", "web")
    (images.root().parent / "bzImage").unlink()
    (tmp_path / "bzImage").write_bytes(stored.bzimage())
    support.run_ok("banger", "kernel", "import", "--name=k", f"--kernel={tmp_path / 'bzImage'}")
    shutil.rmtree(locations.cache() / "partial", ignore_errors=True)
    return banger_home


@contextlib.contextmanager
def maker() -> Iterator[subprocess.Popen[bytes]]:
    """Yield a program that works on everything at once, and kill it at the end."""
    argv = [sys.executable, "-c", MAKER]
    with subprocess.Popen(argv, cwd=support.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        yield process
    assert process.returncode == -signal.SIGKILL


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def pruned(*words: str) -> dict[str, int]:
    """Prune, and return how much of each kind went."""
    done = json.loads(support.run_ok("banger", "prune", "--json", *words))
    found = [one["kind"] for one in done["removed"]]
    return {kind: found.count(kind) for kind in found}


def test_all_that_a_killed_program_left_goes_and_nothing_else(store: Path) -> None:
    before = tree(store)
    with maker():
        pass
    assert tree(store) != before
    preview = json.loads(support.run_ok("banger", "prune", "--dry-run", "--json"))
    told = {name for check in checks.leftovers() for name in check.detail.partition(": ")[2].split(", ")}
    assert told == {one["name"] for one in preview["removed"]}
    assert preview["freed"] > 30000
    assert pruned() == KINDS
    assert not set(before) - set(tree(store))
    assert set(tree(store)) - set(before) <= {"cache/lease", "cache/partial", "state/work"}
    assert pruned() == {}
    assert [check.detail for check in checks.leftovers()] == ["none"]
    for command in (["image", "verify"], ["kernel", "show", "k"], ["vm", "show", "vm"]):
        support.run_ok("banger", *command)


def test_what_a_living_program_works_on_stays(store: Path) -> None:
    with maker():
        assert [check.detail for check in checks.leftovers()] == ["none"]
        before = tree(store)
        assert pruned() == {}
        assert tree(store) == before


def test_dry_run_removes_nothing(store: Path) -> None:
    with maker():
        pass
    before = tree(store)
    text = support.run_ok("banger", "prune", "--dry-run").decode()
    assert tree(store) == before
    assert text.count("would remove") == sum(KINDS.values())
    assert "would be freed" in text
    assert support.run_ok("banger", "prune").decode().count("removed ") == sum(KINDS.values())


def test_empty_home_has_nothing_to_prune_and_is_left_empty(banger_home: Path) -> None:
    assert support.run_ok("banger", "prune") == b"0 freed\n"
    assert tree(banger_home) == []


def test_transfers_that_can_be_resumed_stay(banger_home: Path) -> None:
    partial = locations.cache() / "partial"
    partial.mkdir(parents=True)
    (partial / "0123abcd").write_bytes(b"the first half of a blob")
    (partial / "download.tar").write_bytes(b"x")
    assert pruned() == {"transfer": 1}
    assert [path.name for path in partial.iterdir()] == ["0123abcd"]


def test_unfinished_file_in_the_cache_is_removed_when_it_is_old(banger_home: Path) -> None:
    (locations.cache() / "oci").mkdir(parents=True)
    old, young = (locations.cache() / "oci" / f".index.json.{number}.tmp" for number in (1, 2))
    for path in (old, young):
        path.write_text("{")
    os.utime(old, (0, 0))
    assert pruned() == {"temporary file": 1}
    assert (old.exists(), young.exists()) == (False, True)


def test_cache_in_use_is_left_alone(banger_home: Path) -> None:
    partial = locations.cache() / "partial"
    partial.mkdir(parents=True)
    (partial / "download.tar").write_bytes(b"x")
    with lease.held():
        assert pruned() == {}
    assert pruned() == {"transfer": 1}


@pytest.mark.root
def test_what_cannot_be_removed_is_told_and_stops_no_other(store: Path) -> None:
    support.need("chattr")
    with maker():
        pass
    (stuck,) = images.root().glob("new.staging-*")
    if subprocess.run(["chattr", "+i", stuck / "file"], capture_output=True).returncode:
        support.cannot("this filesystem has no immutable files")
    try:
        done = support.run("banger", "prune")
        assert done.returncode == 1
        assert f"'{stuck}' could not be removed" in done.stderr.decode()
        assert done.stdout.decode().count("removed ") == sum(KINDS.values()) - 1
    finally:
        subprocess.run(["chattr", "-i", stuck / "file"], check=True)
    assert pruned() == {"half-made object": 1}


def test_leftover_that_somebody_took_up_meanwhile_stays(banger_home: Path) -> None:
    folder = staging_folder()
    (found,) = leftovers.found()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert pruning.remove([found]) == ([], 0)
        assert folder.exists()
    finally:
        os.close(descriptor)
    assert pruning.remove([found]) == ([found], 0)
    assert not folder.exists()


@pytest.mark.root
def test_each_tap_of_a_machine_that_is_gone_is_removed_by_itself_and_once(banger_home: Path, tmp_path: Path) -> None:
    script = "import json\nfrom banger_tools import leftovers\none, two = leftovers.lost_taps()\n"
    script += "print(json.dumps([two.name, one.remove(), one.remove(), [left.name for left in leftovers.lost_taps()]]))"
    with netlab.host() as host:
        before = host.state()
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.mkdir()
            host.attach(folder)
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.rmdir()
        staying, first, again, left = json.loads(host.run(sys.executable, "-c", script, env=host.environment()).stdout)
        assert (first, again, left) == (True, False, [staying])
        assert [name for name in host.links() if name.startswith("bg-")] == [staying]
        for command in ("vm prune", "prune"):
            told = json.loads(host.run(*support.argv("banger", *command.split(), "--dry-run", "--json")).stdout)
            assert staying in (told["taps"] if command == "vm prune" else [one["name"] for one in told["removed"]])
        assert f"removed tap {staying}" in host.run(*support.argv("banger", "prune")).stdout
        assert host.state() == before


def staging_folder() -> Path:
    folder = vms.root() / "x.staging-0123"
    folder.mkdir(parents=True)
    return folder


# Locks


def test_lock_goes_with_who_holds_it_and_who_waits_gets_another_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    script = "import sys\nfrom pathlib import Path\nfrom banger_tools import files\n"
    script += "with files.locked(Path(sys.argv[1]), passing=True): print('held', flush=True)"
    argv = [sys.executable, "-c", script, lock]
    with files.locked(lock, passing=True):
        waiter = subprocess.Popen(argv, cwd=support.ROOT, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(1)
    assert waiter.communicate()[0] == b"held\n"
    assert waiter.returncode == 0
    assert not lock.exists()


COUNTER = """
import sys
from pathlib import Path
from banger_tools import files
lock, number = map(Path, sys.argv[1:])
for _ in range(150):
    with files.locked(lock, passing=True):
        number.write_text(str(int(number.read_text()) + 1))
"""


def test_passing_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    argv = [sys.executable, "-c", COUNTER, tmp_path / "lock", number]
    counters = [subprocess.Popen(argv, cwd=support.ROOT) for _ in range(4)]
    assert [one.wait() for one in counters] == [0] * 4
    assert number.read_text() == "600"
    assert tree(tmp_path) == ["number"]


def test_commands_leave_no_lock(store: Path) -> None:
    assert list((locations.state() / "locks").iterdir()) == []
    assert kernels.listed() == ["k"] and staging.finished(images.root()) == stored_images.listed(store) == ["web"]
