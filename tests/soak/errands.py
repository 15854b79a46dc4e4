"""What a worker of a soak does: an image is made, runs, lives and goes, again and again, each time another one."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import boots, support
from tests.soak.wares import KERNEL, MARK, Ware
from tests.soak.worker import PATIENCE, Broken, Worker

MACHINE = ("--memory=96M", "--pull=never", "--timeout=500")
_BUILT = 0.3  # the share of images that are made by `banger build`


def errand(worker: Worker, wares: Sequence[Ware], turn: int) -> None:
    """Make an image, run it, let a machine of it live, and remove both; the number of the turn tells which and how."""
    ware = wares[turn % len(wares)]
    name = f"{ware.name}-{turn}"
    life = LIVES[(turn + turn // len(wares)) % len(LIVES)]  # each ware comes to each life
    with contextlib.suppress(Broken):
        try:
            _make(worker, name, ware)
            words = ["--rm", f"--image={name}", *worker.net(), "--", "cat", f"/{MARK}"]
            worker.banger("run", "vm", "run", *MACHINE, *words, want=f"{ware.name}\n")
            life(worker, name, ware)
            worker.banger("verify", "image", "verify", name)
        except Broken:  # what is left of it then is no leak
            support.run("banger", "vm", "delete", "--force", name, timeout=PATIENCE)
            support.run("banger", "image", "delete", name, timeout=PATIENCE)
            raise
        worker.banger("delete image", "image", "delete", name)


def _make(worker: Worker, name: str, ware: Ware) -> None:
    """Pull an image, or build it: then the artifacts of each stage stay in a folder of ours."""
    size = [] if ware.reference.startswith("bundle:") else ["--size=64M"]
    options = (f"--kernel-ref={KERNEL}", f"--name={name}", *size, ware.reference)
    if worker.chance.random() > _BUILT:
        worker.banger("pull", "image", "pull", *options, want=f"{name}\n")
        return
    work = worker.folder / "work"
    work.mkdir()
    try:
        worker.banger("build", "build", f"--directory={work}", *options)
    finally:
        shutil.rmtree(work)


def use(worker: Worker, name: str) -> None:
    """Do with a machine that runs what can be done with one."""
    script = "cat > /from-stdin; ls /srv > /dev/null; echo $HOSTNAME; hostname"
    worker.banger("exec", "vm", "exec", name, "sh", "-c", script, want=f"{name}\n{name}\n")
    out, back = worker.folder / "out", worker.folder / "back"
    out.write_bytes(worker.chance.randbytes(300_000))
    worker.banger("cp", "vm", "cp", str(out), f"{name}:/root/in")
    worker.banger("cp", "vm", "cp", f"{name}:/root/in", str(back))
    if back.read_bytes() != out.read_bytes():
        worker.note("cp", ("vm", "cp", name), time.monotonic(), "what came back is not what went in")
    back.unlink()
    for command in ("stats", "ports", "health", "logs"):
        worker.banger(command, "vm", command, name)


def fsck(worker: Worker, name: str) -> None:
    """Have the disks of a machine that does not run checked by e2fsck."""
    folder = json.loads(worker.banger("show", "vm", "show", name))["vm"]["path"]
    for disk in sorted(Path(folder).glob("*.ext4")):
        began, status = time.monotonic(), boots.fsck(disk)
        worker.note("e2fsck", (str(disk),), began, "" if status == 0 else f"status {status}")


# What becomes of a machine ------------------------------------------------------------


def _lives(worker: Worker, name: str, ware: Ware) -> None:
    """A machine that is made, used, stopped, started, restarted, killed and removed."""
    options = (f"--image={name}", f"--name={name}", *MACHINE, *worker.net())
    worker.banger("create", "vm", "create", *options, want=f"{name}\n")
    stats = json.loads(worker.banger("stats", "vm", "stats", "--json", name))
    worker.fresh.append(int(stats[0]["host"]["resident"]))
    use(worker, name)
    worker.banger("exec", "vm", "exec", name, "sh", "-c", "echo kept > /kept; echo work > /root/kept")
    worker.banger("stop", "vm", "stop", name)
    fsck(worker, name)
    worker.banger("start", "vm", "start", "--timeout=500", name)
    kept = f"{ware.name}\nkept\nwork\n"
    worker.banger("exec", "vm", "exec", name, "cat", f"/{MARK}", "/kept", "/root/kept", want=kept)
    worker.banger("restart", "vm", "restart", name)
    worker.banger("kill", "vm", "kill", name)
    worker.banger("delete", "vm", "delete", name)


def _stays(worker: Worker, name: str, _ware: Ware) -> None:
    """A machine that is made without a start, changed, started, and removed while it runs."""
    options = (f"--image={name}", f"--name={name}", *MACHINE, *worker.net())
    worker.banger("create", "vm", "create", "--no-start", "--work-disk=96M", *options)
    worker.banger("set", "vm", "set", "--memory=112M", "--work-disk=128M", name)
    worker.banger("start", "vm", "start", "--timeout=500", name)
    use(worker, name)
    worker.banger("delete", "vm", "delete", name, statuses=[73])
    worker.banger("delete", "vm", "delete", "--force", name)


def _runs_alone(worker: Worker, name: str, _ware: Ware) -> None:
    """A machine that is there for a command, and powers off by itself."""
    options = (f"--image={name}", f"--name={name}", *MACHINE, *worker.net())
    command = ("sh", "-c", "echo a word; exit 7")
    worker.banger("run", "vm", "run", "--detach", *options, "--", *command, want=f"{name}\n")
    began = time.monotonic()
    while json.loads(worker.banger("show", "vm", "show", name))["vm"]["state"] == "running":
        if time.monotonic() > began + PATIENCE:
            worker.note("run", command, began, "the machine does not power off")
        time.sleep(1)
    if "a word" not in worker.banger("logs", "vm", "logs", name):
        worker.note("logs", command, began, "what the command wrote is not in the log")
    worker.banger("delete", "vm", "delete", name)


def _is_interrupted(worker: Worker, name: str, ware: Ware) -> None:
    """A run and a pull that are interrupted at any moment; of the run nothing is left."""
    options = (f"--image={name}", f"--name={name}", *MACHINE, *worker.net())
    worker.interrupted("run", "vm", "run", "--rm", *options, "--", "sleep", "3000")
    again = f"{name}-again"
    worker.interrupted("pull", "image", "pull", f"--kernel-ref={KERNEL}", f"--name={again}", ware.reference)
    worker.banger("delete image", "image", "delete", again, statuses=(0, 66))


LIVES: tuple[Callable[[Worker, str, Ware], None], ...] = (_stays, _is_interrupted, _lives, _runs_alone)
