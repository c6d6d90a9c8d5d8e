"""The invariants of the scheduler's books, checked one by one. For tests and the simulator: it looks at everything."""

from collections import Counter
from math import isclose

from concurrent_nb.scheduling.slave import Slave
from concurrent_nb.scheduling.state import Books
from concurrent_nb.tasks.task import Job, State, Task


class BrokenInvariant(AssertionError):
    """The scheduler's books contradict themselves."""


def validate(books: Books) -> None:
    """Raise BrokenInvariant at the first contradiction."""
    for job in books.jobs.values():
        _check_job(books, job)
    for slave in books.slaves.values():
        _check_slave(books, slave)
    _check_queue(books)
    _check_strategies(books)
    _check_sums(books)
    _check_deadlines(books)


def _require(holds: bool, what: object) -> None:
    if not holds:
        raise BrokenInvariant(str(what))


def _check_job(books: Books, job: Job) -> None:
    _require(not (job.closed and not job.tasks), f"{job} is over and not forgotten")
    if job.client is None:
        _require(job.id in books.lingering, f"{job} has no owner and no end")
    else:
        _require(books.owners.get(job.client) == job.owner, f"{job} answers to a stranger")
        _require(job.id not in books.lingering, f"{job} has an owner and lingers")
    for index, task in job.tasks.items():
        _require(task.job is job and task.index == index, f"{task} is in the wrong place")
        _check_task(books, task)


def _check_task(books: Books, task: Task) -> None:
    _require(task.state != State.FORGOTTEN, f"{task} is forgotten and kept")
    assigned = task.state == State.ASSIGNED
    _require(assigned == (task.slave is not None), f"{task} is on {task.slave!r}")
    if task.slave is not None:
        _require(task in books.slaves[task.slave].tasks, f"{task} is unknown to its slave")
        _require(task.attempt > 0, f"{task} has no attempt")
    elif task.state == State.WAITING:
        _require(not task.started, f"{task} waits and runs")
    finished = task.state == State.FINISHED
    _require(finished == (task.outcome is not None), f"{task} has outcome {task.outcome}")
    if task.outcome is not None:
        _require(task.outcome.index == task.index, f"{task} has the outcome of another")
        _require(task.outcome.attempt == task.attempt, f"{task} has the outcome of another attempt")
    elif task.job.ended:
        _require(assigned and task.cancelled, f"{task} goes on in a job that has ended")


def _check_slave(books: Books, slave: Slave) -> None:
    for task in slave.tasks:
        _require(task.slave == slave.id, f"{slave} has {task}, which does not know")
        known = books.jobs.get(task.job.id)
        _require(known is task.job and known.tasks.get(task.index) is task, f"{slave} has unknown {task}")
        _require((task.job.id, task.index, task.attempt) not in slave.ghosts, f"{task} is a ghost")
    _require(slave.load == len(slave.tasks) + len(slave.ghosts), f"{slave} miscounts its load")
    _require(slave.started == sum(task.started for task in slave.tasks), f"{slave} miscounts what runs")
    in_flight_s = sum(task.estimate_s for task in slave.tasks)
    _require(
        isclose(slave.in_flight_s, in_flight_s, rel_tol=1e-6, abs_tol=1e-6), f"{slave} should have {in_flight_s} s"
    )
    _require(
        slave.asked == sum(task in books.asked for task in slave.tasks), f"{slave} miscounts what it was asked for"
    )
    for each in slave.objects:
        _require(slave in books.holdings.holders(each), f"{slave} has an object, which nobody knows")
    _require((slave.id in books.crowded) == (slave.trusted and slave.load > slave.slots), f"{slave}: crowded or not?")


def _check_queue(books: Books) -> None:
    queued = list(books.waiting)
    waiting = [task for job in books.jobs.values() for task in job.tasks.values() if task.state == State.WAITING]
    _require(len(set(queued)) == len(queued) == len(books.waiting), "the queue miscounts")
    _require(set(queued) == set(waiting), "the queue is not what waits")
    _require(books.waiting.owners == len({task.job.owner for task in waiting}), "an owner without tasks has a turn")
    _require(books.waiting.entries <= 2 * len(queued) + 65 * books.waiting.owners, "the queue leaks")
    _require(not (waiting and books.idle), f"{len(waiting)} tasks wait and {books.idle} slots are idle")


def _check_strategies(books: Books) -> None:
    asked = {job.strategy for job in books.jobs.values()} - {"", books.strategies.default.name}
    _require(len(books.strategies.all) == 1 + len(asked), f"{books.strategies.all} are in use, {asked} are asked for")
    busy = Counter(job.owner for job in books.jobs.values() if job.tasks)
    _require(books.busy == busy, f"{books.busy} are said to have tasks, {busy} have")


def _check_sums(books: Books) -> None:
    idle = sum(max(0, min(slave.slots, slave.credit) - slave.load) for slave in books.slaves.values() if slave.trusted)
    _require(books.idle == idle, f"{books.idle} slots are said to be idle, {idle} are")
    _require(books.crowded.keys() <= books.slaves.keys(), "a lost slave is crowded")


def _check_deadlines(books: Books) -> None:
    for job_id in list(books.lingering):
        _require(job_id in books.jobs, f"job {job_id!r} lingers and is forgotten")
    for task in [*books.overdue, *books.hopeless]:
        _require(
            task.started and task.slave is not None and task.timeout_s is not None, f"{task} has no limit to watch"
        )
    for task in books.asked:
        _require(task.slave is not None and not task.started, f"{task} was asked back and is not to be had")
