"""The pages of section 5, out of the structs that the formats are read into."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from banger_tools import roff


def pages() -> dict[str, str]:
    """Return the pages by name."""
    return {
        "banger-manifest": manifest_page(),
        "banger-tree": tree_page(),
        "banger-catalog": catalog_page(),
        "banger-config": config_page(),
    }


def manifest_page() -> str:
    """Return banger-manifest(5), out of the structs."""
    from banger_tools import manifest

    lines = [*roff.head("banger-manifest", 5), ".SH NAME", "banger\\-manifest \\- what flows from stage to stage"]
    lines += [".SH DESCRIPTION", roff.prose(_MANIFEST_TEXT.format(schema=manifest.SCHEMA))]
    lines += [".SH SECTIONS", roff.prose("The keys of the object; those that are paths are absolute."), *_fixed_keys()]
    for name, kind in sorted(manifest.SECTIONS.items()):
        lines += _section_lines(name, kind, manifest.MADE_BY.get(name))
    lines += [".SH SEE ALSO", *roff.see_also("banger(1) bg-fetch(1) bg-flatten(1) bg-mkext4(1)")]
    return "\n".join(lines) + "\n"


_MANIFEST_TEXT = """\
A manifest is one JSON object. Each program of the suite reads one, adds a section, appends a line to the history,
and prints it; what a program does not know it passes through untouched. The first key is `schema`, and its value is
`{schema}`: a program refuses any other one."""


def config_page() -> str:
    """Return banger-config(5), out of the module that reads it."""
    from banger_tools import config

    structs = {"The file": config.Config, **_tables(config.Config)}
    return _format_page("banger-config", config, structs, "banger(1) bg-fetch(1) banger-catalog(5)")


def _tables(struct: Any) -> dict[str, Any]:
    """Return the structs in the fields of another, by the headings that TOML has for them."""
    import msgspec

    forms = {dict: "[{}.HOST]", tuple: "[[{}]]", None: "[{}]"}
    tables = {}
    for field in msgspec.structs.fields(struct):
        kind = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
        inner = [one for one in (kind, *get_args(kind)) if isinstance(one, type)]
        for one in inner:
            if get_origin(one) is None and issubclass(one, msgspec.Struct):
                tables[forms[get_origin(kind)].format(field.encode_name)] = one
    return tables


def catalog_page() -> str:
    """Return banger-catalog(5), out of the module that reads it."""
    from banger_tools.catalog import entries

    structs = {"The object": entries.Catalog, "images": entries.Entry, "kernels": entries.Kernel}
    return _format_page("banger-catalog", entries, structs, "banger-image-pull(1) bg-fetch(1) banger-config(5)")


def tree_page() -> str:
    """Return banger-tree(5), out of the module that reads it."""
    from banger_tools import tree

    structs = {
        "The first line": tree.Header,
        "sources": tree.SourceFile,
        "The other lines": tree.Entry,
        "origin": tree.Origin,
    }
    return _format_page(
        "banger-tree", tree, structs, "bg-flatten(1) bg-mkext4(1) banger-manifest(5) banger-pipeline(7)"
    )


def _format_page(name: str, module: ModuleType, structs: Mapping[str, Any], see_also: str) -> str:
    """Return the page of a format: the docstring of its module, and the structs that the format is read into."""
    purpose, _, text = (module.__doc__ or "").strip().partition("\n\n")
    title, _, rest = purpose.rstrip(".").partition(": ")
    lines = [*roff.head(name, 5), ".SH NAME", f"{roff.escape(name)} \\- {roff.escape(title[:1].lower() + title[1:])}"]
    lines += [".SH DESCRIPTION", roff.prose(f"{rest[:1].upper()}{rest[1:]}.")]
    for paragraph in text.split("\n\n"):
        is_example = paragraph.startswith(("[", "{", "$"))
        lines += [".PP", *((".nf", roff.escape(paragraph), ".fi") if is_example else (roff.prose(paragraph),))]
    lines.append(".SH KEYS")
    for heading, struct in structs.items():
        lines += _struct_lines(heading, struct, (struct.__doc__ or "").strip())
    return "\n".join([*lines, ".SH SEE ALSO", *roff.see_also(see_also)]) + "\n"


def _fixed_keys() -> Iterator[str]:
    for name, text in (
        ("schema", "The kind and version of the manifest; required."),
        ("name", "A friendly name, which artifacts and images get by default."),
        ("image", "The configuration of the OCI image, as it came: Env, Entrypoint, Cmd, User, WorkingDir, Labels."),
        ("origin", "Of an image out of a bundle: the `source` of what the bundle was made from."),
        ("work_seed_reason", "Why there is no work seed, if `work_seed` is null."),
        (
            "history",
            "What was run: an array of objects with `tool`, `version` and the `options` that shaped the result.",
        ),
    ):
        yield from (".TP", f"\\fB{name}\\fR", roff.prose(text))


def _section_lines(name: str, kind: Any, maker: str | None) -> Iterator[str]:
    struct, form = _struct_of(kind)
    made = f" Made by {maker}(1)." if maker else ""
    yield from _struct_lines(name, struct, f"{form} {(struct.__doc__ or '').strip()}{made}")


def _struct_lines(heading: str, struct: Any, text: str) -> Iterator[str]:
    yield f".SS {roff.escape(heading)}"
    yield roff.prose(re.sub(r"\n *", "\n", text).replace("\n\n", "\n"))
    for name, field in fields_of(struct).items():
        kind = f"{field.kind}{'' if field.required else ', optional'}"
        yield from (".TP", f"\\fB{roff.escape(name)}\\fR ({kind})", roff.prose(field.text))


def _struct_of(kind: Any) -> tuple[Any, str]:
    """Return the struct in a section's type, and how it stands there."""
    inner = getattr(kind, "__args__", None)
    if inner is None:
        return kind, "An object."
    return inner[0], "An array of objects." if get_origin(kind) is list else "An object or null."


class Field(NamedTuple):
    """A key of an object: its type in words, whether it must be there, and what it says."""

    kind: str
    required: bool
    text: str


def fields_of(struct: Any) -> dict[str, Field]:
    """Return a struct's fields by their JSON name."""
    import msgspec

    definition = msgspec.json.schema(struct)["$defs"][struct.__name__]
    required = set(definition.get("required", ()))
    return {
        name: Field(_type_words(value), name in required, value.get("description", ""))
        for name, value in definition["properties"].items()
    }


def _type_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_words(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return "object"
    if "enum" in schema:
        *most, last = (str(word) for word in schema["enum"])
        return f"{', '.join(most)} or {last}"
    if "prefixItems" in schema:
        return f"array of {len(schema['prefixItems'])}: {', '.join(map(_type_words, schema['prefixItems']))}"
    if schema.get("type") == "array":
        return f"array of {_type_words(schema.get('items', {}))}"
    return "digest" if "sha256" in schema.get("pattern", "") else str(schema.get("type", "anything"))
