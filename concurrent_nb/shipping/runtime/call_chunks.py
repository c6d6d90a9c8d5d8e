"""Many calls of one function as one task, a chunk: its arguments, how it runs, and its results.

    arguments  (calls, numbers of the items in their job), where a call is
               tuple: arguments that are atoms or tuples of atoms, as they are | bytes: pickle of (args, number)
               if all are tuples: (how many there are to a call, one list of them all)
               In a batch the numbers are (numbers, *BatchTerms), see `job_batches`
    results    `ChunkResults`, as a tuple

Atoms of a chunk are pickled together, which is ten times as fast as one by one. Any other argument or result has a
pickle of its own. So one that cannot be pickled or unpickled fails alone, and no two items share an object.
"""

import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from concurrent_nb.outcome import Hit
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.error_reports import FailureReport, failed, not_loadable, not_picklable
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, Buffer, is_small, out_of_band_into

#: an item's arguments on their way
Call = tuple[Any, ...] | bytes
#: copies a buffer
Snapshot = Callable[[memoryview], bytearray | memoryview]
_ATOMS_ONLY: Final = {tuple}
#: grows in each copy of this process; looking at it is several times as fast as asking for the pid
FORKS: Final[list[None]] = []
os.register_at_fork(after_in_child=lambda: FORKS.append(None))


class BatchTerms(NamedTuple):
    """When a batch ends early: a chunk whose items are tasks of a job."""

    until: bool  #: the first item that returns a Hit is the last
    stop_on_error: bool  #: the first item that fails is the last
    most_s: float | None  #: no item is begun after this many seconds
    secret: str  #: distinguishes the marks in what items print from the text


class PickledItem(NamedTuple):
    """The result of an item that has a pickle of its own."""

    body: bytes
    buffers: Sequence[Buffer] = ()  #: large ones, which are not in the pickle


class FailedItem(NamedTuple):
    """The error of an item."""

    status: int  #: outcome.Status
    report: bytes  #: encoded ErrorReport


class ChunkResults(NamedTuple):
    """The results of a chunk, one for each item that has ended. Each item is in one of three columns."""

    values: list[Any]  #: atoms and tuples of atoms, by position in the chunk; None for items of the other columns
    pickled: dict[int, Sequence[Any]]  #: by position: pickle, then its large buffers
    failed: dict[int, tuple[int, bytes]]  #: by position: status, encoded ErrorReport

    def since(self, position: int) -> "ChunkResults":
        """Return the results of the items from this position on; positions begin at 0 again."""
        return ChunkResults(
            self.values[position:],
            {at - position: parts for at, parts in self.pickled.items() if at >= position},
            {at - position: report for at, report in self.failed.items() if at >= position},
        )

    def drop_unfinished(self) -> None:
        """Drop what an interrupt has left of an item that has no value yet."""
        position = len(self.values)
        self.pickled.pop(position, None)
        self.failed.pop(position, None)

    def rows(self) -> list[Any]:
        """Return a row for each item: its value, a PickledItem or a FailedItem. The results must not be used again."""
        rows = self.values
        for position, (body, *buffers) in self.pickled.items():
            rows[position] = PickledItem(body, buffers)
        for position, report in self.failed.items():
            rows[position] = FailedItem(*report)
        return rows


def dumps_results(results: tuple[Any, ...]) -> tuple[bytes, list[memoryview]]:
    """Pickle the results of a chunk or a batch; return the pickle and the large buffers that are not in it."""
    buffers: list[memoryview] = []
    return pickle.dumps(results, 5, buffer_callback=out_of_band_into(buffers)), buffers


def dumps_calls(calls: Sequence[Call], numbers: Sequence[int], terms: BatchTerms | None = None) -> bytes:
    """Return the body of the task that makes these calls: a chunk, or with `terms` a batch."""
    rest = numbers if terms is None else (numbers, *terms)
    # Without the tuples around them it takes half the time; without arguments there is nothing to count.
    if set(map(type, calls)) == _ATOMS_ONLY and calls[0]:
        return pickle.dumps(((len(calls[0]), [*itertools.chain.from_iterable(calls)]), rest), 5)
    return pickle.dumps((calls, rest), 5)


def run(
    function: Callable[..., Any],
    calls: Iterable[Call] | tuple[int, list[Any]],
    numbers: Iterable[int],
    begin_item: Callable[[int], None] | None,
    results: ChunkResults | None = None,
    may_continue: Callable[[], bool] | None = None,
    snapshot: Snapshot = bytearray,
) -> ChunkResults:
    """Make the calls of a chunk, as `dumps_calls` has arranged them; return their results.

    Args:
        numbers: of the items in their job.
        begin_item: called with each before its call, if it is not None.
        results: where results are added, so that they are not lost when this raises.
        may_continue: called before each call; False ends the chunk. None: all calls are made.
        snapshot: returns a copy of a large buffer of a result, which the next call may change.

    Raises KeyboardInterrupt, which may come from outside of the task, and ends the chunk.
    """
    results = ChunkResults([], {}, {}) if results is None else results
    values, failures = results.values, results.failed
    add_value = values.append
    forks = len(FORKS)
    if isinstance(calls, tuple):
        width, atoms = calls
        calls = zip(*[iter(atoms)] * width, strict=True)
    for args, number in zip(calls, numbers, strict=True):
        if begin_item is not None:
            begin_item(number)
        if may_continue is not None and not may_continue():
            break
        if type(args) is bytes:
            try:
                args, _ = pickles.loads(args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the result has the error)
                failures[len(values)] = _report(not_loadable(error))
                add_value(None)
                continue
        try:
            value = function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (what an item raises is its own result)
            failures[len(values)] = _report(failed(error))
            add_value(None)
            value = None
        else:
            if type(value) not in SMALL_ATOMS and not is_small(value):
                _add_pickled(results, value, snapshot)
                value = None
            add_value(value)
        if len(FORKS) != forks:  # the item has forked and returned in both processes: the copy may not go on
            break
    return results


def _add_pickled(results: ChunkResults, value: Any, snapshot: Snapshot) -> None:
    if type(value) is Hit:
        value = value.value
    position = len(results.values)
    try:
        body, buffers = pickles.dumps(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the result has the error)
        results.failed[position] = _report(not_picklable(value, error))
    else:
        results.pickled[position] = (body, *(pickle.PickleBuffer(snapshot(buffer)) for buffer in buffers))


def _report(report: FailureReport) -> tuple[int, bytes]:
    return report[0], report[1]
