"""Who may import whom: tools import shared modules, never each other; nothing shared imports a tool."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import PROGRAMS, ROOT

PACKAGE = ROOT / "banger_tools"
TOOLS = {program.removeprefix("bg-") for program in PROGRAMS}
GENERATORS = {"manuals"}  # reads every tool's docstring, and is imported by none
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported(source: Path) -> set[str]:
    """Return the modules of ours that a file imports anywhere in it, as `store.images`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("banger_tools.") for name in found if name.startswith("banger_tools.")}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_module_imports_a_tool(source: Path) -> None:
    if source.parent == PACKAGE and source.stem in GENERATORS:
        return
    assert imported(source) & TOOLS == set()


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_but_the_commands_knows_the_commands(source: Path) -> None:
    if source.parent.name == "commands":
        return
    assert not {name for name in imported(source) if name.split(".")[0] in ("commands", "pipeline")}


def test_no_module_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [path for path in SOURCES if path.stem in vague] == []
