"""Buffers that are too large for one envelope: cut into Parts, which follow their message, and joined again.

Called by `session`. Both ends decide by the sizes that a message announces whether it is cut (`codec.is_cut`). So no
envelope is larger than 4 MiB and its header, and a window counts the bytes that are really in flight.
"""

from collections.abc import Iterator

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import codec
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import CUT, Buffer, Buffers, Received, length, sizes_of


def cut(buffers: Buffers) -> Iterator[tuple[m.Part, list[Buffer], int]]:
    """Yield the Parts of a message's buffers, each with its frames and its bytes."""
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
    """A message whose buffers have not all arrived."""

    def __init__(self, message: m.AnyMessage) -> None:
        self.message = message
        self._counts = [codec.lengths(sizes) for sizes in sizes_of(message)]
        self._wanted = [size for sizes in self._counts for size in sizes]
        self.total_bytes = sum(self._wanted)
        self.held_bytes = 0  #: the part of it that has arrived
        self._done: list[Buffer] = []
        self._current = bytearray()  # grows with the frames, so that announced bytes take no memory

    def add(self, frames: Buffers) -> Received | None:
        """Add the frames of a Part. Returns the message when it is complete. Raises ProtocolError for a wrong frame."""
        for frame in frames:
            if len(self._done) == len(self._wanted):
                raise ProtocolError("a part of a message that is complete")
            wanted = self._wanted[len(self._done)]
            size = length(frame)
            if size != min(wanted - len(self._current), codec.FRAME_BYTES):
                raise ProtocolError(
                    f"a part of {size} bytes of a buffer of {wanted}, of which {len(self._current)} have arrived"
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
    """Joins the messages that one end of a session receives.

    Args:
        object_max_bytes: most bytes of buffers of a message; None for no limit.
        setting: the name of the setting with that limit, for the error message.
    """

    def __init__(self, object_max_bytes: int | None = None, setting: str = "") -> None:
        self._object_max_bytes = object_max_bytes
        self._setting = setting
        self._assembly: Assembly | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes held of a message that is not complete."""
        return 0 if self._assembly is None else self._assembly.held_bytes

    def joined(self, received: list[Received]) -> list[Received]:
        """Return the complete messages: one whose buffers follow in Parts is complete with the last of them.

        Raises ProtocolError for Parts that do not fit, and for a message over the limit before its buffers arrive.
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
                    raise ProtocolError("a part without a message before it")
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
