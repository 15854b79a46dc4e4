"""TLS towards one host: whom to trust there, and who we are to it.

A client certificate is shown to no other host than the one that it is for: each has a context of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import errors

if TYPE_CHECKING:
    import ssl

_FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


class Certificate(NamedTuple):
    """A client certificate, and its key if that is in another file."""

    file: Path
    key: Path | None = None


def context(host: str, authorities: Sequence[Path], certificate: Certificate | None) -> ssl.SSLContext:
    """Return a context that trusts the system, some more authorities, and those that docker or podman trust for a host.

    Raises NoInput, Denied or BadInput for a file that is missing, may not be read, or holds no certificate or key.
    """
    import ssl

    made = ssl.create_default_context()
    for path in [*authorities, *_host_files(host, "*.crt")]:
        try:
            made.load_verify_locations(path)
        except ssl.SSLError as error:
            raise errors.BadInput(f"'{path}' holds no certificate") from error
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{path}'") from error
    if certificate is not None:
        _load(made, certificate)
        return made
    for path in _host_files(host, "*.cert"):
        with contextlib.suppress(OSError):
            made.load_cert_chain(path, path.with_suffix(".key"))
    return made


def _load(made: ssl.SSLContext, certificate: Certificate) -> None:
    import ssl

    for path in filter(None, certificate):  # for an error of load_cert_chain does not say which file is meant
        try:
            path.open("rb").close()
        except OSError as error:
            raise errors.os_error(error, f"cannot read '{path}'") from error
    try:
        made.load_cert_chain(certificate.file, certificate.key, _no_password)
    except ssl.SSLError as error:
        hint = None if certificate.key else "if the key is in another file, name it with --key-file"
        raise errors.BadInput(f"'{certificate.file}' and its key are no client certificate", hint) from error


def _no_password() -> bytes:
    """Answer for a key with a password: OpenSSL would ask on the terminal, in the midst of everything."""
    return b""


def _host_files(host: str, pattern: str) -> list[Path]:
    return [path for folder in _FOLDERS for path in sorted(Path(folder, host).glob(pattern))]
