"""Who is logged in at a master's web page: one-time codes, the sessions that they open, and the cookies of those.

Pure: time is an argument of the constructor. Codes and cookies are 256 random bits; only their hashes are kept, in the
master's memory, so all sessions end with the master. Used in the thread of the control channel only.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from concurrent_nb.clock import Clock, monotonic

#: seconds in which a code can be used
CODE_S: Final = 60.0
#: seconds after which a session ends
SESSION_S: Final = 12 * 3600.0
#: most codes and most sessions; a new one replaces the oldest
CODES: Final = 100
SESSIONS: Final = 100
#: most cookies of one request that are looked at
COOKIES_READ: Final = 16

_PREFIX: Final = "concurrent_nb-"
_COOKIE: Final = re.compile(rf"(?:^|;)[ \t]*{_PREFIX}\d{{1,5}}=([A-Za-z0-9_-]{{43}})(?=[ \t]*(?:;|$))")


class _Entry(NamedTuple):
    digest: bytes
    role: str
    ends_at: float


@dataclass
class _Entries:
    """Secrets with a role, of which only the hash is kept, the oldest first."""

    lifetime_s: float
    most: int
    clock: Clock
    entries: list[_Entry]

    def add(self, role: str) -> str:
        secret = secrets.token_urlsafe(32)
        self._drop(lambda entry: entry.ends_at <= self.clock())
        del self.entries[: max(0, len(self.entries) - self.most + 1)]
        self.entries.append(_Entry(_digest(secret), role, self.clock() + self.lifetime_s))
        return secret

    def find(self, secret: str) -> _Entry | None:
        """Return the entry of a secret, in constant time; None if it is unknown or has ended."""
        digest, now = _digest(secret), self.clock()
        found = [entry for entry in self.entries if hmac.compare_digest(entry.digest, digest)]
        return found[0] if found and now < found[0].ends_at else None

    def remove(self, entry: _Entry) -> None:
        self._drop(lambda other: other is entry)

    def _drop(self, is_over: Callable[[_Entry], bool]) -> None:
        self.entries = [entry for entry in self.entries if not is_over(entry)]


class WebSessions:
    """The codes and sessions of one master.

    >>> sessions = WebSessions()
    >>> cookie = sessions.log_in(sessions.new_code("client"))
    >>> sessions.role_of(f"{cookie_name(8000)}={cookie}")
    'client'
    """

    def __init__(self, clock: Clock = monotonic) -> None:
        self._codes = _Entries(CODE_S, CODES, clock, [])
        self._sessions = _Entries(SESSION_S, SESSIONS, clock, [])

    def new_code(self, role: str) -> str:
        """Return a code that opens one session of this role within the next CODE_S seconds."""
        return self._codes.add(role)

    def log_in(self, code: str) -> str | None:
        """Use a code up, and return the value of the new session's cookie; None if it is unknown, used or expired."""
        entry = self._codes.find(code)
        if entry is None:
            return None
        self._codes.remove(entry)
        return self._sessions.add(entry.role)

    def role_of(self, cookie_header: str) -> str | None:
        """Return the role of the session whose cookie is in a Cookie header; None if there is none."""
        entry = self._entry_of(cookie_header)
        return None if entry is None else entry.role

    def log_out(self, cookie_header: str) -> bool:
        """End the session whose cookie is in a Cookie header; return False if there is none."""
        entry = self._entry_of(cookie_header)
        if entry is None:
            return False
        self._sessions.remove(entry)
        return True

    def _entry_of(self, cookie_header: str) -> _Entry | None:
        # Browsers send the cookies of all ports of a host, so those of other masters too.
        values = _COOKIE.findall(cookie_header)[:COOKIES_READ]
        return next((entry for value in values if (entry := self._sessions.find(value)) is not None), None)


def cookie_name(port: int) -> str:
    """Return the name of the cookie of a master whose page has this port: one per port, as cookies have none."""
    return f"{_PREFIX}{port}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
