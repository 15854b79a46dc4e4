"""Help and exit statuses of every manual, against the program's own code."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import docs, errors, manuals
from tests.support import ROOT

PACKAGE = ROOT / "banger_tools"
MODULES = [*manuals.TOOLS, *map(docs.command_module, docs.commands(manuals.manual_of("banger")))]
STATUSES = {error.__name__: error.status for error in errors.ERRORS}
OF_ERRNO = {error.status for error in errors._BY_ERRNO.values()}
ALWAYS = {0, errors.BadUsage.status, errors.BUG, errors.INTERRUPTED, errors.CLOSED_PIPE, errors.TERMINATED}

every_module = pytest.mark.parametrize("module", MODULES)


def source(module: str) -> Path:
    return PACKAGE / f"{module.replace('.', '/')}.py"


def listed(module: str) -> set[int]:
    text = manuals.manual_of(module).sections["Exit status"]
    return {int(status) for status in re.findall(r"^  (\d+) ", text, re.MULTILINE)}


@functools.cache
def imported(path: Path) -> tuple[Path, ...]:
    """Return the files of our own that a file imports, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    return tuple(found for node in nodes if (node.module or "").startswith("banger_tools") for found in _files(node))


def _files(node: ast.ImportFrom) -> Iterator[Path]:
    base = PACKAGE.joinpath(*(node.module or "").split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if base != PACKAGE and path.exists():
            yield path
    for name in node.names:
        yield from (path for path in (base / f"{name.name}.py", base / name.name / "__init__.py") if path.exists())


def reached(path: Path) -> set[Path]:
    """Return all files of our own that a program may run."""
    seen: set[Path] = set()
    ahead = [path]
    while ahead:
        if (one := ahead.pop()) not in seen:
            seen.add(one)
            ahead += imported(one)
    return seen


@every_module
def test_manual_lists_every_status_that_the_program_itself_raises(module: str) -> None:
    names = re.findall(r"(?:raise|return) errors\.(\w+)\(", source(module).read_text())
    raised = {STATUSES[name] for name in names if name in STATUSES}
    assert raised <= listed(module) or "Otherwise" in manuals.manual_of(module).sections["Exit status"]


@every_module
def test_program_can_end_with_every_status_that_its_manual_lists(module: str) -> None:
    files = reached(source(module)) - {PACKAGE / "errors.py", PACKAGE / "cli.py"}
    text = "\n".join(path.read_text() for path in files)
    given = {STATUSES[name] for name in re.findall(r"\berrors\.(\w+)\b", text) if name in STATUSES}
    given |= OF_ERRNO if "OSError" in text or "open(" in text else set()
    assert listed(module) <= given | ALWAYS


@every_module
def test_help_shows_every_option_of_the_manual(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The options are those that the parser takes: tests.every_option gives each of them to it."""
    assert importlib.import_module(f"banger_tools.{module}").main(["--help"]) == 0
    shown = capsys.readouterr().out
    for option in manuals.manual_of(module).options:
        assert re.search(rf"^  .*(?<![\w-]){re.escape(option.spelling)}\b", shown, re.MULTILINE), option
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", "\n".join(manuals.manual_of(module).synopsis)))
    assert used <= {option.long for option in manuals.manual_of(module).options}
