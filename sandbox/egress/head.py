"""Reading the head of a proxy request, strictly, and writing the one that is passed on.

Whoever sent it is hostile, and the server behind reads what is passed on by rules of its own. So what
could be read in two ways is refused, and the head is written anew from its parts: the target's host is
the only ``Host``, the length given is the length passed on, and what concerns one connection only
(``Connection`` and all it names) stays here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from turnwise.sandbox.egress.allowed import authority

MOST_FIELDS = 100
_REQUEST = re.compile(r"([A-Z]{1,20}) ([\x21-\x7e]+) (HTTP/1\.[01])")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_TARGET = re.compile(r"http://([^/?#]*)((?:[/?][^#]*)?)", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")
_OF_THE_CONNECTION = {
    *("connection", "proxy-connection", "keep-alive", "te", "trailer", "upgrade"),
    *("proxy-authorization", "proxy-authenticate", "host", "content-length"),
    "close",
}
"""Fields that are not passed on as they are; ``close`` because our own ``Connection: close`` names it."""


class Refusal(Exception):
    """A request is not carried out; ``status`` and the message are the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    host: str
    port: int
    head: bytes | None
    """What to pass on before the body; None asks for a tunnel."""
    length: int = 0
    """Bytes of the body."""

    @property
    def target(self) -> str:
        """The host and port, as they are written."""
        return f"{_bracketed(self.host)}:{self.port}"


def parse(raw: bytes) -> Request:
    """The request of a head, which ends with its empty line. Raises :class:`Refusal`."""
    first, *lines = raw.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
    found = _REQUEST.fullmatch(first)
    if found is None:
        raise Refusal(400, "this is no HTTP/1 request")
    method, target, version = found.groups()
    fields = _fields(lines)
    if method == "CONNECT":
        host, port = _authority(target)
        if port is None:
            raise Refusal(400, "CONNECT needs a host and a port")
        _check_host(fields, host, port)
        return Request(host, port, None)
    split = _TARGET.fullmatch(target)
    if split is None:
        raise Refusal(400, "this is a proxy for http:// addresses and for CONNECT")
    host, given = _authority(split[1])
    port = given or 80
    _check_host(fields, host, port)
    length = _length(fields)
    path = split[2] if split[2].startswith("/") else "/" + split[2]
    named = _bracketed(host) if port == 80 else f"{_bracketed(host)}:{port}"
    passed = [f"{method} {path} {version}", f"Host: {named}"]
    dropped = _OF_THE_CONNECTION | _named_by_connection(fields)
    passed += [f"{name}: {value}" for name, value in fields if name.lower() not in dropped]
    passed += ["Connection: close"] if length is None else [f"Content-Length: {length}", "Connection: close"]
    return Request(host, port, "\r\n".join([*passed, "", ""]).encode("latin-1"), length or 0)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    if len(lines) > MOST_FIELDS:
        raise Refusal(431, f"there are more than {MOST_FIELDS} header fields")
    found = [_FIELD.fullmatch(line) for line in lines]
    if None in found:
        raise Refusal(400, "a header field is malformed")
    return [(match[1], match[2].rstrip(" \t")) for match in found if match is not None]


def _values(fields: list[tuple[str, str]], wanted: str) -> list[str]:
    return [value for name, value in fields if name.lower() == wanted]


def _authority(text: str) -> tuple[str, int | None]:
    try:
        return authority(text)
    except ValueError:
        raise Refusal(400, "the target is no host and port") from None


def _check_host(fields: list[tuple[str, str]], host: str, port: int) -> None:
    """A ``Host`` beside the target must say the same."""
    values = _values(fields, "host")
    if len(values) > 1:
        raise Refusal(400, "there is more than one Host")
    for value in values:
        named, given = _authority(value)
        if named != host or given not in (None, port):
            raise Refusal(400, "Host is not the target's")


def _length(fields: list[tuple[str, str]]) -> int | None:
    if _values(fields, "transfer-encoding"):
        raise Refusal(411, "send a Content-Length: bodies of unknown length are not passed on")
    values = _values(fields, "content-length")
    if len(values) > 1 or any(_LENGTH.fullmatch(value) is None for value in values):
        raise Refusal(400, "Content-Length is no single number")
    return int(values[0]) if values else None


def _named_by_connection(fields: list[tuple[str, str]]) -> set[str]:
    return {name.strip().lower() for value in _values(fields, "connection") for name in value.split(",")}
