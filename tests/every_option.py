"""Run as a program with the name of a module: gives each option of its manual alone to the parser, and checks it.

A program of its own, so that either docopt can stand first in PYTHONPATH. Prints the file of docopt.
"""

from __future__ import annotations

import importlib
import sys

from banger_tools import cli, docs


def check(module: str) -> None:
    """Give every spelling of every option of a module to the parser; assert what comes out."""
    doc = importlib.import_module(f"banger_tools.{module}").__doc__ or ""
    manual = docs.parse(doc)
    needed = [word.strip("[].") for word in manual.synopsis[0].removeprefix(manual.name).split() if word.isupper()]
    for option in manual.options:
        for words, value in spellings(option):
            got = cli.parse(manual, [*words, *needed], nested="COMMAND" in doc and module == "banger")
            found = got[option.spelling]
            assert (found[0] if isinstance(found, list) else found) == value, (module, words, got)


def spellings(option: docs.Option) -> list[tuple[list[str], object]]:
    """Return the ways to give an option, each with what docopt is to make of it."""
    if option.value is None:
        given: object = 1 if option.spelling == "--verbose" else True
        return [([name], given) for name in (option.short, option.long) if name]
    ways: list[tuple[list[str], object]] = []
    if option.short:
        ways += [([option.short, "x"], "x"), ([f"{option.short}x"], "x")]
    if option.long:
        ways += [([option.long, "x"], "x"), ([f"{option.long}=x"], "x"), ([f"{option.long}="], "")]
    return ways


if __name__ == "__main__":
    import docopt

    for name in sys.argv[1:]:
        check(name)
    print(docopt.__file__)
