"""Many calls of one function as one task: how items travel, how they run, and how each keeps its own end.

    arguments  tuple: atoms and tuples of atoms, as they are | bytes: the pickle of (args, kwargs)
               if all are tuples: how many there are to an item, and the row of them all
               with them, in the place of keywords: (numbers,) of the items in their job | the same and Terms, for
               `batches`. The number alone: one item, a call like any other
    results    an atom or a tuple of atoms, as it is | bytes: its pickle | list: its pickle and its large buffers
               | dict: {Status: encoded ErrorReport} of an item that failed

Atoms of a chunk are pickled together, which is ten times as fast as one by one. Whatever else there is gets a pickle of
its own: so one that cannot be opened or made harms no neighbour, and no two items share an object that they share not
as tasks of their own.
"""

import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from concurrent_nb.outcome import Hit
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.error_reports import FailureReport, failed, not_loadable, not_picklable
from concurrent_nb.shipping.serialization.pickles import SMALL_ATOMS, is_small

#: an item's arguments on their way
Call = tuple[Any, ...] | bytes
#: copies a buffer
Snapshot = Callable[[memoryview], bytearray | memoryview]
_ATOMS_ONLY: Final = {tuple}
#: grows in each copy of this process; looking at it is several times as fast as asking for the pid
_FORKS: Final[list[None]] = []
os.register_at_fork(after_in_child=lambda: _FORKS.append(None))


class BatchTerms(NamedTuple):
    """On which terms the items of a chunk are run that are tasks of a job: a batch."""

    until: bool  #: the first that returns a Hit is the last
    stop_on_error: bool  #: the first that fails is the last
    most_s: float | None  #: none is begun after so many seconds
    secret: str  #: tells marks in what they print from what they print


def dumps_calls(calls: Sequence[Call], numbers: Sequence[int], terms: BatchTerms | None = None) -> bytes:
    """Give the body of a task that makes these calls. No keywords, where a task has a dictionary: so it is known."""
    rest = (numbers, *(terms or ()))
    # Without the tuples around them it takes half the time; without arguments there is nothing to count.
    if set(map(type, calls)) == _ATOMS_ONLY and calls[0]:
        return pickle.dumps(((len(calls[0]), [*itertools.chain.from_iterable(calls)]), rest), 5)
    return pickle.dumps((calls, rest), 5)


def run(
    function: Callable[..., Any],
    calls: Iterable[Call] | tuple[int, list[Any]],
    numbers: Iterable[int],
    begin_item: Callable[[int], None],
    results: list[Any] | None = None,
    may_continue: Callable[[], bool] | None = None,
    snapshot: Snapshot = bytearray,
) -> list[Any]:
    """Make the calls of a chunk, as `dumps_calls` has put them; give an answer for each.

    Args:
        numbers: of the items in their job.
        begin_item: called with each before its call.
        results: where the answers go, so that they are not lost when this raises.
        may_continue: asked before each call whether to make it; None makes all.
        snapshot: gives a copy of a large buffer of a result, which the next call may change.

    Raises KeyboardInterrupt, which may have come from outside, and ends the chunk.
    """
    results = [] if results is None else results
    add_result = results.append
    forks = len(_FORKS)
    if isinstance(calls, tuple):
        width, atoms = calls
        calls = zip(*[iter(atoms)] * width, strict=True)
    for args, number in zip(calls, numbers, strict=True):
        begin_item(number)
        if may_continue is not None and not may_continue():
            break
        if type(args) is bytes:
            try:
                args, _ = pickles.loads(args)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  (user code runs while it is unpickled; the answer has the error)
                add_result(_report(not_loadable(error)))
                continue
        try:
            value = function(*args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  (what an item raises is its own end)
            add_result(_report(failed(error)))
            value = None
        else:
            add_result(value if type(value) in SMALL_ATOMS or is_small(value) else _packed(value, snapshot))
        if len(_FORKS) != forks:  # the item has forked, and came back twice: the copy is not to go on
            break
    return results


def _packed(value: Any, snapshot: Snapshot) -> bytes | list[Any] | dict[int, bytes]:
    if type(value) is Hit:
        value = value.value
    try:
        body, buffers = pickles.dumps(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  (user code runs while it is pickled; the answer has the error)
        return _report(not_picklable(value, error))
    return [body, *(pickle.PickleBuffer(snapshot(buffer)) for buffer in buffers)] if buffers else body


def _report(add_result: FailureReport) -> dict[int, bytes]:
    return {add_result[0]: add_result[1]}
