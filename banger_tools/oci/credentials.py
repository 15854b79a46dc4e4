"""Who we are to a registry: what `docker login` and `podman login` left behind, and credential helpers.

Sources: docker's config.json ($DOCKER_CONFIG, ~/.docker), containers-auth.json(5). Secrets are never printed.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from banger_tools import console, errors, process

_HUB_KEYS = ("https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"


class Credentials(NamedTuple):
    """A user and a password; or, as some registries hand out at login, an identity token alone."""

    user: str
    password: str
    identity_token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.user!r}, …)"

    def basic(self) -> str:
        """Return the value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(host: str, repository: str) -> Credentials | None:
    """Return the credentials for a repository from the first file that has some, None if nobody logged in.

    Raises BadInput for a damaged file, Unavailable for a helper that is missing or fails.
    """
    for path in _files():
        config = _read(path)
        found = _from_config(config, host, repository, path)
        if found is not None:
            return found
    return None


def parse(text: str, what: str) -> Credentials:
    """Return the credentials that `USER:PASSWORD` stands for.

    Raises BadUsage.
    """
    user, colon, password = text.partition(":")
    if not colon or not user:
        raise errors.BadUsage(f"{what}: credentials are written USER:PASSWORD")
    return Credentials(user, password)


def _files() -> Iterator[Path]:
    """Yield the files that may hold credentials; podman's before docker's, as skopeo reads them."""
    explicit = os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    docker = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    candidates = [Path(explicit)] if explicit else []
    candidates += [Path(runtime) / "containers" / "auth.json"] if runtime else []
    candidates += [Path(config) / "containers" / "auth.json", Path(docker) / "config.json"]
    yield from (path for path in candidates if path.is_file())


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{path}'") from error
    except ValueError as error:
        raise errors.BadInput(f"'{path}' is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise errors.BadInput(f"'{path}' is not a JSON object")
    return config


def _from_config(config: dict[str, Any], host: str, repository: str, path: Path) -> Credentials | None:
    """Look in the order that docker does: a helper of this host, the helper of all hosts, the file itself."""
    keys = list(_keys(host, repository))
    helpers = _table(config, "credHelpers", path)
    for key in keys:
        if key in helpers:
            return _ask_helper(str(helpers[key]), key)
    if store := config.get("credsStore"):
        for key in keys:
            if (found := _ask_helper(str(store), key)) is not None:
                return found
    auths = _table(config, "auths", path)
    for key in keys:
        if isinstance(entry := auths.get(key), dict) and (found := _decode(entry, path)) is not None:
            return found
    return None


def _table(config: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise errors.BadInput(f"'{path}': '{key}' is not a JSON object")
    return found


def _keys(host: str, repository: str) -> Iterator[str]:
    """Yield the keys that may stand for a repository, the most special first (podman keys by path, too)."""
    parts = repository.split("/")
    for length in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:length]])
    if host == "docker.io":
        yield from _HUB_KEYS
    else:
        yield from (
            host,
            f"https://{host}",
            f"https://{host}/",
            f"https://{host}/v1/",
            f"https://{host}/v2/",
            f"http://{host}",
        )


def _decode(entry: dict[str, Any], path: Path) -> Credentials | None:
    token = entry.get("identitytoken") or None
    if entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except ValueError as error:  # of base64, of UTF-8, or of what is not ASCII
            raise errors.BadInput(f"'{path}' has an 'auth' that is not base64") from error
        return Credentials(user, password.rstrip("\0"), token)
    if entry.get("username"):
        return Credentials(str(entry["username"]), str(entry.get("password") or ""), token)
    return Credentials("", "", token) if token else None


def _ask_helper(name: str, key: str) -> Credentials | None:
    """Ask `docker-credential-NAME`; it prints JSON, or says that it knows nothing."""
    if "/" in name:
        raise errors.BadInput(f"'{console.printable(name)}' is not the name of a credential helper")
    program = f"docker-credential-{name}"
    result = process.run([program, "get"], stdin=key.encode(), check=False)
    if result.status != 0:
        said = (result.stdout or result.stderr).decode(errors="replace").strip()
        if "not found" in said or "no credentials" in said:
            return None
        raise errors.Unavailable(f"'{program}' failed with status {result.status}: {said[:200]}")
    try:
        answer = json.loads(result.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.Unavailable(f"'{program}' printed no credentials") from error
    return Credentials("", "", secret) if user == _TOKEN_USER else Credentials(user, secret)
