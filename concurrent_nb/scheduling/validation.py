"""The invariants of the scheduler's books, checked one by one. For tests and the simulator: it looks at everything."""

from collections import Counter
from math import isclose

from concurrent_nb.scheduling.scheduler_state import SchedulerState, cost_of
from concurrent_nb.scheduling.slave_state import SlaveState, is_multi_slot, is_system_host
from concurrent_nb.scheduling.task_queue import TaskQueue
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord, TaskState
from concurrent_nb.wire.messages import HOSTS_MAX


class BrokenInvariant(AssertionError):
    """The scheduler's books contradict themselves."""


def validate(state: SchedulerState) -> None:
    """Raise BrokenInvariant at the first contradiction."""
    for job in state.jobs.values():
        _check_job(state, job)
    for slave in state.slaves.values():
        _check_slave(state, slave)
    _check_queue(state)
    _check_strategies(state)
    _check_sums(state)
    _check_suspects(state)
    _check_kept(state)
    _check_deadlines(state)


def _require(holds: bool, what: object) -> None:
    if not holds:
        raise BrokenInvariant(str(what))


def _check_job(state: SchedulerState, job: JobRecord) -> None:
    _require(not (job.closed and not job.tasks), f"{job} is over and not forgotten")
    if job.client is None:
        _require(job.id in state.lingering, f"{job} has no owner and no end")
    else:
        _require(state.owners.get(job.client) == job.owner, f"{job} answers to a stranger")
        _require(job.id not in state.lingering, f"{job} has an owner and lingers")
    for index, task in job.tasks.items():
        _require(task.job is job and task.index == index, f"{task} is in the wrong place")
        _check_task(state, task)


def _check_task(state: SchedulerState, task: TaskRecord) -> None:
    _require(task.state != TaskState.FORGOTTEN, f"{task} is forgotten and kept")
    assigned = task.state == TaskState.ASSIGNED
    _require(assigned == (task.slave is not None), f"{task} is on {task.slave!r}")
    if task.slave is not None:
        _require(task in state.slaves[task.slave].tasks, f"{task} is unknown to its slave")
        _require(task.attempt > 0, f"{task} has no attempt")
    elif task.state == TaskState.WAITING:
        _require(not task.started, f"{task} waits and runs")
    finished = task.state == TaskState.FINISHED
    _require(finished == (task.outcome is not None), f"{task} has outcome {task.outcome}")
    if task.outcome is not None:
        _require(task.outcome.index == task.index, f"{task} has the outcome of another")
        _require(task.outcome.attempt == task.attempt, f"{task} has the outcome of another attempt")
    elif task.job.ended:
        _require(assigned and task.cancelled, f"{task} goes on in a job that has ended")


def _check_slave(state: SchedulerState, slave: SlaveState) -> None:
    for task in slave.tasks:
        _require(task.slave == slave.id, f"{slave} has {task}, which does not know")
        known = state.jobs.get(task.job.id)
        _require(known is task.job and known.tasks.get(task.index) is task, f"{slave} has unknown {task}")
        _require((task.job.id, task.index, task.attempt) not in slave.unconfirmed, f"{task} is a ghost")
    shares = [(task.needs, task.width) for task in slave.tasks] + list(slave.unconfirmed.values())
    _require(slave.load == sum(width for _, width in shares), f"{slave} miscounts its load")
    _require(slave.system_hosts == sum(is_system_host(needs) for needs, _ in shares), f"{slave} miscounts its hosts")
    _require(
        slave.multi_slot_load == sum(width for needs, width in shares if is_multi_slot(needs)),
        f"{slave} miscounts what is wide",
    )
    _require(slave.system_hosts <= HOSTS_MAX, f"{slave} has too many hosts")
    _require(slave.started == sum(task.started for task in slave.tasks), f"{slave} miscounts what runs")
    in_flight_s = sum(task.estimate_s for task in slave.tasks)
    _require(
        isclose(slave.in_flight_s, in_flight_s, rel_tol=1e-6, abs_tol=1e-6), f"{slave} should have {in_flight_s} s"
    )
    _require(
        slave.recalled == sum(task in state.recalled for task in slave.tasks),
        f"{slave} miscounts what it was asked for",
    )
    _require(not (slave.shares_memory and slave.objects), f"{slave} has everything, and something besides")
    for each in slave.objects:
        _require(slave in state.locations.holders(each), f"{slave} has an object, which nobody knows")
    _require(
        (slave.id in state.oversubscribed) == (slave.trusted and slave.load > slave.slots), f"{slave}: crowded or not?"
    )


