"""Manual pages out of the programs' docstrings, so that `man` and `--help` can never disagree.

Run as a program it writes man/ and completions/ of a checkout: `python -m banger_tools.manuals FOLDER`.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin

from banger_tools import __version__, completions, docs

TOOLS = ("fetch", "flatten", "mkext4", "chown", "inject", "seed", "publish", "boot", "banger")
RELEASED = "2026-11-23"  # of this version: a page with today's date would be another page tomorrow

ENVIRONMENT = {
    "BANGER_HOME": "Folder of everything: the cache, the images, the machines and the configuration.",
    "XDG_CACHE_HOME, XDG_STATE_HOME, XDG_CONFIG_HOME": "Where these are without BANGER_HOME, each in a folder "
    "named banger.",
    "SOURCE_DATE_EPOCH": "The time to write into artifacts where one is needed.",
    "NO_COLOR": "Say things without colours, if it is set to anything.",
}
_ITEM = re.compile(r"^  (\S+(?: \S+)*?)  +(\S.*)$")
_REFERENCE = re.compile(r"\b([a-z][a-z0-9-]*)\((\d)\)")


def manual_of(module: str) -> docs.Manual:
    """Return the manual of a module of ours by its name, as in `fetch` or `commands.image_pull`."""
    return docs.parse(importlib.import_module(f"banger_tools.{module}").__doc__ or "")


def manuals() -> dict[str, docs.Manual]:
    """Return the manuals of all programs and of the driver's commands, by name."""
    tools = [manual_of(tool) for tool in TOOLS]
    commands = [manual_of(docs.command_module(name)) for name in docs.commands(tools[-1])]
    return {manual.name: manual for manual in (*tools, *commands)}


def escape(text: str) -> str:
    """Return text for man(7): no backslash, hyphen or leading dot is taken for more than it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def _prose(text: str) -> str:
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
            yield _prose(paragraph)


def literal(body: str) -> Iterator[str]:
    """Yield the lines of a section of examples, as they are."""
    for number, paragraph in enumerate(_paragraphs(body)):
        if number:
            yield ".PP"
        yield from (".nf", escape(paragraph), ".fi")


def items(body: str) -> Iterator[str]:
    """Yield the lines of a list: `  WORD  What it means`, further lines indented more; then perhaps prose."""
    listed, _, prose = body.partition("\n\n")
    for line in listed.splitlines():
        match = _ITEM.match(line)
        if match:
            yield from (".TP", f"\\fB{escape(match[1])}\\fR", _prose(match[2]))
        elif line.startswith("   "):
            yield _prose(line.strip())
        else:
            yield from (".PP", _prose(line.strip()))
    if prose:
        yield ".PP"
        yield from description(prose)


def options(manual: docs.Manual) -> Iterator[str]:
    """Yield the lines of the options."""
    for option in manual.options:
        short = f"\\fB{escape(option.short)}\\fR" if option.short else ""
        long = f"\\fB{escape(option.long)}\\fR" if option.long else ""
        value = f"\\fI{escape(option.value)}\\fR" if option.value else ""
        spellings = [short + (f" {value}" if value else "")] if short else []
        spellings += [long + (f"={value}" if value else "")] if long else []
        yield from (".TP", ", ".join(spellings), _prose(option.text))


def synopsis(manual: docs.Manual) -> Iterator[str]:
    """Yield the lines of the usage."""
    for number, line in enumerate(manual.synopsis):
        if number:
            yield ".br"
        yield f"\\fB{escape(manual.name)}\\fR{escape(line.removeprefix(manual.name))}"


def environment() -> Iterator[str]:
    """Yield the lines on the environment, the same for every program."""
    for name, text in ENVIRONMENT.items():
        yield from (".TP", f"\\fB{name}\\fR", _prose(text))


def page(manual: docs.Manual) -> str:
    """Return a program's manual page, section 1."""
    title = file_name(manual.name)
    sections = manual.sections
    lines = [*_head(title, 1), ".SH NAME", f"{escape(title)} \\- {escape(manual.purpose)}"]
    lines += [".SH SYNOPSIS", *synopsis(manual)]
    lines += [".SH DESCRIPTION", *description(sections.get("Description", ""))]
    for heading in ("Arguments", "Commands"):
        if heading in sections:
            lines += [f".SH {heading.upper()}", *items(sections[heading])]
    lines += [".SH OPTIONS", *options(manual)]
    lines += [".SH ENVIRONMENT", *environment()]
    lines += [".SH EXIT STATUS", *items(sections.get("Exit status", ""))]
    lines += [".SH EXAMPLES", *literal(sections.get("Examples", ""))]
    lines += [".SH SEE ALSO", *_see_also(sections.get("See also", ""))]
    return "\n".join(lines) + "\n"


