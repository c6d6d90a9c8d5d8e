"""Which worker gets which tasks. Pure.

Task systems first, then tasks of several slots; then tasks of one slot and tasks in threads, the older one first. If
nothing waits, work that is ahead of a busy worker moves to an idle one.
"""

from collections.abc import Sequence

from concurrent_nb.wire.messages import HOSTS_MAX
from concurrent_nb.workers.slave_side.attempts import Attempt, Command, Dismiss, GiveTasks
from concurrent_nb.workers.slave_side.pool_scheduler.attempt_queue import AttemptQueue
from concurrent_nb.workers.slave_side.pool_scheduler.pool_state import PAGE_POLL_S, PoolState
from concurrent_nb.workers.slave_side.pool_scheduler.thread_process import ThreadProcess
from concurrent_nb.workers.slave_side.pool_scheduler.worker_lifecycle import WorkerLifecycle
from concurrent_nb.workers.slave_side.pool_scheduler.worker_table import WorkerState


class Assignment:
    """Assign waiting tasks to workers that can take them."""

    def __init__(self, state: PoolState, lifecycle: WorkerLifecycle, threads: ThreadProcess) -> None:
        self._state = state
        self._workers = state.workers
        self._lifecycle = lifecycle
        self._threads = threads

    def assign(self, now: float) -> list[Command]:
        """Assign all that can be assigned now."""
        state, workers = self._state, self._workers
        commands = self._assign_system_hosts(now) if state.system_hosts or workers.system_hosts else []
        multi_slot = state.multi_slot
        while multi_slot and workers.free_slots >= (width := self.width(multi_slot.first())):
            commands.append(self._give_pack(workers.take_slots(width), multi_slot.pop_pack(1), now))
        if multi_slot:
            return commands  # slots that get free are kept for it
        if state.threads or state.suspected:
            commands += self._threads.start_threads(now)
        single_slot = state.single_slot
        while True:
            queue, thread = self._threads.next_thread()
            if thread is not None and not (single_slot and single_slot.is_older_than(queue)):
                if workers.free_slots < 1:
                    return commands  # the next slot that gets free is kept for it
                commands.append(self._give(workers.take_slot(thread), queue, now))
            elif single_slot and (worker := workers.pop_next()):
                commands.append(self._give(worker, single_slot, now))
            else:
                break
        if not (single_slot or queue) and workers.free_slots > 0 and (loaded := workers.most_loaded()):
            commands.append(self._lifecycle.recall(loaded))
        return commands

    def _assign_system_hosts(self, now: float) -> list[Command]:
        """Give task systems to the workers beside the slots; start such workers, and dismiss those that have ended."""
        commands: list[Command] = []
        waiting, hosts = self._state.system_hosts, self._workers.system_hosts
        for worker in hosts.values():
            if worker.is_free and waiting and not worker.spent:
                worker.spent = True
                commands.append(self._give_pack(worker, waiting.pop_pack(1), now))
            elif worker.is_free:
                worker.killed = True
                commands.append(Dismiss(worker.number))
        starting = sum(not (worker.pid or worker.killed) for worker in hosts.values())
        for _ in range(min(len(waiting) - starting, HOSTS_MAX - len(hosts))):
            commands.append(self._lifecycle.start(now, system_host=True))
        return commands

    def width(self, attempt: Attempt) -> int:
        """Return how many slots a task of several slots takes."""
        cores = attempt.needs.cores if attempt.needs is not None else 1
        # A master asks for no more than the slave has announced, but that may have become less meanwhile.
        return min(cores or self._state.slots, self._state.slots)

    def _give(self, worker: WorkerState, queue: AttemptQueue, now: float) -> GiveTasks:
        """Give a pack of about `ahead_s` of work, at most a fair share of what waits; of suspects, one."""
        size = 1 if queue is self._state.suspected else self._workers.pack_size(queue.next_function())
        size = min(size, -(-len(queue) // self._state.slots))
        pack = queue.pop_pack(size if size < worker.tasks_left else int(worker.tasks_left))
        return self._give_pack(worker, pack, now)

    def _give_pack(self, worker: WorkerState, pack: Sequence[Attempt], now: float) -> GiveTasks:
        worker.assign(pack, now)
        state = self._state
        if state.next_poll is None or state.next_poll > now + PAGE_POLL_S:
            state.next_poll = now + PAGE_POLL_S
        return GiveTasks(worker.number, pack[0].function, pack)
