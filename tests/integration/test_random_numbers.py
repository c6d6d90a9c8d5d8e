"""Each task of a job has random numbers of its own, the same for any packing, any worker, and when it runs again."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import concurrent_nb
from concurrent_nb.nodes.application.node import ApplicationNode
from concurrent_nb.nodes.cluster import Cluster
from concurrent_nb.wire.messages import Needs
from tests.work import PATIENCE_S


@pytest.fixture(scope="module")
def app() -> Iterator[ApplicationNode]:
    with Cluster(workers=2) as cluster:
        app = cluster.application()
        list(app.map(abs, range(10)))
        yield app


def expected(count: int, seed: int = 42) -> list[float]:
    seeds = np.random.SeedSequence(int.from_bytes(np.random.default_rng(seed).bytes(16))).spawn(count)
    return [float(np.random.default_rng(seed).random()) for seed in seeds]


def draws(seed: int = 42) -> Callable[..., float]:
    rng = np.random.default_rng(seed)
    return lambda *args: float(rng.random())


def test_items_draw_the_same_however_they_are_packed(app: ApplicationNode) -> None:
    array = np.zeros(20_000)
    given: list[Any] = [1, [2], array, 4, [5]] * 4
    for size in (None, 1, 7):
        assert list(app.map(draws(), range(100), chunksize=size)) == expected(100)
        assert list(app.map(draws(), given, chunksize=size)) == expected(20)
    batches: list[Any] = [None, 7, "auto"]
    for batch in batches:
        calls: list[Any] = [(n if n % 3 else [n],) for n in range(50)]
        assert app.start_job(draws(), calls, batch=batch).results() == expected(50)


def fails_at_first(folder: Path, rng: Any) -> Callable[[int], float]:
    def draw(n: int) -> float:
        number = float(rng.random())
        if n % 5 == 2 and not (folder / str(n)).exists():
            (folder / str(n)).touch()
            if n == 2:
                os._exit(1)
            raise ValueError("the first time")
        return number

    return draw


def test_what_runs_again_draws_the_same_and_so_do_threads(tmp_path: Path) -> None:
    with Cluster(workers=2) as cluster:
        app = cluster.application()
        for batch in (None, 4):
            folder = tmp_path / str(batch)
            folder.mkdir()
            draw = fails_at_first(folder, np.random.default_rng(42))
            assert app.start_job(draw, [(n,) for n in range(12)], retries=1, batch=batch).results() == expected(12)
        rng = np.random.default_rng(42)

        def dies_once(n: int) -> float:
            if n == 30 and not (tmp_path / "map").exists():
                (tmp_path / "map").touch()
                os._exit(1)
            return float(rng.random())

        assert list(app.map(dies_once, range(60), chunksize=20)) == expected(60)
        assert app.start_job(draws(), [()] * 5, needs=Needs(kind="thread")).results() == expected(5)


def test_submits_and_methods_draw_different_numbers(app: ApplicationNode) -> None:
    rng, python = np.random.default_rng(42), random.Random(1)
    submitted = [app.submit(lambda: (float(rng.random()), python.random())) for _ in range(8)]
    assert len({number for future in submitted for number in future.result(PATIENCE_S)}) == 16
    rng = np.random.default_rng(42)
    assert list(app.map(rng.uniform, [0.0] * 5)) == expected(5)
    assert len(set(app.map(python.uniform, [0.0] * 20, [1.0] * 20))) == 20
    assert len(set(app.map(random.Random(3).gauss, [0.0] * 20, [1.0] * 20))) == 20


def test_a_task_has_one_of_its_own_without_capturing_one(app: ApplicationNode) -> None:
    def draw(n: int) -> tuple[float, float, float]:
        assert concurrent_nb.rng() is concurrent_nb.rng()
        return (
            float(concurrent_nb.rng().random()),
            float(concurrent_nb.rng().random()),
            float(concurrent_nb.rng(7).random()),
        )

    first, second = list(app.map(draw, range(20))), list(app.map(draw, range(20), chunksize=1))
    assert len({number for free in (*first, *second) for number in free[:2]}) == 80
    assert [answer[2] for answer in first] == [answer[2] for answer in second]
    assert len({answer[2] for answer in first}) == 20


def test_the_modules_own_numbers_differ_from_task_to_task(app: ApplicationNode) -> None:
    def draw(n: int) -> tuple[float, float]:
        return float(np.random.random()), random.random()

    assert len({number for pair in app.map(draw, range(40), chunksize=1) for number in pair}) == 80


def test_what_is_an_argument_is_not_touched(app: ApplicationNode) -> None:
    rng = np.random.default_rng(1)
    assert list(app.map(lambda rng: float(rng.random()), [rng, rng])) == [float(np.random.default_rng(1).random())] * 2
