"""The tasks of one `map`: made and submitted as far ahead of the reader as was asked for."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from concurrent_nb.errors import NotPicklable
from concurrent_nb.nodes.courier import Courier
from concurrent_nb.nodes.futures import TaskFuture
from concurrent_nb.nodes.ledger import Entry, OpenJob, Shipment
from concurrent_nb.wire.codec import Buffers


class Packer(Protocol):
    """What a stream needs of its application."""

    def ship(self, fn: Callable[..., Any]) -> Shipment:
        """Pickle a function."""

    def pack(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[bytes, tuple[int, ...], Buffers]:
        """Pickle arguments."""


class Stream:
    """The tasks of one `map`: submitted as far ahead as was asked for."""

    def __init__(
        self,
        packer: Packer,
        courier: Courier,
        fn: Callable[..., Any],
        calls: Iterator[tuple[Any, ...]],
        record: OpenJob[TaskFuture],
        ahead: int | None,
    ) -> None:
        self._packer = packer
        self._courier = courier
        self._fn = fn
        self._calls = calls
        self._record = record
        self._ahead = ahead
        self._index = itertools.count()
        self._closed = False
        self._shipment: Shipment | None = None
        self.futures: deque[TaskFuture] = deque()

    def fill(self) -> None:
        """Submit what may be submitted now."""
        if self._closed:
            return
        room = None if self._ahead is None else self._ahead - len(self.futures)
        entries = [self._entry(call) for call in itertools.islice(self._calls, room)]
        self.futures.extend(entry.owner for entry in entries)
        sendable = [entry for entry in entries if not entry.owner.done()]
        self._courier.post(sendable)
        if self._ahead is None:
            self._finish()

    def close(self) -> None:
        """Cancel what nobody will read."""
        while self.futures:
            self.futures.pop().cancel()
        self._finish()

    def _finish(self) -> None:
        if not self._closed:
            self._closed = True
            self._courier.close_job(self._record)

    def _entry(self, call: tuple[Any, ...]) -> Entry[TaskFuture]:
        future = TaskFuture(self._record.id, next(self._index), self._courier.cancel)
        try:
            shipment = self._shipment = self._shipment or self._packer.ship(self._fn)
            body, sizes, buffers = self._packer.pack(self._fn, call, {})
        except NotPicklable as error:
            future.end(None, error)
            return Entry(self._record, future.index, Shipment(b"", b""), b"", (), (), None, 0, future)
        needs = shipment.needs
        return Entry(self._record, future.index, shipment, body, sizes, buffers, None, 0, future, False, needs)
