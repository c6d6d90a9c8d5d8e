"""What the samples compute, here: the same answers whichever way, in whatever order, however the work is cut."""

import itertools
import math
import pickle
import random
from array import array
from hashlib import md5
from typing import Any

import pytest
from traitlets.config import Config

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.expensive import ExpensiveSample
from concurrent_nb.samples.mandelbrot import MandelbrotSample, MandelbrotTask, escape, preview
from concurrent_nb.samples.md5 import Md5Sample
from concurrent_nb.samples.pi import PiSample
from concurrent_nb.samples.sample import Sample
from concurrent_nb.tasks.system import Task


def made(kind: type[Sample], **items: Any) -> Any:
    """Make a sample with some of its options."""
    manager = ComponentManager(Config({kind.__name__: Config(items)}))
    return manager.get(manager.register(kind))


def travelled(task: Task) -> Any:
    """Give the result of a task as it would be on a slave."""
    return pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(task))()))


def answer_here(sample: Sample) -> Any:
    """Give the sample's answer, its tasks run here in an order of chance."""
    tasks = list(sample.tasks())
    assert len(tasks) == sample.count
    random.Random(7).shuffle(tasks)
    return sample.gather(travelled(task) for task in tasks)


class Here:
    """The handle of a system whose tasks run here: there is always room, and nothing is ever unfinished."""

    def stats(self) -> dict[str, Any]:
        return {"exhausted": False, "unfinished": 0}


def answer_of_system(sample: Sample) -> tuple[Any, int]:
    """Give what the sample's task system gathers, and how many tasks it took."""
    system: Any = pickle.loads(pickle.dumps(sample.system()))
    here, ran = Here(), 0
    system.init_system(here)
    for task in system.generate_tasks(here):
        assert not system.is_complete(here)
        ran += 1
        assert system.task_finished(here, task, travelled(task), None) is None
        if system.is_complete(here):
            break
    return system.gather_result(here), ran


SMALL: list[tuple[type[Sample], dict[str, Any]]] = [
    (Md5Sample, {"end": 1000, "number": 613, "num_tasks": 7}),
    (MandelbrotSample, {"width": 20, "height": 6, "factor": 3}),
    (ExpensiveSample, {"time_per_task": 0.0, "num_tasks": 3}),
    (PiSample, {"terms": 1000, "num_tasks": 7}),
]


@pytest.mark.parametrize(("kind", "items"), SMALL, ids=lambda each: getattr(each, "__name__", ""))
def test_a_system_gathers_what_its_application_would(kind: type[Sample], items: dict[str, Any]) -> None:
    sample = made(kind, **items)
    assert answer_of_system(sample)[0] == answer_here(sample)


@pytest.mark.parametrize(("kind", "items"), SMALL, ids=lambda each: getattr(each, "__name__", ""))
def test_a_task_that_fails_ends_its_system_with_the_error(kind: type[Sample], items: dict[str, Any]) -> None:
    sample = made(kind, **items)
    system: Any = sample.system()
    with pytest.raises(MemoryError, match="all gone"):
        system.task_finished(Here(), next(iter(sample.tasks())), None, MemoryError("all gone"))


# --------------------------------------------------------------------------------------------------------- mandelbrot


@pytest.fixture(scope="module")
def picture() -> dict[int, "array[int]"]:
    """The picture of 23 by 11 points, a point at a time."""
    grid = made(MandelbrotSample, width=23, height=11).grid
    points = {x: [escape(grid.real(x), grid.imag(y), 20) for y in range(11)] for x in range(23)}
    return {x: array("H", column) for x, column in points.items()}


@pytest.mark.parametrize("factor", [1, 3, 7, 23, 100])
@pytest.mark.parametrize("optimized", [True, False], ids=["optimised", "lazy"])
def test_every_cut_gives_the_same_picture(factor: int, optimized: bool, picture: dict[int, "array[int]"]) -> None:
    sample = made(MandelbrotSample, width=23, height=11, factor=factor, use_optimized_task=optimized)
    assert sample.count == math.ceil(23 / factor)
    assert answer_here(sample) == picture
    assert answer_of_system(sample) == (picture, sample.count)


def test_the_picture_shows_the_set(picture: dict[int, "array[int]"]) -> None:
    grid = made(MandelbrotSample, width=23, height=11).grid
    assert (grid.real(0), grid.imag(0)) == (-2.0, -1.0)
    assert escape(0.0, 0.0, 20) == escape(-1.0, 0.0, 20) == 20
    assert escape(1.0, 1.0, 20) == 1
    assert escape(-2.5, 0.0, 20) == 0
    lines = preview(picture, grid).splitlines()
    assert len(lines) == 11
    assert max(map(len, lines)) <= 23
    assert lines[5].count("@") == picture_row(picture, 5).count(20) > 5


