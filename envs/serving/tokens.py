"""Who may do what: the roles of a server's callers, and the tokens that prove them.

========= ==========================================================================================
trainer   everything
agent     attach to the one session whose token it bears, and step it; gets no rewards
grader    attach to any session, read its records and conclude it
admin     list and close sessions
========= ==========================================================================================

The agent's token is the session's and made with it. The others are the server's; where it has none,
whoever can reach it is the trainer. Tokens are compared in constant time and never shown.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from turnwise.envs.errors import UsageError
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.wire import Role

MAY: Mapping[Role, frozenset[str]] = {
    "agent": frozenset({"attach", "step"}),
    "grader": frozenset({"attach", "records", "conclude"}),
    "admin": frozenset({"close"}),
}
"""The types of requests that each role may make; the trainer may make all."""
OWN: tuple[Role, ...] = ("trainer", "grader", "admin")
"""The roles whose tokens are the server's own."""


def check_token(token: str) -> str:
    """A token that a header can carry. Raises ``UsageError``, without showing it, for any other."""
    if not token.isascii() or not token.isprintable() or token.split() != [token]:
        raise UsageError("token: must be ASCII characters without spaces or line ends, at least one")
    return token


def token_of(header: str | None) -> str | None:
    """The token of an ``Authorization`` header: a bearer's, or the password of a URL like
    ``http://any:TOKEN@host``, where a client can be given nothing else. Raises :class:`Refusal`."""
    if header is None:
        return None
    scheme, _, given = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return given.strip()
        case "basic":
            try:
                return b64decode(given).decode("latin1").partition(":")[2]
            except ValueError:
                raise Refusal(Code.UNAUTHORIZED, "the user and password cannot be read") from None
    raise Refusal(Code.UNAUTHORIZED, f"the server knows no authorization of kind {scheme!r}")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A server's own tokens; without any, everyone is the trainer."""

    roles: Mapping[Role, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, roles: Mapping[Role, str]) -> Self:
        """Raises ``UsageError`` for tokens that no header can carry, that are the same, and without the
        trainer's where there is another."""
        for token in roles.values():
            check_token(token)
        if len(set(roles.values())) < len(roles):
            raise UsageError("tokens: two roles have the same one")
        if roles and "trainer" not in roles:
            raise UsageError("tokens: the trainer's is missing (--token, TURNWISE_TOKEN or --token-file)")
        return cls(dict(roles))

    @classmethod
    def read(cls, path: Path, trainer: str | None = None) -> Self:
        """From a file of lines ``ROLE TOKEN``; ``trainer`` is that role's token where the file has none."""
        roles: dict[Role, str] = {}
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"token file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"token file {path}: is no text; write lines ROLE TOKEN") from None
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words:
                continue
            role = next((role for role in OWN if role == words[0]), None)
            if role is None or len(words) != 2 or role in roles:  # what stands there may be a token
                said = f"give each role ({', '.join(OWN)}) one line with one token: ROLE TOKEN"
                raise UsageError(f"{path}, line {number}: {said}")
            roles[role] = words[1]
        if not roles:
            raise UsageError(f"{path}: holds no token; write lines ROLE TOKEN")
        if trainer is not None and "trainer" in roles:
            raise UsageError(
                f"the trainer's token is given twice: in {path}, and by --token or TURNWISE_TOKEN"
            )
        return cls.of(roles if trainer is None else {**roles, "trainer": trainer})

    def role(self, token: str) -> Role | None:
        """Whose token it is; every one is compared, whichever fits."""
        given = token.encode(errors="surrogateescape")  # as a header that is no UTF-8 was read
        found = [role for role, own in self.roles.items() if hmac.compare_digest(given, own.encode())]
        return found[0] if found else None
