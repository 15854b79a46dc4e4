"""What can go wrong on the way to a server, sorted into what it means: try again, or give up saying why."""

from __future__ import annotations

from banger_tools import errors


class Busy(Exception):
    """A request failed in a way that time may cure; `pause` is what the server asked for."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.pause = pause


class Unreachable(errors.Unavailable):
    """Nobody answers at an address."""


class NotTls(Exception):
    """The other side does not speak TLS at all."""


def sort(error: Exception, host: str) -> Exception:
    """Return the error that a failure of urllib3 stands for."""
    from urllib3 import exceptions

    match error:
        case exceptions.SSLError():
            return _tls_error(error, host)
        case exceptions.NameResolutionError():
            return Unreachable(f"cannot find the host '{host}'", "check its name, and the network")
        case exceptions.ProxyError() if isinstance(_proxy_cause(error), ConnectionResetError | BrokenPipeError):
            return Busy(f"the connection to the proxy for '{host}' broke")  # one that was kept, and closed meanwhile
        case exceptions.ProxyError():
            return errors.Unavailable(f"the proxy does not let us reach '{host}': {_proxy_reason(error)}")
        case exceptions.NewConnectionError():
            cause = error.__cause__
            why = errors.reason(cause) if isinstance(cause, OSError) else "connection failed"
            return Unreachable(f"cannot connect to '{host}': {why}")
        case exceptions.ConnectTimeoutError():
            return Busy(f"'{host}' does not answer")
        case exceptions.TimeoutError():
            return Busy(f"'{host}' has stopped sending")
        case exceptions.LocationParseError() | exceptions.LocationValueError():
            return errors.BadInput(f"'{host}' is not a host that one can connect to")
        case exceptions.ProtocolError():
            return _protocol_error(error, host)
    return Busy(f"the connection to '{host}' broke")


def _proxy_cause(error: Exception) -> Exception:
    cause = error.args[1] if len(error.args) > 1 else error
    return cause if isinstance(cause, Exception) else error


def _proxy_reason(error: Exception) -> str:
    cause: BaseException = _proxy_cause(error)
    if isinstance(cause.__cause__, OSError):  # nobody answers there
        cause = cause.__cause__
    return str(errors.reason(cause) if isinstance(cause, OSError) and cause.errno else cause)


def _protocol_error(error: Exception, host: str) -> Exception:
    """Tell an answer that is no HTTP, or has headers without end, from a connection that broke."""
    from http.client import BadStatusLine, HTTPException, IncompleteRead, RemoteDisconnected

    cause = error.args[1] if len(error.args) > 1 else None
    match cause:
        case RemoteDisconnected() | IncompleteRead():
            return Busy(f"the connection to '{host}' broke")
        case BadStatusLine():
            return errors.Unavailable(f"'{host}' does not speak HTTP")
        case HTTPException():
            return errors.Unavailable(f"'{host}' sends more headers than anybody may: {cause}")
    return Busy(f"the connection to '{host}' broke")


def _tls_error(error: Exception, host: str) -> Exception:
    import ssl

    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return errors.Unavailable(
            f"the certificate of '{host}' is not valid: {cause.verify_message}",
            "if it is signed by a CA of your own, name that with --ca-file",
        )
    reason = getattr(cause, "reason", None)
    if isinstance(cause, ssl.SSLError) and reason in _CERTIFICATE_ALERTS:
        hint = "name one with --cert-file and --key-file, or in config.toml"
        return errors.Denied(f"'{host}' wants a client certificate that it trusts", hint)
    if isinstance(cause, ssl.SSLEOFError) or (isinstance(cause, ssl.SSLError) and reason in _PLAIN_ANSWERS):
        return NotTls(f"'{host}' does not speak TLS")
    return errors.Unavailable(f"cannot speak TLS with '{host}': {reason or error}")


_PLAIN_ANSWERS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")
_CERTIFICATE_ALERTS = (
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
)
