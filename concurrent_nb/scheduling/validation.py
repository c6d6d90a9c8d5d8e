"""The invariants of the scheduler state, checked one by one. Slow: for tests and the simulator."""

from collections import Counter
from math import isclose

from concurrent_nb.scheduling.scheduler_state import SchedulerState, cost_of
from concurrent_nb.scheduling.slave_state import SlaveState, is_multi_slot, is_system_host
from concurrent_nb.scheduling.task_queue import TaskQueue
from concurrent_nb.tasks.function_graph import FunctionNode
from concurrent_nb.tasks.task_record import JobRecord, TaskRecord, TaskState
from concurrent_nb.wire.messages import HOSTS_MAX


class BrokenInvariant(AssertionError):
    """The scheduler state is inconsistent."""


def validate(state: SchedulerState) -> None:
    """Raise BrokenInvariant at the first inconsistency."""
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
    _check_links(state)
    _check_graphs(state)


def _require(holds: bool, what: object) -> None:
    if not holds:
        raise BrokenInvariant(str(what))


def _check_job(state: SchedulerState, job: JobRecord) -> None:
    _require(not (job.closed and not job.tasks and not job.kept), f"{job} is over, but not forgotten")
    for index, task in job.kept.items():
        _require(task.links is not None and task.links.is_kept and task.job is job, f"{task} is not kept")
        is_there = job.tasks.get(index) is task or state.retained.get((job.id, index)) is task
        _require(is_there, f"{task} is kept, and forgotten")
    if job.client is None:
        _require(job.id in state.lingering, f"{job} has no client, but does not linger")
    else:
        _require(state.owners.get(job.client) == job.owner, f"{job} has the client of another owner")
        _require(job.id not in state.lingering, f"{job} has a client, but lingers")
    for index, task in job.tasks.items():
        _require(task.job is job and task.index == index, f"{task} is stored under another job or index")
        _check_task(state, task)


def _check_task(state: SchedulerState, task: TaskRecord) -> None:
    _require(task.state != TaskState.FORGOTTEN, f"{task} is forgotten, but stored")
    assigned = task.state in (TaskState.ASSIGNED, TaskState.AHEAD)
    _require(assigned == (task.slave is not None), f"{task} is {task.state.name}, but its slave is {task.slave!r}")
    if task.slave is not None:
        slave = state.slaves[task.slave]
        known = slave.followers if task.state == TaskState.AHEAD else slave.tasks
        _require(task in known, f"{task} is unknown to its slave")
        _require(task.attempt > 0, f"{task} has no attempt")
    elif task.state in (TaskState.WAITING, TaskState.BLOCKED):
        _require(not task.started, f"{task} waits, but has started")
    finished = task.state == TaskState.FINISHED
    _require(finished == (task.outcome is not None), f"{task} is {task.state.name}, but its outcome is {task.outcome}")
    if task.outcome is not None:
        _require(task.outcome.index == task.index, f"{task} has the outcome of another")
        _require(task.outcome.attempt == task.attempt, f"{task} has the outcome of another attempt")
    elif task.job.ended:
        _require(assigned and task.cancelled, f"{task} goes on, but its job has ended")


def _check_slave(state: SchedulerState, slave: SlaveState) -> None:
    for task in slave.tasks:
        _require(task.slave == slave.id, f"{slave} has {task}, which is on another slave")
        known = state.jobs.get(task.job.id)
        _require(known is task.job and known.tasks.get(task.index) is task, f"{slave} has {task}, which no job has")
        _require(
            (task.job.id, task.index, task.attempt) not in slave.unconfirmed, f"{task} is unconfirmed, but assigned"
        )
    for task in slave.followers:
        _require(task.slave == slave.id and task.state == TaskState.AHEAD, f"{slave} has {task} ahead")
        _require(task.needs is None and not (task.started or task.suspect), f"{task} was sent ahead")
        _require(task.job.tasks.get(task.index) is task, f"{slave} has {task}, which no job has")
    shares = [(task.needs, task.width) for task in slave.tasks] + list(slave.unconfirmed.values())
    _require(slave.load == sum(width for _, width in shares), f"{slave} miscounts its load")
    _require(
        slave.system_hosts == sum(is_system_host(needs) for needs, _ in shares), f"{slave} miscounts its system hosts"
    )
    multi_slot_load = sum(width for needs, width in shares if is_multi_slot(needs))
    _require(slave.multi_slot_load == multi_slot_load, f"{slave} miscounts its multi-slot load")
    _require(slave.system_hosts <= HOSTS_MAX, f"{slave} has too many system hosts")
    _require(slave.started == sum(task.started for task in slave.tasks), f"{slave} miscounts its started tasks")
    in_flight_s = sum(task.estimate_s for task in slave.tasks)
    _require(
        isclose(slave.in_flight_s, in_flight_s, rel_tol=1e-6, abs_tol=1e-6), f"{slave} should have {in_flight_s} s"
    )
    _require(slave.recalled == sum(task in state.recalled for task in slave.tasks), f"{slave} miscounts its recalls")
    _require(not (slave.shares_memory and slave.objects), f"{slave} shares memory, but has objects")
    for each in slave.objects:
        _require(slave in state.locations.holders(each), f"{slave} has an object, but is not among its holders")
    is_oversubscribed = slave.trusted and slave.load > slave.slots
    _require((slave.id in state.oversubscribed) == is_oversubscribed, f"{slave} is not in its place: oversubscribed")


