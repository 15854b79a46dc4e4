"""One host that has a repository: the registry itself, or a mirror of it, each with its own scheme, TLS and login."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit

from banger_tools import console, errors
from banger_tools.oci import credentials, hosts, reference, registry_errors
from banger_tools.oci.authorizer import Authorizer
from banger_tools.oci.failures import Busy, NotTls, Unreachable
from banger_tools.oci.http import ATTEMPTS, Reached, Settings, Transport

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

MIRROR_ATTEMPTS = 2
_MIRROR = re.compile(r"(?P<host>[^/]+)(?:/(?P<prefix>[a-z0-9._/-]*[a-z0-9]))?/?")
_ANSWERS = (200, 206, 416)


class Site(NamedTuple):
    """Where a repository is: its host, its name there, and for a mirror the registry that it stands for."""

    host: str
    repository: str
    namespace: str | None = None


def sites(ref: reference.Registry, settings: Settings) -> list[Site]:
    """Return the places to ask for an image: the mirrors of its registry in order, then the registry."""
    mirrors = dict.fromkeys((*settings.mirrors, *settings.configured(ref.host).mirrors))
    return [*(_mirror(text, ref) for text in mirrors), Site(ref.host, ref.repository)]


def _mirror(text: str, ref: reference.Registry) -> Site:
    """Return the place of a mirror, written HOST[:PORT][/PREFIX].

    Raises BadUsage.
    """
    match = _MIRROR.fullmatch(text)
    if match is None or not reference.is_host(match["host"]):
        raise errors.BadUsage(f"'{text}' is not a mirror", "a mirror is written HOST[:PORT][/PREFIX]")
    prefix = match["prefix"]
    return Site(match["host"], f"{prefix}/{ref.repository}" if prefix else ref.repository, ref.host)


class Endpoint:
    """A repository on a host, to be asked over a transport that endpoints may share."""

    def __init__(self, site: Site, transport: Transport, subject: str) -> None:
        self.host = site.host
        self.transport = transport
        self.subject = subject
        self.is_mirror = site.namespace is not None
        self.attempts = MIRROR_ATTEMPTS if self.is_mirror else ATTEMPTS
        self.is_given_up = False
        self._is_registry = False  # until it has answered as one
        self._site = site
        self._authorizer = Authorizer(transport, site.host, site.repository, self._login)
        self._schemes = transport.settings.schemes(site.host)

    def _login(self) -> credentials.Credentials | None:
        """Return who we are here; what the command line says is for the registry that it names, not for mirrors."""
        given = None if self.is_mirror else self.transport.settings.credentials
        return given or credentials.find(self.host, self._site.repository)

    def pass_over(self, error: errors.BangerError) -> None:
        """Say at -v why a mirror was of no use; one that is down is not asked again."""
        console.detail(f"the mirror '{self.host}' is passed over: {error.message}")
        self.is_given_up |= not isinstance(error, errors.NoInput | errors.BadInput)

    @contextlib.contextmanager
    def get(self, path: str, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        """Get something below the repository, or by a path with a slash, answering challenges, following redirects.

        Yields a response of status 200, 206 or 416. Raises Busy, and errors for everything else.
        """
        with contextlib.ExitStack() as stack:
            yield self._first_answer(stack, self._address(path), headers)

    def _address(self, path: str) -> str:
        """Return a URL without its scheme; mirrors are told whose image it is, as containerd does it."""
        whole = path if path.startswith("/") else f"/v2/{self._site.repository}/{path}"
        if self._site.namespace is not None and "ns=" not in urlsplit(whole).query:
            whole += ("&" if "?" in whole else "?") + urlencode({"ns": self._site.namespace})
        return f"://{hosts.endpoint(self.host)}{whole}"

    def _first_answer(self, stack: contextlib.ExitStack, address: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Try the schemes that the host may speak; the one that worked is the only one from then on."""
        for scheme in self._schemes:
            is_last = scheme == self._schemes[-1]
            try:
                return self._authorized(stack, scheme + address, headers)
            except NotTls as error:
                if is_last:
                    hint = f"if it is meant to be plain: --plain-http {self.host}"
                    raise errors.Unavailable(str(error), hint) from error
            except (Unreachable, Busy):
                if is_last:
                    raise
        raise AssertionError("there is a scheme")

    def _authorized(self, stack: contextlib.ExitStack, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """Send a request with what authority we have; a 401 is answered twice at most."""
        for is_last in (False, False, True):
            used = self._authorizer.header
            with contextlib.ExitStack() as inner:
                reached = inner.enter_context(self.transport.follow(url, headers, used))
                self._schemes = (urlsplit(url).scheme,)  # it answered, so no other scheme is to be tried
                if reached.response.status in _ANSWERS:
                    self._is_registry = True
                    stack.push(inner.pop_all())
                    return reached.response
                body = self.transport.read_all(reached.response, registry_errors.BYTES, url, "an error message")
                if is_last or not self._is_answered(reached, used):
                    raise self._refusal(reached, body)
        raise AssertionError("the last answer is returned or raised")

    def _is_answered(self, reached: Reached, used: str | None) -> bool:
        """Tell whether there is an answer to a challenge now: to one of our own host, for others must not learn it."""
        challenge = reached.response.headers.get("WWW-Authenticate", "")
        return reached.response.status == 401 and reached.is_own and self._authorizer.answer(challenge, used)

    def _refusal(self, reached: Reached, body: bytes) -> Exception:
        """Return the error that an answer stands for; where our own host sent us to, no login of ours would help."""
        response, host, is_own = reached
        if not is_own:
            return registry_errors.of_status(response, body, host, self.subject)
        hint = self._authorizer.hint
        return registry_errors.of_status(response, body, self.host, self.subject, hint, is_registry=self._is_registry)
