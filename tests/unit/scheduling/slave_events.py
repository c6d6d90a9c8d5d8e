"""Events of slaves, in short."""

import msgspec

from concurrent_nb.ids import JobId, SessionId
from concurrent_nb.scheduling import events as e
from concurrent_nb.wire.messages import ErrorReport, OutcomeFrame, StartedTask, TaskRef
from tests.unit.scheduling.bench import DIED, JOB, OK


def slave_id(name: str) -> SessionId:
    return SessionId(name.encode())


def joined(name: str, slots: int = 1, credit: int = 100, *, shares_memory: bool = False) -> e.SlaveJoined:
    return e.SlaveJoined(slave_id(name), name, slots, credit, shares_memory)


def resized(name: str, slots: int, credit: int) -> e.SlaveResized:
    return e.SlaveResized(slave_id(name), slots, credit)


def lost(name: str) -> e.SlaveLost:
    return e.SlaveLost(slave_id(name))


def ended(
    slave: str,
    *indexes: int,
    status: int = OK,
    attempt: int = 1,
    job: JobId = JOB,
    elapsed_s: float = 1.0,
    body: bytes = b"value",
) -> e.OutcomesReceived:
    items = [OutcomeFrame(index, attempt, int(status), elapsed_s, 4321, body) for index in indexes]
    return e.OutcomesReceived(slave_id(slave), job, items, ())


def worker_died(slave: str, index: int, attempt: int, how: str = "killed by SIGSEGV") -> e.OutcomesReceived:
    body = msgspec.msgpack.encode(ErrorReport("", how, ""))
    return ended(slave, index, status=DIED, attempt=attempt, body=body)


def refs(*indexes: int, attempt: int = 1, job: JobId = JOB) -> list[TaskRef]:
    return [TaskRef(job, index, attempt) for index in indexes]


def started(slave: str, *indexes: int, attempt: int = 1, job: JobId = JOB) -> e.TasksStarted:
    return e.TasksStarted(slave_id(slave), [StartedTask(job, index, attempt, 42) for index in indexes])


def returned(slave: str, *indexes: int, attempt: int = 1, job: JobId = JOB) -> e.TasksReturned:
    return e.TasksReturned(slave_id(slave), refs(*indexes, attempt=attempt, job=job))
