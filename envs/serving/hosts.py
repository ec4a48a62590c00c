"""Which addresses can be reached from where, and which cannot be listened on."""

from __future__ import annotations

import ipaddress

from turnwise.envs.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host of that name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> UsageError:
    """What is said where an address cannot be listened on."""
    why = error.strerror if isinstance(error, OSError) else "that can be no host's name"
    return UsageError(f"cannot listen on {host}:{port}: {why}")