def _check_queue(state: SchedulerState) -> None:
    for queue in state.queues:
        _check_entries(state, queue)
    one_slot = len(state.waiting)
    _require(not (one_slot and state.idle), f"{one_slot} tasks wait, but {state.idle} slots are idle")
    slaves = state.slaves.values()
    if (run := state.multi_slot.first()) is not None and run.needs is not None:
        has_room = any(slave.takes_multi_slot(run.needs.cores) for slave in slaves)
        _require(not has_room, f"{run.tasks[0]} waits, but a slave has room for it")
    has_room = any(slave.takes_system_host for slave in slaves)
    _require(not (len(state.system_hosts) and has_room), "a system host waits, but a slave has room for it")
    _require(
        state.most_slots == max([slave.slots for slave in slaves], default=0), "the most slots of a slave are wrong"
    )


def _check_entries(state: SchedulerState, queue: TaskQueue) -> None:
    queued = list(queue)
    waiting = [task for job in state.jobs.values() for task in job.tasks.values() if task.state == TaskState.WAITING]
    waiting = [task for task in waiting if state.queue_for(task) is queue]
    ready = [task for task in queued if not queue.is_paused(task.job.owner)]
    _require(len(set(queued)) == len(queued) == queue.total and len(ready) == len(queue), "the queue miscounts")
    _require(set(queued) == set(waiting), "the queue does not have the waiting tasks")
    owners = {task.job.owner for task in waiting}
    _require(queue.owners == len({task.job.owner for task in ready}), "the queue miscounts its owners")
    _require(queue.entries <= 2 * len(queued) + 65 * len(owners), "the queue leaks")


def _check_strategies(state: SchedulerState) -> None:
    named = {job.strategy for job in state.jobs.values()} - {"", state.strategies.default.name}
    _require(len(state.strategies.all) == 1 + len(named), f"{state.strategies.all} are in use, jobs name {named}")
    busy = Counter(job.owner for job in state.jobs.values() if job.tasks)
    _require(state.busy == busy, f"the jobs with tasks are {busy}, not {state.busy}")


def _check_sums(state: SchedulerState) -> None:
    open_slaves = [slave for slave in state.slaves.values() if slave.trusted and not slave.closed]
    idle = sum(max(0, min(slave.slots, slave.credit) - slave.load) for slave in open_slaves)
    _require(state.idle == idle, f"{idle} slots are idle, not {state.idle}")
    _require(state.oversubscribed.keys() <= state.slaves.keys(), "a lost slave is oversubscribed")


def _check_suspects(state: SchedulerState) -> None:
    tasks = [task for job in state.jobs.values() for task in job.tasks.values()]
    unended = {task for task in tasks if task.deaths and task.state != TaskState.FINISHED}
    _require(state.blamed.keys() == unended, f"{unended} have deaths, but {state.blamed} are blamed")
    for slave in state.slaves.values():
        _require(
            slave.suspect is None or slave.suspect in slave.tasks, f"{slave} does not have its suspect {slave.suspect}"
        )
        _require(slave.closed <= (slave.reserved or slave.suspect is not None), f"{slave} is closed without a suspect")
        aside = slave.reserved or (slave.suspect is not None and not slave.suspect_may_wait)
        _require(slave.closed >= aside, f"{slave} is open, but has a suspect or is reserved")
    run = state.suspects.first()
    if run is None:
        _require(
            not any(slave.reserved for slave in state.slaves.values()), "a slave is reserved, but no suspect waits"
        )
        return
    cores = run.needs.cores if run.needs is not None else 1
    fit = [slave for slave in state.slaves.values() if slave.is_usable and slave.slots >= cores]
    fit = [slave for slave in fit if not is_system_host(run.needs) or slave.system_hosts < HOSTS_MAX]
    free = [slave for slave in fit if slave.suspect is None] or [slave for slave in fit if slave.suspect_may_wait]
    _require(
        not any(slave.is_free_for_suspect for slave in free),
        f"{run.tasks[0]} waits to run alone, but a slave is free for it",
    )
    kept = any(slave.reserved for slave in free) or any(slave.suspect for slave in state.slaves.values())
    _require(kept or not free, f"{run.tasks[0]} waits to run alone, but no slave is reserved")


