"""Inside of a task, what looks names up in `__main__` finds what came by value; scripts and cells alike."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from concurrent_nb.nodes.cluster import Cluster
from tests.work import PATIENCE_S

SCRIPT = """
    import dataclasses, functools, logging, multiprocessing, pickle, sys, typing
    import concurrent_nb

    log = logging.getLogger("script")
    SCALE = 3
    TASK_ONLY = None

    @dataclasses.dataclass
    class Point:
        x: "int"
        next: "Point | None" = None

    class Missing:
        def __reduce__(self): return "MISSING"
    MISSING = Missing()

    class Broken(Exception):
        def __init__(self, code, *, where):
            super().__init__(f"code {code} at {where}")
            self.code, self.where = code, where

    def double(n):
        log.debug("doubling %s", n)
        return 2 * n

    @functools.cache
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    def by_processes(n):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            return pool.map(double, range(n)) + pool.map(fib, [10])

    def through_pickle(thing):
        copy = pickle.loads(pickle.dumps(thing))
        return copy, type(copy) is type(thing)

    def calls(function, n):
        return pickle.loads(pickle.dumps(function))(n)

    def hints():
        return typing.get_type_hints(Point) == {"x": int, "next": typing.Optional[Point]}

    def is_missing(thing):
        return thing is MISSING, thing

    def scaled():
        import __main__
        return __main__.SCALE, SCALE

    def remember(n):
        global TASK_ONLY
        TASK_ONLY = n
        import __main__
        return __main__.TASK_ONLY

    def sees(name):
        import __main__
        return hasattr(__main__, name)

    def fail():
        raise Broken(7, where="disk")

    def check(app):
        assert app.submit(by_processes, 3).result(60) == [0, 2, 4, 55]
        assert app.submit(through_pickle, Point(1, Point(2))).result(60) == (Point(1, Point(2)), True)
        assert list(app.map(through_pickle, [Point(n) for n in range(50)])) == [(Point(n), True) for n in range(50)]
        assert app.submit(calls, double, 4).result(60) == 8
        assert app.submit(calls, fib, 80).result(60) == fib(80)
        assert app.submit(hints).result(60)
        same, back = app.submit(is_missing, MISSING).result(60)
        assert same and back is MISSING
        assert app.submit(scaled).result(60) == (3, 3)
        assert app.submit(remember, 5).result(60) == 5
        # Neither what another function has brought, nor what came with the arguments of another task.
        assert not app.submit(sees, "SCALE").result(60)
        assert not app.submit(sees, "Point").result(60)
        for future in [app.submit(fail), *app.start_job(fail, [()] * 3, batch=2).futures]:
            try:
                future.result(60)
            except Broken as error:
                assert (error.code, error.where, str(error)) == (7, "disk", "code 7 at disk")
                assert "script.py" in str(error.__cause__) and "in fail" in str(error.__cause__)
        print("fine")

    if __name__ == "__main__":
        with concurrent_nb.connect(sys.argv[1]) as app:
            check(app)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("main") / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


def test_a_script_s_names_are_found(script: Path) -> None:
    with Cluster(workers=1) as cluster:
        command = [sys.executable, str(script), str(cluster.connection_file)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert (ended.stdout.strip(), ended.returncode) == ("fine", 0), ended.stderr


THREADS = """
            def waits(thing):
                import time, __main__
                time.sleep(0.1)
                return pickle.loads(pickle.dumps(thing)), hasattr(__main__, "SCALE"), SCALE

            def waits_too(thing):
                import time, __main__
                time.sleep(0.1)
                return pickle.loads(pickle.dumps(thing)), hasattr(__main__, "SCALE")

            needs = concurrent_nb.Needs(kind="thread")
            jobs = [app.start_job(f, [(Point(n),) for n in range(6)], needs=needs) for f in (waits, waits_too)]
            assert jobs[0].results() == [(Point(n), True, 3) for n in range(6)]
            assert jobs[1].results() == [(Point(n), False) for n in range(6)]
            print("fine")
"""


def test_each_thread_of_a_process_finds_those_of_its_own_task(script: Path) -> None:
    path = script.with_name("threads.py")
    # The last line is replaced: it is the body of `with`, of the indentation of what stands there now.
    lines = textwrap.dedent(SCRIPT).rstrip().splitlines()[:-1]
    path.write_text("\n".join([*lines, textwrap.indent(textwrap.dedent(THREADS), " " * 8)]))
    with Cluster(workers=2) as cluster:
        command = [sys.executable, str(path), str(cluster.connection_file)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert (ended.stdout.strip(), ended.returncode) == ("fine", 0), ended.stderr
