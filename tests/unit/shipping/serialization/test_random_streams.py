"""Random numbers: a stream for each task, the same wherever and how often the task runs."""

import pickle
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from concurrent_nb.shipping.cells.captured_names import Captured
from concurrent_nb.shipping.functions.pickled_functions import Functions
from concurrent_nb.shipping.serialization import pickles, random_streams
from tests.cells import task_of_cell

JOB = b"j" * 16


def notebook(source: str, /, **names: Any) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(source, namespace)
    return namespace


def begin(made: list[random_streams.Made], index: int, job: bytes = JOB) -> None:
    drawing = random_streams.drawing()
    drawing.job, drawing.made = job, made
    drawing.begin(index)


def job(function: Any, *, indexes: Any = range(4), each_anew: bool = False) -> list[Any]:
    """Run a function as the tasks of a job, in one worker, or each in a worker of its own."""
    body, buffers = _sent(function)
    opened, made = random_streams.loaded(lambda: pickles.loads(body, buffers))
    answers = []
    for index in indexes:
        if each_anew:
            opened, made = random_streams.loaded(lambda: pickles.loads(body, buffers))
        begin(made, index)
        answers.append(opened())
    random_streams.drawing().end()
    return answers


def _sent(function: Any) -> tuple[bytes, list[bytes]]:
    if type(function) is types.FunctionType:
        pickled = Functions().pickle(function, spawns=True)
        return pickled.body, [bytes(it) for it in pickled.buffers]  # type: ignore[arg-type]
    body, buffers = pickles.dumps(function)
    return body, [bytes(it) for it in buffers]


MAKE: dict[str, tuple[str, str]] = {
    "Generator": ("rng = np.random.default_rng(42)", "float(rng.normal())"),
    "another bit generator": ("rng = np.random.Generator(np.random.Philox(7))", "float(rng.random())"),
    "RandomState": ("rng = np.random.RandomState(3)", "float(rng.normal())"),
    "Random": ("rng = random.Random(5)", "rng.gauss()"),
    "a class of Random": ("class Mine(random.Random): pass\nrng = Mine(5)", "rng.random()"),
    "a method": ("draw = np.random.default_rng(42).normal", "float(draw())"),
    "a method of Random": ("draw = random.Random(5).gauss", "draw()"),
    "by name": ("np.random.seed(1)\nfrom numpy.random import normal", "float(normal())"),
    "by name, Python's": ("random.seed(1)\nfrom random import random as draw", "draw()"),
    "in an object": (
        "class Model:\n    def __init__(self): self.rng = np.random.default_rng(1)\nit = Model()",
        "it.rng.random()",
    ),
    "in a closure": ("def make(rng):\n    return lambda: rng.random()\ndraw = make(random.Random(1))", "draw()"),
    "as a default": ("def draw(rng=np.random.RandomState(1)): return rng.random_sample()", "draw()"),
}


def made(name: str) -> tuple[dict[str, Any], str]:
    source, question = MAKE[name]
    return notebook(source, np=np, random=random), question


def drawn(names: dict[str, Any], question: str, kind: str) -> Any:
    if kind == "cell":
        return task_of_cell(question, names).function
    exec(f"def ask(): return {question}", names)
    return names["ask"]


@pytest.mark.parametrize("kind", ["function", "cell"])
@pytest.mark.parametrize("name", MAKE)
def test_each_task_draws_its_own_numbers_and_they_can_be_had_again(name: str, kind: str) -> None:
    first = job(drawn(*made(name), kind))
    assert len(set(first)) == 4
    assert job(drawn(*made(name), kind), each_anew=True) == first, (
        "the same in a fresh kernel, for any number of workers"
    )
    assert job(drawn(*made(name), kind), indexes=[3, 1, 1, 0]) == [first[3], first[1], first[1], first[0]]
    names, question = made(name)
    assert not set(job(drawn(names, question, kind))) & set(job(drawn(names, question, kind))), (
        "a second run draws anew"
    )


