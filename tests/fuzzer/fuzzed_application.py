"""An application with its real core and a bad master; then a good master, under which all open tasks must end.

bad master: envelopes --> ClientCore, answer_of     then     good master: Session --> ClientCore, every task ends
"""

import itertools
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload, TaskEnded, TaskEntry
from concurrent_nb.nodes.application.core import ClientCore
from concurrent_nb.nodes.application.results import answer_of
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Envelope, encode, function_digest
from concurrent_nb.wire.messages import Slice
from concurrent_nb.wire.session import Session
from tests.fuzzer.fuzzed_master import EPOCH, FuzzFailure, brief, mutated
from tests.fuzzer.message_generator import KnownNames, MessageGenerator, buffers_of, members

TASKS: Final = 6
VALUE: Final = "a value"


class FuzzedApplication:
    """An application."""

    def __init__(self, seed: int) -> None:
        self.now = 50.0
        self.trace: list[str] = []
        self.reader = SegmentReader()
        self._ids = random.Random(seed)
        self._pickled, _ = pickles.dumps(VALUE)

    def close(self) -> None:
        """Close all descriptors."""
        self.reader.close()

    def run_sequence(self, role: str, seed: int, actions: Sequence[int]) -> None:
        """Run a bad master, which sends an envelope for each action, then a good one, which answers open tasks."""
        core: ClientCore[int] = ClientCore(1.0)
        session = Session(EPOCH, "to_client")
        core.attach(session)
        job: ClientJob[int] = ClientJob(JobId(self._ids.randbytes(16)))
        body = b"function"
        shipment = FunctionPayload(function_digest([body]), Payload(body))
        core.add([TaskEntry(job, index, shipment, Payload(b"arguments"), index) for index in range(TASKS)])
        core.close(job)
        core.step(self.now)
        known = KnownNames(indexes=itertools.count())
        known.add("job", job.id)
        known.add("job", self._ids.randbytes(16))
        known.add("segment", self._ids.randbytes(16))
        known.odd_slices.append(Slice(known.own["segment"][0], 0, 100, 1))
        known.refs = [m.TaskRef(job.id, index, 1) for index in range(TASKS)]
        ended: list[int] = []
        for seq, action in enumerate(actions, 1):
            if not self._receive(core, seq, known, random.Random(action), ended):
                break
        self._answer_open_tasks(core, ended)
        if sorted(ended) != list(range(TASKS)):
            raise FuzzFailure(f"of {TASKS} tasks these have ended: {sorted(ended)}")
        if core.jobs:
            raise FuzzFailure(f"the core still has {len(core.jobs)} jobs")

    def _receive(
        self, core: ClientCore[int], seq: int, known: KnownNames, chance: random.Random, ended: list[int]
    ) -> bool:
        """Receive an envelope of a bad master; False if the session is over."""
        generator = MessageGenerator(chance, known)
        messages = [generator.message(chance.choice(members(m.ToClient))) for _ in range(chance.choice((1, 1, 2, 3)))]
        try:
            buffers = [buffer for message in messages for buffer in buffers_of(message)]
            frames = encode(Envelope(m.PROTOCOL_VERSION, EPOCH, seq, chance.choice((0, 1)), messages), buffers)
        except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
            return True
        if chance.random() < 0.15:
            frames = mutated(frames, chance)
        self.trace.append(f"master sends {', '.join(brief(message) for message in messages)}")
        try:
            self._take(core, frames, ended)
        except ProtocolError as error:
            self.trace.append(f"the application ends the session: {str(error)[:200]}")
            return False
        return True

    def _take(self, core: ClientCore[int], frames: Sequence[Buffer], ended: list[int]) -> None:
        """Handle an envelope as the client thread does."""
        for news in core.received(frames, self.now):
            if isinstance(news, TaskEnded):
                ended.append(news.entry.handle)
                try:
                    answer_of(news, self.reader.read)
                except Exception as error:  # noqa: BLE001  (the client thread ends the task's own future with it)
                    self.trace.append(f"its future gets {error!r}")
            elif isinstance(news, m.Segment):
                try:
                    self.reader.add(SegmentHandle(news.segment, news.pid, news.fd, news.size))
                except CannotOpen:
                    self.trace.append("the segment cannot be opened")
            elif isinstance(news, m.DropSegments):
                self.reader.drop(news.segments)
        core.step(self.now)

    def _answer_open_tasks(self, core: ClientCore[int], ended: list[int]) -> None:
        """Run a good master, in a new session."""
        core.attach(Session(EPOCH, "to_client"))
        master = Session(EPOCH, "from_client")
        for _ in range(4):
            self.now += 0.1
            for frames in core.step(self.now):
                for item in master.receive(frames, self.now):
                    self._answer(master, item.message)
            for frames in master.flush(self.now):
                self._take(core, frames, ended)

    def _answer(self, master: Session, message: Any) -> None:
        if isinstance(message, m.Submit):
            items = [m.OutcomeFrame(task.index, 1, Status.OK, 0.0, 1, self._pickled) for task in message.tasks]
            master.send(m.Outcomes(message.job, "slave", items))
