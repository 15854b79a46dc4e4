"""What the prune commands share: the question before what is whole goes for good, and what is told of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from banger_tools import cli, console, errors, sizes

if TYPE_CHECKING:
    from banger_tools.inventory import Entry
    from banger_tools.leftovers import Leftover


def prune(
    arguments: cli.Arguments,
    whole: Sequence[Leftover],
    left: Iterable[Leftover],
    words: tuple[str, str],
    keys: Mapping[str, str],
) -> int:
    """Remove what is whole and not used if the answer to that is yes, and what is left over; return the exit status.

    `words` are said and asked before; `keys` are those of the object of --json, with the kind of what each names.
    """
    dry_run, status = bool(arguments["--dry-run"]), 0
    if not (dry_run or arguments["--force"] or _agreed(words, [one.name for one in whole])):
        return 0
    gone = [*whole, *left]
    if not dry_run:
        gone, status = remove(gone)
    named = {key: [one.name for one in gone if one.kind == kind] for key, kind in keys.items()}
    tell(arguments, gone, named, sum(one.size for one in gone))
    return status


def _agreed(words: tuple[str, str], names: Sequence[str]) -> bool:
    """Tell whoever sits at the terminal what it is about, and ask.

    Raises BadUsage if nobody sits there.
    """
    if not names:
        return True
    if not sys.stdin.isatty():
        raise errors.BadUsage("prune asks before it removes anything, and stdin is no terminal", "add --force")
    statement, question = words
    console.lines(f"{statement}:\n" + "".join(f"  {name}\n" for name in names))
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def remove(found: Sequence[Leftover]) -> tuple[list[Leftover], int]:
    """Remove one after the other; what cannot be removed is said, and stops no other.

    Return what went, and the exit status of the first failure.
    """
    from banger_tools.commands import several

    gone: list[Leftover] = []

    def one(item: Leftover) -> None:
        try:
            gone.extend([item] if item.remove() else [])
        except OSError as error:
            raise errors.os_error(error, f"the {item.kind} '{item.name}' could not be removed") from error

    return gone, several.in_turn(found, one)


def tell(
    arguments: cli.Arguments,
    gone: Sequence[Leftover] | Sequence[Entry],
    described: Mapping[str, object],
    freed: int,
    *,
    left: int | None = None,
) -> None:
    """Say what went, or would: as text for people, or as JSON in the words of `described`; sizes in bytes."""
    dry_run = bool(arguments["--dry-run"])
    if arguments["--json"]:
        whole = {"dry_run": dry_run, **described, "freed": freed, **({} if left is None else {"left": left})}
        sys.stdout.write(json.dumps(whole, indent=2) + "\n")
        return
    verb, be = ("would remove", "would be ") if dry_run else ("removed", "")
    sys.stdout.writelines(f"{verb} {one.kind} {console.printable(one.name)}\n" for one in gone)
    rest = "" if left is None else f", {sizes.show(left)} left"
    sys.stdout.write(f"{sizes.show(freed)} {be}freed{rest}\n")
