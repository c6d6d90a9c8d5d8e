"""One end of a link between two nodes: every message arrives once and in order, or the link is given up.

ZeroMQ loses messages in flight when a connection breaks, so a session numbers its envelopes, keeps each until it is
acknowledged, sends it again when no acknowledgement comes, drops duplicates and reorders early envelopes. Both ends use
this same code.

Pure: frames in, messages out; messages in, frames out; time is an argument. It never waits to fill an envelope, but
while its window is full messages gather, and are then packed into one envelope.
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

#: most unacknowledged envelopes
WINDOW: Final = 64
#: most unacknowledged bytes; no envelope has more, because large buffers are cut (`parts`)
WINDOW_BYTES: Final = 64 * 1024 * 1024
#: most bytes of early envelopes that are kept; others are dropped, and sent again by the peer
EARLY_BYTES: Final = 16 * 1024 * 1024
#: an envelope is closed when its header or its buffers reach this
ENVELOPE_BYTES: Final = 256 * 1024
#: delay of an acknowledgement if nothing else is sent, in seconds
ACK_AFTER_S: Final = 0.02
#: ... or when this many envelopes have arrived
ACK_AFTER: Final = 16
#: time without an acknowledgement after which an envelope is sent again; doubled with each try, up to eightfold
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
        epoch: number of the master's run, the same at both ends.
        direction: of received envelopes, a key of the codec's decoders: it defines which messages the peer may send.
        resend_after_s: seconds until an unacknowledged envelope is sent again.
        object_max_bytes: most bytes of buffers of a received message; None for no limit.
        setting: the name of the setting with that limit, for the error message.
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
        self.closed_by_peer: str | None = None  #: the reason in the peer's Bye, None before
        self._resend_after_s = resend_after_s
        # sending
        self._pending: deque[_Outgoing] = deque()
        self._pending_bytes = 0
        self._unacked: deque[_Sent] = deque()
        self._unacked_bytes = 0
        self._last_seq = 0
        self._acked: list[object] = []
        self._resend_at: float | None = None
        self._tries = 0
        self._recover_upto = 0  # while > 0: envelopes up to this seq were in flight when acknowledgements stopped
        self._to_resend: list[_Sent] = []
        # receiving
        self._received_seq = 0
        self._early: dict[int, tuple[list[Received], int]] = {}  # messages and bytes by seq
        self._early_bytes = 0
        self._joiner = Joiner(object_max_bytes, setting)
        self._unacknowledged = 0
        self._ack_at: float | None = None

    # ------------------------------------------------------------------------------------------------------- sending

    def send(self, message: m.AnyMessage, buffers: ItemBuffers = (), tag: object = None) -> None:
        """Queue a message; a long one is split. `take_acked` returns `tag` when the peer has acknowledged all of it."""
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
        """Return the envelopes that should be sent now, each a list of frames."""
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

    def heartbeat(self) -> list[Buffer]:
        """Return an envelope without messages, which only acknowledges."""
        return self._acknowledgement()

    def _acknowledgement(self) -> list[Buffer]:
        self._unacknowledged = 0
        self._ack_at = None
        return self._bare([])

    def bye(self, reason: str) -> list[Buffer]:
        """Return an envelope that ends the session."""
        return self._bare([m.Bye(reason)])

    def take_acked(self) -> list[object]:
        """Return the tags of messages that the peer has acknowledged since the last call."""
        acked, self._acked = self._acked, []
        return acked

    @property
    def backlog(self) -> int:
        """The number of messages that wait for room in the window."""
        return len(self._pending)

    @property
    def backlog_bytes(self) -> int:
        """The bytes that the peer has not acknowledged: those that wait, and those that were sent."""
        return self._pending_bytes + self._unacked_bytes

    @property
    def held_bytes(self) -> int:
        """The bytes that are held for the peer: early envelopes, and Parts of an incomplete message."""
        return self._early_bytes + self._joiner.held_bytes

    @property
    def received_seq(self) -> int:
        """The number of the last envelope up to which all have arrived."""
        return self._received_seq

    @property
    def in_flight(self) -> int:
        """The number of envelopes that are sent and not acknowledged."""
        return len(self._unacked)

    def next_deadline(self) -> float | None:
        """Return when `flush` must be called again at the latest, None if nothing is due."""
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
        """Return the envelopes to send again: the oldest on silence; after that more and more while answers come."""
        due, self._to_resend = self._to_resend, []
        if self._resend_at is not None and now >= self._resend_at and self._unacked:
            self._tries += 1
            self._resend_at = now + self._resend_after_s * min(8, 2**self._tries)
            self._recover_upto = max(self._recover_upto, self._unacked[-1].seq)
            due = [self._unacked[0]]
        return due

    # ------------------------------------------------------------------------------------------------------ receiving

    def receive(self, frames: Sequence[Buffer], now: float) -> list[Received]:
        """Decode one envelope. Returns the messages that are now next in order (none for a duplicate or early one).

        Raises ProtocolError; the link must be given up then.
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
            self._ack_at = now  # the peer has not got our acknowledgement: send it again
            return []
        if envelope.seq > self._received_seq + 2 * WINDOW:
            raise ProtocolError(f"envelope {envelope.seq} is far beyond the window ({self._received_seq} + {WINDOW})")
        if envelope.seq != self._received_seq + 1:
            size_bytes = sum(map(length, frames))
            if self._early_bytes + size_bytes <= EARLY_BYTES:  # else the peer sends it again
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
        if upto < self._recover_upto:  # in recovery: envelopes in flight with the lost one may be lost too
            silent = [sent for sent in self._unacked if sent.seq <= self._recover_upto]
            self._to_resend = silent[: 2 * freed]
        else:
            self._recover_upto = 0
            self._to_resend = []
        self._tries = 0
        self._resend_at = now + self._resend_after_s if self._unacked else None
