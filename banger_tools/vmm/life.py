"""The life of a machine: made, started, stopped, deleted; each step is undone if it fails.

Whoever changes a machine holds its lock; making one needs none, since its name appears in one rename.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from banger_tools import cli, config, console, errors, files
from banger_tools.manifest import Manifest, Vm
from banger_tools.net import attachment, taps
from banger_tools.net.attachment import Attachment
from banger_tools.store import staging, vms
from banger_tools.vmm import disks, file_sync, fit, guest_config, holder, interface, logs
from banger_tools.vmm import spec as specs

START_SECONDS = 60.0  # for the monitor itself to answer, on a host that does much else; its end is seen at once
LOCK_SECONDS = 60.0
_LOG_LINES, _LOG_BYTES = 12, 16384
_AGENT_SECONDS = 10.0  # for a machine that is only just booting, too
_BUTTON_SECONDS = 5.0
_KILL_SECONDS = 5.0
_HASTE_SECONDS = 1.0  # for the agent of a machine whose start is undone
# What a guest's kernel says last on its console, and what that means
_ENDINGS = {
    "Kernel panic": "its guest's kernel panicked",
    "reboot: Power down": "its guest powered off",
    "reboot: System halted": "its guest halted",
    "reboot: Restarting system": "its guest rebooted or powered off",
}


class Sources(NamedTuple):
    """What a machine's disks are made from; sizes in bytes, None: as large as the source."""

    rootfs: Path
    work_seed: Path | None
    disk_size: int | None
    work_size: int | None


class Condition(NamedTuple):
    """How a machine is: `running`, `stopped`, `ended` by itself or a word of its monitor; and why, if known."""

    state: str
    reason: str | None = None


@contextlib.contextmanager
def held(name: str) -> Iterator[None]:
    """Hold the lock of a machine, which is one on its folder and so goes with it.

    Raises records.Missing if there is no such machine, Retry if another command keeps it for a minute.
    """
    with contextlib.ExitStack() as stack:
        lock = files.locked_folder(vms.folder(name), wait=LOCK_SECONDS, what=f"the VM '{name}'")
        try:
            stack.enter_context(lock)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise vms.missing(name) from error
        yield


def create(spec: specs.Spec, sources: Sources, image: Manifest) -> Path:
    """Make a machine's folder with its disks, whole or not at all, and return it.

    Raises CannotCreate if the name is taken.
    """
    target = vms.folder(spec.name)
    with console.step("disks made"), staging.staged(target, what=vms.WHAT) as folder:
        # of an image that is not managed others may write to the disk, and an overlay fits only what it was laid over
        overlay = interface.monitor(spec.vmm).OVERLAYS and not sources.rootfs.is_symlink()
        disks.place_root(sources.rootfs, folder, sources.disk_size, overlay=overlay)
        if sources.work_seed:
            disks.place(sources.work_seed, folder / specs.WORK_DISK, sources.work_size, "--work-disk")
        elif sources.work_size:
            disks.empty(folder / specs.WORK_DISK, sources.work_size)
        (folder / specs.IMAGE).touch(mode=0o600)
        (folder / specs.IMAGE).write_text(image.dumps())
        own = structs.replace(spec, boot=_own_kernel(spec.boot, folder / specs.KERNEL))
        vms.write(folder, specs.Record(specs.SCHEMA, own))
    return target


def _own_kernel(boot: specs.Boot, folder: Path) -> specs.Boot:
    """Put what is booted into a folder of a machine's own, and return it with the paths that it has there.

    So a machine starts again whatever became of its kernel: deleted from the store, or built anew.
    """
    from banger_tools.store import kernels

    folder.mkdir()
    parts = {"kernel": "vmlinux", "vmlinuz": "vmlinuz", "initrd": "initrd.img"}
    present = {field: Path(path) for field in parts if (path := getattr(boot, field)) is not None}
    with kernels.unchanging(present["kernel"].parent):
        for field, path in present.items():
            kernels.share(path, folder / parts[field])
    return structs.replace(boot, **{field: str(folder / parts[field]) for field in present})


