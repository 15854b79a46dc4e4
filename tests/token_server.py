"""A token server for docker-registry, as the distribution project's token authentication describes one.

It signs real tokens (RFC 7519, RS256) by openssl. Anybody may pull what is `public/…`; the rest is alice's.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests import registry, support

SERVICE, ISSUER = "the registry", "the token server"
ALICE = "Basic " + base64.b64encode(b"alice:secret").decode()
IDENTITY = "identity-of-alice"


class TokenServer:
    """A token server that runs; `issued` has the scopes that were asked for, `lifetime` is of tokens to come, in s."""

    def __init__(self, folder: Path) -> None:
        self.authority = registry.Authority(folder, "token")
        self.lifetime = 300
        self.host = ""
        self.issued: list[dict[str, Any]] = []

    def configuration(self) -> str:
        """Return what docker-registry is to be told."""
        return (
            f"auth:\n  token:\n    realm: http://{self.host}/token\n    service: {SERVICE}\n"
            f"    issuer: {ISSUER}\n    rootcertbundle: {self.authority.file}\n"
        )

    def answer(self, request: registry.Proxy) -> bool:
        """Answer a request for a token."""
        form = parse_qs(urlsplit(request.path).query)
        given = request.headers.get("Authorization")
        if request.command == "POST":
            form = parse_qs(request.rfile.read(int(request.headers["Content-Length"])).decode())
            given = ALICE if form.get("refresh_token") == [IDENTITY] else "wrong"
        if given not in (None, ALICE) or form.get("service") != [SERVICE]:
            request.answer(401, {}, b'{"errors":[{"code":"UNAUTHORIZED","message":"Who are you?"}]}')
            return True
        scopes = form.get("scope", [])
        self.issued.append({"scopes": scopes, "alice": given == ALICE, "method": request.command})
        key = "token" if request.command == "GET" else "access_token"
        access = [granted for scope in scopes if (granted := _granted(scope, alice=given == ALICE))]
        request.answer(200, {}, json.dumps({key: self.sign(access), "expires_in": 300}).encode())
        return True

    def sign(self, access: list[dict[str, Any]]) -> str:
        """Return a token; the registry lets one live a minute longer than it says."""
        der = subprocess.run(
            ["openssl", "x509", "-in", self.authority.file, "-outform", "DER"], capture_output=True, check=True
        ).stdout
        now = int(time.time())
        times = {"nbf": now - 300, "iat": now - 300, "exp": now + self.lifetime - 60}
        claims = {"iss": ISSUER, "aud": SERVICE, "sub": "x", "jti": secrets.token_hex(8), "access": access, **times}
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        text = ".".join(_part(json.dumps(value).encode()) for value in (head, claims))
        argv = ["openssl", "dgst", "-sha256", "-sign", str(self.authority.key)]
        done = subprocess.run(argv, input=text.encode(), capture_output=True, check=True, env=support.environment())
        return f"{text}.{_part(done.stdout)}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _granted(scope: str, *, alice: bool) -> dict[str, Any] | None:
    kind, name, actions = scope.split(":")
    allowed = actions.split(",") if alice else ["pull"] if name.startswith("public/") else []
    return {"type": kind, "name": name, "actions": allowed} if allowed else None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[TokenServer]:
    """Run a token server."""
    server = TokenServer(folder)
    with registry.faulty("", server.answer) as proxy:
        server.host = proxy.host
        yield server
