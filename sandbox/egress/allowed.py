"""The allow-list of a sandbox: which hosts and ports it may reach, and at which addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

DEFAULT_PORTS = (80, 443)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@%\s]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = {IPv4Address("168.63.129.16")}
"""Public by their number, but every machine of a cloud has its own: Azure's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of the list."""

    host: str
    """A name or an address; of ``*.domain`` the domain."""
    ports: tuple[int, ...]
    below: bool
    """Whether it means the names below ``host`` (``*.domain``), and not that itself."""


class AllowList:
    """Entries ``host``, ``host:port`` or ``*.domain``, the latter with or without a port.

    Without a port 80 and 443 are meant. Raises ``ValueError`` for what is none of these.
    """

    def __init__(self, entries: tuple[str, ...]) -> None:
        if not isinstance(entries, tuple):
            raise ValueError(f"network: {entries!r} is no tuple; write ('pypi.org', '*.example.org:8443')")
        self.entries = entries
        self._rules = [_rule(entry) for entry in entries]

    def matches(self, host: str, port: int) -> bool:
        """Whether a host, as :func:`canonical` writes it, may be reached at a port."""
        return any(port in rule.ports and _is_host(rule, host) for rule in self._rules)

    def admits(self, address: Address, port: int) -> bool:
        """Whether a connection may be made to an address: a public one, or one the list names itself."""
        named = str(address)
        return is_public(address) or any(
            port in rule.ports and not rule.below and rule.host == named for rule in self._rules
        )

    def names(self, host: str) -> bool:
        """Whether a host itself is an entry, whatever the port."""
        return any(rule.host == host and not rule.below for rule in self._rules)


def _is_host(rule: Rule, host: str) -> bool:
    return host.endswith(f".{rule.host}") if rule.below else host == rule.host


def _rule(entry: str) -> Rule:
    wrong = f"network: {entry!r} is no host; write 'host', 'host:port' or '*.domain', as in 'pypi.org'"
    try:
        below = entry.startswith("*.")
        host, port = authority(entry.removeprefix("*."))
    except (ValueError, AttributeError):
        raise ValueError(wrong) from None
    if below and address_of(host) is not None:
        raise ValueError(wrong)
    return Rule(host, DEFAULT_PORTS if port is None else (port,), below)


def authority(text: str) -> tuple[str, int | None]:
    """The host, in its canonical form, and the port of ``host[:port]``. Raises ``ValueError``."""
    found = _AUTHORITY.fullmatch(text)
    port = int(found["port"]) if found is not None and found["port"] else None
    if found is None or port == 0 or (port or 0) > 65535:
        raise ValueError(f"{text!r} is no host and port")
    return canonical(found["host"]), port


def canonical(host: str) -> str:
    """A host as it is compared: lower case, addresses in their usual form.

    Names whose last part is a number are refused: resolvers read ``127.1`` and ``0x7f000001`` as
    addresses. Raises ``ValueError``.
    """
    if host.startswith("["):
        return str(IPv6Address(host[1:-1]))
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{host!r} is no host; write a name beyond ASCII in its xn-- form")
    return str(IPv4Address(name)) if _NUMBER.fullmatch(labels[-1]) else name


def address_of(host: str) -> Address | None:
    """The address that a host is, where it is no name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address is of the public internet, and so of no machine or network of the owner's."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        return address in _UNICAST and address.is_global and address.teredo is None
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _NOT_PUBLIC
    )
