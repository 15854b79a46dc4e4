"""The errors that a program may end with, each with the exit status it stands for.

The numbers are those of sysexits(3) where it has one. Library code raises these and never exits; only
`cli.run` turns an error into a status, and `os_error` is the one place that sorts errno values.
"""

from __future__ import annotations

import errno
import os


class BangerError(Exception):
    """Base of all errors that a user can cause or cure: a sentence, and perhaps a hint on how to go on."""

    status = 70
    when = "a bug in banger; the traceback says where"

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Negative(BangerError):
    status = 1
    when = "the question asked was answered no"


class BadUsage(BangerError):
    status = 64
    when = "the command line is wrong"


class BadInput(BangerError):
    status = 65
    when = "a manifest, layer, digest, archive or image is not what it claims to be"


class NoInput(BangerError):
    status = 66
    when = "an input is missing or cannot be read"


class Unavailable(BangerError):
    status = 69
    when = "a registry, a helper program or a kernel feature is not there"


class CannotCreate(BangerError):
    status = 73
    when = "the output exists already or cannot be made, or the name is taken"


class IOFailure(BangerError):
    status = 74
    when = "the disk is full or failed"


class Retry(BangerError):
    status = 75
    when = "a time-out, a busy server or a held lock; try again later"


class Denied(BangerError):
    status = 77
    when = "access was refused, or needs a right that the user lacks"


ERRORS: tuple[type[BangerError], ...] = (
    Negative,
    BadUsage,
    BadInput,
    NoInput,
    Unavailable,
    CannotCreate,
    IOFailure,
    Retry,
    Denied,
)
BUG = 70
INTERRUPTED = 130
CLOSED_PIPE = 141
TERMINATED = 143

_BY_ERRNO: dict[int, type[BangerError]] = {
    errno.ENOENT: NoInput,
    errno.ENOTDIR: NoInput,
    errno.EISDIR: NoInput,
    errno.ELOOP: NoInput,
    errno.EACCES: Denied,
    errno.EPERM: Denied,
    errno.EEXIST: CannotCreate,
    errno.ENOTEMPTY: CannotCreate,
    errno.EROFS: CannotCreate,
    errno.ENAMETOOLONG: CannotCreate,
    errno.ENOSPC: IOFailure,
    errno.EDQUOT: IOFailure,
    errno.EFBIG: IOFailure,
    errno.EIO: IOFailure,
    errno.ETIMEDOUT: Retry,
    errno.EAGAIN: Retry,
    errno.ENOMEM: Retry,
    errno.ECONNREFUSED: Unavailable,
    errno.ECONNRESET: Retry,
}


def reason(error: OSError) -> str:
    """Say why a system call failed, in the words of strerror(3), lower case."""
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]


def os_error(error: OSError, action: str | None = None) -> BangerError:
    """Return the error that an OSError stands for; `action` says what was tried, as in "cannot read 'x'"."""
    kind = _BY_ERRNO.get(error.errno or 0, IOFailure)
    if action is None:
        subject = error.filename2 or error.filename
        action = f"cannot use '{os.fsdecode(subject)}'" if isinstance(subject, (str, bytes)) else "cannot go on"
    hint = "free some space, or choose another folder with -C" if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    return kind(f"{action}: {reason(error)}", hint)
