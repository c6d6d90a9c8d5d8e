"""Scripts that end before their tasks have: what an exception ends stops them, a normal end waits for them."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from concurrent_nb import Cluster
from tests import fixtures, work
from tests.clusters import alive, descendants, eventually
from tests.work import PATIENCE_S

PRELUDE = """
    import signal, sys, time
    from pathlib import Path
    import concurrent_nb
    from tests import work

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background has it ignored
    folder = Path(sys.argv[1])
    LONG = 4 * work.PATIENCE_S

    def stay(n):
        # As a task that nobody stops: it leaves a file at its end.
        (folder / f"began-{n}").touch()
        time.sleep(LONG)
        (folder / f"ended-{n}").touch()

    def brief(n):
        time.sleep(0.2)
        (folder / f"ended-{n}").touch()
"""

#: each submits ten tasks that last for minutes, and waits for them
WAYS = {
    "with Cluster": """
        with concurrent_nb.Cluster(workers=2) as cluster:
            app = cluster.application()
            [future.result() for future in [app.submit(stay, n) for n in range(10)]]
    """,
    "Cluster().start()": """
        app = concurrent_nb.Cluster(workers=2).start().application()
        [future.result() for future in [app.submit(stay, n) for n in range(10)]]
    """,
    "with cluster.application()": """
        with concurrent_nb.Cluster(workers=2) as cluster, cluster.application() as app:
            [future.result() for future in [app.submit(stay, n) for n in range(10)]]
    """,
    "with connect": """
        with concurrent_nb.connect("interrupts") as app:
            [future.result() for future in [app.submit(stay, n) for n in range(10)]]
    """,
    "connect": """
        app = concurrent_nb.connect("interrupts")
        [future.result() for future in [app.submit(stay, n) for n in range(10)]]
    """,
    "the end of a with": """
        with concurrent_nb.connect("interrupts") as app:
            futures = [app.submit(stay, n) for n in range(10)]
    """,
    "the end of the interpreter": """
        apps = [concurrent_nb.connect("interrupts") for _ in range(2)]
        futures = [app.submit(stay, n) for n in range(10) for app in apps]
    """,
    "a task function's job": """
        for value in concurrent_nb.task(stay).map(range(10)):
            print(value)
    """,
    "a map": """
        list(concurrent_nb.Cluster(workers=2).start().application().map(stay, range(10)))
    """,
    "a coroutine": """
        import asyncio
        async def main():
            await concurrent_nb.task(stay).map(range(10))
        asyncio.run(main())
    """,
}


#: the same, and an exception comes
FAILURES = {
    "in a with": """
        with concurrent_nb.connect("interrupts") as app:
            futures = [app.submit(stay, n) for n in range(10)]
            work.wait_for(folder / "began-0")
            raise ValueError("mine")
    """,
    "in a with Cluster": """
        with concurrent_nb.Cluster(workers=2) as cluster:
            futures = [cluster.application().submit(stay, n) for n in range(10)]
            raise ValueError("mine")
    """,
    "without a with": """
        app = concurrent_nb.connect("interrupts")
        futures = [app.submit(stay, n) for n in range(10)]
        raise ValueError("mine")
    """,
    "sys.exit in a with": """
        with concurrent_nb.connect("interrupts") as app:
            futures = [app.submit(stay, n) for n in range(10)]
            sys.exit("mine")
    """,
}

#: ends that are none of these: tasks run to theirs
NORMAL_ENDS = {
    "with cluster.application()": """
        with concurrent_nb.Cluster(workers=2) as cluster, cluster.application() as app:
            futures = [app.submit(brief, n) for n in range(6)]
    """,
    "with connect": """
        with concurrent_nb.connect("interrupts") as app:
            futures = [app.submit(brief, n) for n in range(6)]
    """,
    "without a with": """
        app = concurrent_nb.Cluster(workers=2).start().application()
        futures = [app.submit(brief, n) for n in range(6)]
    """,
    "sys.exit(0)": """
        with concurrent_nb.connect("interrupts") as app:
            futures = [app.submit(brief, n) for n in range(6)]
            sys.exit(0)
    """,
    "an exception that was caught": """
        app = concurrent_nb.connect("interrupts")
        futures = [app.submit(brief, n) for n in range(6)]
        try:
            raise ValueError("mine")
        except ValueError:
            pass
    """,
    "an interrupt that was caught": """
        app = concurrent_nb.connect("interrupts")
        futures = [app.submit(brief, n) for n in range(6)]
        try:
            signal.raise_signal(signal.SIGINT)
            futures[5].result()
        except KeyboardInterrupt:
            assert not any(future.cancelled() for future in futures)
        assert futures[0].result() is None
    """,
}


cluster = fixtures.shared_cluster(name="interrupts")
leaves_nothing_behind = fixtures.leaves_nothing_behind


def is_idle(cluster: Cluster) -> bool:
    return not any(cluster.status()["tasks"].values())


def script(folder: Path, body: str) -> "subprocess.Popen[str]":
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", text, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end_of(process: "subprocess.Popen[str]") -> str:
    """Wait for the end of a script, which comes long before that of a task that stays; give its errors."""
    try:
        _, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    return errors


@pytest.mark.parametrize("way", WAYS)
def test_one_interrupt_ends_a_script_that_waits_for_its_tasks_and_stops_them(
    tmp_path: Path, cluster: Cluster, way: str
) -> None:
    process = script(tmp_path, WAYS[way])
    try:
        work.wait_for(tmp_path / "began-0")
        below = descendants(process.pid)
        process.send_signal(signal.SIGINT)
    except BaseException:
        process.kill()
        raise
    assert "KeyboardInterrupt" in end_of(process)
    assert process.returncode != 0 or way == "the end of the interpreter"  # Python ignores exceptions there
    eventually(lambda: is_idle(cluster), "its tasks have been stopped")
    eventually(lambda: not alive(below), "its own cluster is gone")
    assert not list(tmp_path.glob("ended-*"))


@pytest.mark.parametrize("how", FAILURES)
def test_an_exception_that_ends_a_script_stops_its_tasks(tmp_path: Path, cluster: Cluster, how: str) -> None:
    process = script(tmp_path, FAILURES[how])
    assert "mine" in end_of(process)
    assert process.returncode == 1
    eventually(lambda: is_idle(cluster), "its tasks have been stopped")
    assert not list(tmp_path.glob("ended-*"))


@pytest.mark.parametrize("how", NORMAL_ENDS)
def test_a_normal_end_waits_for_what_was_submitted(tmp_path: Path, how: str) -> None:
    process = script(tmp_path, NORMAL_ENDS[how])
    assert end_of(process) == ""
    assert process.returncode == 0
    assert len(list(tmp_path.glob("ended-*"))) == 6