def picture_row(picture: dict[int, "array[int]"], y: int) -> list[int]:
    return [picture[x][y] for x in sorted(picture)]


def test_the_lazy_task_carries_its_points_and_the_optimised_one_does_not() -> None:
    lazy, optimised = (
        next(made(MandelbrotSample, use_optimized_task=optimized).tasks()) for optimized in (False, True)
    )
    assert isinstance(lazy, MandelbrotTask)
    assert len(lazy.workload) == 1024
    assert lazy.workload[1] == (0, 1, -2.0, -1 + 2 / 1024, 20)
    assert len(pickle.dumps(lazy)) > 50 * len(pickle.dumps(optimised))


# ---------------------------------------------------------------------------------------------------------- the others


def test_the_md5_search_is_the_thesis_s() -> None:
    sample = made(Md5Sample)
    assert sample.target == "28238d467c88ae233a214d38c02dbccd"
    assert sample.count == 128
    tasks = list(sample.tasks())
    assert (tasks[0].first, tasks[-1].last) == (1, 2_000_000)
    assert all(after.first == before.last + 1 for before, after in itertools.pairwise(tasks))


@pytest.mark.parametrize("number", [5, 6, 99, 100])
@pytest.mark.parametrize("num_tasks", [1, 7, 96, 500])
def test_the_md5_search_finds_both_ends_of_its_range(number: int, num_tasks: int) -> None:
    sample = made(Md5Sample, start=5, end=100, number=number, num_tasks=num_tasks)
    assert sample.count <= num_tasks
    assert answer_here(sample) == number
    assert answer_of_system(sample)[0] == number
    digest = md5(str(number).encode()).hexdigest()
    assert f"found {number}: it has the MD5 hash {digest}" in sample.describe(number, 1.0)


def test_the_md5_search_stops_at_the_hit() -> None:
    sample = made(Md5Sample, end=100, number=42, num_tasks=10)
    results = (task() for task in sample.tasks())
    assert sample.gather(results) == 42
    assert len(list(results)) == 5  # that nobody had asked for
    assert answer_of_system(sample) == (42, 5)


@pytest.mark.parametrize("number", [4, 101])
def test_the_md5_search_says_so_if_the_number_is_not_there(number: int) -> None:
    sample = made(Md5Sample, start=5, end=100, number=number)
    assert answer_here(sample) is None
    assert "no number from 5 to 100 has the MD5 hash" in sample.describe(None, 1.0)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the range from 9 to 8 is empty"):
        made(Md5Sample, start=9, end=8)


@pytest.mark.parametrize("num_tasks", [1, 7, 10, 13])
def test_pi_is_the_same_number_however_the_sum_is_cut(num_tasks: int) -> None:
    assert answer_here(made(PiSample, terms=10_000, num_tasks=num_tasks)) == pytest.approx(math.pi, abs=1e-4)
    whole, cut = (made(PiSample, terms=10, num_tasks=n) for n in (1, num_tasks))
    assert answer_here(whole) == pytest.approx(answer_here(cut), abs=1e-15)


def test_an_expensive_task_says_what_it_cost_and_the_sample_what_was_won() -> None:
    sample = made(ExpensiveSample, time_per_task=0.001, num_tasks=4)
    assert answer_here(sample) == pytest.approx(0.004)
    assert sample.describe(4.0, 2.0) == "expected 4.00 s, actual 2.00 s: improvement 200 %"


@pytest.mark.parametrize(
    ("kind", "item", "value"),
    [
        (MandelbrotSample, "factor", 0),
        (MandelbrotSample, "iters", 65536),
        (MandelbrotSample, "width", "wide"),
        (Md5Sample, "num_tasks", 0),
        (ExpensiveSample, "time_per_task", -1.0),
        (PiSample, "terms", 0.5),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(kind: type[Sample], item: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}\.{item} cannot be {value!r}"):
        made(kind, **{item: value})


def test_a_sample_whose_packages_are_missing_names_the_remedy() -> None:
    class Needy(PiSample):
        packages = ("no_such_package", "math", "nor_this_one")

    with pytest.raises(ConfigurationError, match=r"Needy needs no_such_package and nor_this_one: pip install 'conc"):
        made(Needy)
