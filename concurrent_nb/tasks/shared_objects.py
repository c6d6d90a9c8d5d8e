"""Names of what lies in shared memory, by which the scheduler knows which slave has it."""

from concurrent_nb.tasks.task_record import ObjectSize
from concurrent_nb.wire.codec import slices_of
from concurrent_nb.wire.messages import Sizes


def object_id(segment: bytes, offset: int, serial: int) -> bytes:
    """Return the name of what is stored in a slice. A later content of the same place has another name."""
    return b"%d/%d/%b" % (offset, serial, segment)


def objects_of(sizes: Sizes) -> tuple[ObjectSize, ...]:
    """List the objects in shared memory, each once, with its size in bytes."""
    names = {object_id(slice_.segment, slice_.offset, slice_.serial): slice_.size for slice_ in slices_of(sizes)}
    return tuple(names.items())
