"""An application with its real ledger, and a bad master; then a good one, under which all that is open has to end.

bad master: envelopes --> Ledger, answer_of     then     good master: Session --> Ledger, every task ends
"""

import itertools
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from concurrent_nb.errors import ProtocolError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.application.core import ClientCore, ClientJob, FunctionPayload, Payload, TaskEnded, TaskEntry
from concurrent_nb.nodes.application.results import answer_of
from concurrent_nb.object_store.segment_reader import SegmentReader
from concurrent_nb.object_store.segments import CannotOpen, SegmentHandle
from concurrent_nb.outcome import Status
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Envelope, encode, function_digest
from concurrent_nb.wire.messages import Slice
from concurrent_nb.wire.session import Session
from tests.fuzzer.fuzzed_master import EPOCH, Wrong, brief, mutated
from tests.fuzzer.odd import Known, Odd, buffers_of, members

TASKS: Final = 6
VALUE: Final = "a value"


class FuzzedApplication:
    """An application."""

    def __init__(self, seed: int) -> None:
        self.now = 50.0
        self.trace: list[str] = []
        self.shelf = SegmentReader()
        self._ids = random.Random(seed)
        self._pickled, _ = pickles.dumps(VALUE)

    def close(self) -> None:
        """Give all descriptors back."""
        self.shelf.close()

    def play(self, role: str, seed: int, acts: Sequence[int]) -> None:
        """Have a bad master say something for each seed of `acts`, and a good one answer what is left."""
        ledger: ClientCore[int] = ClientCore(1.0)
        session = Session(EPOCH, "to_client")
        ledger.attach(session)
        job: ClientJob[int] = ClientJob(JobId(self._ids.randbytes(16)))
        body = b"function"
        shipment = FunctionPayload(function_digest([body]), Payload(body))
        ledger.add([TaskEntry(job, index, shipment, Payload(b"arguments"), index) for index in range(TASKS)])
        ledger.close(job)
        ledger.step(self.now)
        known = Known(indexes=itertools.count())
        known.add("job", job.id)
        known.add("job", self._ids.randbytes(16))
        known.add("segment", self._ids.randbytes(16))
        known.odd_slices.append(Slice(known.own["segment"][0], 0, 100, 1))
        known.refs = [m.TaskRef(job.id, index, 1) for index in range(TASKS)]
        ended: list[int] = []
        for seq, act in enumerate(acts, 1):
            if not self._hear(ledger, seq, known, random.Random(act), ended):
                break
        self._answer_the_rest(ledger, ended)
        if sorted(ended) != list(range(TASKS)):
            raise Wrong(f"of {TASKS} tasks these have ended: {sorted(ended)}")
        if ledger.jobs:
            raise Wrong(f"the ledger still has {len(ledger.jobs)} jobs")

    def _hear(self, ledger: ClientCore[int], seq: int, known: Known, chance: random.Random, ended: list[int]) -> bool:
        """Say something as a bad master; False if the session is over."""
        odd = Odd(chance, known)
        said = [odd.message(chance.choice(members(m.ToClient))) for _ in range(chance.choice((1, 1, 2, 3)))]
        try:
            buffers = [buffer for message in said for buffer in buffers_of(message)]
            frames = encode(Envelope(m.PROTOCOL_VERSION, EPOCH, seq, chance.choice((0, 1)), said), buffers)
        except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
            return True
        if chance.random() < 0.15:
            frames = mutated(frames, chance)
        self.trace.append(f"master says {', '.join(brief(message) for message in said)}")
        try:
            self._take(ledger, frames, ended)
        except ProtocolError as error:
            self.trace.append(f"the application gives the session up: {str(error)[:200]}")
            return False
        return True

    def _take(self, ledger: ClientCore[int], frames: Sequence[Buffer], ended: list[int]) -> None:
        """Take an envelope as the courier does."""
        for news in ledger.received(frames, self.now):
            if isinstance(news, TaskEnded):
                ended.append(news.entry.handle)
                try:
                    answer_of(news, self.shelf.read)
                except Exception as error:  # noqa: BLE001  (the courier gives it to the task's own future)
                    self.trace.append(f"its future gets {error!r}")
            elif isinstance(news, m.Segment):
                try:
                    self.shelf.add(SegmentHandle(news.segment, news.pid, news.fd, news.size))
                except CannotOpen:
                    self.trace.append("that cannot be opened")
            elif isinstance(news, m.DropSegments):
                self.shelf.drop(news.segments)
        ledger.step(self.now)

    def _answer_the_rest(self, ledger: ClientCore[int], ended: list[int]) -> None:
        """Be a good master, in a new session."""
        ledger.attach(Session(EPOCH, "to_client"))
        master = Session(EPOCH, "from_client")
        for _ in range(4):
            self.now += 0.1
            for frames in ledger.step(self.now):
                for item in master.receive(frames, self.now):
                    self._answer(master, item.message)
            for frames in master.flush(self.now):
                self._take(ledger, frames, ended)

    def _answer(self, master: Session, message: Any) -> None:
        if isinstance(message, m.Submit):
            items = [m.OutcomeFrame(task.index, 1, Status.OK, 0.0, 1, self._pickled) for task in message.tasks]
            master.send(m.Outcomes(message.job, "slave", items))