def start(name: str, until: Callable[[specs.Record], specs.Record] | None = None) -> specs.Record:
    """Start a machine that does not run, and return its record with the process in it; a failure is undone in reverse.

    It has not started before `until` has returned, which waits for more than the monitor. Raises CannotCreate if it
    runs already, Unavailable with the monitor's last words if it does not start.
    """
    record, folder = settle(vms.load(name)), vms.folder(name)
    if holder.is_alive(folder):
        return _go_on(record)
    spec = record.spec
    fit.refuse_taken_ports(spec)
    monitor = interface.monitor(spec.vmm)
    monitor.check(spec)
    accelerator = monitor.accelerator(spec)
    file_sync.sync(folder, config.load().file_sync)
    with _undoing() as undo:
        undo.callback(vms.save, record)
        with console.stage("network"), console.step(f"network '{spec.net}' ready"):
            network = _attach(record, folder, undo)
        with console.stage("boot"), console.step(f"VM '{name}' started with {spec.vmm} ({accelerator})"):
            record = _launch(record, accelerator, network, undo)
            if not monitor.wait_started(record, time.monotonic() + START_SECONDS):
                raise errors.Unavailable(f"the VM '{name}' did not start", last_words(folder / holder.LOG))
        if until:
            undo.callback(_end_if_alive, record, _HASTE_SECONDS)
            record = until(record)
    return record


@contextlib.contextmanager
def _undoing() -> Iterator[contextlib.ExitStack]:
    """Yield what gets how each step of the body is taken back: done if it fails, and no signal breaks that off.

    One that interrupts the body is often followed by another: a terminal's ^C by the SIGTERM of the program above us.
    """
    with contextlib.ExitStack() as undo:
        try:
            yield undo
        except BaseException:
            with cli.signals_later():
                undo.close()
            raise
        undo.pop_all()


def _launch(
    record: specs.Record, accelerator: str, network: Attachment | None, undo: contextlib.ExitStack
) -> specs.Record:
    """Start a monitor's process, and write down which one it is; `undo` gets how each step is taken back."""
    spec, folder = record.spec, vms.folder(record.spec.name)
    monitor = interface.monitor(spec.vmm)
    guest_config.write(spec, folder, network, power=monitor.POWER)
    monitor.clear(folder)  # what a run left whose starter was killed before it could write anything down
    undo.callback(monitor.clear, folder)
    launch = monitor.prepare(interface.Run(spec, folder, accelerator, network))
    undo.callback(kill, record)
    with cli.signals_later():
        pid = holder.start(launch.argv, folder, launch.pipes)
        started = (pid, holder.start_time(pid), holder.boot_id())
        process = specs.Process(*started, accelerator, launch.machine, launch.cid, network, launch.token)
        address = network.address if network else record.address
        record = structs.replace(record, process=process, boot_seconds=None, address=address)
        vms.save(record)
    return record


def _attach(record: specs.Record, folder: Path, undo: contextlib.ExitStack) -> Attachment | None:
    """Give a machine its tap, at the address it had before if that is free."""
    spec = record.spec
    if spec.net != "tap":
        return None
    owner = attachment.Owner(str(folder))
    network = taps.attach(owner, wish=record.address, nat=spec.nat, forwards=spec.forwards)
    undo.callback(taps.detach, network)
    return network


def settle(record: specs.Record) -> specs.Record:
    """Clean up after a run that ended without us, and return the record without it; one that lives is left alone.

    So ends what nobody stopped: a guest that powered itself off, a monitor that died, a host that was rebooted.
    """
    folder = vms.folder(record.spec.name)
    if holder.is_alive(folder):
        return record
    if record.process and record.process.network:
        taps.detach(record.process.network)
    elif record.spec.net == "tap":  # whoever started it may have been killed before that was written down
        taps.release(attachment.Owner(str(folder)))
    interface.monitor(record.spec.vmm).clear(folder)
    if record.process is None:
        return record
    record = structs.replace(record, process=None)
    vms.save(record)
    return record


