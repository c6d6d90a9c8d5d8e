"""A chunk in the worker: each item has its own arguments, its own end, and harms no other."""

import os
import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest

from concurrent_nb.outcome import Hit, Status
from concurrent_nb.shipping.runtime import call_chunks
from concurrent_nb.shipping.runtime.call_chunks import ChunkResults, FailedItem, PickledItem
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.wire.codec import decode_error
from tests import work


def ran(function: Any, *items: Any) -> list[Any]:
    """Send a chunk, run it, and send its results back; return their rows. Tuples of atoms travel as they are."""
    calls = [item if isinstance(item, bytes) else (item,) for item in items]
    args, numbers = pickle.loads(call_chunks.dumps_calls(calls, range(len(calls))))
    begun: list[int] = []
    results = call_chunks.run(function, args, numbers, begun.append)
    body, buffers = call_chunks.dumps_results(tuple(results))
    assert begun == list(numbers)
    return ChunkResults(*pickles.loads(body, buffers)).rows()


def begin(number: int) -> None:
    """Take no note of an item."""


class Pair(NamedTuple):
    left: int
    right: int


def packed(*args: Any) -> bytes:
    return pickles.dumps_item(args, 0)[0]


def test_atoms_come_back_as_they_are() -> None:
    items = [1, "two", 3.0, None, True, 4j, ..., range(5)]
    assert ran(lambda x: x, *items) == items


def test_tuples_of_atoms_come_back_as_they_are_and_no_others() -> None:
    plain = [(), (1, "two"), (None, 3.0)]
    assert ran(lambda x: x, *plain) == plain
    others = [(1, b"bytes"), (1, (2,)), ([],), Pair(1, 2), {1: b"looks like a failure"}]
    answers = ran(others.__getitem__, *range(len(others)))
    assert [type(answer) for answer in answers] == [PickledItem] * len(others)
    back = [pickle.loads(answer.body) for answer in answers]
    assert back == others
    assert type(back[3]) is Pair


def test_calls_of_several_arguments() -> None:
    plain: list[call_chunks.Call] = [(2, 3), (3, 2)]
    for calls in (plain, [plain[0], packed(3, 2)]):
        args, numbers = pickle.loads(call_chunks.dumps_calls(calls, [7, 9]))
        begun: list[int] = []
        assert call_chunks.run(pow, args, numbers, begun.append) == ([8, 9], {}, {})
        assert begun == [7, 9]


def test_other_results_have_a_pickle_of_their_own_and_share_nothing() -> None:
    shared = ["the same list"]
    first, second = ran(lambda x: shared, 1, 2)
    assert pickle.loads(first.body) == pickle.loads(second.body) == shared


def test_large_buffers_stay_out_of_the_pickle() -> None:
    import numpy as np

    results = call_chunks.run(np.zeros, [(100_000,)], [0], begin)
    body, buffers = call_chunks.dumps_results(tuple(results))
    assert len(body) < 1000
    assert [buffer.nbytes for buffer in buffers] == [800_000]
    (row,) = ChunkResults(*pickles.loads(body, buffers)).rows()
    assert pickles.loads(*row).sum() == 0


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit, StopIteration])
def test_what_an_item_raises_is_its_own_end(kind: type[BaseException]) -> None:
    def picky(x: int) -> int:
        if x == 2:
            raise kind("not two")
        return x

    one, two, three = ran(picky, 1, 2, 3)
    assert (one, three) == (1, 3)
    assert type(two) is FailedItem
    status, report = two
    assert status == Status.ERROR
    assert "in picky" in decode_error(report).traceback
    assert "call_chunks.py" not in decode_error(report).traceback.replace("test_call_chunks.py", "")


def test_arguments_that_cannot_be_opened_and_results_that_cannot_be_sent_fail_alone() -> None:
    def give(x: Any) -> Any:
        return work.CannotGo() if x == "stay" else x

    before, grenade, stays, after = ran(give, 1, packed(work.Grenade()), "stay", 4)
    assert (before, after) == (1, 4)
    assert grenade.status == Status.NOT_LOADABLE
    assert "opened" in decode_error(grenade.report).message
    assert stays.status == Status.NOT_PICKLABLE
    assert "CannotGo" in decode_error(stays.report).message


def test_results_since_a_position_begin_at_zero_again() -> None:
    results = ChunkResults([1, None, None, 4], {1: (b"p",)}, {2: (2, b"r")})
    assert results.since(2) == ([None, 4], {}, {0: (2, b"r")})
    assert results.since(1).rows() == [PickledItem(b"p", []), FailedItem(2, b"r"), 4]


def test_what_an_item_gives_back_is_not_changed_by_the_next() -> None:
    scratch = np.zeros(100_000)

    def fill(value: int) -> Any:
        scratch[:] = value
        return scratch

    taken: list[Any] = []

    def snapshot(buffer: memoryview) -> bytearray:
        copy = bytearray(buffer)
        taken.append(copy)
        return copy

    calls = [(1,), (2,)]
    for answers in (
        call_chunks.run(fill, calls, [0, 1], begin),
        call_chunks.run(fill, calls, [0, 1], begin, snapshot=snapshot),
    ):
        assert [pickles.loads(*row)[-1] for row in answers.rows()] == [1, 2]
    assert len(taken) == 2


def test_a_hit_is_its_value() -> None:
    (answer,) = ran(Hit, 3)
    assert pickle.loads(answer.body) == 3


def test_an_interrupt_ends_the_chunk() -> None:
    with pytest.raises(KeyboardInterrupt):
        call_chunks.run(work.raise_kind, [packed(KeyboardInterrupt)], [0], begin)


def test_a_copy_that_an_item_has_forked_runs_no_other_item() -> None:
    read, write = os.pipe()

    def fork(x: int) -> int:
        os.write(write, b"%d" % x)
        if x == 1:
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
        return x

    parent = os.getpid()
    answers = call_chunks.run(fork, [(1,), (2,)], range(2), begin)
    if os.getpid() != parent:
        os._exit(len(answers.values) != 1)
    os.close(write)
    assert answers.rows() == [1, 2]
    assert os.read(read, 10) == b"12"
    os.close(read)
