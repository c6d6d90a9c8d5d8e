"""Calls of a `joblib.Parallel` as one task: arranged, sent and made."""

import functools
from collections.abc import Sequence
from typing import Any

import joblib
import pytest
from hypothesis import given
from hypothesis import strategies as some
from joblib.parallel import SequentialBackend, ThreadingBackend

from concurrent_nb.shipping.runtime import joblib_calls
from concurrent_nb.shipping.runtime.joblib_calls import Item, arranged, joined, task_of
from concurrent_nb.shipping.serialization import pickles


def noted(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return "noted", args, kwargs


def other(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return "other", args, kwargs


def made(*parts: Sequence[Item]) -> list[Any]:
    """Do what a worker does with what an application sends."""
    function, args = task_of(joined([arranged(part) for part in parts]), 1)
    body, buffers = pickles.dumps((function, args))
    function, args = pickles.loads(body, buffers)
    made: list[Any] = function(*args)
    return made


CALLS = some.tuples(
    some.sampled_from([noted, other, functools.partial(noted, 1)]),
    some.lists(some.integers() | some.text() | some.tuples(some.none()), max_size=3).map(tuple),
    some.dictionaries(some.sampled_from("abc"), some.integers(), max_size=2),
)


@given(some.lists(CALLS, min_size=1, max_size=8))
def test_the_values_are_those_of_the_calls_in_order(items: list[Any]) -> None:
    assert made(items) == [function(*args, **kwargs) for function, args, kwargs in items]


@given(some.lists(some.lists(CALLS, min_size=1, max_size=4), min_size=1, max_size=4))
def test_calls_that_were_arranged_apart_can_travel_together(parts: list[list[Any]]) -> None:
    assert made(*parts) == [function(*args, **kwargs) for part in parts for function, args, kwargs in part]


@given(some.lists(some.integers(), min_size=1), some.integers(0, 3))
def test_calls_of_one_function_travel_flat(numbers: list[int], width: int) -> None:
    items: list[Item] = [(noted, (n,) * width, {}) for n in numbers]
    calls = joined([arranged(items), arranged(items)])
    assert (calls.number, calls.width, len(calls.args)) == (2 * len(numbers), width, 2 * len(numbers) * max(width, 1))
    assert (calls.function, calls.functions, calls.keywords) == (noted, [], None)
    assert made(items) == [noted(*args) for _, args, _ in items]


@pytest.mark.parametrize("item", [(noted,), 7, None, (noted, 7, {})])
def test_what_is_no_call_is_an_error_at_once(item: Any) -> None:
    with pytest.raises((TypeError, IndexError)):
        arranged([(noted, (1,), {}), item])


def test_a_function_is_part_of_the_task_and_gives_it_its_name() -> None:
    function, args = task_of(arranged([(noted, (1,), {}), (noted, (2,), {})]), 1)
    assert function is task_of(arranged([(noted, (3,), {})]), 1)[0]
    assert (function.__name__, function.__qualname__) == ("noted", "noted")
    assert noted not in args


def test_the_first_exception_ends_the_batch() -> None:
    ran: list[int] = []

    def run(n: int) -> None:
        ran.append(n)
        if n == 2:
            raise ValueError(n)

    function, args = task_of(arranged([(run, (n,), {}) for n in range(5)]), 1)
    with pytest.raises(ValueError, match="2"):
        function(*args)
    assert ran == [0, 1, 2]


def inner_backend(n_jobs: int | None) -> tuple[str, int]:
    parallel = joblib.Parallel(n_jobs=n_jobs)
    parallel([joblib.delayed(abs)(1)])
    return type(parallel._backend).__name__, joblib.effective_n_jobs(n_jobs)


@pytest.mark.parametrize("n_jobs", [None, 1])
def test_a_parallel_in_a_task_runs_one_after_another_unless_it_asks_for_more(n_jobs: int | None) -> None:
    assert made([(inner_backend, (n_jobs,), {})]) == [(SequentialBackend.__name__, 1)]


def test_without_an_application_a_parallel_in_a_task_uses_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent_nb.joblib.backend_in_task", lambda level: None)
    assert made([(inner_backend, (2,), {})]) == [(ThreadingBackend.__name__, 2)]
    function, args = task_of(arranged([(inner_backend, (2,), {})]), 2)
    assert function(*args) == [(SequentialBackend.__name__, 1)]


def test_the_backend_of_the_process_is_as_before_afterwards() -> None:
    before = joblib.parallel.get_active_backend()[0]
    assert made([(inner_backend, (1,), {})])
    assert type(joblib.parallel.get_active_backend()[0]) is type(before)
    assert joblib_calls.task_function(noted)((1, [7]), None, 1) == [noted(7)]