def wait_ready(record: specs.Record, began: float, timeout: float) -> specs.Record:
    """Wait until the guest's agent answers, and return the record with the seconds since `began`.

    Raises Retry after `timeout` seconds, Unavailable if the machine ended; both show the end of its console.
    """
    name, folder = record.spec.name, vms.folder(record.spec.name)
    agent = interface.monitor(record.spec.vmm).agent(record)
    try:
        agent.wait_ready(began + timeout, lambda: holder.is_alive(folder))
    except errors.BangerError as error:
        alive = holder.is_alive(folder)
        message = f"the agent in the VM '{name}' did not answer within {timeout:.0f} seconds"
        kind, text = (
            (errors.Retry, message) if alive else (errors.Unavailable, f"the VM '{name}' ended while it booted")
        )
        raise kind(text, last_words(folder / specs.CONSOLE)) from error
    record = structs.replace(record, boot_seconds=round(time.monotonic() - began, 3))
    vms.save(record)
    return record


def answering(timeout: float) -> Callable[[specs.Record], specs.Record]:
    """Return what `start` is to wait for: the agent's answer, within seconds from now."""
    began = time.monotonic()

    def wait(record: specs.Record) -> specs.Record:
        with console.step(f"agent of '{record.spec.name}' answered"):
            return wait_ready(record, began, timeout)

    return wait


def last_words(path: Path) -> str | None:
    """Return the end of a log for an error's hint: from a kernel's panic on if there is one, else the last lines."""
    lines = [line for line in _tail(path).splitlines() if line.strip()]
    panic = next((number for number, line in enumerate(lines) if "Kernel panic" in line), None)
    shown = lines[-_LOG_LINES:] if panic is None else lines[panic : panic + _LOG_LINES]
    return "\n".join([f"the end of '{path}':", *shown]) if shown else None


def _tail(path: Path) -> str:
    """Return the end of a log, nothing if it cannot be read."""
    try:
        with contextlib.closing(logs.Log(path)) as log:
            return log.between(log.size - _LOG_BYTES, log.size).decode(errors="replace").replace("\r", "")
    except OSError:
        return ""


def stop(record: specs.Record, timeout: float) -> str:
    """End a machine, and return how: `agent`, `power button`, `quit` or `kill`; at once if it does not run.

    The agent syncs and shuts down; if the machine still lives after `timeout` seconds it is asked in ruder ways, which
    takes 20 seconds more at most.
    """
    how = "not running"
    if holder.is_alive(vms.folder(record.spec.name)):
        with console.step(f"VM '{record.spec.name}' stopped"):
            how = _end(record, timeout)
    settle(record)
    return how


def _end(record: specs.Record, timeout: float) -> str:
    name, folder = record.spec.name, vms.folder(record.spec.name)
    monitor, deadline = interface.monitor(record.spec.vmm), time.monotonic() + timeout
    if _shut_down(monitor, record, deadline) and holder.wait_gone(folder, deadline - time.monotonic()):
        return "agent"
    monitor.press_power(record)
    if holder.wait_gone(folder, min(timeout, _BUTTON_SECONDS)):
        return "power button"
    console.warning(f"the VM '{name}' did not power off and is ended; what its guest had not written is lost")
    if monitor.quit(record) and holder.wait_gone(folder, _KILL_SECONDS):
        return "quit"
    kill(record)
    return "kill"


def _end_if_alive(record: specs.Record, timeout: float) -> None:
    if holder.is_alive(vms.folder(record.spec.name)):
        _end(record, timeout)


def _go_on(record: specs.Record) -> specs.Record:
    """Let a machine go on that its monitor paused: the host's disk was full; raises CannotCreate if it just runs."""
    monitor, name = interface.monitor(record.spec.vmm), record.spec.name
    if record.process is None or monitor.status(record) in ("running", "unknown"):
        raise errors.CannotCreate(f"the VM '{name}' is running already")
    with console.step(f"VM '{name}' goes on"):
        monitor.resume(record)
    return record


