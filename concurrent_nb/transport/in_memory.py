"""The compute channel inside one process: the same two ends as `compute`, without ZeroMQ, threads or loss.

For tests and the simulator. Frames are copied to bytes on the way, as a network does, so nothing is shared by
accident. A sent message can be received immediately.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from concurrent_nb.wire.codec import Buffer

Frames = list[memoryview]


class InMemoryServer:
    """The master's end, as `compute.ComputeServer`, for the peers that `connect` creates."""

    def __init__(self) -> None:
        self._inbox: deque[tuple[bytes, bytes, Frames]] = deque()
        self._links: dict[bytes, InMemoryClient] = {}

    def connect(self, session: bytes, key: bytes) -> "InMemoryClient":
        """Return the other end for a session; `key` is its CURVE key for the server."""
        link = InMemoryClient(self, session, key)
        self._links[session] = link
        return link

    def receive(self, limit: int = 256) -> Iterator[tuple[bytes, bytes, Frames]]:
        """Yield (routing id, key, frames) of what has arrived, at most `limit` messages."""
        while self._inbox and limit > 0:
            limit -= 1
            yield self._inbox.popleft()

    def send(self, session: bytes, frames: Sequence[Buffer]) -> bool:
        """Put frames into a peer's queue. Return False if there is no such peer."""
        link = self._links.get(session)
        if link is None:
            return False
        link.inbox.append(_copied(frames))
        return True

    def close(self) -> None:
        """Cut all links."""
        self._links.clear()


class InMemoryClient:
    """A slave's or an application's end, as `compute.ComputeClient`."""

    def __init__(self, server: InMemoryServer, session: bytes, key: bytes) -> None:
        self._server = server
        self._session = session
        self._key = key
        self.inbox: deque[Frames] = deque()

    def receive(self, limit: int = 256) -> Iterator[Frames]:
        """Yield the frames of what has arrived, at most `limit` messages."""
        while self.inbox and limit > 0:
            limit -= 1
            yield self.inbox.popleft()

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Put frames into the server's queue. Return False once the link is cut."""
        if self._server._links.get(self._session) is not self:
            return False
        self._server._inbox.append((self._session, self._key, _copied(frames)))
        return True

    def close(self) -> None:
        """Cut the link: only frames on their way to the server still arrive."""
        self._server._links.pop(self._session, None)


def _copied(frames: Sequence[Buffer]) -> Frames:
    return [memoryview(bytes(frame)) for frame in frames]