def _check_kept(state: SchedulerState) -> None:
    _require(state.undelivered.keys() <= state.outbox.silent, "outcomes are kept for a client that is not silent")
    kept: Counter[str] = Counter()
    for job in state.jobs.values():
        for task in job.tasks.values():
            if task.outcome is not None:
                kept[job.owner] += cost_of(task.outcome, job)
    _require(state.kept_bytes == kept, f"results cost {kept}, not {state.kept_bytes}")
    _require(state.paused <= kept.keys(), f"{state.paused} are paused, but results cost {kept}")
    for queue in state.queues:
        paused = {owner for owner in state.busy if queue.is_paused(owner)}
        _require(paused <= state.paused, f"{paused} are paused in a queue, but only {state.paused} in the state")


def _check_deadlines(state: SchedulerState) -> None:
    for job_id in list(state.lingering):
        _require(job_id in state.jobs, f"job {job_id!r} lingers, but is forgotten")
    for task in [*state.overdue, *state.stop_unconfirmed]:
        _require(
            task.started and task.slave is not None and task.timeout_s is not None,
            f"{task} has a deadline, but no time limit",
        )
    for task in state.recalled:
        _require(task.slave is not None and not task.started, f"{task} is recalled, but has started or is on no slave")


def _check_links(state: SchedulerState) -> None:
    """Check the edges between tasks, from both ends."""
    _require(not state.settled, f"{list(state.settled)} have ended, but their dependents do not know")
    users: Counter[TaskRecord] = Counter(task for job in state.jobs.values() for task in job.kept.values())
    waiters: Counter[TaskRecord] = Counter()
    tasks = [task for job in state.jobs.values() for task in job.tasks.values()]
    for task in tasks:
        links = task.links
        if links is None:
            _require(task.state != TaskState.BLOCKED, f"{task} is blocked, but needs no other task")
            continue
        if task.state == TaskState.FINISHED:
            _require(not links.inputs and not links.dependents, f"{task} has ended, but is linked: {links}")
            continue
        users.update(links.inputs)
        missing = [needed for needed in links.inputs if needed.outcome is None]
        waiters.update(missing)
        _require(links.missing == len(missing), f"{task} waits for {missing}, not for {links.missing}")
        is_blocked = task.state in (TaskState.BLOCKED, TaskState.AHEAD)
        _require(is_blocked == bool(missing), f"{task} is {task.state.name}, and waits for {missing}")
        if task.state == TaskState.AHEAD:
            leader = links.leader
            _require(missing == [leader] and leader is not None, f"{task} waits for {missing}, and not behind {leader}")
            _require(leader is None or leader.links is None or leader.links.follower is task, f"{leader} leads another")
        else:
            _require(links.leader is None, f"{task} has a leader, but was not sent ahead")
        for needed in links.inputs:
            is_there = state.jobs.get(needed.job.id) is needed.job and needed.job.tasks.get(needed.index) is needed
            is_kept = state.retained.get((needed.job.id, needed.index)) is needed
            _require(is_there or is_kept, f"{needed}, which {task} needs, is forgotten")
    blocked = sum(task.state in (TaskState.BLOCKED, TaskState.AHEAD) for task in tasks)
    _require(state.blocked == blocked, f"{blocked} tasks are blocked, not {state.blocked}")
    linked = {task for task in (*tasks, *users, *state.retained.values()) if task.links is not None}
    for task in linked:
        links = task.links
        assert links is not None
        _require(links.users == users[task], f"{users[task]} tasks need {task}, not {links.users}")
        waiting = [each for each in links.dependents if each.state in (TaskState.BLOCKED, TaskState.AHEAD)]
        _require(len(waiting) == waiters[task], f"{waiters[task]} tasks wait for {task}, not {waiting}")
    for task in state.retained.values():
        _require(task.state == TaskState.FORGOTTEN and users[task] > 0, f"{task} is retained, but no task needs it")


def _check_graphs(state: SchedulerState) -> None:
    """Check that the nodes of functions have the unfinished tasks."""
    blocked: Counter[FunctionNode] = Counter()
    unfinished: Counter[FunctionNode] = Counter()
    for job in state.jobs.values():
        for task in job.tasks.values():
            if task.links is not None and (node := task.links.node) is not None and task.outcome is None:
                unfinished[node] += 1
                blocked[node] += task.state in (TaskState.BLOCKED, TaskState.AHEAD)
                _require(node.graph in state.graphs and node.graph.owner == job.owner, f"{task} is in another graph")
    for graph in state.graphs:
        for node in graph.nodes.values():
            _require(node.unfinished == unfinished[node], f"{unfinished[node]} tasks of {node.name} are unfinished")
            _require(node.blocked == blocked[node], f"{blocked[node]} tasks of {node.name} are blocked")
        sums = sum(node.unfinished for node in graph.nodes.values())
        _require(graph.unfinished == sums, f"{sums} tasks of the graph are unfinished, not {graph.unfinished}")
