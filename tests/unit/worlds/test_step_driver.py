"""A world of random members is the same for any groups and workers, whatever is lost."""

import random
import time
from typing import Any, ClassVar

import numpy as np
import pytest

from concurrent_nb.errors import PoisonTask, WorldError
from concurrent_nb.worlds import living_groups, step_driver
from concurrent_nb.worlds.group_runner import GroupRunner, WorldTerms
from concurrent_nb.worlds.shared_values import SharedDatum, declared, shared_array, shared_value
from concurrent_nb.worlds.step_driver import StepDriver
from concurrent_nb.worlds.world_state import WorldState
from tests.unit.worlds.virtual_workers import TERMS, Killed, VirtualWorkers, members_of, packed

STEPS = 6
COUNT = 6  # of members at the beginning


class Creature:
    """Does everything that a member can do, by chance."""

    def __init__(self, energy: float) -> None:
        self.energy = energy
        self.heard: list[Any] = []

    def step(self, ctx: Any) -> None:
        rng = ctx.rng
        a, b, c = rng.random(3).tolist()
        self.heard = [*self.heard, *zip(ctx.senders, ctx.inbox, strict=True)][-4:]
        self.energy += 0.1 * sum(value for value in ctx.inbox if isinstance(value, float)) - 0.2 * a
        self.energy += 0.01 * float(ctx.read("field")[1].sum()) + 0.001 * ctx.read("total")
        ctx.send(int(COUNT * b), a)
        if b < 0.2:
            ctx.send([int(COUNT * each) for each in (a, b, c)], {"energy": self.energy} if c < 0.5 else "a word")
        ctx.add("field", (int(2 * a), int(3 * b)), c)
        ctx.add("total", a)
        ctx.write("last", ctx.id)
        ctx.write("words", (ctx.step, ctx.id))
        ctx.write("folded", c)
        ctx.measure("energy", self.energy)
        if a < 0.1:
            ctx.spawn(Creature(c))
        if c < 0.05:
            ctx.leave()
        if 0.48 < b < 0.5:
            raise ArithmeticError("unlucky")


def folded(value: float, written: list[float]) -> float:
    for each in written:
        value = value / 3 + each
    return value


def shared_data() -> dict[str, SharedDatum]:
    """Return the data that creatures share."""
    return {
        "field": shared_array(np.zeros((2, 3)), merge="sum"),
        "total": shared_value(0.0, merge="sum"),
        "last": shared_value(0, merge="last"),
        "words": shared_value([], merge="concat"),
        "folded": shared_value(0.0, merge=folded),
    }


def new_state(seed: int, groups: int, count: int = COUNT) -> WorldState:
    chance = random.Random(seed)
    members = packed([Creature(chance.random()) for _ in range(count)])
    return WorldState(WorldTerms(seed, "drop", 1000, None), members, declared(shared_data()), {}, groups)


