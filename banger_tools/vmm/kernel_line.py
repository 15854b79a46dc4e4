"""The kernel's command line, as every monitor gives it."""

from __future__ import annotations

from collections.abc import Sequence

from banger_tools.vmm import fit
from banger_tools.vmm.spec import Spec


def line(spec: Spec, console: str, own: Sequence[str]) -> str:
    """Return the command line of a machine's kernel: `own` is what its monitor asks for, the user's words are last.

    panic=-1 ends the machine instead of leaving it to hang; rootfstype since some kernels cannot tell.
    """
    words = [f"console={console}", "quiet", "loglevel=4", "panic=-1", "root=/dev/vda"]
    words += ["ro" if spec.guest.read_only else "rw", "rootfstype=ext4", "random.trust_cpu=on", *own]
    if not spec.boot.initrd:
        words.append(f"init={fit.INIT}")
    return " ".join([*words, *spec.boot.append.split()])
