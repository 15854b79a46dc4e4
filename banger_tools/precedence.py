"""What a new machine has where nobody says it anew each time: the one place that knows whose word counts.

An option comes before a variable of the environment, that before config.toml, and that before what suits this host or
is built in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from banger_tools import config, errors

GIB = 1 << 30
_BUILT_IN = {"image": "debian-bookworm", "vmm": "auto", "net": "user", "timeout": "120"}
KEYS = tuple(name.replace("_", "-") for name in config.VmDefaults.__struct_fields__)


class Setting(NamedTuple):
    """A key of [vm_defaults], its value as an option has it (None: nothing is said), and who says so."""

    key: str
    value: str | None
    origin: str

    @property
    def is_asked(self) -> bool:
        """Whether it was given for this machine, on the command line."""
        return self.origin == option(self.key)

    @property
    def is_configured(self) -> bool:
        """Whether config.toml says so."""
        return self.origin.startswith("'")

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Let a usage error over the option's value name who gave it instead; what config.toml says is BadInput."""
        try:
            yield
        except errors.BadUsage as error:
            if self.is_asked:
                raise
            kind = errors.BadInput if self.is_configured else errors.BadUsage
            raise kind(error.message.replace(f"{option(self.key)}:", f"{self.origin}:", 1), error.hint) from error


def option(key: str) -> str:
    """Return the option of a key."""
    return f"--{key}"


def variable(key: str) -> str:
    """Return the variable of the environment for a key."""
    return f"BANGER_{key.upper().replace('-', '_')}"


def setting(key: str, given: str | None = None) -> Setting:
    """Return what counts for a key, with `given` for its option; an empty variable counts for nothing.

    Raises BadInput if config.toml is wrong.
    """
    if given is not None:
        return Setting(key, given, option(key))
    if value := os.environ.get(variable(key)):
        return Setting(key, value, variable(key))
    configured = getattr(config.load().vm_defaults, key.replace("-", "_"))
    if configured is not None:
        text = f"{configured:g}" if isinstance(configured, float) else str(configured)
        return Setting(key, text, f"'{config.path()}': vm_defaults.{key}")
    if key in _OF_HOST:
        return Setting(key, _OF_HOST[key](), "this host")
    return Setting(key, _BUILT_IN.get(key), "built in")


def settings(arguments: Mapping[str, Any]) -> dict[str, Setting]:
    """Return what counts for every key, with the options of a command line."""
    return {key: setting(key, arguments.get(option(key))) for key in KEYS}


def _cpus() -> str:
    """Return half of the host's processors that we may use: 1 to 4."""
    return str(max(1, min(4, len(os.sched_getaffinity(0)) // 2)))


def _memory() -> str:
    """Return an eighth of the host's memory, a power of two from 1G to 4G, in mebibytes; never more than half."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    eighth = 1 << max((there // 8).bit_length() - 1, 0)
    return f"{min(max(GIB, min(4 * GIB, eighth)), there // 2) >> 20}M"


_OF_HOST = {"cpus": _cpus, "memory": _memory}
