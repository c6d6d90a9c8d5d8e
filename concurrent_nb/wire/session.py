"""One end of a link between two nodes: everything arrives once and in order, or the link is given up.

ZeroMQ loses what is in flight when a connection breaks, so a session numbers its envelopes, keeps each until it is
acknowledged, sends it again when the answer stays out, drops what came before and puts in order what overtook. Both
ends obey this same code; a session does not know whether it is the master's.

Pure: frames in, messages out; messages in, frames out; time is an argument. It never waits to fill an envelope, but
while its window is full what is to be said gathers, so packing comes by itself under load.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import (
    Buffer,
    Buffers,
    Envelope,
    ItemBuffers,
    Received,
    decode,
    encode,
    is_cut,
    length,
    size_if_small,
    split,
)
from concurrent_nb.wire.parts import Joiner, cut

#: envelopes that may be unacknowledged
WINDOW: Final = 64
#: bytes that may be unacknowledged; no envelope has more, because large buffers are cut (`parts`)
WINDOW_BYTES: Final = 64 * 1024 * 1024
#: bytes of envelopes that came early which are kept; more of them are dropped, and come again
EARLY_BYTES: Final = 16 * 1024 * 1024
#: an envelope is closed when its header or its buffers reach this
ENVELOPE_BYTES: Final = 256 * 1024
#: what has arrived is acknowledged by then at the latest, if nothing is sent meanwhile
ACK_AFTER_S: Final = 0.02
#: ... or when this many envelopes have arrived
ACK_AFTER: Final = 16
#: an envelope is sent again when its acknowledgement stays out this long; doubled with each try, up to eightfold
RESEND_AFTER_S: Final = 1.0


class _Outgoing(msgspec.Struct, frozen=True, gc=False):
    message: m.AnyMessage
    buffers: Buffers
    size_bytes: int
    tag: object


class _Sent(msgspec.Struct, frozen=True, gc=False):
    seq: int
    body: list[m.AnyMessage]
    buffers: list[Buffer]
    size_bytes: int
    tags: list[object]


class Session:
    """One end of a link.

    Args:
        epoch: the master's life, the same at both ends.
        said_by_peer: what the peer may say, a key of codec's decoders.
        resend_after_s: seconds until an unacknowledged envelope is sent again.
        object_max_bytes: the peer may have us join no message with more bytes than this; None for no limit.
        setting: where that limit is set, for the message of the error.
    """

    def __init__(
        self,
        epoch: int,
        direction: str,
        *,
        resend_after_s: float = RESEND_AFTER_S,
        object_max_bytes: int | None = None,
        setting: str = "object_max_bytes",
    ) -> None:
        self.epoch = epoch
        self.direction = direction
        self.closed_by_peer: str | None = None  #: the peer's reason, once it has said Bye
        self._resend_after_s = resend_after_s
        # what we say
        self._pending: deque[_Outgoing] = deque()
        self._pending_bytes = 0
        self._unacked: deque[_Sent] = deque()
        self._unacked_bytes = 0
        self._last_seq = 0
        self._acked: list[object] = []
        self._resend_at: float | None = None
        self._tries = 0
        self._recover_upto = 0  # while > 0: everything up to this seq was in flight when silence began
        self._to_resend: list[_Sent] = []
        # what the peer says
        self._received_seq = 0
        self._early: dict[int, tuple[list[Received], int]] = {}  # with the bytes of each
        self._early_bytes = 0
        self._joiner = Joiner(object_max_bytes, setting)
        self._unacknowledged = 0
        self._ack_at: float | None = None

    # ------------------------------------------------------------------------------------------------------- saying

    def send(self, message: m.AnyMessage, buffers: ItemBuffers = (), tag: object = None) -> None:
        """Put a message in the queue; a long one is cut. `tag` comes back from `take_acked` once the peer has all."""
        if not buffers and (size_bytes := size_if_small(message)):
            self._pending.append(_Outgoing(message, (), size_bytes, tag))
            self._pending_bytes += size_bytes
            return
        waiting: list[_Outgoing] = []
        for part, flat, size_bytes in split(message, buffers):
            if flat and is_cut(len(flat), bytes_in_buffers := sum(map(length, flat))):
                waiting.append(_Outgoing(part, (), size_bytes - bytes_in_buffers, None))
                waiting.extend(_Outgoing(*piece, None) for piece in cut(flat))
            else:
                waiting.append(_Outgoing(part, flat, size_bytes, None))
        if tag is not None:
            last = waiting[-1]
            waiting[-1] = _Outgoing(last.message, last.buffers, last.size_bytes, tag)
        self._pending.extend(waiting)
        self._pending_bytes += sum([item.size_bytes for item in waiting])

    def flush(self, now: float) -> list[list[Buffer]]:
        """Give the envelopes that should go out now, each a list of frames."""
        if not self._pending and (self._resend_at is None or now < self._resend_at) and not self._to_resend:
            return [self._acknowledgement()] if self._ack_due(now) else []
        out = [self._again(sent, now) for sent in self._due(now)]
        while self._pending and self._has_room():
            out.append(self._next_envelope(now))
        if out:
            self._unacknowledged = 0
            self._ack_at = None
        elif self._ack_due(now):
            out.append(self._acknowledgement())
        return out

    def keepalive(self) -> list[Buffer]:
        """Give an envelope that says nothing but: I am here, and this is what I have heard."""
        return self._acknowledgement()

    def _acknowledgement(self) -> list[Buffer]:
        self._unacknowledged = 0
        self._ack_at = None
        return self._bare([])

    def bye(self, reason: str) -> list[Buffer]:
        """Give an envelope that ends the session."""
        return self._bare([m.Bye(reason)])

    def take_acked(self) -> list[object]:
        """Give the tags of messages that the peer has acknowledged since the last call."""
        acked, self._acked = self._acked, []
        return acked

    @property
    def backlog(self) -> int:
        """Messages that wait for room in the window."""
        return len(self._pending)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the peer has not acknowledged: those that wait, and those that were sent."""
        return self._pending_bytes + self._unacked_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes that the peer has us hold: envelopes that came early, and what is being joined."""
        return self._early_bytes + self._joiner.held_bytes

    @property
    def received_seq(self) -> int:
        """Number of the last envelope up to which all have arrived."""
        return self._received_seq

    @property
    def in_flight(self) -> int:
        """Envelopes sent and not acknowledged."""
        return len(self._unacked)

    def next_deadline(self) -> float | None:
        """When `flush` should be called again at the latest, or None."""
        if self._ack_at is None:
            return self._resend_at
        return self._ack_at if self._resend_at is None else min(self._ack_at, self._resend_at)

    def _has_room(self) -> bool:
        if not self._unacked:
            return True
        return len(self._unacked) < WINDOW and self._unacked_bytes + self._pending[0].size_bytes <= WINDOW_BYTES

    def _next_envelope(self, now: float) -> list[Buffer]:
        body: list[m.AnyMessage] = []
        buffers: list[Buffer] = []
        tags: list[object] = []
        size = 0
        while self._pending and (not body or size + self._pending[0].size_bytes <= ENVELOPE_BYTES):
            item = self._pending.popleft()
            body.append(item.message)
            buffers.extend(item.buffers)
            size += item.size_bytes
            if item.tag is not None:
                tags.append(item.tag)
        self._pending_bytes -= size
        self._last_seq += 1
        sent = _Sent(self._last_seq, body, buffers, size, tags)
        self._unacked.append(sent)
        self._unacked_bytes += size
        return self._again(sent, now)

    def _again(self, sent: _Sent, now: float) -> list[Buffer]:
        if self._resend_at is None:
            self._resend_at = now + self._resend_after_s
        return encode(Envelope(m.PROTOCOL_VERSION, self.epoch, sent.seq, self._received_seq, sent.body), sent.buffers)

    def _bare(self, body: list[Any]) -> list[Buffer]:
        return encode(Envelope(m.PROTOCOL_VERSION, self.epoch, 0, self._received_seq, body))

    def _due(self, now: float) -> list[_Sent]:
        """Give what has to be sent again: the oldest on silence; after that more and more while answers come."""
        due, self._to_resend = self._to_resend, []
        if self._resend_at is not None and now >= self._resend_at and self._unacked:
            self._tries += 1
            self._resend_at = now + self._resend_after_s * min(8, 2**self._tries)
            self._recover_upto = max(self._recover_upto, self._unacked[-1].seq)
            due = [self._unacked[0]]
        return due

    # ------------------------------------------------------------------------------------------------------ hearing

    def receive(self, frames: Sequence[Buffer], now: float) -> list[Received]:
        """Read one envelope; give the messages that are now next in order (none for a doubled or early one).

        Raises ProtocolError; the link should be given up then.
        """
        envelope, received = decode(frames, self.direction)
        if envelope.epoch != self.epoch:
            raise ProtocolError(f"an envelope of epoch {envelope.epoch} in a session of epoch {self.epoch}")
        if envelope.ack > self._last_seq:
            raise ProtocolError(f"the peer acknowledges {envelope.ack}, but only {self._last_seq} were sent")
        self._acknowledged(envelope.ack, now)
        if envelope.seq == 0:
            return self._outside(received)
        if envelope.seq <= self._received_seq or envelope.seq in self._early:
            self._ack_at = now  # the peer did not get our acknowledgement: say it again
            return []
        if envelope.seq > self._received_seq + 2 * WINDOW:
            raise ProtocolError(f"envelope {envelope.seq} is far beyond the window ({self._received_seq} + {WINDOW})")
        if envelope.seq != self._received_seq + 1:
            size_bytes = sum(map(length, frames))
            if self._early_bytes + size_bytes <= EARLY_BYTES:  # else it comes again
                self._early[envelope.seq] = received, size_bytes
                self._early_bytes += size_bytes
            self._unacknowledged += 1
            self._ack_at = now
            return []
        self._unacknowledged += 1
        if self._ack_at is None:
            self._ack_at = now + ACK_AFTER_S
        self._received_seq += 1
        while self._early and (early := self._early.pop(self._received_seq + 1, None)) is not None:
            received = [*received, *early[0]]
            self._early_bytes -= early[1]
            self._received_seq += 1
        return self._joiner.joined(received)

    def _outside(self, received: list[Received]) -> list[Received]:
        for item in received:
            if type(item.message) is not m.Bye:
                raise ProtocolError(f"{type(item.message).__name__} outside of the numbered stream")
            self.closed_by_peer = item.message.reason
        return []

    def _ack_due(self, now: float) -> bool:
        return self._unacknowledged >= ACK_AFTER or (self._ack_at is not None and now >= self._ack_at)

    def _acknowledged(self, upto: int, now: float) -> None:
        if not self._unacked or self._unacked[0].seq > upto:
            return
        freed = 0
        while self._unacked and self._unacked[0].seq <= upto:
            sent = self._unacked.popleft()
            self._unacked_bytes -= sent.size_bytes
            self._acked.extend(sent.tags)
            freed += 1
        if upto < self._recover_upto:  # in recovery: what was in flight with the lost one may be lost too
            silent = [sent for sent in self._unacked if sent.seq <= self._recover_upto]
            self._to_resend = silent[: 2 * freed]
        else:
            self._recover_upto = 0
            self._to_resend = []
        self._tries = 0
        self._resend_at = now + self._resend_after_s if self._unacked else None
