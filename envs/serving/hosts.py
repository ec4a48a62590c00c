"""Which addresses can be reached from where, which cannot be listened on, and what shows whose they are."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

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


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For those who connect. Raises ``UsageError`` for files that are no certificate with its key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password="")  # never asks for one
    except ssl.SSLError as error:
        said = f"no PEM files that belong together, the key without a password ({error.reason or error})"
        raise UsageError(f"certificate {certificate} with key {key}: {said}") from error
    except OSError as error:
        raise UsageError(f"certificate {certificate} with key {key}: {error.strerror}") from error
    return context
