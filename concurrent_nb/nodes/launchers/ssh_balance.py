"""Which slave should move to another host: pure. After a host was away, slaves that were started elsewhere move back.

Each host is to have as many slaves as the others, give or take one. A host that has two fewer than another one is tried
from time to time; when it answers, a slave of the fullest host is reported as misplaced, one after the other.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from concurrent_nb.nodes.launchers.place import SshHost

#: seconds between two tries whether a host is back
TRY_S: Final = 30.0


class SshBalance:
    """The distribution of slaves over hosts."""

    def __init__(self) -> None:
        self._try_at: dict[SshHost, float] = {}
        self._moving: list[str] = []  # slaves that are misplaced; those but the last have others in their place
        self._is_awaited = False  # the one in the place of the last

    def hosts_to_try(self, hosts: Sequence[SshHost], slaves: Mapping[str, SshHost], now: float) -> list[SshHost]:
        """Return the hosts that should have more of these slaves, and are to be tried now."""
        counts = self._counts(slaves)
        most = max((counts[host] for host in hosts), default=0)
        lacking = [host for host in hosts if counts[host] <= most - 2]
        self._try_at = {host: self._try_at.get(host, now + TRY_S) for host in lacking}
        due = [host for host in lacking if now >= self._try_at[host]]
        self._try_at.update(dict.fromkeys(due, now + TRY_S))
        return due

    def is_back(self, host: SshHost, slaves: Mapping[str, SshHost]) -> None:
        """Record that a host can have slaves: one of the fullest host moves there, unless another one moves now."""
        counts = self._counts(slaves)
        fullest = max(counts, key=lambda each: counts[each], default=host)
        if counts[host] <= counts[fullest] - 2 and not self._is_awaited:
            self._moving.append(next(name for name in self._staying(slaves) if slaves[name] == fullest))
            self._is_awaited = True
            self._try_at[host] = 0.0  # for the next one

    def launched(self) -> None:
        """Record that a slave was started: the one in the place of the one that moves, if one does."""
        self._is_awaited = False

    def misplaced(self, slaves: Mapping[str, SshHost]) -> list[str]:
        """Return which of these slaves are misplaced."""
        if self._moving and self._moving[-1] not in slaves:  # it has ended before another one was started
            self._is_awaited = False
        self._moving = [name for name in self._moving if name in slaves]
        return self._moving

    def _staying(self, slaves: Mapping[str, SshHost]) -> list[str]:
        return [name for name in slaves if name not in self._moving]

    def _counts(self, slaves: Mapping[str, SshHost]) -> Counter[SshHost]:
        return Counter(slaves[name] for name in self._staying(slaves))
