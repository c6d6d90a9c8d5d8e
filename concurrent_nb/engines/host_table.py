"""The hosts of an engine's worker process, which are kept for later groups of their session.

    engine's worker: run(parcel, objects, report) --> HostTable --> EngineHost.run
                     order(orders) (another thread) --> HostTable --> EngineHost.order

A host ends when its session does, when no group has needed it for `IDLE_S`, or with the engine's worker process.
"""

import os
import threading
import time
from collections.abc import Sequence
from typing import Final

from concurrent_nb.engines.engine_host import EngineHost, IsWanted
from concurrent_nb.engines.group_messages import (
    Group,
    HostReport,
    Orders,
    Parcel,
    pack,
    read_group,
    read_object,
    read_orders,
)
from concurrent_nb.engines.group_reporter import Report
from concurrent_nb.errors import EngineUnavailable, ProtocolError
from concurrent_nb.foreign import describe
from concurrent_nb.wire.codec import Buffer

#: a host that has had nothing to do for so long ends, in seconds
IDLE_S: Final = 60.0
#: sessions whose end is remembered, for groups that end or begin after it
ENDED_MAX: Final = 1000


class HostTable:
    """The hosts of this process, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[bytes, list[EngineHost]] = {}
        self._running: dict[tuple[bytes, int], EngineHost] = {}  # by session and group
        self._ended: dict[bytes, None] = {}  # the last sessions that have ended, in this order
        self._reaper: threading.Thread | None = None
        self._pid = os.getpid()

    def run(
        self,
        parcel: Sequence[Buffer],
        objects: Sequence[Sequence[Buffer]],
        report: Report | None,
        is_wanted: IsWanted | None = None,
    ) -> Parcel:
        """Run a group on a free host, or a new one; return its last report.

        The report names missing objects, if there are any, or the reason why no host could be started.
        """
        group, _ = read_group(parcel)
        run = os.urandom(8)
        try:
            host = self._take(group)
        except (OSError, RuntimeError) as error:  # no more processes, descriptors or threads
            return pack(HostReport(group.number, run, 0, b"", is_last=True, failure=describe(error)))
        is_fine = False
        try:
            if missing := host.missing(group, [read_object(found) for found in objects]):
                is_fine = True
                return pack(HostReport(group.number, run, 0, host.name, is_last=True, missing=missing))
            last = host.run(parcel, run, report, is_wanted)
            is_fine = True
            return last
        except (EngineUnavailable, ProtocolError) as error:
            return pack(HostReport(group.number, run, 0, host.name, is_last=True, failure=str(error)))
        finally:
            self._give_back(group, host, is_fine)

    def order(self, token: bytes, parcel: Sequence[Buffer]) -> None:
        """Pass orders to the host of their group, if it runs here."""
        orders = read_orders(parcel)
        with self._lock:
            host = self._running.get((token, orders.number))
        if host is not None:
            host.order(orders)

    def end_session(self, token: bytes) -> None:
        """Close the hosts of a session, idle ones now and others when their group has ended, which is stopped."""
        with self._lock:
            self._ended[token] = None
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]
            idle = self._idle.pop(token, [])
            running = [(number, host) for (session, number), host in self._running.items() if session == token]
        for number, host in running:
            host.order(Orders(number, restart=True))
        for host in idle:
            host.close()

    def _take(self, group: Group) -> EngineHost:
        token = group.session.token
        with self._lock:
            if os.getpid() != self._pid:  # forked after hosts were made: they belong to the parent
                self._idle, self._running, self._reaper, self._pid = {}, {}, None, os.getpid()
            idle = self._idle.get(token)
            host = idle.pop() if idle else None
            if host is not None:
                self._running[token, group.number] = host
        if host is None:
            host = EngineHost(group.session)
            host.restarts = group.restarts
            with self._lock:
                self._running[token, group.number] = host
        return host

    def _give_back(self, group: Group, host: EngineHost, is_fine: bool) -> None:
        token = group.session.token
        with self._lock:
            self._running.pop((token, group.number), None)
            keeps = is_fine and token not in self._ended
            if keeps:
                self._idle.setdefault(token, []).append(host)
                if self._reaper is None:
                    self._reaper = threading.Thread(target=self._reap, name="concurrent_nb hosts", daemon=True)
                    self._reaper.start()
        if not keeps:
            host.close()

    def _reap(self) -> None:
        """Close hosts that have been idle for `IDLE_S`, such as those of an application that was killed."""
        while True:
            time.sleep(IDLE_S / 4)
            now = time.monotonic()
            with self._lock:
                old = [(token, it) for token, idle in self._idle.items() for it in idle if now - it.idle_since > IDLE_S]
                for token, host in old:
                    self._idle[token].remove(host)
                self._idle = {token: idle for token, idle in self._idle.items() if idle}
                if not self._idle:
                    self._reaper = None
            for _, host in old:
                host.close()
            if self._reaper is None:
                return


#: the hosts of this process
HOSTS: Final = HostTable()
