"""Who we are to one repository: the Authorization header that its challenges ask for.

Sources: RFC 9110, section 11 (challenges), RFC 7617 (basic), and the token authentication of the distribution
project, which is what registries mean by bearer.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

from banger_tools import errors
from banger_tools.oci import failures, hosts, reference, registry_errors
from banger_tools.oci.credentials import Credentials
from banger_tools.oci.http import Transport

_ANSWER_BYTES = 1 << 20
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_PIECE = re.compile(rf'({_WORD})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|({_WORD})')


def challenges(header: str) -> dict[str, dict[str, str]]:
    """Return the challenges of a WWW-Authenticate header: the fields of each, by its scheme in lower case."""
    found: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for name, quoted, plain, scheme in _PIECE.findall(header):
        if scheme:
            fields = found.setdefault(scheme.lower(), {})
        else:
            fields[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) or plain
    return found


class Authorizer:
    """The Authorization header for a repository on a host: none, basic, or a bearer token, renewed when it expires.

    `login` is asked for credentials once, and only after a challenge.
    """

    def __init__(
        self, transport: Transport, host: str, repository: str, login: Callable[[], Credentials | None]
    ) -> None:
        self._transport = transport
        self._host = host
        self._repository = repository
        self._login = login
        self._lock = threading.Lock()
        self._known: Credentials | None = None
        self._asked = False
        self.header: str | None = None

    def answer(self, challenge: str, used: str | None) -> bool:
        """Get ready for another try after a 401 to a request with the header `used`; tell whether it is worth it.

        Raises Denied if the token server refuses, and what asking it raises.
        """
        offered = challenges(challenge)
        with self._lock:
            if self.header != used:  # another thread renewed it meanwhile
                return True
            if offered.get("bearer", {}).get("realm"):
                self.header = "Bearer " + self._token(offered["bearer"])
                return True
            found = self._credentials()
            if "basic" in offered and found is not None and used is None:
                self.header = found.basic()
                return True
            return False

    @property
    def hint(self) -> str:
        """What may help one who is refused: to log in to the registry, wherever its tokens come from."""
        login = f"docker login {self._host}, or podman login {self._host}"
        if self._known is None:
            return f"if you may have it, log in first: {login}"
        who = f"'{self._known.user}'" if self._known.user else "the one who is logged in"
        return f"is {who} the right user, and the password still right? if not, log in again: {login}"

    def _credentials(self) -> Credentials | None:
        if not self._asked:
            self._known, self._asked = self._login(), True
        return self._known

    def _token(self, fields: Mapping[str, str]) -> str:
        """Ask the token server that a challenge names."""
        realm, found = fields["realm"], self._credentials()
        if not reference.is_http_url(realm):
            raise self._no_server(realm)
        server = urlsplit(realm).netloc
        if found is not None and not self._may_see_secrets(realm):
            raise errors.Denied(f"'{self._host}' wants the password sent to '{realm}', which is not encrypted")
        scope = fields.get("scope") or f"repository:{self._repository}:pull"
        query = {"scope": scope, **({"service": fields["service"]} if fields.get("service") else {})}
        return self._transport.patiently(f"the token server '{server}'", lambda: self._ask(realm, query, found))

    def _no_server(self, realm: str) -> errors.Unavailable:
        return errors.Unavailable(f"'{self._host}' names a token server that is none: '{realm}'")

    def _may_see_secrets(self, url: str) -> bool:
        is_near = hosts.is_loopback(hosts.of_url(url))
        return urlsplit(url).scheme == "https" or is_near or self._transport.settings.allows(url)

    def _ask(self, realm: str, query: Mapping[str, str], found: Credentials | None) -> str:
        if found is not None and found.identity_token:
            secret = {"grant_type": "refresh_token", "refresh_token": found.identity_token, "client_id": "banger"}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            request = self._transport.request(
                "POST", realm, headers, urlencode({**query, **secret}).encode(), source=self._host
            )
        else:
            joint = "&" if urlsplit(realm).query else "?"
            headers = {"Authorization": found.basic()} if found else {}
            request = self._transport.request("GET", realm + joint + urlencode(query), headers, source=self._host)
        server = urlsplit(realm).netloc
        try:
            with request as response:
                body = self._transport.read_all(response, _ANSWER_BYTES, realm, "the answer of the token server")
        except failures.NotTls as error:
            raise errors.Unavailable(str(error)) from error
        if response.status == 404:
            raise self._no_server(realm)
        if response.status != 200:
            subject = f"{self._host}/{self._repository}"
            raise registry_errors.of_status(response, body, server, subject, self.hint)
        return _token_of(body, server)


def _token_of(body: bytes, server: str) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
        if isinstance(token, str) and token.isascii() and token.isprintable():
            return token
    raise errors.Unavailable(f"the token server '{server}' gave no token")
