import asyncio
import functools
import os
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ParamSpec

import pytest

from concurrent_nb.errors import ClusterError
from concurrent_nb.nodes.common.owner_wishes import Scale, WishAnswer, line_of, read_wish
from concurrent_nb.nodes.master.owner import Owner

P = ParamSpec("P")

#: long enough for the loop to send what it can
NEVER_S, SOON_S = 600.0, 0.001


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # closed by the test


@pytest.fixture
def owner(pipe: tuple[int, int]) -> Owner:
    return Owner(pipe[1], NEVER_S)


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def turn() -> None:
    """Let the loop run what is ready."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    loop.call_soon(passed.set_result, None)
    await passed


async def asked(owner: Owner, workers: int) -> "asyncio.Task[WishAnswer]":
    """Begin to ask; return when the wish is in the pipe."""
    task = asyncio.create_task(owner.ask(lambda number: Scale(number, workers)))
    await turn()
    return task


def read(descriptor: int) -> list[object]:
    return [read_wish(line) for line in os.read(descriptor, 65536).splitlines()]


@in_loop
async def test_an_owner_answers(owner: Owner, pipe: tuple[int, int]) -> None:
    task = await asked(owner, 4)
    assert read(pipe[0]) == [Scale(1, 4)]
    line = line_of(WishAnswer(1, 2))
    owner.received(line[:5])
    owner.received(line[5:])
    assert (await task).workers == 2


@in_loop
async def test_a_refusal_is_raised_with_its_words(owner: Owner) -> None:
    task = await asked(owner, 4)
    owner.received(line_of(WishAnswer(1, refused="it is closing")))
    with pytest.raises(ClusterError, match="it is closing"):
        await task


@in_loop
async def test_wishes_go_out_one_by_one(owner: Owner, pipe: tuple[int, int]) -> None:
    first, second = await asked(owner, 4), await asked(owner, 5)
    assert read(pipe[0]) == [Scale(1, 4)]
    owner.received(line_of(WishAnswer(1, 2)))
    await first
    await turn()
    assert read(pipe[0]) == [Scale(2, 5)]
    owner.received(line_of(WishAnswer(2, 4)))
    assert (await second).workers == 4


@in_loop
async def test_an_owner_that_is_stopped_finds_one_wish_when_it_goes_on(pipe: tuple[int, int]) -> None:
    owner = Owner(pipe[1], SOON_S)
    with pytest.raises(ClusterError, match="has not answered within"):
        await owner.ask(lambda number: Scale(number, 4))
    for _ in range(3):
        with pytest.raises(ClusterError, match="has not answered the wish before this one"):
            await owner.ask(lambda number: Scale(number, 5))
    assert read(pipe[0]) == [Scale(1, 4)]
    owner.received(line_of(WishAnswer(1, 2)))  # late
    owner._answer_s = NEVER_S
    task = await asked(owner, 6)
    assert read(pipe[0]) == [Scale(2, 6)]
    owner.received(line_of(WishAnswer(2, 4)))
    assert (await task).workers == 4


@in_loop
async def test_a_caller_that_hangs_up_does_not_block_the_next_one(owner: Owner) -> None:
    task = await asked(owner, 4)
    owner.received(line_of(WishAnswer(1, 2)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    following = await asked(owner, 5)
    owner.received(line_of(WishAnswer(2, 4)))
    assert (await following).workers == 4


@in_loop
async def test_what_an_owner_should_not_send_changes_nothing(owner: Owner) -> None:
    owner.received(line_of(WishAnswer(1, 9)))  # not asked
    task = await asked(owner, 4)
    owner.received(b"nonsense\n" + line_of(WishAnswer(7, 9)) + b"x" * 10_000 + b"\n")
    assert not task.done()
    owner.received(line_of(WishAnswer(1, 2)) * 2)
    assert (await task).workers == 2


@in_loop
async def test_an_owner_that_has_ended_is_named(owner: Owner, pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    for _ in range(2):
        with pytest.raises(ClusterError, match=f"process {os.getppid()}.*has ended: no slave can be"):
            await owner.ask(lambda number: Scale(number, 4))


@in_loop
async def test_nobody_waits_for_an_owner_that_ends(owner: Owner) -> None:
    owner.ended()
    task = await asked(owner, 4)
    owner.ended()
    with pytest.raises(ClusterError, match="has ended"):
        await task


@in_loop
async def test_an_owner_that_does_not_read_makes_nobody_wait(owner: Owner, pipe: tuple[int, int]) -> None:
    try:
        while True:
            os.write(pipe[1], b"x" * 4096)
    except BlockingIOError:
        pass
    with pytest.raises(ClusterError, match="does not read"):
        await owner.ask(lambda number: Scale(number, 4))
