"""Documents in types: JSON that names its schema, and what msgspec finds wrong with a value, in our words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from banger_tools import errors


def about(text: str) -> msgspec.Meta:
    """Return the description of a key, which the page of its format shows."""
    return msgspec.Meta(description=text)


def object_of_schema(text: str | bytes, schema: str, kind: str, origin: str) -> dict[str, Any]:
    """Return the JSON object in a text, whose `schema` is the one wanted; `kind` is what it is to be ("a manifest").

    Raises BadInput beginning with `origin`; it names both schemas if it is another one.
    """
    try:
        raw = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise errors.BadInput(f"{origin} is not {kind}: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict) or "schema" not in raw:
        raise errors.BadInput(f"{origin} is not {kind}: it has no 'schema' key")
    if raw["schema"] != schema:
        raise errors.BadInput(f"{origin} has the schema '{raw['schema']}', and this program reads '{schema}'")
    return raw


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def convert(value: object, kind: Any) -> Any:
    """Return a value of JSON as a type.

    Raises ValidationError, also for half of a character, which JSON may spell and no text has.
    """
    try:
        return msgspec.convert(value, kind)
    except UnicodeEncodeError as error:
        raise msgspec.ValidationError(f"{error.object!a} is no text") from error


def problem(error: msgspec.ValidationError, patterns: Mapping[str, str], above: str = "") -> str:
    """Return where a value is wrong and why: of "Expected `str` - at `$.path`" make "path: expected str".

    `patterns` are the regular expressions of fields, each with what to say if one does not match; `above` is the place
    of the value itself.
    """
    text, _, place = str(error).partition(" - at ")
    text = next((words for pattern, words in patterns.items() if pattern in text), text)
    text = text.replace("`", "")
    place = (above + place.strip("`").removeprefix("$")).lstrip(".")
    return f"{place + ': ' if place else ''}{text[:1].lower()}{text[1:]}"