def _head(title: str, section: int) -> list[str]:
    notice = ".\\\" Written by `make docs`; edit the program's docstring instead."
    return [notice, f'.TH {title.upper()} {section} "{RELEASED}" "banger {__version__}" "banger"']


def _see_also(body: str) -> Iterator[str]:
    found = [(int(section), name) for name, section in _REFERENCE.findall(body)]
    yield ",\n".join(f"\\fB{escape(name)}\\fR({section})" for section, name in sorted(found))


def file_name(name: str) -> str:
    """Return the name of a program's page: `banger image pull` is banger-image-pull."""
    return name.replace(" ", "-")


def manifest_page() -> str:
    """Return banger-manifest(5), out of the structs."""
    from banger_tools import manifest

    lines = [*_head("banger-manifest", 5), ".SH NAME", "banger\\-manifest \\- what flows from stage to stage"]
    lines += [".SH DESCRIPTION", _prose(_MANIFEST_TEXT.format(schema=manifest.SCHEMA))]
    lines += [".SH SECTIONS", _prose("The keys of the object; those that are paths are absolute."), *_fixed_keys()]
    for name, kind in sorted(manifest.SECTIONS.items()):
        lines += _section_lines(name, kind, manifest.MADE_BY.get(name))
    lines += [".SH SEE ALSO", *_see_also("banger(1) bg-fetch(1) bg-flatten(1) bg-mkext4(1)")]
    return "\n".join(lines) + "\n"


_MANIFEST_TEXT = """\
A manifest is one JSON object. Each program of the suite reads one, adds a section, appends a line to the history,
and prints it; what a program does not know it passes through untouched. The first key is `schema`, and its value is
`{schema}`: a program refuses any other one."""


def config_page() -> str:
    """Return banger-config(5), out of the module that reads it."""
    from banger_tools import config

    structs = {
        "The file": config.Config,
        "[registries.HOST]": config.Registry,
        "[[catalogs]]": config.Catalog,
        "[network]": config.Network,
    }
    return _format_page("banger-config", config, structs, "banger(1) bg-fetch(1) banger-catalog(5)")


def catalog_page() -> str:
    """Return banger-catalog(5), out of the module that reads it."""
    from banger_tools.catalog import entries

    structs = {"The object": entries.Catalog, "images": entries.Entry, "kernels": entries.Kernel}
    return _format_page("banger-catalog", entries, structs, "banger-image-pull(1) bg-fetch(1) banger-config(5)")


def agent_page() -> str:
    """Return banger-agent(7), out of the module that holds its text; each request is a section of its own."""
    from banger_tools.agent import protocol

    head, _, text = (protocol.__doc__ or "").partition("\n\n")
    title, _, purpose = head.partition(": ")
    lines = [*_head(title, 7), ".SH NAME", f"{escape(title)} \\- {escape(purpose)}"]
    for heading, body in re.findall(r"^(\S.*):\n((?:  .*\n|\n)+)", text, re.MULTILINE):
        if heading == "See also":
            lines += [".SH SEE ALSO", *_see_also(body)]
            continue
        is_request = heading.partition(" ")[2].startswith("/")
        lines.append(f".SS {escape(heading)}" if is_request else f".SH {escape(heading.upper())}")
        lines += items(body) if heading == "Statuses" else description(body)
    return "\n".join(lines) + "\n"


