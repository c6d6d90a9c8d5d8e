"""Tasks that refer to shared objects: who has which, and where such tasks go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concurrent_nb.errors import ConfigurationError, ProtocolError
from concurrent_nb.ids import SessionId
from concurrent_nb.scheduling import object_locations
from concurrent_nb.scheduling.events import ObjectsDropped, ObjectsHeld
from concurrent_nb.scheduling.object_locations import ObjectLocations, missing_bytes
from concurrent_nb.scheduling.slave_state import SlaveState
from concurrent_nb.scheduling.strategies.by_name import BY_NAME
from concurrent_nb.scheduling.strategies.locality import LocalityStrategy
from concurrent_nb.scheduling.strategies.strategy import Strategy
from concurrent_nb.tasks.task_record import ObjectSize
from tests.unit.scheduling.bench import Bench
from tests.unit.scheduling.client_events import opened, submitted
from tests.unit.scheduling.instructions import assigned, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, returned, slave_id

MB = 1_000_000
X: tuple[ObjectSize, ...] = ((b"x", 100 * MB),)
Y: tuple[ObjectSize, ...] = ((b"y", 100 * MB),)
BOTH = X + Y


def held(slave: str, *objects: bytes) -> ObjectsHeld:
    return ObjectsHeld(slave_id(slave), objects)


def dropped(slave: str, *objects: bytes) -> ObjectsDropped:
    return ObjectsDropped(slave_id(slave), objects)


def a_cluster(*names: str, slots: int = 1) -> Bench:
    """Slaves with nothing to do; tasks are known to take 0.1 s, objects to travel 100 MB in half a second."""
    bench = Bench(LocalityStrategy(patience_s=3.0, bytes_per_s=200 * MB))
    bench(joined("warm"), opened(), submitted([0]))
    bench(ended("warm", 0, elapsed_s=0.1), lost("warm"))
    bench(*[joined(name, slots=slots) for name in names])
    return bench


# ------------------------------------------------------------------------------------------- who has what


def test_a_slave_has_what_its_tasks_refer_to_whatever_the_strategy_until_it_reports_otherwise() -> None:
    bench = Bench()
    bench(joined("a"), opened(), submitted([0, 1], objects=[X, Y]))
    slave = bench.scheduler.slaves[slave_id("a")]
    assert list(slave.objects) == [b"x", b"y"]
    bench(dropped("a", b"x", b"never had"), held("a", b"z"), held("unknown", b"z"), dropped("unknown", b"z"))
    assert list(slave.objects) == [b"y", b"z"]


def test_a_lost_slave_has_nothing() -> None:
    bench = Bench()
    bench(joined("a"), held("a", b"x"), lost("a"))
    assert len(bench.scheduler._state.locations) == 0


def test_a_slave_that_shares_memory_has_everything_and_nothing_is_noted_of_it() -> None:
    bench = Bench()
    bench(joined("a", shares_memory=True), opened(), submitted([0], objects=[X]), held("a", b"y"))
    slave = bench.scheduler.slaves[slave_id("a")]
    assert missing_bytes(slave, BOTH) == 0
    assert len(slave.objects) == len(bench.scheduler._state.locations) == 0
    state = bench.scheduler._state.locations
    assert list(state.near(X, 5)) == [slave]
    bench(lost("a"))
    assert list(state.near(X, 5)) == []


def test_tasks_travel_together_only_if_they_refer_to_the_same() -> None:
    bench = Bench()
    bench(opened(), submitted(range(5), objects=[X, X, Y, Y, X]))
    instructions = bench(joined("a", slots=5))
    assert assigned(instructions) == {"a": [0, 1, 2, 3, 4]}


def test_objects_without_tasks_are_refused() -> None:
    bench = Bench()
    bench(opened())
    with pytest.raises(ProtocolError, match=r"2 tasks of job .* came with 1 objects"):
        bench(submitted([0, 1], objects=[X]))


def test_what_is_remembered_of_a_slave_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_locations, "MOST", 3)
    state, slave = ObjectLocations(), SlaveState(SessionId(b"a"), "a", 1, 1)
    state.hold(slave, [b"%d" % number for number in range(5)])
    assert list(slave.objects) == [b"2", b"3", b"4"]
    assert len(state) == 3


def test_all_holders_of_an_object_are_looked_at_in_turn() -> None:
    state = ObjectLocations()
    slaves = [SlaveState(SessionId(b"%d" % number), "", 1, 1) for number in range(5)]
    for slave in slaves:
        state.hold(slave, [b"x"])
    rounds = [list(state.near(X, 2)) for _ in range(5)]
    assert all(len(some) == 2 for some in rounds)
    assert {slave for some in rounds for slave in some} == set(slaves)


@given(has=st.sets(st.sampled_from(b"abc")), wants=st.dictionaries(st.sampled_from(b"abc"), st.integers(0, 100)))
def test_missing_bytes_are_those_of_objects_that_a_slave_lacks(has: set[int], wants: dict[int, int]) -> None:
    slave = SlaveState(SessionId(b"a"), "a", 1, 1)
    ObjectLocations().hold(slave, [bytes([each]) for each in has])
    objects = [(bytes([each]), size) for each, size in wants.items()]
    assert missing_bytes(slave, objects) == sum(size for each, size in wants.items() if each not in has)


# ------------------------------------------------------------------------------------------- where tasks go


def test_a_task_goes_where_its_objects_are() -> None:
    bench = a_cluster("a", "b", "c")
    bench(held("c", b"x"), held("b", b"y"))
    assert assigned(bench(submitted([1, 2], objects=[X, Y]))) == {"c": [1], "b": [2]}


def test_the_slave_that_lacks_the_fewest_bytes_is_best_and_of_equal_ones_the_idle_one() -> None:
    bench = a_cluster("a", "b", "c", "d")
    bench(held("b", b"x"), held("c", b"x", b"y"), held("d", b"x", b"y"))
    assert assigned(bench(submitted([1, 2], objects=[BOTH, BOTH]))) == {"c": [1], "d": [2]}


def test_a_task_waits_for_its_bytes_no_longer_than_they_would_travel() -> None:
    bench = a_cluster("a", "b")
    bench(held("b", b"x"))
    # Half a second is five tasks of 0.1 s: the sixth moves to the idle slave, which has the object from then on.
    shares = assigned(bench(*[submitted([index], objects=[X]) for index in range(1, 8)]))
    assert shares["b"] == [1, 2, 3, 4, 5]
    assert shares["a"][0] == 6


def test_patience_has_an_end_however_large_the_object() -> None:
    bench = a_cluster("a", "b")
    bench(held("b", b"x"))
    shares = assigned(bench(*[submitted([index], objects=[((b"x", 10**12),)]) for index in range(1, 35)]))
    assert shares["b"][:30] == list(range(1, 31))
    assert shares["a"][0] == 31


def test_a_task_waits_for_a_slave_that_shares_memory_as_for_one_that_has_got_its_objects() -> None:
    bench = a_cluster("far")
    bench(joined("near", shares_memory=True), held("far", b"y"))
    # Five tasks of 0.1 s take as long as the object would travel.
    shares = assigned(bench(*[submitted([index], objects=[X]) for index in range(1, 8)]))
    assert shares["near"] == [1, 2, 3, 4, 5]
    assert shares["far"][0] == 6


def test_of_an_unknown_function_only_a_few_tasks_wait() -> None:
    bench = Bench(LocalityStrategy())
    bench(joined("a"), joined("b"), opened(), held("b", b"x"))
    shares = assigned(bench(submitted(range(4), objects=[X] * 4)))
    assert shares == {"b": [0, 1], "a": [2, 3]}


def test_while_all_are_busy_tasks_stay_where_they_can_still_go_anywhere() -> None:
    bench = a_cluster("a", "b")
    bench(submitted(range(1, 11)), held("b", b"x"))
    before = bench.scheduler.waiting
    assert assigned(bench(submitted([11], objects=[X]))) == {}
    assert bench.scheduler.waiting == before + 1


def test_what_a_silent_slave_gives_back_moves_to_an_idle_one() -> None:
    bench = a_cluster("a", "b")
    bench(held("b", b"x"))
    bench(*[submitted([index], objects=[X]) for index in range(1, 4)])
    # A silent slave is left alone for as long as a task may wait for its bytes,
    assert withdrawn(bench.after(2.9), stop=False) == {}
    # then what has not started is taken from it, and does not go there again.
    asked = withdrawn(bench.after(0.2), stop=False)
    assert asked == {"b": [3]}
    assert assigned(bench(returned("b", 3))) == {"a": [3]}


@pytest.mark.parametrize("make", BY_NAME.values(), ids=BY_NAME)
@given(kinds=st.lists(st.sampled_from([(), X, Y, BOTH]), min_size=1, max_size=40), slots=st.integers(1, 3))
def test_every_task_runs_whatever_it_refers_to(
    make: type[Strategy], kinds: list[tuple[ObjectSize, ...]], slots: int
) -> None:
    bench = Bench(make())
    bench(joined("a", slots=slots), joined("b"), opened(), held("a", b"x"))
    left = assigned(bench(submitted(range(len(kinds)), objects=kinds)))
    done: list[int] = []
    while left:
        slave, indexes = left.popitem()
        done += indexes
        for name, more in assigned(bench(ended(slave, *indexes, elapsed_s=0.01))).items():
            left.setdefault(name, []).extend(more)
    assert sorted(done) == list(range(len(kinds)))


@pytest.mark.parametrize("settings", [{"patience_s": 0.0}, {"bytes_per_s": float("inf")}])
def test_senseless_settings_of_locality_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        LocalityStrategy(**settings)  # type: ignore[arg-type]
