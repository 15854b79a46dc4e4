"""Manual pages out of the programs' docstrings, so that `man` and `--help` can never disagree.

Run as a program it writes man/ and completions/ of a checkout: `python -m banger_tools.manuals FOLDER`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from banger_tools import completions, docs, formats, roff

TOOLS = ("fetch", "flatten", "mkext4", "chown", "inject", "seed", "publish", "boot", "banger")


def manual_of(module: str) -> docs.Manual:
    """Return the manual of a module of ours by its name, as in `fetch` or `commands.image_pull`."""
    return docs.parse(importlib.import_module(f"banger_tools.{module}").__doc__ or "")


def manuals() -> dict[str, docs.Manual]:
    """Return the manuals of all programs and of the driver's commands, by name."""
    tools = [manual_of(tool) for tool in TOOLS]
    commands = [manual_of(docs.command_module(name)) for name in docs.commands(tools[-1])]
    return {manual.name: manual for manual in (*tools, *commands)}


def options(manual: docs.Manual) -> Iterator[str]:
    """Yield the lines of the options."""
    for option in manual.options:
        short = f"\\fB{roff.escape(option.short)}\\fR" if option.short else ""
        long = f"\\fB{roff.escape(option.long)}\\fR" if option.long else ""
        value = f"\\fI{roff.escape(option.value)}\\fR" if option.value else ""
        spellings = [short + (f" {value}" if value else "")] if short else []
        spellings += [long + (f"={value}" if value else "")] if long else []
        yield from (".TP", ", ".join(spellings), roff.prose(option.text))


def synopsis(manual: docs.Manual) -> Iterator[str]:
    """Yield the lines of the usage."""
    for number, line in enumerate(manual.synopsis):
        if number:
            yield ".br"
        yield f"\\fB{roff.escape(manual.name)}\\fR{roff.escape(line.removeprefix(manual.name))}"


def environment() -> Iterator[str]:
    """Yield the lines on the environment, the same for every program: the driver's manual has them."""
    yield from roff.items(manual_of("banger").sections["Environment"])


def page(manual: docs.Manual) -> str:
    """Return a program's manual page, section 1."""
    title = file_name(manual.name)
    sections = manual.sections
    lines = [*roff.head(title, 1), ".SH NAME", f"{roff.escape(title)} \\- {roff.escape(manual.purpose)}"]
    lines += [".SH SYNOPSIS", *synopsis(manual)]
    lines += [".SH DESCRIPTION", *roff.description(sections.get("Description", ""))]
    for heading in ("Arguments", "Commands"):
        if heading in sections:
            lines += [f".SH {heading.upper()}", *roff.items(sections[heading])]
    lines += [".SH OPTIONS", *options(manual)]
    if "Words" in sections:
        lines += [".SH WORDS", *roff.items(sections["Words"])]
    if "JSON" in sections:
        lines += [".SH JSON", *roff.description(sections["JSON"])]
    lines += [".SH ENVIRONMENT", *environment()]
    lines += [".SH EXIT STATUS", *roff.items(sections.get("Exit status", ""))]
    lines += [".SH EXAMPLES", *roff.literal(sections.get("Examples", ""))]
    lines += [".SH SEE ALSO", *roff.see_also(sections.get("See also", ""))]
    return "\n".join(lines) + "\n"


def file_name(name: str) -> str:
    """Return the name of a program's page: `banger image pull` is banger-image-pull."""
    return name.replace(" ", "-")


def prose_page(text: str) -> str:
    """Return a page of section 7 out of a docstring that is all of it: `name: purpose`, headings, indented bodies.

    A heading that is a message, in quotes, or a request is one of a subsection. Under Statuses stands a list.
    """
    first, _, rest = text.partition("\n\n")
    title, _, purpose = first.partition(": ")
    lines = [*roff.head(title, 7), ".SH NAME", f"{roff.escape(title)} \\- {roff.escape(purpose)}"]
    for heading, body in re.findall(r"^(\S.*):\n((?:  .*\n|\n)+)", rest, re.MULTILINE):
        if heading == "See also":
            lines += [".SH SEE ALSO", *roff.see_also(body)]
            continue
        is_message = heading.startswith("'")
        is_part = is_message or heading.partition(" ")[2].startswith("/")
        shown = heading[1:-1] if is_message else heading
        lines.append(f".SS {roff.escape(shown)}" if is_part else f".SH {roff.escape(shown.upper())}")
        lines += roff.items(body) if heading == "Statuses" else roff.description(body)
    return "\n".join(lines) + "\n"


def prose_pages() -> dict[str, str]:
    """Return the pages of section 7 by name."""
    from banger_tools.agent import protocol
    from banger_tools.pages import pipeline, troubleshooting

    modules = {"agent": protocol, "pipeline": pipeline, "troubleshooting": troubleshooting}
    return {f"banger-{name}": prose_page(module.__doc__ or "") for name, module in modules.items()}


def files() -> dict[str, str]:
    """Return all generated files of a checkout by their path in it."""
    known = manuals()
    pages = {f"man/{file_name(name)}.1": page(manual) for name, manual in known.items()}
    pages |= {f"man/{name}.5": text for name, text in formats.pages().items()}
    pages |= {f"man/{name}.7": text for name, text in prose_pages().items()}
    return {**pages, **completions.files(known)}


def write(root: Path) -> None:
    """Write the generated files below a checkout, and remove pages that no program has any more."""
    made = files()
    for folder in ("man", "completions"):
        for old in sorted((root / folder).glob("*")):
            if f"{folder}/{old.name}" not in made and _is_generated(old):
                old.unlink()
    for path, text in made.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _is_generated(path: Path) -> bool:
    return path.is_file() and b"make docs" in path.read_bytes()[:200]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
