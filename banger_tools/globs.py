"""Patterns for paths in a tree, as rsync(1) has them in its filter rules.

`*` and `?` match anything but a slash, `**` slashes too, `[…]` one of the characters (`[!…]` and `[^…]` none of them),
and a backslash takes the next character as it is. A pattern that begins with a slash is matched against the whole path;
any other against its last components, as many as the pattern has, at any depth. One that ends in a slash matches
only folders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from banger_tools import errors

_TOKEN = re.compile(r"\*\*|\*|\?|\[[!^]?\]?[^]]*\]|\\.|.", re.DOTALL)


def matcher(globs: Sequence[str]) -> Callable[[bytes, bool], bool]:
    """Return what tells whether an absolute path, of a folder or not, matches one of the patterns.

    Raises BadUsage naming a pattern that can match nothing.
    """
    of_all = [_checked(glob) for glob in globs if not glob.endswith("/")]
    of_folders = [_checked(glob) for glob in globs if glob.endswith("/")]
    anything = re.compile("|".join(of_all) or r"(?!)", re.DOTALL)
    folders = re.compile("|".join(of_all + of_folders) or r"(?!)", re.DOTALL)

    def matches(path: bytes, folder: bool) -> bool:
        return (folders if folder else anything).fullmatch(os.fsdecode(path)) is not None

    return matches


def _checked(glob: str) -> str:
    found = expression(glob)
    try:
        re.compile(found)
    except re.error as error:
        raise errors.BadUsage(f"--exclude: '{glob}' is not a pattern: {error.msg}") from None
    return found


def expression(glob: str) -> str:
    """Return the regular expression that a pattern stands for."""
    if not glob.strip("/"):
        raise errors.BadUsage("--exclude: a pattern of nothing but slashes matches nothing")
    within = glob.strip("/") if glob.startswith("/") else re.sub(r"\A(\*\*/)+", "", glob.strip("/"))
    body = "".join(map(_translate, _TOKEN.findall(within)))
    return f"/{body}" if glob.startswith("/") else f"(?:/.*)?/{body}"


def _translate(token: str) -> str:
    match token:
        case "**":
            return ".*"
        case "*":
            return "[^/]*"
        case "?":
            return "[^/]"
    if len(token) > 2 and token[0] == "[":
        return _character_class(token[1:-1])
    return re.escape(token[-1])


def _character_class(inside: str) -> str:
    negated = inside[0] in "!^" and len(inside) > 1
    chosen = re.sub(r"([\\\[\]&~|^])", r"\\\1", inside[1:] if negated else inside)
    return f"(?!/)[^{chosen}]" if negated else f"(?!/)[{chosen}]"
