"""Dependencies between tasks: which tasks are blocked, when they are queued, and which results are retained for them.

    submitted task --link--> BLOCKED, or ready        an input ends --settle--> dependents are ready, or fail
                                                      a dependent ends --settle--> its inputs are released

Called by the scheduler. Each edge is looked at when its dependent comes, when its input ends, and when its dependent
ends, so all edges together take time in proportion to their number.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Final

import msgspec

from concurrent_nb.ids import JobId
from concurrent_nb.outcome import SUCCESSES, Status
from concurrent_nb.scheduling.ahead import Ahead, objects_with_inputs
from concurrent_nb.scheduling.scheduler_state import SchedulerState
from concurrent_nb.scheduling.task_lifecycle import TaskLifecycle, ends_job, report_of
from concurrent_nb.tasks.function_graph import FunctionGraph, FunctionNode, count_edges, is_cell, node_name
from concurrent_nb.tasks.states import UNBLOCK, move
from concurrent_nb.tasks.task_record import JobRecord, TaskLinks, TaskRecord, TaskState
from concurrent_nb.wire.messages import ErrorReport, OutcomeFrame

#: ends after which no process refers to the results that a task needed
_AT_REST: Final = frozenset({Status.OK, Status.HIT, Status.ERROR, Status.NOT_PICKLABLE})
#: longest pickled exception of an input that its dependents get, in bytes
_EXCEPTION_BYTES_MAX: Final = 16 * 1024
_TEXT_MAX: Final = 1000


class Dependencies:
    """Links tasks, and acts on the ends of linked tasks."""

    def __init__(self, state: SchedulerState, lifecycle: TaskLifecycle, ahead: Ahead) -> None:
        self._state = state
        self._lifecycle = lifecycle
        self._ahead = ahead
        self._ready: list[TaskRecord] = []  # new tasks whose inputs are there
        self._unblocked: list[TaskRecord] = []  # tasks whose last input has just ended
        self._over: dict[JobRecord, None] = {}  # jobs that end with the failure of a task

    def link(self, task: TaskRecord, inputs: Iterable[tuple[JobId, int]]) -> None:
        """Link a new task to its inputs: it is blocked, ready, or has ended because one of them is gone or has failed.

        The caller must call `settle` after all events.
        """
        found: dict[TaskRecord, None] = {}
        for job_id, index in inputs:
            needed = self._find(task.job, job_id, index)
            if needed is None or needed is task or _is_elsewhere(needed):
                self._end_without_input(task)
                return
            found[needed] = None
        links = task.links = task.links or TaskLinks()
        node = links.node = self._count_edges(found, task)
        for needed in found:
            if needed.outcome is not None and needed.outcome.status not in SUCCESSES:
                self._fail(task, needed)
                return
        links.inputs = tuple(found)
        for needed in found:
            of_input = needed.links
            assert of_input is not None
            of_input.users += 1
            if needed.outcome is None:
                links.missing += 1
                of_input.dependents.append(task)
        task.state = TaskState.BLOCKED  # a new task: no transition
        node.blocked += 1
        self._state.blocked += 1
        if not links.missing:
            task.objects = objects_with_inputs(task)
            self._ready.append(task)
        self._state.settled.append(task)  # so that `settle` is called

    def settle(self) -> None:
        """Act on the ends of linked tasks: queue or end their dependents, release their inputs."""
        state, settled = self._state, self._state.settled
        over = self._over
        while settled or over:
            while settled:
                task = settled.popleft()
                if task.outcome is None and task.state != TaskState.FORGOTTEN:
                    self._note_leader(task)  # it was linked
                    continue
                self._release_inputs(task)
                self._end_dependents(task)
            while over:
                job, _ = over.popitem()
                if not job.ended:
                    self._lifecycle.end(job)
        if self._unblocked:
            unblocked, self._unblocked = self._unblocked, []
            waiting = [task for task in unblocked if task.state == TaskState.BLOCKED]
            # Before tasks that wait longer: else all results of a large graph would be kept at the same time.
            for task in reversed(waiting):
                state.unblock(task)
                move(task, UNBLOCK)
                state.put_back(task)
        if self._ready:
            ready, self._ready = self._ready, []
            waiting = [task for task in ready if task.state == TaskState.BLOCKED]  # the others have ended meanwhile
            for task in waiting:
                state.unblock(task)
                move(task, UNBLOCK)
            for _, alike in groupby(waiting, lambda task: (task.job.id, task.function, task.timeout_s, task.objects)):
                tasks = list(alike)
                for needs, same in groupby(tasks, lambda task: task.needs):
                    state.add(needs, list(same))

    def _note_leader(self, task: TaskRecord) -> None:
        """Note that a new task waits for one task only, if that is on a slave: it may be sent ahead."""
        links = task.links
        if links is None or links.missing != 1 or task.state is not TaskState.BLOCKED:
            return
        leader = next((needed for needed in links.inputs if needed.outcome is None), None)
        if leader is not None and leader.slave is not None:  # else it has just ended
            self._state.leaders.append(leader)

    def _count_edges(self, inputs: Iterable[TaskRecord], task: TaskRecord) -> FunctionNode:
        """Add a new task and its edges to the graph of its owner; return the node of its function."""
        state, edges = self._state, task.job.edges
        graph = state.graphs.of(task.job.owner, state.task_log.now_s)
        node = self._node_of(graph, task)
        node.add(None)
        source, count = node, 0
        for needed in inputs:
            links = needed.links
            if links is None:
                links = needed.links = TaskLinks()
            of_input = links.node
            if of_input is None or of_input.graph is not graph:
                of_input = links.node = self._node_of(graph, needed)
                of_input.add(None if needed.outcome is None else needed.outcome.status)
            if of_input is not source:  # nearly always the inputs of one function come together
                if count:
                    graph.connect(source, node, count)
                    count_edges(edges, source.name, node.name, count)
                source, count = of_input, 0
            count += 1
        if count:
            graph.connect(source, node, count)
            count_edges(edges, source.name, node.name, count)
        return node

    def _node_of(self, graph: FunctionGraph, task: TaskRecord) -> FunctionNode:
        node = graph.by_digest.get(task.function)
        if node is not None:
            return node
        function = self._state.task_log.name_of(task.function)
        node = graph.node(node_name(function, task.job.name))
        if not is_cell(function):  # its name depends on the job
            graph.remember(task.function, node)
        return node

    def _find(self, job: JobRecord, job_id: JobId, index: int) -> TaskRecord | None:
        """Return a task of the same owner whose result is here, or will be."""
        other = self._state.jobs.get(job_id)
        task = None if other is None else other.tasks.get(index)
        if task is None:
            task = self._state.retained.get((job_id, index))
        return None if task is None or task.job.owner != job.owner else task

    def _release_inputs(self, task: TaskRecord) -> None:
        """Note that a task which has ended does not need its inputs any more."""
        links = task.links
        if links is None or not links.inputs:
            return
        inputs, links.inputs = links.inputs, ()
        outcome = task.outcome
        # A worker that was lost with an earlier attempt may still refer to them.
        at_rest = task.attempt == 0 or (
            outcome is not None and outcome.status in _AT_REST and task.attempt == 1 and not outcome.keeps
        )
        for needed in inputs:
            of_input = needed.links
            assert of_input is not None
            of_input.users -= 1
            of_input.clean = of_input.clean and at_rest
            self._state.release_if_unused(needed)

    def _end_dependents(self, task: TaskRecord) -> None:
        links = task.links
        if links is None or not links.dependents:
            return
        dependents, links.dependents = links.dependents, []
        outcome = task.outcome
        if outcome is not None and outcome.status in SUCCESSES:
            for dependent in dependents:
                if dependent.state == TaskState.AHEAD:
                    self._ahead.promote(task)
                elif dependent.state == TaskState.BLOCKED:
                    assert dependent.links is not None
                    dependent.links.missing -= 1
                    if not dependent.links.missing:
                        dependent.objects = objects_with_inputs(dependent)
                        self._unblocked.append(dependent)
            return
        for dependent in dependents:
            if dependent.state == TaskState.AHEAD:
                self._ahead.withdraw(dependent)
            if dependent.state != TaskState.BLOCKED:
                continue
            if dependent.job.ended or dependent.cancelled:
                self._lifecycle.cancel_unstarted(dependent)
            elif _is_elsewhere(task):
                self._end_without_input(dependent)  # it runs elsewhere: its application has the result, or will have it
            else:
                self._fail(dependent, task)

    def _end_without_input(self, task: TaskRecord) -> None:
        self._lifecycle.hand_back(task, Status.INPUT_GONE)

    def _fail(self, task: TaskRecord, failed: TaskRecord) -> None:
        """End a task because an input has failed, which may end its job."""
        outcome = failed.outcome
        if outcome is not None and outcome.status == Status.DEPENDENCY_FAILED:
            body = outcome.body  # that of the first task that has failed
        else:
            body = _failure_of(failed)
        self._lifecycle.finish(task, OutcomeFrame(task.index, task.attempt, Status.DEPENDENCY_FAILED, 0.0, 0, body))
        if ends_job(task.job, Status.DEPENDENCY_FAILED):
            self._over[task.job] = None
            self._state.settled.append(task)  # so that `settle` is called


def _is_elsewhere(task: TaskRecord) -> bool:
    """Return whether a task was handed back to its application, which has its result, or will have it."""
    return task.outcome is not None and task.outcome.status in (Status.TAKEN_BACK, Status.INPUT_GONE)


def _failure_of(failed: TaskRecord) -> bytes:
    """Return the report for the dependents of a task that has failed, was cancelled, or was dropped."""
    outcome = failed.outcome
    status = Status.CANCELLED if outcome is None else Status(outcome.status)
    if status is Status.CANCELLED or outcome is None:
        report = ErrorReport(status.name, f"task {failed.name}, whose result it needs, was cancelled", "")
    else:
        own = report_of(outcome, failed.outcome_buffers)
        text = ": ".join(part[:_TEXT_MAX] for part in (own.type_name, own.message) if part) or status.name
        report = ErrorReport(
            own.type_name[:_TEXT_MAX] if status is Status.ERROR else status.name,
            f"task {failed.name}, whose result it needs, has failed: {text}",
            own.traceback[-_EXCEPTION_BYTES_MAX:],
            own.exception if len(own.exception) <= _EXCEPTION_BYTES_MAX else b"",
        )
    return msgspec.msgpack.encode(report)
