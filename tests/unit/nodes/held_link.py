"""A node's link to the master, whose other end the test holds."""

from collections.abc import Sequence

from concurrent_nb.wire.codec import Buffer


class Link:
    """Keeps what is sent, and receives what the test puts into `arrived`."""

    def __init__(self) -> None:
        self.arrived: list[Sequence[Buffer]] = []
        self.sent: list[Sequence[Buffer]] = []

    def receive(self) -> list[Sequence[Buffer]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def send(self, frames: Sequence[Buffer]) -> bool:
        self.sent.append(frames)
        return True