def _format_page(name: str, module: ModuleType, structs: Mapping[str, Any], see_also: str) -> str:
    """Return the page of a format: the docstring of its module, and the structs that the format is read into."""
    purpose, _, text = (module.__doc__ or "").strip().partition("\n\n")
    title, _, rest = purpose.rstrip(".").partition(": ")
    lines = [*_head(name, 5), ".SH NAME", f"{escape(name)} \\- {escape(title[:1].lower() + title[1:])}"]
    lines += [".SH DESCRIPTION", _prose(f"{rest[:1].upper()}{rest[1:]}.")]
    for paragraph in text.split("\n\n"):
        is_example = paragraph.startswith(("[", "{", "$"))
        lines += [".PP", *((".nf", escape(paragraph), ".fi") if is_example else (_prose(paragraph),))]
    lines.append(".SH KEYS")
    for heading, struct in structs.items():
        lines += _struct_lines(heading, struct, (struct.__doc__ or "").strip())
    return "\n".join([*lines, ".SH SEE ALSO", *_see_also(see_also)]) + "\n"


def _fixed_keys() -> Iterator[str]:
    for name, text in (
        ("schema", "The kind and version of the manifest; required."),
        ("name", "A friendly name, which artifacts and images get by default."),
        ("image", "The configuration of the OCI image, as it came: Env, Entrypoint, Cmd, User, WorkingDir, Labels."),
        ("origin", "Of an image out of a bundle: the `source` of what the bundle was made from."),
        (
            "history",
            "What was run: an array of objects with `tool`, `version` and the `options` that shaped the result.",
        ),
    ):
        yield from (".TP", f"\\fB{name}\\fR", _prose(text))


def _section_lines(name: str, kind: Any, maker: str | None) -> Iterator[str]:
    struct, form = _struct_of(kind)
    made = f" Made by {maker}(1)." if maker else ""
    yield from _struct_lines(name, struct, f"{form} {(struct.__doc__ or '').strip()}{made}")


def _struct_lines(heading: str, struct: Any, text: str) -> Iterator[str]:
    yield f".SS {escape(heading)}"
    yield _prose(re.sub(r"\n *", "\n", text).replace("\n\n", "\n"))
    for field, (words, required) in fields_of(struct).items():
        yield from (".TP", f"\\fB{escape(field)}\\fR ({words}{'' if required else ', optional'})", "")


def _struct_of(kind: Any) -> tuple[Any, str]:
    """Return the struct in a section's type, and how it stands there."""
    inner = getattr(kind, "__args__", None)
    if inner is None:
        return kind, "An object."
    return inner[0], "An array of objects." if get_origin(kind) is list else "An object or null."


def fields_of(struct: Any) -> dict[str, tuple[str, bool]]:
    """Return a struct's fields by their JSON name: the type in words, and whether it must be there."""
    import msgspec

    definition = msgspec.json.schema(struct)["$defs"][struct.__name__]
    required = set(definition.get("required", ()))
    return {name: (_type_words(value), name in required) for name, value in definition["properties"].items()}


def _type_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_words(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return "object"
    if schema.get("type") == "array":
        return f"array of {_type_words(schema.get('items', {}))}"
    return "digest" if "pattern" in schema else str(schema.get("type", "anything"))


def files() -> dict[str, str]:
    """Return all generated files of a checkout by their path in it."""
    known = manuals()
    pages = {f"man/{file_name(name)}.1": page(manual) for name, manual in known.items()}
    formats = {"manifest": manifest_page(), "catalog": catalog_page(), "config": config_page()}
    pages |= {f"man/banger-{name}.5": text for name, text in formats.items()}
    return {**pages, "man/banger-agent.7": agent_page(), **completions.files(known)}


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
