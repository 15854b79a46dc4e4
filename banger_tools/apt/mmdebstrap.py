"""Running mmdebstrap: as root or in a user namespace, its tar streamed, its failures explained."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from banger_tools import console, errors, process
from banger_tools.apt import hooks, workspace
from banger_tools.apt.sources import Source
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob

PIECE = 1 << 20
_PATIENCE = 15.0
_SAID = 64 << 10
_MIRROR_HOOK = Path("/usr/share/mmdebstrap/hooks/file-mirror-automount")


class Order(NamedTuple):
    """What mmdebstrap is to make; `epoch` bounds all times in it."""

    suite: str
    variant: str
    packages: tuple[str, ...]
    architecture: str
    sources: tuple[Source, ...]
    epoch: int

    def command(self) -> list[str]:
        """Return the command line."""
        words = ["mmdebstrap", f"--mode={_mode()}", "--format=tar", f"--variant={self.variant}"]
        words += [f"--architectures={self.architecture}"]
        words += [f"--include={','.join(self.packages)}"] if self.packages else []
        if any(source.uri.startswith(("file:", "copy:")) for source in self.sources) and _MIRROR_HOOK.is_dir():
            words += [f"--hook-dir={_MIRROR_HOOK}"]
        words += [f"--setup-hook={hooks.SETUP}", f"--customize-hook={hooks.CUSTOMIZE}"]
        return [*words, self.suite, "-", *map(str, self.sources)]


def _mode() -> str:
    """Return the mode of mmdebstrap: mounts of its own wherever possible, so that none can stay on the host.

    Root in a container that may not make namespaces may not mount either; there, mode root makes no mounts.
    """
    if os.geteuid() != 0:
        return "unshare"
    own_mounts = process.run(["unshare", "--mount", "--propagation", "unchanged", "--", "true"], check=False)
    return "unshare" if own_mounts.status == 0 else "root"


class Output:
    """The tar that mmdebstrap writes, as a source of one layer."""

    remote = False

    def __init__(self, order: Order, partial: Path) -> None:
        self.order = order
        self.partial = partial

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield the tar while it is written; its end comes only if mmdebstrap succeeded."""
        return run(self.order, self.partial)


def check_user() -> None:
    """Raise Unavailable or Denied if an ordinary user lacks what user namespaces need."""
    if os.geteuid() == 0:
        return
    process.find("newuidmap")
    names = (getpass.getuser(), str(os.geteuid()))
    for file, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        with contextlib.suppress(OSError):
            lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
            if not any(line.partition(":")[0] in names for line in lines):
                hint = f"as root: usermod {option} 100000-165535 {names[0]}"
                raise errors.Denied(f"'{names[0]}' has no ids of their own in '{file}'", hint)


def run(order: Order, partial: Path) -> Iterator[bytes]:
    """Run mmdebstrap and yield the tar that it writes; `partial` is for the note of its workspace.

    Raises what `explain` makes of its failure. However this ends, its processes and files are gone, too.
    """
    check_user()
    command = order.command()
    keyrings = [path for source in order.sources for path in source.keyrings]
    settings = {**hooks.environment(keyrings, order.packages), "SOURCE_DATE_EPOCH": str(order.epoch)}
    console.command(f"SOURCE_DATE_EPOCH={order.epoch} {shlex.join(command)}")
    with workspace.opened(partial) as place, tempfile.TemporaryFile() as said:
        worker = _start(command, {**settings, "TMPDIR": str(place.folder)}, said, place.lock)
        assert worker.stdout is not None
        try:
            while data := worker.stdout.read(PIECE):
                yield data
            status = worker.wait()
        finally:
            worker.stdout.close()
            _end(worker)
        if status != 0:
            raise explain(process.Result(status, b"", _tail(said)))


def _start(command: list[str], settings: dict[str, str], said: IO[bytes], lock: int) -> subprocess.Popen[bytes]:
    """Start mmdebstrap in a session of its own, so that its processes are one group, and ^C reaches us alone."""
    return subprocess.Popen(
        [process.find(command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=said,
        env=process.environment(settings),
        cwd="/",  # the user of the namespace may not be able to enter ours
        umask=0o022,
        start_new_session=True,
        pass_fds=[lock],
    )


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Stop the whole group if mmdebstrap has not ended: it ignores signals itself, and waits for its children."""
    if worker.poll() is not None:
        return
    _signal_group(worker, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(_PATIENCE)
    _signal_group(worker, signal.SIGKILL)  # also what outlived mmdebstrap, and would go on filling its folder
    worker.wait()


def _signal_group(worker: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, number)


def _tail(said: IO[bytes]) -> bytes:
    size = said.seek(0, os.SEEK_END)
    said.seek(max(0, size - _SAID))
    return said.read()


def explain(result: process.Result) -> errors.BangerError:
    """Return the error that says why mmdebstrap failed: what apt said first, else what it said last."""
    text = result.stderr.decode(errors="replace")
    missing = re.search(r"E: Unable to locate package (\S+)", text)
    if missing:
        return errors.NoInput(f"there is no package '{missing.group(1)}' in the archives of the suite")
    if re.search(r"unshare\(\) failed|failed to unshare the user namespace|newuidmap.*failed", text):
        hint = "check the sysctls kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns"
        return errors.Denied("this user may not make user namespaces", hint)
    if "No space left on device" in text:
        return errors.IOFailure("the disk is full", f"mmdebstrap works in '{tempfile.gettempdir()}': set TMPDIR")
    reasons = re.findall(r"^E: (.+)$", text, re.MULTILINE)
    if reasons and result.status >= 0:
        return errors.Unavailable(f"'mmdebstrap' failed: {reasons[0].strip()}")
    return process.explain("mmdebstrap", result)
