"""Worlds on a real cluster: the same result for any number of workers, whatever dies; interrupts; bad members."""

import asyncio
import doctest
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from concurrent_nb import ApplicationNode, Cluster, World, connect, shared_array, shared_value
from concurrent_nb.errors import ConfigurationError, NotPicklable, WorldError
from tests import fixtures, worlds_on_clusters
from tests.clusters import BRISK, eventually, slave_pids

cluster = fixtures.shared_cluster(workers=2)
app = fixtures.app
leaves_nothing_behind = fixtures.leaves_nothing_behind


class Walker:
    """Walks by chance, and tells others where it is."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.heard = 0.0

    def step(self, ctx: Any) -> None:
        self.heard = 0.5 * self.heard + sum(ctx.inbox)
        self.at = (self.at + int(ctx.rng.integers(-1, 2))) % 10
        ctx.add("visits", self.at, 1 + self.heard)
        ctx.send([(ctx.id + 1) % 40, int(ctx.rng.integers(40))], self.at / 7)
        ctx.measure("at", self.at)


def new_world(app: ApplicationNode, **options: Any) -> World:
    shared = {"visits": shared_array(np.zeros(10), merge="sum")}
    world: World = app.world([Walker(number % 10) for number in range(40)], shared=shared, seed=5, **options)
    return world


def outcome(world: World) -> Any:
    members = {number: (each.at, each.heard) for number, each in world.members.items()}
    return members, world.shared["visits"].tolist(), [step.stats for step in world.history]


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> Any:
    """Give what the world of all these tests is like after 24 steps."""
    with new_world(cluster.application(), workers=1) as world:
        assert world.run(24).number == 24
        return outcome(world)


@pytest.mark.parametrize("options", [{}, {"groups": 5}, {"checkpoint_every": 1}, {"groups": 40, "workers": 2}])
def test_the_result_is_the_same_on_any_workers(app: ApplicationNode, expected: Any, options: dict[str, Any]) -> None:
    with new_world(app, **options) as world:
        world.run(24, show=False)
        assert outcome(world) == expected
        assert all(sum(group.members for group in step.groups) == 40 for step in world.history)


def test_members_live_in_workers_between_steps(app: ApplicationNode, cluster: Cluster) -> None:
    with new_world(app) as world:

        def are_spread() -> bool:  # as soon as both workers have time for it
            world.run(20)
            return len({group.worker for step in world.history[-3:] for group in step.groups}) == 2

        eventually(are_spread, "its groups live in both workers")
        assert {group.slave for group in world.history[-1].groups} == {cluster.status()["slaves"][0]["name"]}


def test_steps_one_by_one_are_the_same(app: ApplicationNode, expected: Any) -> None:
    with new_world(app) as world:
        for step in world.steps():
            if step.number == 10:
                break
        assert world.step == 10
        world.run(4)

        async def ten_more() -> None:
            async for step in world:
                if step.number == 24:
                    break

        asyncio.run(ten_more())
        assert outcome(world) == expected


class Killer:
    """Kills its worker at chosen steps, once for each."""

    def __init__(self, marks: str, at: tuple[int, ...]) -> None:
        self.marks = marks
        self.at = at

    def step(self, ctx: Any) -> None:
        mark = f"{self.marks}/{ctx.step}"
        if ctx.step in self.at and not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.add("steps", 1)


def test_the_death_of_a_worker_costs_nothing_that_is_seen(app: ApplicationNode, tmp_path: Any) -> None:
    members = [Killer(str(tmp_path), (3, 8)), *(Killer("", ()) for _ in range(5))]
    with app.world(members, shared={"steps": shared_value(0, merge="sum")}) as world:
        world.run(12)
        assert world.shared["steps"] == 6 * 12
        assert sorted(os.listdir(tmp_path)) == ["3", "8"]
        assert [step.number for step in world.history] == list(range(1, 13))


def test_a_world_in_the_cluster_is_the_same(app: ApplicationNode, expected: Any) -> None:
    with new_world(app) as world:
        world.run(10)
        assert world.run(8, in_cluster=True).number == 18
        world.run(6)
        assert outcome(world) == expected


class Failing:
    def step(self, ctx: Any) -> None:
        if ctx.step == 4 and ctx.id == 1:
            raise ValueError("enough")


@pytest.mark.parametrize("in_cluster", [False, True])
def test_a_failure_names_step_and_member_and_loses_nothing(app: ApplicationNode, in_cluster: bool) -> None:
    with app.world([Failing(), Failing(), Failing()]) as world:
        with pytest.raises(WorldError, match="member 1 failed in step 4: ValueError: enough") as caught:
            world.run(10, in_cluster=in_cluster)
        assert (caught.value.step, caught.value.member) == (4, 1)
        assert 'raise ValueError("enough")' in str(caught.value.__cause__)
        assert world.step == 3 and len(world) == 3
        with pytest.raises(WorldError, match="step 4"):
            world.run(1)


class Exiting:
    def step(self, ctx: Any) -> None:
        if ctx.step == 2 and ctx.id == 1:
            os._exit(3)


def test_a_member_that_kills_its_worker_is_named(app: ApplicationNode) -> None:
    with app.world([Exiting(), Exiting(), Exiting()], groups=1) as world:
        with pytest.raises(WorldError, match=r"(?s)member 1 failed in step 2: it kills its worker: 3 times.*code 3"):
            world.run(3)
        assert world.step == 1


def test_random_worlds_are_the_same_on_clusters_of_any_size_when_workers_are_killed(app: ApplicationNode) -> None:
    with Cluster(workers=1) as one, Cluster(workers=5) as five:
        assert worlds_on_clusters.check([one.application(), app, five.application()], seed=0) > 0


class Slow:
    def step(self, ctx: Any) -> None:
        threading.Event().wait(60 if ctx.step == 3 else 0)


def test_an_interrupt_leaves_the_world_after_the_last_whole_step(app: ApplicationNode) -> None:
    with app.world([Slow()]) as world:
        main = threading.get_ident()

        def interrupt() -> None:
            eventually(
                lambda: world.step == 2 and any(future.running() for future in list(world._open)), "a member hangs"
            )
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            world.run(5)
        thread.join()
        assert world.step == 2
    with new_world(app, groups=2) as other:  # the hanging member was stopped
        assert other.run(2).number == 2


def test_a_world_changes_between_steps(app: ApplicationNode) -> None:
    with new_world(app) as world:
        seen = []
        for step in world.steps(4):
            seen.append(len(world))
            if step.number == 2:
                world.write("visits", np.arange(10))
                assert world.add(Walker(1), name="late") == 40
        assert seen == [40, 40, 41, 41]
        assert world.members["late"].at in (9, 0, 1, 2, 3)
        with pytest.raises(WorldError, match="two members have the name 'late'"):
            world.add(Walker(1), name="late")


def test_a_loop_that_is_left_does_not_hold_the_world(app: ApplicationNode, expected: Any) -> None:
    with new_world(app) as world:

        async def two_loops() -> None:
            async for step in world:
                if step.number == 3:
                    break
            assert world.run(3).number == 6
            async for step in world:
                if step.number == 8:
                    break
            sixteen: Any = np.int64(16)
            for step in world.steps(sixteen):
                assert step.number == world.step

        asyncio.run(two_loops())
        assert outcome(world) == expected


def test_a_world_belongs_to_its_process(app: ApplicationNode) -> None:
    with new_world(app) as world, pytest.raises(NotPicklable, match="a world cannot be sent"):
        app.submit(len, world).result(timeout=60)


def test_members_join_a_running_world(app: ApplicationNode) -> None:
    with new_world(app) as world:
        numbers: list[int] = []

        def join() -> None:
            eventually(lambda: world.step >= 3, "it runs")
            numbers.append(world.add(Walker(1)))
            world.write("visits", np.zeros(10))
            with pytest.raises(WorldError, match="shares no 'x'"):
                world.write("x", 1)

        thread = threading.Thread(target=join)
        thread.start()
        for _ in world.steps(steps=2):
            pass
        while thread.is_alive():
            world.run(10)
        thread.join()
        world.run(1)
        assert numbers == [40] and len(world) == 41


class Waiting:
    async def step(self, ctx: Any) -> None:
        pass


class Yielding:
    def step(self, ctx: Any) -> Any:
        yield


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        ([], {}, "at least one member"),
        ([3], {}, "member 0 has no method step"),
        ([Walker], {}, "is a class, not an object"),
        ([Walker(1)], {"on_error": "ignore"}, '"stop" or "drop"'),
        (None, {}, "in a list, or in a dictionary"),
        ([Waiting()], {}, "member 0: step of Waiting is a coroutine"),
        ([Yielding()], {}, "member 0: step of Yielding is a generator"),
        ([Walker(1)], {"timeout_s": 0}, "timeout_s must be above 0"),
        ([Walker(1)], {"timeout_s": "3"}, "timeout_s must be above 0"),
        ([Walker(1)], {"groups": 1.5}, "groups must be an integer"),
        ([Walker(1)], {"shared": [1]}, "in a dictionary by name"),
        ([Walker(1)], {"seed": -1}, "seed must be"),
        ({1: Walker(1)}, {}, "names of members are strings"),
    ],
)
def test_what_cannot_be_a_world_is_refused(app: ApplicationNode, members: Any, options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        app.world(members, **options)


def test_what_cannot_be_sent_is_named(app: ApplicationNode) -> None:
    member = Walker(1)
    member.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(NotPicklable, match="member 1"):
        app.world([Walker(1), member])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "at least 1"),
        ({"steps": 1.0}, "an integer"),
        ({"steps": 1, "slack": -1, "in_cluster": True}, "slack"),
        ({"steps": 1, "slack": -1}, "slack must"),
        ({"steps": 1, "resolution": 0}, "reso"),
    ],
)
def test_wrong_runs_are_refused(app: ApplicationNode, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        new_world(app).run(**options)


class Sleepy:
    def step(self, ctx: Any) -> None:
        threading.Event().wait(0.05)


def test_an_application_that_is_closed_ends_the_run() -> None:
    with Cluster(workers=1) as own:
        app = own.application()
        world = app.world([Sleepy(), Sleepy()])

        def close() -> None:
            eventually(lambda: world.step >= 2, "it runs")
            app.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises((WorldError, RuntimeError), match=r"the application closed|after shutdown"):
            world.run(10_000)
        thread.join()


def test_it_is_the_same_on_two_slaves_and_when_one_of_them_dies(
    expected: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with Cluster(on="local", slaves=2, workers=1, config=BRISK) as cluster:
        eventually(lambda: len(cluster.status()["slaves"]) == 2, "both slaves have joined")
        with new_world(cluster.application()) as world:
            world.run(12, show=True)
            names = {group.slave for group in world.history[-1].groups}
            shown = capsys.readouterr().err
            assert len(names) == 2 and all(f"{name}: " in shown for name in names) and "messages" in shown
            os.kill(slave_pids(cluster)[0], signal.SIGKILL)
            world.run(12, show=False)
            assert outcome(world) == expected


def test_it_runs_on_an_engine(expected: Any) -> None:
    with connect("inline", workers=2) as app, new_world(app) as world:
        world.run(24)
        assert outcome(world) == expected


def test_a_lock_free_run_makes_all_steps(app: ApplicationNode) -> None:
    with new_world(app) as world:
        world.run(20, slack=3)
        assert world.step == 20
        assert {step.number for step in world.history} == set(range(1, 21))


def test_it_shows_its_progress(app: ApplicationNode, capsys: pytest.CaptureFixture[str]) -> None:
    with new_world(app) as world:
        world.run(5, show=True, view=lambda step, shared: f"sum {shared['visits'].shape}")
    shown = capsys.readouterr()
    assert "step 5 of 5" in shown.err and "40 members" in shown.err
    assert "sum (10,)" in shown.out
    assert shown.err.count("step 5 of 5") == 1


def test_the_examples_of_the_guide_run(app: ApplicationNode) -> None:
    guide = Path(__file__).parents[2] / "docs" / "worlds.md"
    names = {"__name__": "__main__", "app": app}
    ran = doctest.testfile(str(guide), module_relative=False, globs=names)
    assert ran.failed == 0 and ran.attempted > 15
