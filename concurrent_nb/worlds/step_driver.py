"""Decides which groups advance when, and where. Pure: answers of workers in, orders for them out.

    begin() ----------------.
    answered(WorkerAnswer) --> [StepOrders]: so many tasks with the same content
    failed(error) ----------'

A group may begin a step when no other group is more than `slack` steps behind; without slack that is a barrier, and
what all groups have done is taken over together. An order goes to whichever worker takes it: it has the inputs of all
groups that may begin, and the worker in which each lives. A worker advances those that live there. If no
worker has advanced a group after several orders, another worker may adopt it, with a checkpoint and the inputs since.

    the worker of a group has died       -> the next orders find no worker for it -> adopted
    a worker has taken two orders        -> the second finds nothing to do -> ordered again
    a worker has lost its groups         -> it reports that -> adopted
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from concurrent_nb.errors import PoisonTask, RemoteTraceback, WorldError
from concurrent_nb.shipping.serialization.sealed import Sealed, seal
from concurrent_nb.worlds.group_runner import Adoption, FailedMember, GroupInput, GroupOutput, WorldTerms
from concurrent_nb.worlds.shared_values import SharedDatum
from concurrent_nb.worlds.step_record import GroupShare, Step, measured_in
from concurrent_nb.worlds.world_state import WorldState

#: orders that may find no worker of a group, before another worker may adopt it
MISSES_MAX: Final = 3
#: part of the time that checkpoints may take
CHECKPOINT_PART: Final = 0.03
#: least and most steps between two checkpoints that the driver chooses; and seconds of steps that may be repeated
CHECKPOINT_LEAST: Final = 5
CHECKPOINT_MOST: Final = 1000
REPEATED_S: Final = 10.0
#: bytes of inputs after which a checkpoint is made
LOG_BYTES_MAX: Final = 256 << 20
#: groups are divided anew at a checkpoint if the slowest takes this much longer than the mean
UNEVEN: Final = 1.15
#: ... and if that is worth it: opening the members elsewhere takes as long as so many checkpoints
DIVIDING_CHECKPOINTS: Final = 5
#: steps after which a group that is on a worker with too many may move without a checkpoint
SHORT_LOG: Final = 20


_CALLED: Final = re.compile(r"step (\d+) of member (\d+)")


def words_about(step: int, member: int) -> str:
    """Return what a worker reports of a member that is called; -1: none is."""
    return f"step {step} of member {member}" if member >= 0 else f"after step {step}, when no member was called"


class StepTable(NamedTuple):
    """The content of orders: the same for all that are sent together."""

    world: bytes  #: id
    batch: int  #: number of the orders: what a group has done for a later one is not undone
    terms: WorldTerms
    steps: Mapping[int, tuple[int, int]]  #: by group: number of its next step, and where its range of ids begins
    inputs: Mapping[int, Sealed[GroupInput]]  #: by group
    owners: Mapping[int, str]  #: the worker in which a group lives; those that are not here may be adopted
    barred: Mapping[int, str]  #: the worker that may not adopt a group, because it has too many
    adoptions: Mapping[int, tuple[int, Sealed[Adoption]]]  #: without the shared data: the number of those
    bases: Mapping[int, Sealed[Mapping[str, SharedDatum]]]  #: shared data for adoptions, by number
    offers: Sequence[Sequence[int]]  #: by number of the order: groups that its worker may adopt
    collects: bool  #: outputs have checkpoints
    reports_calls: bool  #: who is called is reported before each step of a member, because workers have died


class StepOrders(NamedTuple):
    """So many orders with this content."""

    batch: int  #: number, for the answers
    tasks: int
    table: StepTable


class WorkerAnswer(NamedTuple):
    """What a worker has done for an order."""

    worker: str  #: key of the process
    place: str  #: host and pid, for people
    slave: str
    outputs: Mapping[int, GroupOutput]
    lost: Sequence[int]  #: groups that should live there and do not


@dataclass
class _Batch:
    groups: set[int]
    open: int
    count: int
    workers: set[str]
    ordered_s: float
    reports_calls: bool


class StepDriver:
    """Runs steps of a world.

    Args:
        world: id of the world.
        state: its state, which changes.
        workers: how many orders may be sent at the same time.
        groups: how many groups there should be.
        every: steps between two checkpoints; None: chosen by what they cost.
        clock: the time in seconds.
    """

    def __init__(
        self,
        world: bytes,
        state: WorldState,
        workers: int,
        groups: int,
        every: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.state = state
        self.records: list[Step] = []  #: of the steps that have been made; taken by the caller
        self.error: BaseException | None = None  #: that has ended the run
        self.owners: dict[int, str] = {}  #: the worker in which each group lives
        self.target = state.step  #: the last step to make
        self.workers = max(1, workers)
        self._world = world
        self._slack = 0
        self._resolution = 1
        self._groups = max(1, groups)
        self._every = every
        self._clock = clock
        self._batches: dict[int, _Batch] = {}
        self._pending: dict[int, tuple[GroupInput, GroupOutput]] = {}  # of a step that not all groups have made
        self._inputs: dict[int, GroupInput] = {}  # that were ordered
        self._misses: dict[int, int] = {}
        self._barred: dict[int, str] = {}
        self._known: dict[str, int] = {}  # workers that have answered: number of the last batch
        self._shares: dict[int, GroupShare] = {}
        self._last_s = clock()
        self._collects = False
        self._reports_calls = False
        self._collects_last = False
        self._step_s = 0.0  # a moving average
        self._collect_s = 0.0
        self._unevenness = 1.0  # a moving average
        self._group_s = 0.0  # what a group takes for a step, a moving average
        self._divided = state.step  # the step before which groups were divided

    def start(self, steps: int, slack: int = 0, resolution: int = 1, collects_last: bool = False) -> list[StepOrders]:
        """Begin a run; return its first orders. What an earlier run has left unfinished is forgotten.

        Args:
            steps: how many steps to make.
            slack: how many steps a group may be ahead of others.
            resolution: steps between two barriers.
            collects_last: make a checkpoint at the end.
        """
        self.error = None
        self.target = max(group.step for group in self.state.groups) + steps
        self._slack, self._resolution, self._collects_last = slack, resolution, collects_last
        self._batches.clear()
        self._pending.clear()
        self._inputs.clear()
        self._misses.clear()
        self._shares.clear()
        self._reports_calls = False
        self._last_s = self._clock()
        self.state.is_lock_free = slack > 0
        if not self.is_over and self._is_worth_dividing():
            self._divide()
        return self._orders()

    @property
    def is_over(self) -> bool:
        """Whether no more orders come: all steps are made, an error has ended them, or no member is left."""
        return self.error is not None or (not self._pending and (self._is_done or self.is_empty))

    @property
    def _is_done(self) -> bool:
        return all(group.step >= self.target for group in self.state.groups)

    @property
    def is_empty(self) -> bool:
        """Whether no member is left."""
        return self.state.is_even() and not self.state.count and not any(group.born for group in self.state.groups)

    def waits_for(self) -> str:
        """Return words about the groups that the step waits for."""
        numbers = {number for batch in self._batches.values() for number in batch.groups} - set(self._pending)
        return self._words(numbers)

    # --------------------------------------------------------------------------------------------------------- events

    def set_workers(self, workers: int, groups: int) -> None:
        """Change how many orders may be sent at the same time, and how many groups there should be."""
        self.workers, self._groups = max(1, workers), max(1, groups)

    def _divide(self) -> None:
        """Make other groups, of equal cost. All must have just been collected."""
        self.state.divide(self._groups)
        self.owners.clear()
        self._barred.clear()
        self._misses.clear()
        self._unevenness = 1.0
        self._divided = self.state.step

    def answered(self, batch: int, answer: WorkerAnswer) -> list[StepOrders]:
        """Take an answer; return further orders."""
        known = self._batches.get(batch)
        if known is None:  # of an earlier run
            return []
        known.open -= 1
        known.workers.add(answer.worker)
        self._known[answer.worker] = batch
        now_s = self._clock()
        for number in answer.lost:
            if self.owners.get(number) == answer.worker:
                del self.owners[number]
        for number, output in answer.outputs.items():
            self._take_output(number, output, answer, now_s)
        if not known.open:
            self._end_batch(batch, known)
        return self._orders()

    def failed(self, batch: int, error: BaseException) -> list[StepOrders]:
        """Take the error of an order that no worker could carry out; return further orders.

        When workers have died of an order, it is given once more, and the workers report who is called. With
        on_error="drop" that member is removed. Else, and after all other errors, the run is over.
        """
        known = self._batches.get(batch)
        if known is None:
            return []
        known.open -= 1
        if self.error is None and isinstance(error, PoisonTask) and self._may_know_more(known, error):
            if not known.open:
                self._end_batch(batch, known)
                for number in known.groups - set(self._pending):
                    self.owners.pop(number, None)
            return self._orders()
        if not known.open:
            del self._batches[batch]
        if self.error is None:
            step = self.state.step + 1
            todo = self._words(known.groups - set(self._pending))
            self.error = WorldError(
                f"step {step} could not be made: {type(error).__name__}: {error}. It waited for {todo}. The world"
                f" is as it was after step {self.state.step}",
                step,
            )
            self.error.__cause__ = error
        return []

    def _may_know_more(self, batch: _Batch, error: PoisonTask) -> bool:
        """Return whether the groups of a batch, of which workers have died, should be ordered once more.

        Else it is known who kills them, and the run is over with that error; or it will not be known.
        """
        if not batch.reports_calls:
            self._reports_calls = True
            return True
        if (found := _CALLED.match(error.reported)) is None:
            return False
        step, member = map(int, found.groups())
        words = f"it kills its worker: {error}"
        group = int(np.searchsorted(self.state.first_ids, member, side="right")) - 1
        if step <= self.state.groups[group].step or self.state.terms.on_error == "stop":
            self._stop([FailedMember(member, step, "", words, "")])
            assert self.error is not None
            self.error.__cause__ = error
            return True
        inputs = self._inputs.get(group)
        if inputs is None or group in self._pending or (step, member) in inputs.doomed:  # so it is not this member
            return False
        self._inputs[group] = inputs._replace(doomed={**inputs.doomed, (step, member): words})
        return True

    def _words(self, numbers: Iterable[int]) -> str:
        texts = []
        for number in sorted(numbers):
            ids = self.state.groups[number].members.ids
            texts.append(f"group {number}" + (f" (members {ids[0]} to {ids[-1]})" if len(ids) else ""))
        return ", ".join(texts)

    # -------------------------------------------------------------------------------------------------------- outputs

    def _take_output(self, number: int, output: GroupOutput, answer: WorkerAnswer, now_s: float) -> None:
        inputs = self._inputs.get(number)
        if inputs is None or number in self._pending or self.error is not None:
            return
        if output.step != inputs.step + inputs.steps - 1 and not output.failed:
            return  # of an order that was sent twice
        if output.failed and self.state.terms.on_error == "stop":
            self.owners.pop(number, None)
            self._stop(output.failed)
            return
        complete = self.state.with_routes(number, output)
        if complete is None:  # so its worker and this driver do not mean the same: another one may adopt it
            self.owners.pop(number, None)
            return
        self.owners[number] = answer.worker
        self._misses.pop(number, None)
        self._barred.pop(number, None)
        self._shares[number] = GroupShare(
            number,
            answer.place,
            answer.slave,
            output.members,
            output.messages,
            output.elapsed_s,
            now_s,
        )
        self._pending[number] = (inputs, complete)
        if output.collected is not None:
            self._collect_s = max(output.collected.elapsed_s, self._collect_s * 0.9)
        if self._slack or len(self._pending) == self._hindmost():
            self._commit(now_s)

    def _stop(self, failed: Sequence[FailedMember]) -> None:
        first = min(failed, key=lambda each: (each.step, each.member))
        what = f"{first.type_name}: {first.text}" if first.type_name else first.text
        if self.state.terms.on_error == "drop":
            hint = ". It was not dropped, because it had made that step before, in a worker that was lost"
        else:
            hint = '; with on_error="drop" it would go on without this member'
        self.error = WorldError(
            f"member {first.member} failed in step {first.step}: {what}\nThe world is as it was after step"
            f" {self.state.step}{hint}.",
            first.step,
            first.member,
        )
        if first.traceback:
            self.error.__cause__ = RemoteTraceback(first.traceback)

    def _commit(self, now_s: float) -> None:
        pending, self._pending = self._pending, {}
        outputs = [pending[number][1] for number in sorted(pending)]
        try:
            self.state.commit(pending)
        except WorldError as error:
            step = self.state.step + 1
            self.owners.clear()  # they have made a step that does not count
            self.error = WorldError(f"{error}. This was in step {step}, which does not count", step, error.member)
            self.error.__cause__ = error.__cause__
            return
        for number in pending:
            del self._inputs[number]
        for batch in self._batches.values():
            batch.groups.difference_update(pending)
        self._reports_calls = False
        self._add_record(outputs, sorted(pending), now_s)

    def _add_record(self, outputs: Sequence[GroupOutput], numbers: Sequence[int], now_s: float) -> None:
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        self._step_s = elapsed_s if not self._step_s else 0.8 * self._step_s + 0.2 * elapsed_s
        shares = [self._shares.pop(number) for number in numbers]
        shares = [replace(each, wait_s=0.0 if self._slack else now_s - each.wait_s) for each in shares]
        mean_s = sum(each.elapsed_s for each in shares) / len(shares)
        if mean_s > 0:
            ratio = max(each.elapsed_s for each in shares) / mean_s
            self._unevenness = 0.9 * self._unevenness + 0.1 * ratio
            self._group_s = mean_s if not self._group_s else 0.9 * self._group_s + 0.1 * mean_s
        slowest = max(outputs, key=lambda output: output.slowest_s)
        self.records.append(
            Step(
                outputs[0].step,
                elapsed_s,
                self.state.count,
                sum(output.messages for output in outputs),
                sum(output.undelivered for output in outputs),
                sum(len(output.born_names) for output in outputs),
                sum(len(output.left) for output in outputs),
                [failed for output in outputs for failed in output.failed],
                measured_in(outputs),
                slowest.slowest,
                slowest.slowest_s,
                shares,
            )
        )

    # In lock-step, the groups that have made the fewest steps make the next one. They are all groups, unless there was
    # a lock-free run that was not finished.

    def _hindmost(self) -> int:
        """Return how many groups make the next step in lock-step."""
        return sum(group.step == self.state.step for group in self.state.groups)

    def _next_goal(self) -> int:
        """Return up to which step these may go."""
        return min((group.step for group in self.state.groups if group.step > self.state.step), default=self.target)

    # --------------------------------------------------------------------------------------------------------- orders

    def _end_batch(self, number: int, batch: _Batch) -> None:
        """All orders of a batch have been answered: order groups that no worker had again, or have them adopted."""
        del self._batches[number]
        for group in batch.groups:
            if group in self._pending or group not in self._inputs:
                continue
            misses = self._misses[group] = self._misses.get(group, 0) + 1
            has_asked_all = batch.count >= self.workers and len(batch.workers) == batch.count
            if misses >= MISSES_MAX or has_asked_all:
                self.owners.pop(group, None)
                self._barred.pop(group, None)

    def _may_begin(self) -> list[int]:
        """Return the groups that may begin a step and are in no order."""
        groups = self.state.groups
        behind = min(group.step for group in groups)
        ordered = {number for batch in self._batches.values() for number in batch.groups}
        return [
            number
            for number, group in enumerate(groups)
            if group.step < self.target
            and group.step - behind <= self._slack
            and number not in ordered
            and number not in self._pending
        ]

    def _orders(self) -> list[StepOrders]:
        if self.is_over:
            return []
        todo = self._may_begin()
        if not todo:
            return []
        if not self._slack and not self._pending and not self._inputs:
            self._begin_step()
            todo = self._may_begin()
        goal = self.target if self._slack else self._next_goal()
        for number in todo:
            if number not in self._inputs:
                left = goal - self.state.groups[number].step
                self._inputs[number] = self.state.inputs(number, min(self._resolution, left))
        free = [number for number in todo if number not in self.owners]
        retried = any(number in self._misses for number in todo)
        # Orders of earlier batches that no worker has taken yet: it may be busy with other tasks for long.
        late = sum(batch.open for batch in self._batches.values() if not batch.groups)
        count = max(1, (self.workers if retried else min(self.workers, len(todo))) - late)
        offers: list[list[int]] = [[] for _ in range(count)]
        for at, number in enumerate(free):
            offers[at % count].append(number)
        self._collects = (self._slack > 0 and self._is_due()) or self._collects
        batch = self.state.next_batch
        self.state.next_batch += 1
        table = StepTable(
            self._world,
            batch,
            self.state.terms,
            {number: (self._inputs[number].step, int(self.state.first_ids[number])) for number in todo},
            {number: self._sealed_inputs(number) for number in todo},
            {number: self.owners[number] for number in todo if number in self.owners},
            {number: worker for number, worker in self._barred.items() if number in todo},
            *self._sealed_adoptions(free),
            offers,
            self._collects,
            self._reports_calls,
        )
        if self._slack:
            self._collects = False
        self._batches[batch] = _Batch(set(todo), count, count, set(), self._clock(), self._reports_calls)
        return [StepOrders(batch, count, table)]

    def _sealed_adoptions(
        self, numbers: Sequence[int]
    ) -> tuple[dict[int, tuple[int, Sealed[Adoption]]], dict[int, Sealed[Mapping[str, SharedDatum]]]]:
        """Return adoptions, and the shared data that they need: once for all that need the same."""
        adoptions: dict[int, tuple[int, Sealed[Adoption]]] = {}
        bases: dict[int, Sealed[Mapping[str, SharedDatum]]] = {}
        for number in numbers:
            adoption, seen = self.state.adoption(number), self.state.seen(number)
            adoptions[number] = seen, seal(adoption._replace(shared={}))
            if seen not in bases:
                bases[seen] = seal(adoption.shared)
        return adoptions, bases

    def _sealed_inputs(self, number: int) -> Sealed[GroupInput]:
        inputs = self._inputs[number]
        return seal(inputs.bare(self.state.groups[number].known) if number in self.owners else inputs)

    def _begin_step(self) -> None:
        """Before a step that all groups begin together: divide, move, and decide on a checkpoint."""
        if self._is_worth_dividing():
            self._divide()
        self._spread()
        self._collects = self._is_due()

    def _is_due(self) -> bool:
        """Return whether the next step ends with a checkpoint."""
        since = max(group.log_steps for group in self.state.groups) + self._resolution
        if self._collects_last and self.state.step + self._resolution >= self.target:
            return True
        if self._every is not None:
            return since >= self._every
        if sum(group.log_bytes for group in self.state.groups) + self.state.changes_bytes > LOG_BYTES_MAX:
            return True
        if since < CHECKPOINT_LEAST:
            return False
        if self._collect_s == 0.0 or since >= CHECKPOINT_MOST or since * self._step_s >= REPEATED_S:
            return True
        return since * self._step_s * CHECKPOINT_PART >= self._collect_s

    def _is_worth_dividing(self) -> bool:
        state = self.state
        if not state.is_even() or any(group.log for group in state.groups) or len(state.groups) > self._groups:
            return False
        if len(state.groups) < min(self._groups, state.count):
            return True
        if len(state.groups) < 2 or self._unevenness <= UNEVEN:
            return False
        # It is not known how many steps come after this run: as many as since the groups were divided last.
        coming = max(self.target - state.step, state.step - self._divided)
        return (self._unevenness - 1.0) * self._group_s * coming > DIVIDING_CHECKPOINTS * self._collect_s

    def _spread(self) -> None:
        """Let a group move from the worker that has most to one that has two less, or none at all."""
        recent = [worker for worker, batch in self._known.items() if batch >= self.state.next_batch - 3]
        loads = dict.fromkeys(recent, 0)
        for worker in self.owners.values():
            loads[worker] = loads.get(worker, 0) + 1
        if len(loads) < 2:
            return
        most, least = max(loads, key=lambda each: loads[each]), min(loads, key=lambda each: loads[each])
        if loads[most] - loads[least] < 2:
            return
        group = max(number for number, worker in self.owners.items() if worker == most)
        if len(self.state.groups[group].log) <= SHORT_LOG:
            del self.owners[group]
            self._barred[group] = most
