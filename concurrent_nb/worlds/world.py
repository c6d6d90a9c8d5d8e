"""A world: objects of the user's that advance in steps, in the workers of a cluster."""

import asyncio
import contextlib
import json
import logging
import numbers
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

import numpy as np

from concurrent_nb.errors import ConfigurationError, NotPicklable, WorldError
from concurrent_nb.shipping.serialization.pickling_failures import describe_failure
from concurrent_nb.shipping.serialization.separate_pickles import SeparatePickler, copy_of, loads_all
from concurrent_nb.worlds import step_task
from concurrent_nb.worlds.context import why_step_does_nothing
from concurrent_nb.worlds.group_runner import GroupRunner, MemberPack, WorldTerms
from concurrent_nb.worlds.shared_values import copied, declared
from concurrent_nb.worlds.step_driver import StepDriver, StepOrders, WorkerAnswer
from concurrent_nb.worlds.step_record import Step
from concurrent_nb.worlds.world_display import WorldDisplay
from concurrent_nb.worlds.world_state import WorldState
from concurrent_nb.worlds.world_system import REPORTED_STEP, WorldEnd, WorldSystem
from concurrent_nb.worlds.world_trace import events_of

if TYPE_CHECKING:
    from concurrent_nb.nodes.application.futures import TaskFuture
    from concurrent_nb.nodes.application.node import ApplicationNode

R = TypeVar("R")

log: Final = logging.getLogger(__name__)

OnError = Literal["stop", "drop"]

#: steps that `World.history` has
HISTORY_MAX: Final = 10_000
#: seconds between two looks at the time while a step runs
LOOK_S: Final = 0.25


