"""Text as man(7) has it: prose, lists and examples out of indented plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from banger_tools import __version__

RELEASED = "2026-11-23"  # of this version: a page with today's date would be another page tomorrow
_ITEM = re.compile(r"^  (\S+(?: \S+)*?)  +(\S.*)$")
_REFERENCE = re.compile(r"\b([a-z][a-z0-9-]*)\((\d)\)")


def head(title: str, section: int) -> list[str]:
    """Return the first lines of a page."""
    notice = ".\\\" Written by `make docs`; edit the program's docstring instead."
    return [notice, f'.TH {title.upper()} {section} "{RELEASED}" "banger {__version__}" "banger"']


def see_also(body: str) -> Iterator[str]:
    """Yield the references in a text, sorted as pages have them."""
    found = [(int(section), name) for name, section in _REFERENCE.findall(body)]
    yield ",\n".join(f"\\fB{escape(name)}\\fR({section})" for section, name in sorted(found))


def escape(text: str) -> str:
    """Return text for man(7): no backslash, hyphen or leading dot is taken for more than it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def prose(text: str) -> str:
    """Return a paragraph: code in bold, references to other pages as pages have them."""
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", escape(text))
    return re.sub(r"\b([a-z][a-z0-9]*(?:\\-[a-z0-9]+)*)\((\d)\)", r"\\fB\1\\fR(\2)", text)


def _paragraphs(body: str) -> Iterator[str]:
    """Yield the paragraphs of a section without its indentation."""
    plain = "\n".join(line.removeprefix("  ") for line in body.splitlines())
    yield from (part for part in re.split(r"\n\s*\n", plain) if part.strip())


def description(body: str) -> Iterator[str]:
    """Yield the lines of a section of prose; a paragraph that is indented further stays as it is."""
    for number, paragraph in enumerate(_paragraphs(body)):
        if number:
            yield ".PP"
        if any(line.startswith("  ") for line in paragraph.splitlines()):
            yield from (".nf", escape(paragraph), ".fi")
        else:
            yield prose(paragraph)


def literal(body: str) -> Iterator[str]:
    """Yield the lines of a section of examples, as they are."""
    for number, paragraph in enumerate(_paragraphs(body)):
        if number:
            yield ".PP"
        yield from (".nf", escape(paragraph), ".fi")


def items(body: str) -> Iterator[str]:
    """Yield the lines of a list: `  WORD  What it means`, further lines indented more; then perhaps prose."""
    listed, _, rest = body.partition("\n\n")
    for line in listed.splitlines():
        match = _ITEM.match(line)
        if match:
            yield from (".TP", f"\\fB{escape(match[1])}\\fR", prose(match[2]))
        elif line.startswith("   "):
            yield prose(line.strip())
        else:
            yield from (".PP", prose(line.strip()))
    if rest:
        yield ".PP"
        yield from description(rest)
