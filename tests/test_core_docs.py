"""A manual out of a docstring."""

from __future__ import annotations

from banger_tools import docs

DOC = """bg-toy: a toy that does nothing.

Usage:
  bg-toy [options] INPUT
  bg-toy --list

Arguments:
  INPUT  What to read.

Commands:
  image pull  Make it.
  doctor      Look.

Options:
  -n N, --number=N  How many, and a text that goes
                    on in the next line [default: 7].
  -a                Without a long name.
  --list            List.
  @talk

Description:
  Prose.

  --not-an-option here

Exit status:
  0  done
"""


def test_title_and_sections() -> None:
    manual = docs.parse(DOC)
    assert (manual.name, manual.purpose) == ("bg-toy", "a toy that does nothing")
    assert manual.synopsis == ("bg-toy [options] INPUT", "bg-toy --list")
    assert manual.sections["Description"] == "  Prose.\n\n  --not-an-option here"


def test_options_with_their_spellings_values_and_wrapped_text() -> None:
    number, short, listed, *talk = docs.parse(DOC).options
    assert number == ("-n", "--number", "N", "How many, and a text that goes on in the next line [default: 7].")
    assert short == ("-a", None, None, "Without a long name.")
    assert listed == (None, "--list", None, "List.")
    assert [option.spelling for option in talk] == ["--quiet", "--verbose", "--progress", "--help", "--version"]


def test_commands() -> None:
    assert docs.commands(docs.parse(DOC)) == {"image pull": "Make it.", "doctor": "Look."}


def test_docopt_sees_usage_and_options_only() -> None:
    text = docs.docopt_text(docs.parse(DOC))
    assert "--not-an-option" not in text
    assert text.count("Usage:") == 1
    assert "program [options] [-v]... [--] INPUT" in text


def test_help_shows_every_section_and_the_shared_options() -> None:
    text = docs.help_text(docs.parse(DOC))
    assert "@talk" not in text
    for heading in ("Usage:", "Arguments:", "Options:", "Description:", "Exit status:"):
        assert f"\n{heading}\n" in text
