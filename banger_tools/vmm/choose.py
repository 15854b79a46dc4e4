"""Which monitor runs a machine: the one that was named, else the first that can, found out by trying."""

from __future__ import annotations

from msgspec import structs

from banger_tools import console, errors
from banger_tools.vmm import interface
from banger_tools.vmm import spec as specs

AUTO = "auto"
WORDS = (AUTO, *interface.MONITORS)


def settle(spec: specs.Spec) -> specs.Spec:
    """Return a spec with the monitor that will run it, whose own check it passed.

    Raises what the check of a monitor raised that was named; with `auto` Unavailable that says what each one lacks.
    """
    if spec.vmm != AUTO:
        interface.monitor(spec.vmm).check(spec)
        return spec
    reasons: list[str] = []
    for name in interface.MONITORS:
        settled = structs.replace(spec, vmm=name)
        try:
            interface.monitor(name).check(settled)
        except errors.BangerError as error:
            reasons.append(f"{name}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        else:
            console.detail(f"the monitor is {name}" + (f", since {'; '.join(reasons)}" if reasons else ""))
            return settled
    raise errors.Unavailable("no monitor can run this machine", "\n".join(reasons))