def _check_queue(state: SchedulerState) -> None:
    for queue in state.queues:
        _check_entries(state, queue)
    one_slot = len(state.waiting)
    _require(not (one_slot and state.idle), f"{one_slot} tasks wait and {state.idle} slots are idle")
    slaves = state.slaves.values()
    if (wide := state.multi_slot.first()) is not None and wide.needs is not None:
        _require(
            not any(slave.takes_multi_slot(wide.needs.cores) for slave in slaves), f"{wide.tasks[0]} waits in vain"
        )
    _require(not (len(state.system_hosts) and any(slave.takes_system_host for slave in slaves)), "a host waits in vain")
    _require(state.most_slots == max([slave.slots for slave in slaves], default=0), "the largest slave is another")


def _check_entries(state: SchedulerState, queue: TaskQueue) -> None:
    queued = list(queue)
    waiting = [task for job in state.jobs.values() for task in job.tasks.values() if task.state == TaskState.WAITING]
    waiting = [task for task in waiting if state.queue_for(task) is queue]
    ready = [task for task in queued if not queue.is_paused(task.job.owner)]
    _require(len(set(queued)) == len(queued) == queue.total and len(ready) == len(queue), "the queue miscounts")
    _require(set(queued) == set(waiting), "the queue is not what waits")
    owners = {task.job.owner for task in waiting}
    _require(queue.owners == len({task.job.owner for task in ready}), "an owner without tasks has a turn")
    _require(queue.entries <= 2 * len(queued) + 65 * len(owners), "the queue leaks")


def _check_strategies(state: SchedulerState) -> None:
    recalled = {job.strategy for job in state.jobs.values()} - {"", state.strategies.default.name}
    _require(
        len(state.strategies.all) == 1 + len(recalled), f"{state.strategies.all} are in use, {recalled} are asked for"
    )
    busy = Counter(job.owner for job in state.jobs.values() if job.tasks)
    _require(state.busy == busy, f"{state.busy} are said to have tasks, {busy} have")


def _check_sums(state: SchedulerState) -> None:
    open_slaves = [slave for slave in state.slaves.values() if slave.trusted and not slave.closed]
    idle = sum(max(0, min(slave.slots, slave.credit) - slave.load) for slave in open_slaves)
    _require(state.idle == idle, f"{state.idle} slots are said to be idle, {idle} are")
    _require(state.oversubscribed.keys() <= state.slaves.keys(), "a lost slave is crowded")


def _check_suspects(state: SchedulerState) -> None:
    tasks = [task for job in state.jobs.values() for task in job.tasks.values()]
    unended = {task for task in tasks if task.deaths and task.state != TaskState.FINISHED}
    _require(state.blamed.keys() == unended, f"{state.blamed} are blamed, {unended} have deaths")
    for slave in state.slaves.values():
        _require(slave.suspect is None or slave.suspect in slave.tasks, f"{slave} is closed for {slave.suspect}")
        _require(slave.closed <= (slave.reserved or slave.suspect is not None), f"{slave} is closed for nobody")
        aside = slave.reserved or (slave.suspect is not None and not slave.suspect_may_wait)
        _require(slave.closed >= aside, f"{slave} is open and has a suspect, or is emptied for one")
    run = state.suspects.first()
    if run is None:
        _require(not any(slave.reserved for slave in state.slaves.values()), "a slave is emptied in vain")
        return
    cores = run.needs.cores if run.needs is not None else 1
    fit = [slave for slave in state.slaves.values() if slave.is_usable and slave.slots >= cores]
    fit = [slave for slave in fit if not is_system_host(run.needs) or slave.system_hosts < HOSTS_MAX]
    free = [slave for slave in fit if slave.suspect is None] or [slave for slave in fit if slave.suspect_may_wait]
    _require(not any(slave.is_free_for_suspect for slave in free), f"{run.tasks[0]} waits in vain to run alone")
    kept = any(slave.reserved for slave in free) or any(slave.suspect for slave in state.slaves.values())
    _require(kept or not free, f"{run.tasks[0]} waits to run alone, and no slave is emptied")


def _check_kept(state: SchedulerState) -> None:
    _require(state.undelivered.keys() <= state.outbox.silent, "something is kept for a client that is heard")
    kept: Counter[str] = Counter()
    for job in state.jobs.values():
        for task in job.tasks.values():
            if task.outcome is not None:
                kept[job.owner] += cost_of(task.outcome, job)
    _require(state.kept_bytes == kept, f"{state.kept_bytes} are said to be kept, {kept} are")
    _require(state.paused <= kept.keys(), f"{state.paused} are paused, and {kept} are kept")
    for queue in state.queues:
        paused = {owner for owner in state.busy if queue.is_paused(owner)}
        _require(paused <= state.paused, f"{paused} are paused in one queue, {state.paused} in all")


def _check_deadlines(state: SchedulerState) -> None:
    for job_id in list(state.lingering):
        _require(job_id in state.jobs, f"job {job_id!r} lingers and is forgotten")
    for task in [*state.overdue, *state.stop_unconfirmed]:
        _require(
            task.started and task.slave is not None and task.timeout_s is not None, f"{task} has no limit to watch"
        )
    for task in state.recalled:
        _require(task.slave is not None and not task.started, f"{task} was asked back and is not to be had")
