"""Pickles functions and arguments of one application's tasks, in the thread that submits them."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from concurrent_nb.errors import NotPicklable
from concurrent_nb.nodes.application.client_tasks import NO_PAYLOAD, ClientJob, FunctionPayload, Payload, TaskEntry
from concurrent_nb.nodes.application.found_inputs import FoundInputs, check_home
from concurrent_nb.nodes.application.futures import TaskFuture
from concurrent_nb.nodes.application.job import Job
from concurrent_nb.nodes.application.payload import (
    TaskLoader,
    function_payload,
    store_buffers,
    store_call,
    with_inputs_of,
)
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.nodes.application.task_options import JobOptions, check_function, checked_needs
from concurrent_nb.nodes.application.worker_setups import WorkerSetups
from concurrent_nb.object_store.store import ObjectStore
from concurrent_nb.shipping.environment.envelope import EnvironmentSource, ModulesOnly
from concurrent_nb.shipping.environment.tracker import TRACKER
from concurrent_nb.shipping.functions.pickled_functions import (
    Functions,
    PickledFunction,
    name_of,
    pickled_with_arguments,
)
from concurrent_nb.shipping.serialization import pickles, task_inputs
from concurrent_nb.shipping.serialization.pickles import Shared
from concurrent_nb.shipping.serialization.pickling_failures import describe_arguments, describe_failure
from concurrent_nb.shipping.serialization.references import attribute_of, is_importable
from concurrent_nb.shipping.serialization.task_inputs import ForeignFuture
from concurrent_nb.tasks.system import Task
from concurrent_nb.wire.bound_tasks import ResultParts, bind
from concurrent_nb.wire.codec import INLINE_BYTES, Buffer, length, move_long_body, size_of
from concurrent_nb.wire.messages import Slice, TaskKind

# A name in a module is found faster than a member of an enumeration.
_CALL: Final = int(TaskKind.CALL)
_KEYWORD_CALL: Final = int(TaskKind.KEYWORD_CALL)
_ITEM: Final = int(TaskKind.ITEM)


class _BuffersOfDependent(list[memoryview]):
    """The buffers of arguments in which there are futures: these leave references."""

    inputs: tuple[TaskFuture, ...] = ()


class TaskPacker:
    """Makes what the client thread sends. Safe to use from many threads.

    Args:
        store: where large buffers lie.
        setups: those of the application, which travel with each function.
        environment: what travels along with functions.
        home: the client thread of the application, to which futures belong that are arguments.
    """

    def __init__(
        self, store: ObjectStore, setups: WorkerSetups, environment: EnvironmentSource = TRACKER, home: object = None
    ) -> None:
        self.function_bytes = 0  #: of the functions that were pickled; the caller may reset it
        self._store = store
        self._home = home
        self._setups = setups
        self._environment = environment
        new_collector = partial(FoundInputs, home)
        self._functions = Functions(
            store_buffers=partial(store_buffers, store), environment_source=environment, new_collector=new_collector
        )
        self._unwrapped = Functions(
            store_buffers=partial(store_buffers, store),
            environment_source=ModulesOnly(environment),
            new_collector=new_collector,
        )
        self._last_function: tuple[PickledFunction | None, FunctionPayload] = (None, FunctionPayload(b"", NO_PAYLOAD))
        self._loader: TaskLoader | None = None  # of single tasks whose class cannot change
        self._loader_key: object = None  # its environment, and whether there are setups

    def function_payload(
        self, fn: Callable[..., Any], *, spawns: bool = False, with_setups: bool = True
    ) -> FunctionPayload:
        """Pickle a function, or find it pickled, with the setups that its tasks need; for a job if it `spawns`.

        Raises NotPicklable, and TypeError if it cannot be called.
        """
        check_function(fn)
        if self._setups.are_there and with_setups:
            unwrapped = self._unwrapped.pickle(fn, spawns=spawns)
            pickled = self._with_setups(unwrapped)
            if unwrapped.inputs:
                pickled = dataclasses.replace(pickled, inputs=unwrapped.inputs)
        else:
            pickled = self._functions.pickle(fn, spawns=spawns)
        for future in pickled.inputs:
            try:
                check_home(future, self._home)
            except ForeignFuture as error:
                raise NotPicklable(f"{pickled.name} uses {error}") from error
        last, function = self._last_function
        if pickled is not last:  # most submits have the function of the one before
            function = function_payload(pickled, checked_needs(attribute_of(fn, "task_needs")))
            self.function_bytes += len(function.payload.body) + sum(map(size_of, function.payload.sizes))
            # Large buffers are not kept for a call that may never come, nor are futures, which keep their results.
            if pickled.lease is None and not pickled.inputs:
                self._last_function = (pickled, function)
        return function

    def call_payload(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        """Pickle the arguments of a call. Raises NotPicklable."""
        try:
            if not kwargs and (small := pickles.dumps_small(args)) is not None and len(small) <= INLINE_BYTES:
                return Payload(small, kind=_CALL)
            body, buffers = pickles.dumps_call(args, kwargs, self._dumps)
            kind = _KEYWORD_CALL if kwargs else _CALL
            if type(buffers) is _BuffersOfDependent:
                return replace(store_call(self._store, body, buffers, kind), inputs=buffers.inputs)
            return store_call(self._store, body, buffers, kind)
        except Exception as error:  # the argument's own pickling may raise anything
            raise self._not_picklable(fn, args, kwargs, error) from error

    def item_payload(self, fn: Callable[..., Any], args: tuple[Any, ...], number: int) -> Payload:
        """Pickle the arguments of an item, and its number in the job. Raises NotPicklable."""
        try:
            body, buffers = pickles.dumps_item(args, number, self._dumps)
            if type(buffers) is _BuffersOfDependent:
                return replace(store_call(self._store, body, buffers, _ITEM), inputs=buffers.inputs)
            return store_call(self._store, body, buffers, _ITEM)
        except Exception as error:  # as above
            raise self._not_picklable(fn, args, {}, error) from error

    def _dumps(self, thing: Any) -> tuple[bytes, list[memoryview]]:
        """Pickle arguments; futures among them leave references."""
        # As `task_inputs.collecting`, which takes longer than most arguments.
        of_thread = task_inputs.OF_THREAD
        before = of_thread.collector
        found = of_thread.collector = FoundInputs(self._home)
        try:
            body, buffers = pickles.dumps(thing)
        finally:
            of_thread.collector = before
        if found.is_used and found.futures:
            buffers = _BuffersOfDependent(buffers)
            buffers.inputs = found.futures
        return body, buffers

    def with_results(self, payload: Payload) -> Payload:
        """Return the payload of a task with the values of its inputs that have ended. Raises NotPicklable."""
        results: list[ResultParts] = []
        lease = payload.lease
        ended = [it for it in payload.inputs if isinstance(it, TaskFuture) and it.done() and not it.cancelled()]
        ended = [future for future in ended if future.exception() is None]
        for needed in ended:
            try:
                stored = store_call(self._store, *pickles.dumps(needed.result()))
            except Exception as error:  # as above
                raise NotPicklable(f"the value of task {needed.task} cannot be sent on: {error}") from error
            results.append(ResultParts(needed.job_id, needed.index, stored.body, stored.sizes, stored.buffers))
            if stored.lease is not None and lease is not None:
                lease.take_over(stored.lease)
            lease = lease or stored.lease
        bound = bind(payload.kind, payload.body, payload.sizes, payload.buffers, results)
        left = tuple([needed for needed in payload.inputs if needed not in ended])
        return Payload(*move_long_body(*bound), lease, int(TaskKind.BOUND), left)

    def _not_picklable(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception
    ) -> NotPicklable:
        name = name_of(fn)
        if isinstance(error, ForeignFuture):
            return NotPicklable(f"an argument of {name} is, or has in it, {error}")
        with task_inputs.collecting(FoundInputs(self._home)):  # futures are not to blame
            return NotPicklable(f"an argument of {name} cannot be sent: {describe_arguments(fn, args, kwargs, error)}")

    def job_entries(
        self,
        job: Job,
        record: ClientJob[TaskHandle],
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        options: JobOptions,
    ) -> list[TaskEntry[TaskHandle]]:
        """Make the tasks of a job, one for each call. Raises NotPicklable."""
        wanted = checked_needs(options.needs)
        with_setups = wanted is None or wanted.kind != "system_host"
        packed = self.function_payload(function, spawns=True, with_setups=with_setups)
        needs = packed.needs if options.needs is None else wanted
        entries = []
        for index, call in enumerate(calls):
            payload = with_inputs_of(packed, self.call_payload(function, call, {}), record)
            entries.append(TaskEntry(record, index, packed, payload, job._new_handle(index), options.limits, needs))
        if record.is_linked:
            inputs = (it for entry in entries for it in entry.payload.inputs)
            job._note_inputs(it for it in inputs if isinstance(it, TaskFuture))
        return entries

    def setup_entries(
        self, job: Job, record: ClientJob[TaskHandle], function: PickledFunction, count: int, hold_s: float
    ) -> list[TaskEntry[TaskHandle]]:
        """Make `count` tasks that run setups, and stay `hold_s` seconds where these have run already."""
        setup = function_payload(function)
        return [
            TaskEntry(
                record,
                index,
                setup,
                store_call(self._store, *pickles.dumps_call((hold_s,), {})),
                job._new_handle(index),
            )
            for index in range(count)
        ]

    def setup_call(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> PickledFunction:
        """Pickle a call that workers run as a setup. Raises NotPicklable, and TypeError if it cannot be called."""
        check_function(fn)
        return pickled_with_arguments(fn, args, partial(store_buffers, self._store), self._environment)

    def put(self, value: Any) -> Shared:
        """Pickle a value once for many tasks. Raises NotPicklable."""
        try:
            body, stored, lease = store_buffers(self._store, *pickles.dumps(value))
        except Exception as error:  # whatever the value's own pickling raises is the caller's to see
            kind = type(value).__name__
            raise NotPicklable(f"this {kind} cannot be put: {describe_failure('it', value, error)}") from error
        whole: list[Buffer] = [self._store.view(part) if isinstance(part, Slice) else part for part in stored]
        if not body:
            body, whole = whole[0], whole[1:]  # type: ignore[assignment]
        return Shared(body, whole, lease, f"{type(value).__name__}, {sum(map(length, [body, *whole])):,} bytes")

    def loader_of(self, task_type: type[Task]) -> TaskLoader:
        """Return a loader for one task of this class: the same one while nothing that travels along can change."""
        if not is_importable(task_type):  # it may have changed since its last task was pushed
            return self.new_loader()
        key = self._environment.current(), self._setups.are_there
        if self._loader is None or key != self._loader_key:
            self._loader, self._loader_key = self.new_loader(), key
        return self._loader

    def new_loader(self) -> TaskLoader:
        """Return a loader for tasks that are pushed now."""
        if self._setups.are_there:
            return TaskLoader(self._store, ModulesOnly(self._environment), self._with_setups)
        return TaskLoader(self._store, self._environment)

    def _with_setups(self, pickled: PickledFunction) -> PickledFunction:
        return self._setups.prepared(pickled, self._environment.current())
