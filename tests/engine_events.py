"""What an engine reports, for tests of engines without a pool."""

from collections.abc import Sequence
from typing import Any

from concurrent_nb.wire.codec import Buffer


class Heard:
    """Keeps what an engine reports. Implements `engine_interface.EngineEvents`."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def reported(self, parcel: Sequence[Buffer]) -> None:
        self.events.append(("reported", parcel))

    def ended(self, number: int, parcel: Sequence[Buffer]) -> None:
        self.events.append(("ended", number, parcel))

    def lost(self, number: int, reason: str) -> None:
        self.events.append(("lost", number, reason))

    def resized(self, slots: int) -> None:
        self.events.append(("resized", slots))

    def gone(self, reason: str) -> None:
        self.events.append(("gone", reason))
