"""What a check found: whether a feature works, what its lack costs, and how to mend it."""

from __future__ import annotations

from typing import NamedTuple

from banger_tools import errors

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


class Check(NamedTuple):
    """What one check found, and how to mend it."""

    check: str
    result: str
    detail: str
    hint: str | None = None


def lack(name: str, error: errors.BangerError, cost: str) -> Check:
    """Return the warning that a feature is lacking, with what that costs."""
    return Check(name, WARN, f"{error.message}: {cost}", error.hint)