def outcome(
    seed: int,
    groups: int,
    workers: int,
    loss: float = 0.0,
    every: int | None = None,
    resolution: int = 1,
    count: int = COUNT,
    runs: int = 1,
) -> tuple[Any, ...]:
    """Run a world; return all that can be seen of it."""
    state = new_state(seed, groups, count)
    virtual = VirtualWorkers(workers, seed, loss)
    driver = StepDriver(b"world", state, workers, groups, every, virtual.clock)
    for _ in range(runs):
        virtual.run(driver, driver.start(STEPS // runs, 0, resolution))
        assert driver.error is None and driver.is_over
    members = {number: (each.energy, each.heard) for number, each in members_of(state).items()}
    shared = {name: np.asarray(datum.value).tolist() for name, datum in state.shared.data.items()}
    steps = [
        (
            step.number,
            step.members,
            step.messages,
            step.undelivered,
            step.born,
            step.left,
            step.stats,
            len(step.dropped),
        )
        for step in driver.records
    ]
    return members, shared, steps


@pytest.mark.parametrize("part", range(4))
def test_the_world_is_the_same_on_any_number_of_workers(part: int) -> None:
    for seed in range(50 * part, 50 * part + 50):
        expected = outcome(seed, 1, 1)
        assert outcome(seed, 2, 2) == expected
        assert outcome(seed, 5, 3, loss=0.1) == expected
        if seed % 10 == 0:
            assert outcome(seed, 50, 5, count=60) == outcome(seed, 1, 1, count=60)


def test_it_is_the_same_for_any_checkpoints() -> None:
    for seed in range(20):
        expected = outcome(seed, 1, 1)
        for every in (1, 2, 3):
            assert outcome(seed, 3, 2, loss=0.2, every=every) == expected


def test_it_is_the_same_in_one_run_and_in_several() -> None:
    for seed in range(20):
        members, shared, steps = outcome(seed, 3, 2, runs=3)
        assert (members, shared, steps) == outcome(seed, 1, 1)


def test_it_is_the_same_with_barriers_every_few_steps() -> None:
    for seed in range(20):
        expected = outcome(seed, 1, 1, resolution=3)
        assert outcome(seed, 4, 3, loss=0.1, resolution=3) == expected
        assert outcome(seed, COUNT, 2, resolution=3) == expected


def test_a_worker_that_is_lost_costs_the_steps_since_the_checkpoint() -> None:
    state = new_state(1, 2)
    virtual = VirtualWorkers(2, 1)
    driver = StepDriver(b"world", state, 2, 2, 4, virtual.clock)
    virtual.run(driver, driver.start(6))
    assert [len(group.log) for group in state.groups] == [2, 2]


class Idle:
    def __init__(self, at: int = 0) -> None:
        self.at = at

    def step(self, ctx: Any) -> None:
        self.at += 1


class Ahead(Idle):
    """Tells the others how far it is."""

    def step(self, ctx: Any) -> None:
        self.at = ctx.step
        ctx.send([0, 1, 2, 3], ctx.step)
        for step in ctx.inbox:
            ctx.write("spread", abs(step - ctx.step))


@pytest.mark.parametrize("slack", [1, 3])
def test_without_locks_members_are_only_so_many_steps_apart(slack: int) -> None:
    furthest = 0
    for seed in range(30):
        state = WorldState(
            WorldTerms(seed, "stop", 100, None),
            packed([Ahead() for _ in range(4)]),
            declared({"spread": shared_value(0, merge="max")}),
            {},
            4,
        )
        virtual = VirtualWorkers(3, seed, 0.05)
        driver = StepDriver(b"world", state, 3, 4, 5, virtual.clock)
        virtual.run(driver, driver.start(20, slack))
        assert driver.error is None
        assert [each.at for each in members_of(state).values()] == [20] * 4
        spread = state.shared.data["spread"].value
        assert spread <= slack + 1
        furthest = max(furthest, spread)
    assert furthest > 1, "no message has arrived early or late, so nothing was tested"


def test_groups_that_are_uneven_are_divided_anew_by_what_members_cost() -> None:
    state = WorldState(WorldTerms(1, "stop", 100, None), packed([Idle() for _ in range(8)]), {}, {}, 2)
    state.groups[0].members.costs_s[:] = [9.0, 1, 1, 1]
    state.groups[1].members.costs_s[:] = 1.0
    state.divide(2)
    assert state.first_ids.tolist() == [0, 1]


def test_uneven_groups_are_divided_anew_if_enough_steps_follow() -> None:
    state = WorldState(WorldTerms(1, "stop", 100, None), packed([Idle() for _ in range(8)]), {}, {}, 2)
    driver = StepDriver(b"world", state, 2, 2, 1000, lambda: 0.0)
    driver._unevenness, driver._group_s, driver._collect_s = 1.2, 0.01, 0.02
    driver.start(40)
    assert driver._unevenness == 1.2, "40 steps gain 0.08 s, and opening the members elsewhere takes 0.1 s"
    driver.start(60)
    assert driver._unevenness == 1.0


def test_a_worker_has_room_for_all_groups_of_a_world() -> None:
    count = living_groups.GROUPS_MAX + 10
    state = WorldState(TERMS, packed([Idle() for _ in range(count)]), {}, {}, count)
    virtual = VirtualWorkers(1)
    driver = StepDriver(b"world", state, 1, count, None, virtual.clock)
    virtual.run(driver, driver.start(3))
    assert not any(answer.lost for answer in virtual.answers)
    other = StepDriver(b"other", WorldState(TERMS, packed([Idle()]), {}, {}, 1), 1, 1, None, virtual.clock)
    virtual.run(other, other.start(3))
    assert len(virtual._workers[0]) == living_groups.GROUPS_MAX


def test_groups_spread_when_one_worker_has_all() -> None:
    state = WorldState(WorldTerms(1, "stop", 100, None), packed([Idle() for _ in range(8)]), {}, {}, 2)
    virtual = VirtualWorkers(2, 3)
    driver = StepDriver(b"world", state, 2, 2, None, virtual.clock)
    virtual.run(driver, driver.start(40))
    assert len(set(driver.owners.values())) == 2


class Failing(Idle):
    def step(self, ctx: Any) -> None:
        super().step(ctx)
        ctx.send(0, self.at)
        if ctx.id == 2 and ctx.step == 3:
            raise ValueError("no way")


def run_failing(on_error: str, groups: int) -> tuple[WorldState, StepDriver]:
    state = WorldState(WorldTerms(1, on_error, 100, None), packed([Failing() for _ in range(4)]), {}, {}, groups)
    virtual = VirtualWorkers(2, 3)
    driver = StepDriver(b"world", state, 2, groups, None, virtual.clock)
    virtual.run(driver, driver.start(5))
    return state, driver


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_member_that_raises_stops_the_world_after_the_step_before(groups: int) -> None:
    state, driver = run_failing("stop", groups)
    assert isinstance(driver.error, WorldError)
    assert (driver.error.step, driver.error.member) == (3, 2)
    assert "member 2 failed in step 3: ValueError: no way" in str(driver.error)
    assert "Failing" not in str(driver.error) and "no way" in str(driver.error.__cause__)
    assert state.step == 2
    assert [each.at for each in members_of(state).values()] == [2, 2, 2, 2]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_or_it_is_dropped_and_what_it_did_in_the_step_does_not_count(groups: int) -> None:
    state, driver = run_failing("drop", groups)
    assert driver.error is None
    assert [(each.number, each.messages, each.members) for each in driver.records] == [
        (1, 4, 4),
        (2, 4, 4),
        (3, 3, 3),
        (4, 3, 3),
        (5, 3, 3),
    ]
    assert [each.member for each in driver.records[2].dropped] == [2]
    assert sorted(members_of(state)) == [0, 1, 3]


class Killing(Idle):
    def __init__(self, at: int = 0, steps: tuple[int, ...] = ()) -> None:
        super().__init__(at)
        self.steps = steps

    def step(self, ctx: Any) -> None:
        super().step(ctx)
        ctx.send(0, self.at)
        if ctx.step in self.steps:
            raise Killed


def run_killing(on_error: str, groups: int, killers: dict[int, tuple[int, ...]]) -> tuple[WorldState, StepDriver, int]:
    members = [Killing(0, killers.get(number, ())) for number in range(6)]
    state = WorldState(WorldTerms(1, on_error, 100, None), packed(members), {}, {}, groups)
    virtual = VirtualWorkers(2, 3)
    driver = StepDriver(b"world", state, 2, groups, 2, virtual.clock)
    virtual.run(driver, driver.start(5))
    return state, driver, virtual.deaths


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_member_that_kills_its_worker_is_named(groups: int) -> None:
    state, driver, deaths = run_killing("stop", groups, {4: (3,)})
    assert isinstance(driver.error, WorldError)
    assert (driver.error.step, driver.error.member) == (3, 4)
    assert "member 4 failed in step 3: it kills its worker: 3 times a worker died" in str(driver.error)
    assert isinstance(driver.error.__cause__, PoisonTask)
    assert state.step == 2 and deaths >= 6


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_or_it_is_dropped_and_the_world_goes_on(groups: int) -> None:
    state, driver, _ = run_killing("drop", groups, {1: (2,), 2: (4,), 5: (4,)})
    assert driver.error is None and state.step == 5
    assert [(step.members, step.messages) for step in driver.records] == [(6, 6), (5, 5), (5, 5), (3, 3), (3, 3)]
    assert [(each.member, each.step) for step in driver.records for each in step.dropped] == [(1, 2), (2, 4), (5, 4)]
    assert [each.at for each in members_of(state).values()] == [5, 5, 5]


def test_with_barriers_every_few_steps_it_is_dropped_too() -> None:
    members = [Killing(0, (2, 5) if number == 1 else ()) for number in range(3)]
    state = WorldState(WorldTerms(1, "drop", 100, None), packed(members), {}, {}, 1)
    virtual = VirtualWorkers(1, 3)
    driver = StepDriver(b"world", state, 1, 1, None, virtual.clock)
    virtual.run(driver, driver.start(9, resolution=3))
    assert driver.error is None and [each.at for each in members_of(state).values()] == [9, 9]
    assert [(each.member, each.step) for step in driver.records for each in step.dropped] == [(1, 2)]


class Moody(Idle):
    """Fails in some steps, but not when they are repeated; or only then."""

    fails: ClassVar[set[tuple[int, int]]] = set()

    def step(self, ctx: Any) -> None:
        super().step(ctx)
        ctx.send([0, 1, 2], ctx.id)
        if (ctx.step, ctx.id) in self.fails:
            raise TimeoutError("busy")


@pytest.mark.parametrize("resolution", [1, 2])
@pytest.mark.parametrize("on_error", ["stop", "drop"])
def test_a_step_that_is_repeated_ends_as_it_has_ended_before(
    resolution: int, on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = {(2, 1), (4, 2)} if on_error == "drop" else set()
    monkeypatch.setattr(Moody, "fails", fails)
    state = WorldState(WorldTerms(1, on_error, 100, None), packed([Moody() for _ in range(3)]), {}, {}, 1)
    virtual = VirtualWorkers(1, 3)
    driver = StepDriver(b"world", state, 1, 1, 100, virtual.clock)
    virtual.run(driver, driver.start(6, resolution=resolution))
    assert driver.error is None
    monkeypatch.setattr(Moody, "fails", set())
    assert [each.at for each in members_of(state).values()] == ([6] if on_error == "drop" else [6, 6, 6])
    monkeypatch.setattr(Moody, "fails", {(3, 0)})
    with pytest.raises(WorldError, match=r"member 0 failed when step 3 was repeated, and not .*: TimeoutError: busy"):
        members_of(state)


def test_a_step_that_is_repeated_has_no_time_limit() -> None:
    class Thinking:
        def step(self, ctx: Any) -> None:
            end_s = time.monotonic() + 0.03
            while time.monotonic() < end_s:
                pass

    state = WorldState(WorldTerms(1, "stop", 100, 0.01), packed([Thinking()]), {}, {}, 1)
    runner = GroupRunner(state.terms, state.adoption(0), lambda: 0.0)
    runner.repeat([state.inputs(0, 1)])
    assert runner.run(state.inputs(0, 1)._replace(step=2)).failed


@pytest.mark.parametrize("resolution", [1, 3])
def test_in_lock_step_it_goes_on_after_a_lock_free_run_that_was_interrupted(resolution: int) -> None:
    uneven = 0
    for seed in range(20):
        state = WorldState(
            TERMS, packed([Ahead() for _ in range(4)]), declared({"spread": shared_value(0, "max")}), {}, 4
        )
        virtual = VirtualWorkers(3, seed)
        driver = StepDriver(b"world", state, 3, 4, 3, virtual.clock)
        virtual.run(driver, driver.start(20, 3), answers=seed + 1)
        uneven += not state.is_even()
        virtual.run(driver, driver.start(7, 0, resolution))
        assert driver.is_over and driver.error is None and state.is_even()
        assert [each.at for each in members_of(state).values()] == [state.step] * 4
    assert uneven > 5


@pytest.mark.parametrize(("resolution", "slack"), [(1, 0), (5, 0), (1, 2)])
def test_checkpoints_are_so_many_steps_apart(resolution: int, slack: int) -> None:
    state = WorldState(TERMS, packed([Idle() for _ in range(4)]), {}, {}, 2)
    virtual = VirtualWorkers(2, 1)
    driver = StepDriver(b"world", state, 2, 2, 10, virtual.clock)
    virtual.run(driver, driver.start(40, slack, resolution))
    found = [
        answer.outputs[0].step for answer in virtual.answers if 0 in answer.outputs and answer.outputs[0].collected
    ]
    assert found == [10, 20, 30, 40] if not slack else 4 <= len(found) <= 10


def test_large_changes_of_shared_data_are_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Writing:
        def step(self, ctx: Any) -> None:
            ctx.write("a", np.full(1000, ctx.step))

    monkeypatch.setattr(step_driver, "LOG_BYTES_MAX", 50_000)
    state = WorldState(TERMS, packed([Writing()]), declared({"a": np.zeros(1000)}), {}, 1)
    virtual = VirtualWorkers(1, 1)
    driver = StepDriver(b"world", state, 1, 1, None, lambda: 0.0)
    driver._collect_s = 1.0
    virtual.run(driver, driver.start(100))
    assert driver.error is None and len(state.groups[0].log) <= 8 and state.changes_bytes <= 64_000


class Begetting(Idle):
    def step(self, ctx: Any) -> None:
        super().step(ctx)
        if ctx.step == 2:
            ctx.spawn(Idle(), name="x")


def test_two_new_members_with_one_name_are_an_error_and_the_step_does_not_count() -> None:
    state = WorldState(TERMS, packed([Begetting(), Begetting()]), {}, {}, 2)
    virtual = VirtualWorkers(2)
    driver = StepDriver(b"world", state, 2, 2, None, virtual.clock)
    virtual.run(driver, driver.start(3))
    assert "two members have the name 'x'. This was in step 2, which does not count" in str(driver.error)
    assert state.step == 1 and state.count == 2 and [each.at for each in members_of(state).values()] == [1, 1]


def test_an_order_that_nobody_can_carry_out_names_the_step_and_the_members() -> None:
    state = new_state(1, 2)
    driver = StepDriver(b"world", state, 2, 2, None, VirtualWorkers(1).clock)
    (orders,) = driver.start(5)
    driver.failed(orders.batch, MemoryError("full"))
    assert driver.is_over
    assert "step 1 could not be made: MemoryError: full" in str(driver.error)
    assert "group 0 (members 0 to 2), group 1 (members 3 to 5)" in str(driver.error)


def test_a_run_ends_when_no_member_is_left() -> None:
    class Leaving:
        def step(self, ctx: Any) -> None:
            ctx.leave()

    state = WorldState(WorldTerms(1, "stop", 100, None), packed([Leaving(), Leaving()]), {}, {}, 2)
    virtual = VirtualWorkers(2)
    driver = StepDriver(b"world", state, 2, 2, None, virtual.clock)
    virtual.run(driver, driver.start(100))
    assert driver.is_over and driver.is_empty and driver.error is None
    assert [step.number for step in driver.records] == [1]
