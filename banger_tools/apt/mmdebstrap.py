"""Running mmdebstrap: as root or in a user namespace, its tar streamed, its failures explained."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from banger_tools import console, errors, process
from banger_tools.apt import hooks
from banger_tools.apt.sources import Source
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob

PIECE = 1 << 20
_CLEAN_UP_SECONDS = 60
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
        mode = "root" if os.geteuid() == 0 else "unshare"
        words = ["mmdebstrap", f"--mode={mode}", "--format=tar", f"--variant={self.variant}"]
        words += [f"--architectures={self.architecture}"]
        words += [f"--include={','.join(self.packages)}"] if self.packages else []
        if any(source.uri.startswith(("file:", "copy:")) for source in self.sources) and _MIRROR_HOOK.is_dir():
            words += [f"--hook-dir={_MIRROR_HOOK}"]
        words += [f"--setup-hook={hooks.SETUP}", f"--customize-hook={hooks.CUSTOMIZE}"]
        return [*words, self.suite, "-", *map(str, self.sources)]


class Output:
    """The tar that mmdebstrap writes, as a source of one layer."""

    remote = False

    def __init__(self, order: Order) -> None:
        self.order = order

    def chunks(self, blob: Blob, start: int, cancel: Cancel) -> Iterator[bytes]:
        """Yield the tar while it is written; its end comes only if mmdebstrap succeeded."""
        return run(self.order)


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


def run(order: Order) -> Iterator[bytes]:
    """Run mmdebstrap and yield the tar that it writes.

    Raises what `explain` makes of its failure. However this ends, mmdebstrap has ended and cleaned up, too.
    """
    check_user()
    command = order.command()
    console.command(shlex.join(command))
    keyrings = [path for source in order.sources for path in source.keyrings]
    settings = {**hooks.environment(keyrings), "SOURCE_DATE_EPOCH": str(order.epoch)}
    with tempfile.TemporaryFile() as said:
        # A session of its own: the ^C of a terminal reaches us alone, and mmdebstrap is told once.
        worker = subprocess.Popen(
            [process.find(command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=process.environment(settings),
            cwd="/",  # the user of the namespace may not be able to enter ours
            start_new_session=True,
        )
        assert worker.stdout is not None
        try:
            while data := worker.stdout.read(PIECE):
                yield data
            status = worker.wait()
        finally:
            _end(worker)
        if status != 0:
            raise explain(process.Result(status, b"", _tail(said)))


def _end(worker: subprocess.Popen[bytes]) -> None:
    """Have mmdebstrap stop and clean up, if it has not ended."""
    if worker.poll() is None:
        worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(_CLEAN_UP_SECONDS)
    if worker.poll() is None:
        worker.kill()
        worker.wait()
    if worker.stdout is not None:
        worker.stdout.close()


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
