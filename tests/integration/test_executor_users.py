"""Libraries that take a `concurrent.futures.Executor`, or a `map`, as docs/libraries.md describes them."""

import asyncio
import copyreg
from collections.abc import Iterator
from typing import Any

import dask
import pytest
import scipy.optimize
from tqdm import tqdm  # type: ignore[import-untyped]

from concurrent_nb import ApplicationNode
from tests import fixtures

cluster = fixtures.shared_cluster()
app = fixtures.app
leaves_nothing_behind = fixtures.leaves_nothing_behind


@dask.delayed  # type: ignore[untyped-decorator]
def add(a: int, b: int) -> int:
    return a + b


def square(n: int) -> int:
    return n * n


def rosenbrock(x: Any) -> float:
    return float(scipy.optimize.rosen(x))


def test_dask_runs_its_graphs_on_the_cluster(app: ApplicationNode) -> None:
    total = add(add(1, 2), add(3, 4))
    assert dask.compute(total, total + 1, scheduler=app) == (10, 11)
    with dask.config.set(scheduler=app):
        assert dask.delayed(sum)([add(n, n) for n in range(50)]).compute() == 2450


def test_dask_raises_what_a_task_raises(app: ApplicationNode) -> None:
    with pytest.raises(ZeroDivisionError):
        dask.compute(dask.delayed(divmod)(1, 0), scheduler=app)


def test_scipy_takes_map_as_its_workers(app: ApplicationNode) -> None:
    def minimum(**options: Any) -> Any:
        found = scipy.optimize.differential_evolution(
            rosenbrock, [(0, 2)] * 2, rng=1, maxiter=3, polish=False, updating="deferred", **options
        )
        return found.x.tolist()

    assert minimum(workers=app.map) == minimum()


def test_coroutines_run_functions_in_an_executor(app: ApplicationNode) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return list(await asyncio.gather(*(loop.run_in_executor(app, square, n) for n in range(10))))

    assert asyncio.run(main()) == [n * n for n in range(10)]


def test_tqdm_shows_a_map(
    app: ApplicationNode, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread of its own
    assert list(tqdm(app.map(abs, range(-5, 0)), total=5)) == [5, 4, 3, 2, 1]
    assert "5/5" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- exceptions beside dask


class TwoArguments(Exception):
    """Its `__init__` does not accept its `args`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


@pytest.fixture
def registered_by_dask() -> Iterator[None]:
    """Have tblib's reducers for all exceptions, as after `import dask`."""
    from tblib import pickling_support  # here: it belongs to this fixture

    before = dict(copyreg.dispatch_table)
    pickling_support.install()
    assert TwoArguments in copyreg.dispatch_table
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


def fail(error: BaseException) -> None:
    raise error


def fail_beside_dask(code: int) -> None:
    from tblib import pickling_support  # here: in the worker, as dask does there

    pickling_support.install()
    raise TwoArguments(code, "beside dask")


def check(caught: BaseException, code: int) -> None:
    assert type(caught) is TwoArguments and caught.code == code
    assert "raise" in str(caught.__cause__)
    frames = caught.__traceback__
    names = []
    while frames is not None:
        names.append(frames.tb_frame.f_code.co_name)
        frames = frames.tb_next
    assert not {"fail", "fail_beside_dask"} & set(names), "the frames of another process are in the cause"


@pytest.mark.usefixtures("registered_by_dask")
def test_exceptions_are_sent_as_they_are(app: ApplicationNode) -> None:
    with pytest.raises(TwoArguments) as caught:
        app.submit(fail, TwoArguments(5, "as an argument")).result()
    check(caught.value, 5)
    assert app.submit(lambda error: error.code, TwoArguments(6, "x")).result() == 6


def test_exceptions_arrive_as_they_are_where_a_task_has_imported_dask(app: ApplicationNode) -> None:
    for code in (1, 2):
        with pytest.raises(TwoArguments) as caught:
            app.submit(fail_beside_dask, code).result()
        check(caught.value, code)
