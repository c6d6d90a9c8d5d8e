"""Everything at once: tasks that print, hang and die, workers that are killed, tasks that are withdrawn."""
# ruff: noqa: T201  (what tasks print is a part of what is tested)

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from concurrent_nb.outcome import Status
from concurrent_nb.wire.messages import Needs, TaskRef
from tests.integration.pool_driver import Driver

KINDS = (
    ["idle"] * 60 + ["print"] * 10 + ["both"] * 6 + ["sleep"] * 8 + ["exit", "hang"] + ["raise", "large", "child"] * 3
)
#: what a child writes is nobody's where tasks share a process
KINDS_IN_THREADS = [kind for kind in KINDS if kind != "child"]
THREAD = Needs(kind="thread")
LARGE_BYTES = 200_000
SECONDS = 2.0


def task(n: int, kind: str) -> object:
    import os
    import sys
    import time

    if kind == "print":
        print("n", n)
    elif kind == "both":
        sys.stderr.write(f"e{n}")
        print(n, end="")
    elif kind == "sleep":
        time.sleep(0.003 * (n % 9))
    elif kind == "exit":
        os._exit(3)
    elif kind == "raise":
        raise ValueError(n)
    elif kind == "large":
        return bytes(LARGE_BYTES)
    elif kind == "child":
        os.system(f"sleep 0.01; echo c{n}")
    while kind == "hang":
        pass
    return n


def expected(n: int, kind: str) -> dict[int, bytes]:
    out = {"print": f"n {n}\n", "both": f"{n}", "child": f"c{n}\n"}.get(kind, "")
    return {1: out.encode(), 2: f"e{n}".encode() if kind == "both" else b""}


@pytest.fixture(params=["fork_server", "spawn"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    with Driver(str(request.param), slots=3, grace_s=0.1) as driver:
        yield driver


@pytest.mark.parametrize(("seed", "mix"), [(1, [None]), (2, [None]), (3, [THREAD]), (4, [None, THREAD])])
def test_every_task_is_answered_once_and_rightly(driver: Driver, seed: int, mix: list[Needs | None]) -> None:
    chance = random.Random(seed)
    kinds: dict[TaskRef, str] = {}
    withdrawn: set[TaskRef] = set()
    in_threads: set[TaskRef] = set()
    digest = driver.add(task)

    # when: tasks come, workers are killed, tasks are withdrawn
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if driver.pool.unfinished < 400:
            needs = chance.choice(mix)
            chosen = [chance.choice(KINDS_IN_THREADS if needs else KINDS) for _ in range(chance.randint(1, 120))]
            first = len(kinds)
            calls = [(first + n, kind) for n, kind in enumerate(chosen)]
            refs = driver.assign(digest, calls, timeout_s=0.3, needs=needs)
            in_threads |= set(refs) if needs else set()
            kinds |= dict(zip(refs, chosen, strict=True))
        driver.turn(0.002)
        pids = [line.pid for line in driver.pool._connections.values() if line.is_ready]
        if pids and chance.random() < 0.01:
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    chance.choice(pids), chance.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGTERM])
                )
        if chance.random() < 0.03:
            some = chance.sample(list(kinds), min(len(kinds), 30))
            withdrawn |= set(some)
            driver.withdraw(some, stop=chance.random() < 0.5)
    driver.until(lambda: not driver.pool.unfinished)

    # then
    assert not driver.degraded
    assert len(set(driver.returned)) == len(driver.returned)
    assert set(driver.returned) | set(driver.ended) == set(kinds)
    assert set(driver.returned).isdisjoint(driver.ended)
    assert set(driver.returned) <= withdrawn | in_threads  # what ran beside a death goes back
    for ref, end in driver.ended.items():
        kind = kinds[ref]
        if end.status == Status.OK:
            assert end.value == (bytes(LARGE_BYTES) if kind == "large" else ref.index)
            # A child may have died of the interrupt that its task, being cancelled, did not notice.
            if not (kind == "child" and ref in withdrawn):
                assert driver.output[ref] == expected(ref.index, kind)
        elif end.status == Status.ERROR:
            assert kind == "raise"
        elif end.status == Status.CANCELLED:
            assert ref in withdrawn
        else:
            assert end.status in (Status.TIMEOUT, Status.DIED)
