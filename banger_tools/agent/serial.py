"""The layer that makes connections out of a virtio-serial port, whose stream outlives the programs that use it.

0x7D escapes (the next byte is XORed with 0x20); 0x7E never appears in data, it opens and closes a control
message. We say 'H' and 32 hex digits until the guest answers 'A' and the same digits: what came before belongs to
somebody else. 'E', either way, ends the stream in that direction.
"""

from __future__ import annotations

from banger_tools import errors

FLAG, ESCAPE = b"\x7e", b"\x7d"
_ESCAPED_FLAG, _ESCAPED_ESCAPE = b"\x7d\x5e", b"\x7d\x5d"
_CONTROL_LIMIT = 64
END = FLAG + b"E" + FLAG


def hello(token: str) -> bytes:
    """Return the message that opens a connection."""
    return FLAG + b"H" + token.encode() + FLAG


def encode(data: bytes) -> bytes:
    """Return data as it goes through the port."""
    return data.replace(ESCAPE, _ESCAPED_ESCAPE).replace(FLAG, _ESCAPED_FLAG)


def decode(data: bytes) -> bytes:
    """Return what data from the port stands for; it must not end between an escape and its byte.

    Raises BadInput for an escape that nobody sends.
    """
    if ESCAPE not in data:
        return data
    if data.count(ESCAPE) != data.count(_ESCAPED_FLAG) + data.count(_ESCAPED_ESCAPE):
        raise errors.BadInput("the guest sends bytes that no agent would: a wrong escape")
    # an escape byte always begins a pair, so neither replacement can meet half of another pair
    return data.replace(_ESCAPED_FLAG, FLAG).replace(_ESCAPED_ESCAPE, ESCAPE)


class Decoder:
    """Finds our connection in the stream of a port: silent until the guest has answered our token."""

    def __init__(self, token: str) -> None:
        self.answer = FLAG + b"A" + token.encode() + FLAG
        self.open = False
        self.ended = False
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the port and return those of our connection.

        Raises BadInput for what no agent sends.
        """
        data = self._rest + data
        self._rest = b""
        if not self.open:
            data = self._find_answer(data)
        return self._take(data) if self.open else b""

    def _find_answer(self, data: bytes) -> bytes:
        before, found, after = data.partition(self.answer)
        self.open = bool(found)
        if not found:
            self._rest = before[-len(self.answer) :]
        return after

    def _take(self, data: bytes) -> bytes:
        pieces = []
        while data and not self.ended:
            plain, flag, control = data.partition(FLAG)
            if not flag:
                pieces.append(self._plain(plain))
                break
            pieces.append(decode(plain))
            data = self._control(control)
        return b"".join(pieces)

    def _plain(self, data: bytes) -> bytes:
        if data.endswith(ESCAPE):
            self._rest, data = ESCAPE, data[:-1]
        return decode(data)

    def _control(self, data: bytes) -> bytes:
        """Take a control message (its first flag is gone) and return what is behind it."""
        message, flag, after = data.partition(FLAG)
        if not flag:
            if len(message) > _CONTROL_LIMIT:
                raise errors.BadInput("the guest sends bytes that no agent would: an endless control message")
            self._rest = FLAG + message
            return b""
        if message == b"E":
            self.ended = True
        elif FLAG + message + FLAG != self.answer:  # the same answer twice: the guest heard two hellos
            raise errors.BadInput("the guest sends bytes that no agent would: an unknown control message")
        return after
