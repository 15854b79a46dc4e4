"""Files of credentials that others wrote: what is wrong with one is said, and its secrets are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.oci import credentials
from tests import support

HOST = "registry.example"
SECRET = "of-nobody-else"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that podman was told to use, and a folder in PATH for helpers."""
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "nowhere"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{support.search_path()}")
    return tmp_path / "auth.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{" + SECRET, "is not JSON"),
        (json.dumps([SECRET]), "is not a JSON object"),
        (json.dumps({"auths": {HOST: {"auth": SECRET}}}), "has an 'auth' that is not base64"),
        (json.dumps({"auths": {HOST: {"auth": "\u00e9" + SECRET}}}), "has an 'auth' that is not base64"),
        (json.dumps({"auths": [SECRET]}), "'auths' is not a JSON object"),
        (json.dumps({"auths": SECRET}), "'auths' is not a JSON object"),
        (json.dumps({"credHelpers": [HOST, SECRET]}), "'credHelpers' is not a JSON object"),
        (json.dumps({"credHelpers": 5, "auths": {}}), "'credHelpers' is not a JSON object"),
        (json.dumps({"credHelpers": {HOST: "../bin/sh"}}), "'../bin/sh' is not the name of a credential helper"),
    ],
)
def test_damaged_file_is_refused_without_its_secrets(written: Path, text: str, said: str) -> None:
    written.write_text(text)
    with pytest.raises(errors.BadInput) as caught:
        credentials.find(HOST, "app")
    assert said in caught.value.message
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("printed", ["", "noise", "[]", '{"Username": "bob"}'])
def test_helper_that_prints_no_credentials_is_named(written: Path, printed: str) -> None:
    helper = written.with_name("docker-credential-odd")
    helper.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\n")
    helper.chmod(0o755)
    written.write_text(json.dumps({"credsStore": "odd"}))
    with pytest.raises(errors.Unavailable, match="'docker-credential-odd' printed no credentials"):
        credentials.find(HOST, "app")


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"username": "bob", "password": "p"}, ("bob", "p", None)),
        ({"username": "bob"}, ("bob", "", None)),
        ({"identitytoken": "t"}, ("", "", "t")),
        ({}, None),
    ],
)
def test_entries_without_the_usual_auth_are_understood(
    written: Path, entry: dict[str, str], found: tuple[str, str, str | None] | None
) -> None:
    written.write_text(json.dumps({"auths": {HOST: entry}}))
    assert credentials.find(HOST, "app") == found


def test_file_that_may_not_be_read_is_named(user: support.OrdinaryUser) -> None:
    docker = user.home / ".docker" / "config.json"
    docker.parent.mkdir(mode=0o755)
    docker.write_text("{}")
    docker.chmod(0)
    code = "from banger_tools.oci import credentials; credentials.find('registry.example', 'app')"
    env = {"PYTHONPATH": str(user.bin.parent)}
    done = user.run(str(user.bin.parent / ".venv" / "bin" / "python"), "-P", "-c", code, env=env)
    assert f"Denied: cannot read '{docker}'".encode() in done.stderr, done.stderr
