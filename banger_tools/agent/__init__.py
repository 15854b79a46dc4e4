"""The host's side of the guest agent: connections to it, and a client that speaks its protocol.

What a guest sends is never trusted: every length is bounded and every wait has a deadline.
"""

from __future__ import annotations

AGENT_PORT = 10240  # AF_VSOCK; src/guest.h of the guest program holds the same number
