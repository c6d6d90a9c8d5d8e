"""Buffers that are too large for one envelope: cut into Parts, which follow their message, and joined again.

Called by `session`. Whether a message is cut is seen from what it announces, the same at both ends (`codec.is_cut`), so
no envelope is larger than 4 MiB and its header, and a window counts what is really underway.
"""

from collections.abc import Iterator

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import codec
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import CUT, Buffer, Buffers, Received, length, sizes_of


def cut(buffers: Buffers) -> Iterator[tuple[m.Part, list[Buffer], int]]:
    """Give the Parts of a message's buffers, each with its frames and its size in bytes."""
    frames: list[Buffer] = []
    size = 0
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for at in range(0, max(1, len(view)), codec.FRAME_BYTES):
            frame = view[at : at + codec.FRAME_BYTES]
            if frames and (size + len(frame) > codec.PART_BYTES or len(frames) >= codec.PART_BUFFERS):
                yield m.Part(tuple(map(len, frames))), frames, 64 + size
                frames, size = [], 0
            frames.append(frame)
            size += len(frame)
    yield m.Part(tuple(map(length, frames))), frames, 64 + size


class Assembly:
    """A message of which buffers are on the way."""

    def __init__(self, message: m.AnyMessage) -> None:
        self.message = message
        self._counts = [codec.lengths(sizes) for sizes in sizes_of(message)]
        self._wanted = [size for sizes in self._counts for size in sizes]
        self.total_bytes = sum(self._wanted)
        self.held_bytes = 0  #: of it, what has come
        self._done: list[Buffer] = []
        self._current = bytearray()  # grows with what comes, so that nothing is held for what is only announced

    def add(self, frames: Buffers) -> Received | None:
        """Take the frames of a Part; give the message when all are there. Raises ProtocolError for one that is none."""
        for frame in frames:
            if len(self._done) == len(self._wanted):
                raise ProtocolError("a part of a message that is complete")
            wanted = self._wanted[len(self._done)]
            size = length(frame)
            if size != min(wanted - len(self._current), codec.FRAME_BYTES):
                raise ProtocolError(
                    f"a part of {size} bytes of a buffer of {wanted}, of which {len(self._current)} came"
                )
            self.held_bytes += size
            if size == wanted:
                self._done.append(frame)
                continue
            self._current += frame
            if len(self._current) == wanted:
                self._done.append(self._current)
                self._current = bytearray()
        if len(self._done) < len(self._wanted):
            return None
        done = iter(self._done)
        return Received(self.message, [[next(done) for _ in sizes] for sizes in self._counts])


class Joiner:
    """Joins what one end of a session hears.

    Args:
        object_max_bytes: no message may have more bytes of buffers than this; None for no limit.
        setting: where that limit is set, for the message of the error.
    """

    def __init__(self, object_max_bytes: int | None = None, setting: str = "") -> None:
        self._object_max_bytes = object_max_bytes
        self._setting = setting
        self._assembly: Assembly | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that is not complete."""
        return 0 if self._assembly is None else self._assembly.held_bytes

    def joined(self, received: list[Received]) -> list[Received]:
        """Give what is complete: a message whose buffers follow it counts when the last of them is here.

        Raises ProtocolError for Parts that do not fit, and for a message over the limit before any of it comes.
        """
        if self._assembly is None:
            for item in received:
                if item.buffers and (item.buffers is CUT or type(item.message) is m.Part):
                    break
            else:
                return received
        complete = []
        for item in received:
            if type(item.message) is m.Part:
                if self._assembly is None:
                    raise ProtocolError("a part of nothing")
                if (whole := self._assembly.add(item.buffers[0])) is not None:
                    self._assembly = None
                    complete.append(whole)
            elif self._assembly is not None:
                raise ProtocolError(f"{type(item.message).__name__} before all parts of the last message")
            elif item.buffers is CUT:
                self._assembly = self._begun(item.message)
            else:
                complete.append(item)
        return complete

    def _begun(self, message: m.AnyMessage) -> Assembly:
        assembly = Assembly(message)
        if self._object_max_bytes is not None and assembly.total_bytes > self._object_max_bytes:
            raise ProtocolError(
                f"{type(message).__name__} with {assembly.total_bytes:,} bytes is over the limit of "
                f"{self._object_max_bytes:,} bytes: raise {self._setting}, or send less at once"
            )
        return assembly
