"""Runs a command, and writes its status, seconds of the clock and of processors, and peak in KiB to a descriptor.

It is small, so that little is known of it in what the command is said to hold, and imports nothing that is not there.
"""

from __future__ import annotations

import os
import signal
import sys
import time

# What Python or we ignore, the command shall not
USUAL = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the command, which may have to clean up
    answer = int(sys.argv[1])
    os.set_inheritable(answer, False)
    start = time.monotonic()
    child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ, setsigdef=USUAL)
    _, status, usage = os.wait4(child, 0)
    wall = time.monotonic() - start
    cpu = usage.ru_utime + usage.ru_stime
    os.write(answer, f"{os.waitstatus_to_exitcode(status)} {wall} {cpu} {usage.ru_maxrss}".encode())


main()
