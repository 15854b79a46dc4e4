"""Running other programs: found where Debian keeps them, shown at -vv, and explained when they fail."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Self

from banger_tools import console, errors

PACKAGES = {
    "mke2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "resize2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "git": "git",
    "ip": "iproute2",
    "nft": "nftables",
    "docker": "docker.io",
    "podman": "podman",
    "tar": "tar",
}
_PIECE = 1 << 20
_SAID = 64 << 10
_PATIENCE = 10.0


class Result(NamedTuple):
    """What a finished program left: its status (negative: the signal that killed it) and what it printed."""

    status: int
    stdout: bytes
    stderr: bytes


def find(program: str) -> str:
    """Return the full path of a program, looking in /usr/sbin and /sbin too.

    Raises Unavailable naming the package to install.
    """
    path = shutil.which(program, path=search_path())
    if path is None:
        package = PACKAGES.get(program)
        raise errors.Unavailable(f"'{program}' is not installed", f"apt-get install {package}" if package else None)
    return path


def search_path() -> str:
    """Return PATH with the administrator's folders, which Debian leaves out for ordinary users."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment with messages in plain English, the full search path, and `extra`."""
    return {**os.environ, "LC_ALL": "C", "PATH": search_path(), **(extra or {})}


def run(argv: Sequence[str], *, stdin: bytes = b"", env: Mapping[str, str] | None = None, check: bool = True) -> Result:
    """Run a program to its end and return what it printed.

    With `check`, raises the error of `explain` when it fails. The program is stopped when we are interrupted.
    """
    import subprocess

    program = find(argv[0])
    console.command(shlex.join(argv))
    try:
        done = subprocess.run([program, *argv[1:]], input=stdin, capture_output=True, env=environment(env), check=False)
    except OSError as error:
        raise errors.os_error(error, f"cannot run '{argv[0]}'") from error
    result = Result(done.returncode, done.stdout, done.stderr)
    if check and result.status != 0:
        raise explain(argv[0], result)
    return result


def explain(program: str, result: Result) -> errors.BangerError:
    """Return the error that says how a program failed: its status or signal, and the last thing it said."""
    if result.status < 0:
        name = signal.Signals(-result.status).name
        return errors.IOFailure(f"'{program}' was killed by {name}")
    lines = [line.strip() for line in result.stderr.decode(errors="replace").splitlines() if line.strip()]
    said = f": {lines[-1]}" if lines else ""
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in lines):
        return errors.IOFailure(f"'{program}' failed{said}", "free some space, or choose another folder with -C")
    if any("Input/output error" in line for line in lines):
        return errors.IOFailure(f"'{program}' failed{said}", "the disk may be damaged: dmesg says more")
    return errors.Unavailable(f"'{program}' failed with status {result.status}{said}")


class Stream:
    """A program whose output is read while it runs; `said` is what it printed on stderr, its end if that is long."""

    def __init__(
        self, argv: Sequence[str], *, pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None
    ) -> None:
        import subprocess
        import tempfile

        self.program = argv[0]
        self._errors = tempfile.TemporaryFile()
        console.command(shlex.join(argv))
        try:
            self._worker = subprocess.Popen(
                [find(argv[0]), *argv[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment(env),
                pass_fds=pass_fds,
                start_new_session=True,  # ^C is for us to pass on
            )
        except OSError as error:
            self._errors.close()
            raise errors.os_error(error, f"cannot run '{argv[0]}'") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert self._worker.stdout is not None
        self._worker.stdout.close()
        self._errors.close()

    def stop(self) -> None:
        """End the program if it still runs; who reads from it in another thread comes to the end."""
        import subprocess

        if self._worker.poll() is None:
            self._worker.terminate()
            try:
                self._worker.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()

    def chunks(self) -> Iterator[bytes]:
        """Yield what it prints, as it comes."""
        assert self._worker.stdout is not None
        while data := self._worker.stdout.read(_PIECE):
            yield data

    def end(self) -> Result:
        """Wait for its end, and return its status and what it said."""
        status = self._worker.wait()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _SAID))
        return Result(status, b"", self._errors.read())
