"""What bg-inject puts into an image and takes out of it, as a plan: nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from banger_tools import console, guest
from banger_tools.ext4.view import Placed, View
from banger_tools.guest import ssh, units
from banger_tools.guest.units import Name

AGENT = "/usr/local/bin/banger-vsock-agent"
LIBEXEC = "/usr/local/libexec"
MARKER = "/var/lib/banger/first-boot-pending"
SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
FIRST_BOOT = {"sshd": ssh.SSHD, "systemd": SYSTEMD}  # what may be asked for, and what says that it is there
SCRIPTS = ("banger-network-bootstrap", "banger-first-boot")
OUR_UNITS = ("banger-network", "banger-vsock-agent", "banger-first-boot", "banger-host-keys")
MOUNT_POINTS = {"/dev": 0o755, "/proc": 0o555, "/run": 0o755, "/sys": 0o555}
PACKAGE_MANAGERS = ("apt-get", "apk", "dnf", "microdnf", "yum", "pacman", "zypper")
_MAX_MARKER = 4096
_PROGRAMS = ("/sbin/init", "/bin/sh", "/bin/busybox", "/usr/bin/env", *SYSTEMD)
_ELF64 = b"\x7fELF\x02\x01"
_MACHINES = {62: "amd64", 183: "arm64", 21: "ppc64le", 22: "s390x", 243: "riscv64", 258: "loong64"}


class Wishes(NamedTuple):
    """What is asked for; `program` is the guest program, or None where only the rest is wanted."""

    program: bytes | None
    files: Sequence[Placed]
    keys: Sequence[bytes]
    hostname: str | None
    first_boot: Sequence[str]
    enable: Sequence[Name]
    disable: Sequence[Name]
    keep_host_keys: bool


def architecture(view: View) -> str | None:
    """Return what machine the programs of an image are for, in OCI's word; None if it has none that says so.

    Programs of 32 bits say nothing: they run beside a program of 64.
    """
    for path in _PROGRAMS:
        header = view.head(path, 20)
        if header.startswith(_ELF64) and len(header) == 20:
            return _MACHINES.get(int.from_bytes(header[18:], "little"))
    return None


def carry_out(wishes: Wishes, view: View) -> None:
    """Lay everything that is asked for over an image: `view.placed` and `view.removed` are the plan then.

    Raises BadInput for a path that leads out of the image, or a unit that cannot be enabled or disabled.
    """
    pending = _pending(view, wishes.first_boot)
    if wishes.hostname:
        view.place(Placed("/etc/hostname", content=f"{wishes.hostname}\n".encode()))
    if wishes.program is not None:
        _place(view, _agent(view, wishes.program, pending))
    if pending:
        _place(view, [_marker(view, pending)])
    _place(view, wishes.files)  # what is asked for by name comes over what is ours
    if wishes.keys:
        _place(view, ssh.authorized_keys(view, wishes.keys))
    if wishes.program is not None and not wishes.keep_host_keys:
        _forget_host_keys(view)
    for name in wishes.disable:
        for path in units.disable(view, name):
            view.remove(path)
    for name in wishes.enable:
        _place(view, units.enable(view, name))


def _place(view: View, things: Iterable[Placed]) -> None:
    for one in things:
        view.place(one)


def _agent(view: View, program: bytes, pending: Sequence[str]) -> list[Placed]:
    """Return what makes an image a guest: the program, and with systemd or sshd what these need."""
    # a root that the kernel mounted read-only cannot get them at boot
    placed = [Placed(path, "dir", mode=mode) for path, mode in MOUNT_POINTS.items() if view.find(path) is None]
    placed += [Placed(path, content=program, mode=0o755) for path in (AGENT, f"{LIBEXEC}/banger-init")]
    placed += [Placed(f"{LIBEXEC}/{name}", content=_file(name), mode=0o755) for name in SCRIPTS]
    if "systemd" in pending or view.has_file(*SYSTEMD):
        placed.append(Placed("/etc/modules-load.d/banger-vsock.conf", content=_file("banger-vsock.conf")))
        for name in OUR_UNITS:
            placed += _unit(f"{name}.service")
    if "sshd" in pending or view.has_file(*ssh.SSHD):
        placed += ssh.settings(view)
    return placed


def _unit(name: str) -> list[Placed]:
    path = f"{units.CONFIG}/{name}"
    wants = f"{units.CONFIG}/multi-user.target.wants/{name}"
    return [Placed(path, content=_file(name)), Placed(wants, "symlink", path.encode())]


def _file(name: str) -> bytes:
    return (guest.FILES / name).read_bytes()


def _forget_host_keys(view: View) -> None:
    found = ssh.host_keys(view)
    for path in found:
        view.remove(path)
    if found:
        console.detail(f"took out {len(found)} host keys of sshd: each machine makes its own (--keep-host-keys)")


def _pending(view: View, words: Sequence[str]) -> list[str]:
    """Return what is to be installed on the first boot: what the image has already is said, and left out."""
    missing = []
    for word in FIRST_BOOT:
        if word in words and view.has_file(*FIRST_BOOT[word]):
            console.warning(f"--first-boot: the image has {word} already")
        elif word in words:
            missing.append(word)
    if missing and not view.has_file("/bin/sh"):
        console.warning("--first-boot: the image has no shell, so nothing can be installed when it boots")
    elif missing and not _package_manager(view):
        console.warning(f"--first-boot: the image has none of {', '.join(PACKAGE_MANAGERS)}, so installing will fail")
    return missing


def _package_manager(view: View) -> bool:
    return view.has_file(*(f"{folder}/{name}" for folder in ("/usr/bin", "/sbin") for name in PACKAGE_MANAGERS))


def _marker(view: View, words: Sequence[str]) -> Placed:
    """Return the marker that the image's first boot reads: a word a line, with those that are pending already."""
    old = (view.read(MARKER, _MAX_MARKER) or b"").decode(errors="replace").split()
    return Placed(MARKER, content="".join(f"{word}\n" for word in FIRST_BOOT if word in {*words, *old}).encode())