def _shut_down(monitor: interface.Monitor, record: specs.Record, deadline: float) -> bool:
    """Ask the agent to sync and to shut down; tell whether it took the order.

    Only an agent that lives is given the long time that a sync may need.
    """

    def left() -> float:
        return max(deadline - time.monotonic(), 0.001)

    try:
        monitor.resume(record)  # one that is paused hears nothing
        agent = monitor.agent(record)
        agent.health(min(left(), _AGENT_SECONDS))
        agent.sync(left())
        agent.shutdown("graceful", left())
    except (errors.BangerError, OSError) as error:
        console.command(f"# the agent of '{record.spec.name}' did not shut down: {error}")
        return False
    return True


def kill(record: specs.Record) -> None:
    """End the monitor's process without asking.

    Raises Retry if even that does not help: the process hangs in the kernel.
    """
    end_now(record.spec.name)


def end_now(name: str) -> None:
    """End the monitor's process of a machine without asking, whatever its record says.

    Raises Retry if even that does not help: the process hangs in the kernel.
    """
    folder = vms.folder(name)
    holder.kill(folder)
    if not holder.wait_gone(folder, _KILL_SECONDS):
        raise errors.Retry(f"the process of the VM '{name}' does not end")


def delete(name: str, *, force: bool) -> None:
    """Remove a machine and its disks, also one whose record is broken; a running one only with `force`, which kills it.

    Raises CannotCreate if it runs.
    """
    folder = vms.folder(name)
    if holder.is_alive(folder):
        if not force:
            raise errors.CannotCreate(f"the VM '{name}' is running", f"banger vm stop {name}, or add --force")
        end_now(name)
    try:
        settle(vms.load(name))
    except errors.BadInput as error:
        console.detail(error.message)
        _clear(folder)
    staging.retire(folder)


def _clear(folder: Path) -> None:
    """Remove what any run may have left of a machine that nothing is known of."""
    taps.release(attachment.Owner(str(folder)))
    for monitor in interface.MONITORS:
        interface.monitor(monitor).clear(folder)


def may_run(folder: str) -> bool:
    """Tell whether the machine of a folder runs, or is just being started."""
    path = Path(folder)
    try:
        with files.locked_folder(path, wait=0, what=f"'{folder}'"):
            return holder.is_alive(path)
    except FileNotFoundError:
        return False
    except (errors.Retry, OSError):
        return True


def condition(record: specs.Record) -> Condition:
    """Return how a machine is, and why as far as can be told."""
    if holder.is_alive(vms.folder(record.spec.name)):
        said = interface.monitor(record.spec.vmm).status(record)
        return Condition("running", "its monitor does not answer") if said == "unknown" else Condition(said)
    return Condition("stopped") if record.process is None else Condition("ended", _ending(record, record.process))


def _ending(record: specs.Record, process: specs.Process) -> str:
    """Return how a run ended that nobody stopped: from the host's boot, the guest's console, the monitor's log."""
    folder = vms.folder(record.spec.name)
    if process.boot_id != holder.boot_id():
        return "the host was restarted since"
    endings = re.findall("|".join(map(re.escape, _ENDINGS)), _tail(folder / specs.CONSOLE))
    if endings:
        return _ENDINGS[endings[-1]]
    words = _tail(folder / holder.LOG).splitlines()
    return f"its monitor ended: {words[-1].strip()}" if words else "its monitor was killed"


def state(record: specs.Record) -> str:
    """Return the state of a machine in one word."""
    return condition(record).state


def described(record: specs.Record) -> Vm:
    """Return the manifest's words for a machine."""
    spec, process, how = record.spec, record.process, condition(record)
    folder = vms.folder(spec.name)
    return Vm(
        name=spec.name,
        path=str(folder),
        vmm=spec.vmm,
        pid=process.pid if process and holder.is_alive(folder) else 0,
        state=how.state,
        console=str(folder / specs.CONSOLE),
        accelerator=process.accelerator if process else None,
        cpus=spec.cpus,
        memory=spec.memory,
        publish=[f"{f.host}:{f.host_port}:{f.guest_port}/{f.protocol}" for f in spec.forwards],
        address=process.network.address.partition("/")[0] if process and process.network else None,
        boot_seconds=record.boot_seconds,
        reason=how.reason,
    )
