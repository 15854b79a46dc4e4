"""config.toml: what may stand in it, and errors that name the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger_tools import config, errors

WHERE = Path("/home/me/.config/banger/config.toml")


def test_files_are_relative_to_the_configuration() -> None:
    text = b"""
        [registries."reg.example:5000"]
        mirrors = ["m.example/hub"]
        plain-http = true
        ca-file = "ca.pem"
        cert-file = "/etc/me.pem"
        [[catalogs]]
        file = "mine.json"
        [[catalogs]]
        url = "https://example.org/c.json"
    """
    found = config.parse(text, WHERE)
    one = found.registries["reg.example:5000"]
    assert one == config.Registry(("m.example/hub",), True, str(WHERE.parent / "ca.pem"), "/etc/me.pem")
    assert [c.file or c.url for c in found.catalogs] == [str(WHERE.parent / "mine.json"), "https://example.org/c.json"]


def test_an_empty_file_is_the_defaults() -> None:
    assert config.parse(b"", WHERE) == config.Config()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"x", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"registry = {}", "unknown field registry"),
        (b"[registries.fine]\n[registries.'a:5']\nmirror = []", 'registries."a:5": object contains unknown field'),
        (b"registries = 5", "registries: expected"),
        (b"[registries.a]\nmirrors = [1]", 'registries."a".mirrors[0]'),
        (b"[registries.a]\nplain-http = 'yes'", "plain-http"),
        (b"[[catalogs]]", "catalogs[0]: needs"),
        (b"[[catalogs]]\nfile = 'a'\nurl = 'b'", "catalogs[0]: needs"),
    ],
)
def test_errors_name_the_place(text: bytes, wrong: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        config.parse(text, WHERE)
    assert wrong in caught.value.message and str(WHERE) in caught.value.message
