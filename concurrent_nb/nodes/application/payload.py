"""Takes snapshots of what is sent: stores large buffers in the application's shared memory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from msgspec.structs import replace

from concurrent_nb.nodes.application.client_tasks import ClientJob, FunctionPayload, Payload
from concurrent_nb.nodes.application.task_handle import TaskHandle
from concurrent_nb.object_store.segments import is_available
from concurrent_nb.object_store.store import Lease, ObjectStore
from concurrent_nb.shipping.environment.envelope import EnvironmentSource
from concurrent_nb.shipping.functions.pickled_functions import PickledFunction
from concurrent_nb.shipping.functions.task_objects import TaskObjectPacker
from concurrent_nb.shipping.serialization.pickles import OUT_OF_BAND_BYTES
from concurrent_nb.tasks.system import Task
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import INLINE_BYTES, Buffer, pack_body


def store_buffers(
    store: ObjectStore, body: bytes, buffers: Sequence[memoryview]
) -> tuple[bytes, Sequence[Buffer | m.Slice], Lease | None]:
    """Take a snapshot of a pickle's buffers: in shared memory, or as copies on systems that have none.

    Returns the pickle (empty if it is the first of the parts), the parts, and what keeps those in shared memory.
    """
    if not is_available():
        return body, [bytearray(buffer) for buffer in buffers], None
    is_long = len(body) >= OUT_OF_BAND_BYTES
    stored: list[Buffer | m.Slice] = []
    slices: list[m.Slice] = []
    for part in (memoryview(body), *buffers) if is_long else buffers:
        slice_ = store.put(part)
        # As a bytearray, because what is pickled from read-only memory is read-only where it arrives.
        stored.append(bytearray(part) if slice_ is None else slice_)
        if slice_ is not None:
            slices.append(slice_)
    return b"" if is_long else body, stored, Lease(store, slices) if slices else None


def store_call(store: ObjectStore, body: bytes, buffers: Sequence[memoryview], kind: int = 0) -> Payload:
    """Take a snapshot of the pickled arguments of a task of this `TaskKind`."""
    if not buffers and len(body) <= INLINE_BYTES:
        return Payload(body, (), (), None, kind)
    body, stored, lease = store_buffers(store, body, buffers)
    return Payload(*pack_body(body, stored), lease, kind)


def function_payload(function: PickledFunction, needs: m.Needs | None = None) -> FunctionPayload:
    """Return a pickled function as it is sent."""
    lease = cast("Lease | None", function.lease)
    payload = Payload(*pack_body(function.body, function.buffers), lease, inputs=function.inputs)
    return FunctionPayload(function.digest, payload, needs, function.name[: m.NAME_MAX])


def with_inputs_of(function: FunctionPayload, payload: Payload, record: ClientJob[TaskHandle]) -> Payload:
    """Return the payload of a task of a job that needs the results to which its function refers as well."""
    inputs = function.payload.inputs
    record.is_linked = record.is_linked or bool(inputs or payload.inputs)
    if not inputs:
        return payload
    return replace(payload, inputs=tuple(dict.fromkeys((*payload.inputs, *inputs))))


class TaskLoader:
    """Pickles task objects. A class is sent as it was when its first task was loaded.

    Args:
        environment_source: what travels along with functions.
        prepare: adds to a function what its tasks need before they run.
    """

    def __init__(
        self,
        store: ObjectStore,
        environment_source: EnvironmentSource,
        prepare: Callable[[PickledFunction], PickledFunction] = lambda function: function,
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._packer = TaskObjectPacker(partial(store_buffers, store), environment_source)
        self._payloads: dict[bytes, FunctionPayload] = {}

    def load(self, task: Task) -> tuple[FunctionPayload, Payload]:
        """Return function and arguments of the call that runs a task. Raises NotPicklable."""
        function, body, buffers = self._packer.pack(task)
        function = self._prepare(function)
        payload = self._payloads.get(function.digest)
        if payload is None:
            payload = function_payload(function)
            self._payloads[function.digest] = payload
        return payload, store_call(self._store, body, buffers)
