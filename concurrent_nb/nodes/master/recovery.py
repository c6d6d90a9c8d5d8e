"""What a journal has, as events for the scheduler of a restarted master. A part of `nodes.master.core`. Pure."""

from collections.abc import Iterator

from concurrent_nb.ids import Digest, JobId, SessionId, digest_of
from concurrent_nb.journal.replayed import Replayed
from concurrent_nb.nodes.master.function_table import FunctionEntry, FunctionTable
from concurrent_nb.scheduling import events as e
from concurrent_nb.wire import messages as m


def restore_functions(replayed: Replayed, functions: FunctionTable) -> None:
    """Put the functions that open jobs use into the table."""
    users: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for job_id, job in replayed.jobs.items():
        for digest in dict.fromkeys(run.function for run, _ in job.runs):
            users.setdefault(digest, []).append((job_id, job.opened.owner.encode()))
    for digest, jobs in users.items():
        if (known := replayed.functions.get(digest)) is not None:
            record, buffers = known
            message = m.Function(record.digest, record.body, record.sizes, record.name)
            functions.restore(FunctionEntry(message, [buffers]), jobs)


def events_of(replayed: Replayed, kept_s: float, linger_s: float) -> Iterator[e.Event]:
    """Yield the events that make the state of the former master; then its applications are away.

    Args:
        replayed: what the journal has.
        kept_s: how long the jobs of an application that comes back wait for it.
        linger_s: how long those of others do.
    """
    clients = {job_id: _stand_in(job.opened.owner, job.opened.comes_back) for job_id, job in replayed.jobs.items()}
    for job_id, job in replayed.jobs.items():
        opened = job.opened
        yield e.JobOpened(
            clients[job_id],
            opened.owner,
            JobId(job_id),
            opened.name,
            opened.until,
            opened.stop_on_error,
            opened.strategy,
            True,
            opened.notebook,
            opened.cell,
        )
    for job_id, job in replayed.jobs.items():
        for run, buffers in job.runs:
            yield e.TasksSubmitted(
                clients[job_id],
                JobId(job_id),
                Digest(run.function),
                run.tasks,
                buffers,
                run.timeout_s,
                run.retries,
                (),
                run.needs,
                [(index, [(JobId(of), number) for of, number in needed]) for index, needed in run.inputs],
                run.keep,
            )
    for job_id, job in replayed.jobs.items():
        for left, (ended, buffers) in zip(range(len(job.outcomes) - 1, -1, -1), job.outcomes, strict=True):
            yield e.OutcomesRestored(JobId(job_id), ended.slave, ended.items, buffers, is_last=not left)
    for job_id, job in replayed.jobs.items():
        client = clients[job_id]
        if job.acknowledged:
            yield e.OutcomesAcknowledged(client, JobId(job_id), job.acknowledged)
        if job.cancelled is None or job.cancelled:
            yield e.CancelRequested(client, JobId(job_id), job.cancelled)
        if job.is_ended:
            yield e.JobClosed(client, JobId(job_id))
    away = {clients[job_id]: job.opened.comes_back for job_id, job in replayed.jobs.items()}
    for client, comes_back in away.items():
        yield e.ClientLost(client, kept_s if comes_back else linger_s)


def _stand_in(owner: str, comes_back: bool) -> SessionId:
    """Return the id of a session that stands for those of an owner in the former run."""
    return SessionId(digest_of(f"{owner} {comes_back}".encode())[:16])