def test_the_streams_are_those_that_spawn_gives_of_what_the_job_has_drawn() -> None:
    for make in (lambda: np.random.default_rng(42), lambda: np.random.RandomState(42)):
        rng, other = make(), make()
        names = notebook("def draw(): return rng.normal()", rng=rng)
        for _ in range(2):
            seeds = np.random.SeedSequence(int.from_bytes(other.bytes(16))).spawn(4)
            kind = type(getattr(rng, "_bit_generator"))  # noqa: B009  (of both kinds)
            assert job(names["draw"]) == [type(rng)(kind(seed)).normal() for seed in seeds]
        assert rng.normal() == other.normal()


def test_a_stream_goes_on_within_a_task_and_may_spawn() -> None:
    names = notebook(
        "def draw(): return rng.random(), rng.random(), rng.spawn(1)[0].random()", rng=np.random.default_rng(1)
    )
    answers = job(names["draw"])
    assert len({number for answer in answers for number in answer}) == 12


def test_names_for_one_generator_share_its_stream() -> None:
    names = notebook("from random import random, uniform\ndef draw(): return random(), uniform(0, 1)")
    for function in (names["draw"], task_of_cell("random(), uniform(0, 1)", names).function):
        assert len({number for answer in job(function) for number in answer}) == 8


def test_copies_that_a_worker_keeps_draw_for_each_task_too() -> None:
    names = notebook("", rng=np.random.default_rng(1))
    function = task_of_cell("rng.random()", names, per_worker_names=["rng"]).function
    assert len(set(job(function))) == 4


def test_what_is_an_argument_stays_what_it_is() -> None:
    for rng in (np.random.default_rng(1), np.random.RandomState(1), random.Random(1)):
        body, buffers = pickles.dumps_call((rng,), {})
        (there,), _ = pickles.loads(body, buffers)
        assert there.random() == pickle.loads(pickle.dumps(rng)).random()


@pytest.mark.parametrize("name", ["Generator", "RandomState", "Random", "by name"])
def test_submits_take_nothing_and_are_told_apart_by_their_number(name: str) -> None:
    names, question = made(name)
    function = drawn(names, question, "function")
    functions = Functions()
    first, second = functions.pickle(function), functions.pickle(function)
    assert first.digest == second.digest, "so it is sent once"
    opened, generators = random_streams.loaded(lambda: pickles.loads(first.body))
    numbers = []
    for index in range(5):
        begin(generators, index)
        numbers.append(opened())
    random_streams.drawing().end()
    assert len(set(numbers)) == 5
    assert not set(numbers) & set(job(function))


def test_what_takes_its_chance_from_the_system_travels() -> None:
    (there,) = pickle.loads(pickles.dumps([random.SystemRandom()])[0])
    assert 0 <= there.random() < 1


def test_a_task_has_a_generator_without_capturing_one() -> None:
    def draw(seed: int | None) -> Callable[[int, bytes], float]:
        def of(index: int, job: bytes) -> float:
            begin([], index, job)
            try:
                assert random_streams.rng(seed) is random_streams.rng(seed)
                return float(random_streams.rng(seed).random())
            finally:
                random_streams.drawing().end()

        return of

    free, seeded = draw(None), draw(7)
    assert len({free(0, JOB), free(1, JOB), free(0, b"k" * 16), seeded(0, JOB), seeded(1, JOB)}) == 5
    assert free(1, JOB) == free(1, JOB)
    assert seeded(1, JOB) == seeded(1, b"k" * 16)
    assert random_streams.rng(3).random() == np.random.default_rng(3).random()
    assert random_streams.rng().random() != random_streams.rng().random()


def test_what_is_sent_along_says_that_it_draws() -> None:
    source = "from random import gauss\ndef draw(): return rng.random()\ndef other(): return 1\ndata = [1, 2]"
    names = notebook(source, rng=np.random.default_rng(1))
    task = task_of_cell("gauss(), draw(), rng, other(), data", names)
    assert {it.name: it.draws for it in task.captured} == {
        "gauss": True,
        "draw": True,
        "rng": True,
        "other": False,
        "data": False,
    }
    assert isinstance(task.captured[0], Captured)