class World:
    """Members that advance in steps: each has a method `step(ctx)`, and lives in a worker between steps.

    >>> class Walker:
    ...     def __init__(self, at):
    ...         self.at = at
    ...     def step(self, ctx):
    ...         self.at += int(ctx.rng.integers(-1, 2))
    ...         ctx.add("visits", self.at % 10, 1)
    >>> import numpy as np
    >>> visits = concurrent_nb.shared_array(np.zeros(10, int), merge="sum")
    >>> world = app.world([Walker(0), Walker(5)], shared={"visits": visits}, seed=1)
    >>> world.run(20).number
    20
    >>> int(world.shared["visits"].sum())
    40

    `ApplicationNode.world` makes one. In a step a member reads the world as it was when the step began (`ctx.read`,
    `ctx.inbox`); what it writes and sends takes effect when the step has ended. So the order in which members are
    called does not matter, and the world is the same on any number of workers, bit for bit, unless it runs lock-free.

    Args:
        app: runs the steps.
        members: objects with a method `step(ctx)`: a sequence, or a dictionary by name. The world gets a copy of each.
            Their ids are 0, 1, 2, ... in this order.
        shared: data that members read and write, by name: `shared_array`, `shared_value`, or any value.
        seed: of `ctx.rng`.
        on_error: what happens when a step of a member raises: "stop" ends the run, and the world is as it was before
            that step; "drop" removes the member, and what it has done in that step does not count.
        timeout_s: seconds that the step of one member may take; None: no limit.
        messages_max: messages that a member may send in a step.
        workers: how many workers are used at most; None: all.
        groups: into how many groups the members are divided; None: one for each worker.
        checkpoint_every: steps between two checkpoints; None: chosen so that they take a small part of the time.

    Raises:
        ConfigurationError: there are no members, one has no `step`, or an option has a value that is not allowed.
        NotPicklable: a member or a shared datum cannot be sent.
    """

    def __init__(
        self,
        app: "ApplicationNode",
        members: Sequence[Any] | Mapping[str, Any],
        *,
        shared: Mapping[str, Any] | None = None,
        seed: int = 0,
        on_error: OnError = "stop",
        timeout_s: float | None = None,
        messages_max: int = 100_000,
        workers: int | None = None,
        groups: int | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        names = list(members) if isinstance(members, Mapping) else []
        if not isinstance(members, Iterable):
            raise ConfigurationError(f"members are objects in a list, or in a dictionary by name, not {members!r:.80}")
        objects = list(members.values()) if isinstance(members, Mapping) else list(members)
        _check_members(objects, names)
        if on_error not in get_args(OnError):
            raise ConfigurationError(f'on_error is "stop" or "drop", not {on_error!r}')
        if timeout_s is not None and not _is_positive(timeout_s):
            raise ConfigurationError(f"timeout_s must be above 0, not {timeout_s!r}")
        for name, value in (
            ("messages_max", messages_max),
            ("workers", workers),
            ("groups", groups),
            ("checkpoint_every", checkpoint_every),
        ):
            if value is not None and not _is_integer(value, 1):
                raise ConfigurationError(f"{name} must be an integer above 0, not {value!r}")
        if not _is_integer(seed, 0):
            raise ConfigurationError(f"seed must be an integer from 0 on, not {seed!r}")
        self.id = os.urandom(8)
        self._app = app
        self._workers, self._groups, self._every = (
            None if value is None else int(value) for value in (workers, groups, checkpoint_every)
        )
        limit_s = None if timeout_s is None else float(timeout_s)
        terms = WorldTerms(int(seed), on_error, int(messages_max), limit_s)
        pack = _packed(objects, 0)
        ids = {name: number for number, name in enumerate(names)}
        self._state = WorldState(terms, pack, declared(shared), ids, groups or 1)
        self._driver: StepDriver | None = None
        self._answers: SimpleQueue[tuple[int, TaskFuture[WorkerAnswer]] | _Change] = SimpleQueue()
        self._open: set[TaskFuture[WorkerAnswer]] = set()
        self._lock = threading.Lock()  # held while steps are made
        self._display: WorldDisplay | None = None  # of the present run
        self._late: set[int] = set()  # members that were reported as late
        self._is_between = True  # no step is being made
        self._thread = 0  # that makes steps
        self._changing = threading.Lock()  # held while it is decided who makes a change
        self._stops = threading.Event()  # set when a step shall not be waited for any more
        self._history: deque[Step] = deque(maxlen=HISTORY_MAX)

    # --------------------------------------------------------------------------------------------------------- running

    def run(
        self,
        steps: int,
        *,
        slack: int = 0,
        resolution: int = 1,
        view: Callable[[Step, Mapping[str, Any]], Any] | None = None,
        show: bool | None = None,
        in_cluster: bool = False,
    ) -> Step:
        """Make steps; return the last one.

        >>> class Counter:
        ...     def __init__(self):
        ...         self.count = 0
        ...     def step(self, ctx):
        ...         self.count += 1
        >>> app.world([Counter(), Counter()]).run(10).number
        10

        An interrupt leaves the world as it was after the last whole step.

        Args:
            steps: how many.
            slack: 0: in lock-step: a step begins when all members have made the one before. Else lock-free: members
                may be so many steps ahead of others, and messages arrive as soon as they can. Then the result depends
                on the speed of the workers.
            resolution: steps between two barriers. Messages and what is written arrive at barriers only.
            view: called several times a second with the last step and the shared data; what it returns is shown. With
                `in_cluster` it is called at the end.
            show: show the progress; None: in a notebook and on a terminal.
            in_cluster: drive the steps by a process of the cluster: faster if this one is far away from it. The world
                changes when all of them are made.

        Raises:
            WorldError: a member has failed, what was written cannot be merged, or workers have died again and again.
            ConfigurationError: an option has a value that is not allowed.
            RuntimeError: the world runs already, in another thread.
        """
        if not _is_integer(steps, 1):
            raise ConfigurationError(f"steps must be an integer of at least 1, not {steps!r}")
        _check_pace(slack, resolution)
        steps = int(steps)
        display = WorldDisplay(steps, self._state.step, view, show)
        if in_cluster:
            return self._run_in_cluster(steps, int(slack), int(resolution), display)
        self._display = display
        last = None
        try:
            for last in self._made(steps, slack, resolution, pauses=False):
                display.add(last, self._shared_for_view)
        finally:
            self._display = None
            display.close()
        return self._last(last)

    def steps(self, steps: int | None = None, *, slack: int = 0, resolution: int = 1) -> Iterator[Step]:
        """Make steps one by one: an iterator, which makes the next step when it is asked for it.

        >>> class Idler:
        ...     def step(self, ctx):
        ...         pass
        >>> world = app.world([Idler()])
        >>> for step in world.steps():
        ...     if step.number == 5:
        ...         break
        >>> world.step
        5

        Between two steps the world may be changed: `add`, `write`. In a lock-free run several may come at once.

        Args:
            steps: how many; None: until the caller leaves the iteration.
            slack, resolution: as for `run`.

        Raises as `run`.
        """
        return self._made(steps, slack, resolution, pauses=True)

    def __iter__(self) -> Iterator[Step]:
        """Make steps until the caller leaves the iteration."""
        return self.steps()

    async def __aiter__(self) -> AsyncIterator[Step]:
        """Make steps in a thread, without blocking the event loop: `async for step in world`."""
        # Each step by itself, because an event loop closes this generator some time after its caller has left it.
        while True:
            coming = asyncio.ensure_future(asyncio.to_thread(self._make_one))
            try:
                step = await asyncio.shield(coming)
            except asyncio.CancelledError:
                self._stops.set()
                await asyncio.wait([coming])
                self._stops.clear()
                raise
            if step is None:
                return
            yield step

    def _make_one(self) -> Step | None:
        """Make a step; return None if no member is left, or if it was stopped."""
        with contextlib.closing(self._made(1, 0, 1, pauses=True)) as made:
            return next(made, None)

    def _made(self, steps: int | None, slack: int, resolution: int, pauses: bool) -> Generator[Step, None, None]:
        """Make steps; with `pauses` each one only when the caller asks for it."""
        _check_pace(slack, resolution)
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this world is making steps already")
        slack, resolution = int(slack), int(resolution)
        try:
            driver = self._ready_driver()
            made = 0
            while steps is None or made < steps:
                count = (slack + 1) * resolution if pauses else steps
                assert count is not None
                count = count if steps is None else min(count, steps - made)
                self._begin_steps(threading.get_ident())
                coming = self._drive(driver, count, slack, resolution, collects_last=not pauses)
                for step in list(coming) if pauses else coming:
                    self._note(step)
                    self._is_between = pauses
                    yield step
                if driver.error is not None:
                    raise driver.error
                made += count
                if driver.is_empty or self._stops.is_set():
                    return
        finally:
            self._abandon()
            self._end_steps()
            self._lock.release()

    def _note(self, step: Step) -> None:
        self._history.append(step)
        if step.slowest not in self._late and (words := step.late_member):
            self._late.add(step.slowest)
            log.warning("%s", words)

    def _ready_driver(self) -> StepDriver:
        workers = self._app._count_places(1)
        workers = max(1, workers if self._workers is None else min(workers, self._workers))
        if self._driver is None:
            self._driver = StepDriver(
                self.id, self._state, workers, self._groups or workers, self._every, time.perf_counter
            )
        self._driver.set_workers(workers, self._groups or workers)
        return self._driver

    def _drive(
        self, driver: StepDriver, steps: int, slack: int, resolution: int, collects_last: bool
    ) -> Iterator[Step]:
        self._send(driver.start(steps, slack, resolution, collects_last))
        while True:
            records, driver.records = driver.records, []
            yield from records
            if driver.is_over or self._stops.is_set():
                return
            try:
                answer = self._answers.get(timeout=LOOK_S)
            except Empty:
                if self._display is not None:
                    self._display.wait(self._waits_for(driver), LOOK_S)
                continue
            if isinstance(answer, _Change):
                answer.make()
                continue
            batch, future = answer
            if future not in self._open:  # of an earlier run
                continue
            self._open.discard(future)
            if future.cancelled():
                raise WorldError(
                    f"step {self._state.step + 1} was not made: its tasks were cancelled, or the application closed."
                    f" The world is as it was after step {self._state.step}",
                    self._state.step + 1,
                )
            if (error := future.exception()) is not None:
                self._send(driver.failed(batch, error))
            else:
                self._send(driver.answered(batch, future.result()._replace(slave=future.slave)))

    def _waits_for(self, driver: StepDriver) -> str:
        called = [future.reported for future in self._open if future.reported]
        return driver.waits_for() + (f": {', '.join(called)}" if called else "")

    def _send(self, orders: Sequence[StepOrders]) -> None:
        for each in orders:
            table = self._app.put(each.table)  # pickled once for all
            for number in range(each.tasks):
                future = self._app.submit(step_task.run_order, number, table)
                self._open.add(future)
                future.add_done_callback(partial(self._ended, each.batch))
            table.release()

    def _ended(self, batch: int, future: Any) -> None:
        self._answers.put((batch, future))

    def _abandon(self) -> None:
        """Cancel the orders that are on their way or run: after an error or an interrupt, and when an iteration is
        left."""
        for future in self._open:
            if not future.cancel():
                future._canceller(future.job_id, (future.index,))  # it runs: a member may hang
        self._open.clear()

    def _run_in_cluster(self, steps: int, slack: int, resolution: int, display: WorldDisplay) -> Step:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("this world is making steps already")
        self._begin_steps(0)
        try:
            system = WorldSystem(self._state, steps, slack, resolution, self._workers, self._groups, self._every)
            run = self._app.push_tasksystem(system, name="world")
            try:
                while wait(run.futures, LOOK_S).not_done:  # not run.result, which shows a bar of its own task
                    if (number := run.futures[0].reported.removeprefix(REPORTED_STEP)).isdecimal():
                        display.reached(int(number))
                end: WorldEnd = run.result()
            except BaseException:
                run.cancel()
                raise
            self._state, self._driver = end.state, None
            self._history.extend(end.records)
            if end.records:
                display.add(end.records[-1], self._shared_for_view)
            if end.error is not None:
                raise end.error from end.cause
            return self._last(None)
        finally:
            display.close()
            self._end_steps()
            self._lock.release()

    def _last(self, last: Step | None) -> Step:
        if last is None and self._history:
            last = self._history[-1]
        if last is None:
            raise WorldError("no step was made, because the world has no members left", self._state.step)
        return last

    # ---------------------------------------------------------------------------------------------------- looking at it

    @property
    def step(self) -> int:
        """The number of steps that all members have made."""
        return self._state.step

    @property
    def history(self) -> list[Step]:
        """The last 10,000 steps."""
        return list(self._history)

    @property
    def shared(self) -> dict[str, Any]:
        """Copies of the shared data, as they are after the last step."""
        data = self._state.shared.data
        return {name: np.array(datum.value) if datum.is_array else copy_of(datum.value) for name, datum in data.items()}

    def _shared_for_view(self) -> Mapping[str, Any]:
        return {name: self._state.shared.read(name) for name in self._state.shared.data}

    @property
    def members(self) -> dict[Any, Any]:
        """Copies of the members as they are after the last step, by name or id.

        They are made from the last checkpoint, and the steps since then are repeated here, which may take a while.
        """
        pack = self._collected()
        names = {number: name for name, number in self._state.names.items()}
        members = loads_all(pack.bodies, pack.table)
        return {names.get(number, number): member for number, member in zip(pack.ids.tolist(), members, strict=True)}

    def _collected(self) -> MemberPack:
        pack = MemberPack(np.empty(0, np.int64), [], {}, np.empty(0))
        for number, group in enumerate(self._state.groups):
            adoption = self._state.adoption(number)
            if group.log:
                runner = GroupRunner(self._state.terms, adoption, time.perf_counter)
                runner.repeat(adoption.log)
                pack = pack.added(runner.members())
            else:
                pack = pack.added(adoption.members)
        for group in self._state.groups:
            for born in group.born:
                pack = pack.added(born)
        return pack

    def __len__(self) -> int:
        """Return the number of members."""
        return self._state.count + sum(len(born.ids) for group in self._state.groups for born in group.born)

    def __repr__(self) -> str:
        return f"<World of {len(self):,} members after {self.step:,} steps>"

    def write_trace(self, path: Path | str) -> None:
        """Write the steps of `history` to a file that Perfetto and chrome://tracing open: who ran where, and waited.

        Raises OSError if it cannot be written.
        """
        Path(path).write_text(json.dumps({"displayTimeUnit": "ms", "traceEvents": list(events_of(self._history))}))

    # ------------------------------------------------------------------------------------------------------ changing it

    def add(self, member: Any, name: str = "") -> int:
        """Add a member, which makes its first step in the next one that begins; return its id.

        It may be called at any time, also while another thread makes steps.

        Raises ConfigurationError if it has no method `step`, NotPicklable if it cannot be sent, and WorldError if
        another member has its name.
        """
        _check_members([member], [name] if name else [])
        pack = _packed([member], 0)

        def change() -> int:
            number = self._state.next_id
            if name:
                self._state.add_name(name, number)
            self._state.add_members(pack._replace(ids=np.array([number], np.int64)))
            return number

        return self._change(change)

    def write(self, name: str, value: Any) -> None:
        """Replace a shared datum by a copy of a value.

        It may be called at any time, also while another thread makes steps.

        Raises WorldError if there is none, ValueError if it does not fit an array, and NotPicklable if it cannot be
        sent.
        """
        value = copied(name, value)
        self._change(lambda: self._state.write(name, value))

    def _change(self, change: Callable[[], R]) -> R:
        """Change the state now, or have the thread that makes steps change it."""
        with self._changing:
            if self._is_between or self._thread == threading.get_ident():
                return change()
            done: Future[R] = Future()
            self._answers.put(_Change(done, change))
        return done.result()

    def _begin_steps(self, thread: int) -> None:
        """Have all other threads leave changes to the one that makes steps from now on; 0: none does before the end."""
        with self._changing:
            self._is_between, self._thread = False, thread

    def _end_steps(self) -> None:
        """Allow changes from now on, and make those that wait."""
        with self._changing:
            self._is_between = True
            waiting: list[_Change] = []
            with contextlib.suppress(Empty):
                while True:
                    answer = self._answers.get_nowait()
                    if isinstance(answer, _Change):
                        waiting.append(answer)
        for each in waiting:
            each.make()

    def close(self) -> None:
        """Let workers forget the members. The world remains as it is, and a further run opens its last checkpoint."""
        if self._driver is not None and not self._app.is_closed:
            self._driver = None
            for _ in range(self._app._count_places(1)):
                self._app.submit(step_task.forget, self.id)

    def __reduce__(self) -> Any:
        raise TypeError("a world cannot be sent: it belongs to this process. Send world.members or world.shared")

    def __enter__(self) -> "World":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Change:
    """A change of the state that the thread which makes steps shall make."""

    def __init__(self, done: "Future[Any]", change: Callable[[], Any]) -> None:
        self._done = done
        self._change = change

    def make(self) -> None:
        """Make it, for the thread that waits for it."""
        try:
            self._done.set_result(self._change())
        except Exception as error:  # noqa: BLE001  (the thread that waits raises it)
            self._done.set_exception(error)


def _check_pace(slack: int, resolution: int) -> None:
    for name, value, least in (("slack", slack, 0), ("resolution", resolution, 1)):
        if not _is_integer(value, least):
            raise ConfigurationError(f"{name} must be an integer from {least} on, not {value!r}")
    if slack and resolution > 1:
        raise ConfigurationError("a lock-free run has no barriers, so it has no resolution between them")


def _is_positive(value: object) -> bool:
    return isinstance(value, numbers.Real) and float(value) > 0


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, numbers.Integral) and int(value) >= least


def _check_members(members: Sequence[Any], names: Sequence[Any]) -> None:
    if not members:
        raise ConfigurationError("a world needs at least one member")
    for number, member in enumerate(members):
        if isinstance(member, type) or not callable(getattr(member, "step", None)):
            raise ConfigurationError(
                f"member {number} has no method step(ctx): {member!r:.80}"
                + (" is a class, not an object of it" if isinstance(member, type) else "")
            )
        if words := why_step_does_nothing(getattr(type(member), "step", None), type(member).__name__):
            raise ConfigurationError(f"member {number}: {words}")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"names of members are strings, not {name!r:.80}")


def _packed(members: Sequence[Any], first: int) -> MemberPack:
    pickler = SeparatePickler()
    bodies = []
    for number, member in enumerate(members, first):
        try:
            bodies.append(pickler.dumps(member))
        except Exception as error:  # the object's own pickling may raise anything
            raise NotPicklable(describe_failure(f"member {number}", member, error)) from error
    ids = np.arange(first, first + len(members), dtype=np.int64)
    return MemberPack(ids, bodies, pickler.table, np.zeros(len(members)))
