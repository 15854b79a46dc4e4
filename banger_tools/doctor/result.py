"""What a check found: whether a feature works, what its lack costs, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from banger_tools import errors

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


class Check(NamedTuple):
    """What one check found, and how to mend it."""

    check: str
    result: str
    detail: str
    hint: str | None = None


Looks = Callable[[], Iterator[Check]]


def looked(name: str, look: Looks) -> Iterator[Check]:
    """Yield what a check finds; what it cannot look at is a failure of it, and of no other one."""
    try:
        yield from look()
    except (errors.BangerError, OSError) as error:
        known = errors.os_error(error) if isinstance(error, OSError) else error
        yield Check(name, FAIL, known.message, known.hint)


def lack(name: str, error: errors.BangerError, cost: str) -> Check:
    """Return the warning that a feature is lacking, with what that costs."""
    return Check(name, WARN, f"{error.message}: {cost}", error.hint)
