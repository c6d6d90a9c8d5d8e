"""Snapshots of what is sent: an application's side of shared memory."""

from collections.abc import Callable, Sequence
from functools import partial

from concurrent_nb.nodes.application.core import FunctionPayload
from concurrent_nb.object_store.segments import is_available
from concurrent_nb.object_store.store import Lease, ObjectStore
from concurrent_nb.shipping.environment.envelope import EnvironmentSource
from concurrent_nb.shipping.functions.pickled_functions import PickledFunction
from concurrent_nb.shipping.functions.task_objects import TaskObjectPacker
from concurrent_nb.shipping.serialization.pickles import OUT_OF_BAND_BYTES
from concurrent_nb.tasks.system import Task
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import INLINE_BYTES, Buffer, Buffers, pack_body

#: the arguments of a call as a task has them: body, sizes and buffers, and what keeps those in shared memory
Arguments = tuple[bytes, m.Sizes, Buffers, Lease | None]


def lay_down(
    store: ObjectStore, body: bytes, buffers: Sequence[memoryview]
) -> tuple[bytes, Sequence[Buffer | m.Slice], Lease | None]:
    """Take a snapshot of a pickle's buffers: in shared memory, or as copies on systems that have none.

    Gives the pickle (empty if it is the first of the parts), the parts, and what keeps those in shared memory.
    """
    if not is_available():
        return body, [bytearray(buffer) for buffer in buffers], None
    is_long = len(body) >= OUT_OF_BAND_BYTES
    laid: list[Buffer | m.Slice] = []
    slices: list[m.Slice] = []
    for part in (memoryview(body), *buffers) if is_long else buffers:
        slice_ = store.place(part)
        # As a bytearray, because what is pickled from read-only memory is read-only wherever it arrives.
        laid.append(bytearray(part) if slice_ is None else slice_)
        if slice_ is not None:
            slices.append(slice_)
    return b"" if is_long else body, laid, Lease(store, slices) if slices else None


def lay_down_call(store: ObjectStore, body: bytes, buffers: Sequence[memoryview]) -> Arguments:
    """Take a snapshot of the pickled arguments of a call."""
    if not buffers and len(body) <= INLINE_BYTES:
        return body, (), (), None
    body, laid, lease = lay_down(store, body, buffers)
    return *pack_body(body, laid), lease


class TaskLoader:
    """Make of task objects what the courier carries. A class is sent as it was when its first task was loaded.

    Args:
        environment_source: what functions take along.
        prepare: gives a function with what its tasks need before they run.
    """

    def __init__(
        self,
        store: ObjectStore,
        environment_source: EnvironmentSource,
        prepare: Callable[[PickledFunction], PickledFunction] = lambda function: function,
    ) -> None:
        self._store = store
        self._prepare = prepare
        self._packer = TaskObjectPacker(partial(lay_down, store), environment_source)
        self._shipments: dict[bytes, FunctionPayload] = {}

    def load(self, task: Task) -> tuple[FunctionPayload, Arguments]:
        """Give function and arguments of the call that runs a task. Raises NotPicklable."""
        function, body, buffers = self._packer.pack(task)
        function = self._prepare(function)
        shipment = self._shipments.get(function.digest)
        if shipment is None:
            shipment = FunctionPayload(function.digest, *pack_body(function.body, function.buffers), function.lease)
            self._shipments[function.digest] = shipment
        return shipment, lay_down_call(self._store, body, buffers)
