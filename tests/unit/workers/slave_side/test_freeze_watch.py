"""A frozen process is told from one that computes, holds the GIL, sleeps or reads a slow disk."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.workers.slave_side.freeze_watch import FreezeWatch, FrozenProcess, ProcessReading, StandstillState

STOPPED, DISK, OTHER = StandstillState.STOPPED, StandstillState.DISK, StandstillState.OTHER
PID = 7

Readings = Callable[[float], ProcessReading]


def seen(watch: FreezeWatch, reading_at: Readings, until_s: float) -> list[tuple[float, FrozenProcess]]:
    """Look at one process until a time; return what is found when."""
    found, now = [], 0.0
    while now <= until_s:
        found += [(now, frozen) for frozen in watch.look(now, {PID: reading_at(now)})]
        now += watch.interval_s
    return found


def test_a_stopped_process_is_ended_once() -> None:
    found = seen(FreezeWatch(stopped_s=5.0), lambda now: ProcessReading(STOPPED, 3.0, 9), 100.0)
    assert found == [(5.0, FrozenProcess(PID, STOPPED, 5.0, is_over=True))]
    assert str(found[0][1]) == "has been stopped, as by SIGSTOP, for 5 s"


def test_a_hung_disk_is_told_first_and_ends_the_process_later() -> None:
    found = seen(FreezeWatch(hung_disk_s=60.0), lambda now: ProcessReading(DISK, 3.0, 9), 100.0)
    assert [(now, frozen.is_over) for now, frozen in found] == [(5.0, False), (60.0, True)]
    assert "has waited 5 s for a disk" in str(found[0][1])


@pytest.mark.parametrize(
    "reading_at",
    [
        lambda now: ProcessReading(OTHER),  # it sleeps, or computes in C with the GIL
        lambda now: ProcessReading(DISK, cpu_s=now / 100, switches=9),  # it computes in other threads
        lambda now: ProcessReading(DISK, cpu_s=3.0, switches=int(now)),  # it reads a slow disk, block by block
        lambda now: ProcessReading(STOPPED if now % 4 else OTHER),  # somebody stops it now and then
    ],
)
def test_what_goes_on_is_not_frozen(reading_at: Readings) -> None:
    assert seen(FreezeWatch(stopped_s=5.0, hung_disk_s=10.0), reading_at, 3600.0) == []


def test_one_that_went_on_begins_anew() -> None:
    watch = FreezeWatch(stopped_s=5.0)
    found = seen(watch, lambda now: ProcessReading(STOPPED, cpu_s=0.0 if now < 4 else 0.1), 20.0)
    assert [now for now, _ in found] == [9.0]


def test_a_process_that_was_not_watched_meanwhile_begins_anew() -> None:
    watch, stopped = FreezeWatch(stopped_s=5.0), {PID: ProcessReading(STOPPED)}
    assert [watch.look(now, stopped) for now in (0.0, 1.0, 2.0, 3.0, 4.0)] == [[]] * 5
    assert watch.look(5.0, {}) == []
    assert [watch.look(now, stopped) for now in (6.0, 7.0, 8.0, 9.0, 10.0)] == [[]] * 5
    assert len(watch.look(11.0, stopped)) == 1


def test_nobody_is_blamed_when_this_process_has_stood_still_itself() -> None:
    watch, stopped = FreezeWatch(stopped_s=5.0), {PID: ProcessReading(STOPPED)}
    assert watch.look(0.0, stopped) == []
    assert watch.look(600.0, stopped) == []  # all of the machine slept
    assert watch.look(603.0, stopped) == []
    assert len(watch.look(605.0, stopped)) == 1


def test_a_limit_of_0_is_none() -> None:
    watch = FreezeWatch(stopped_s=0.0, hung_disk_s=0.0)
    assert watch.interval_s == float("inf")
    assert watch.look(0.0, {PID: ProcessReading(STOPPED)}) == watch.look(1e6, {PID: ProcessReading(STOPPED)}) == []
    only_disks = FreezeWatch(stopped_s=0.0, hung_disk_s=8.0)
    assert seen(only_disks, lambda now: ProcessReading(STOPPED), 100.0) == []


@settings(max_examples=30)
@given(st.floats(0.1, 10.0), st.floats(0.1, 60.0))
def test_it_is_noticed_soon_after_its_limit(stopped_s: float, hung_disk_s: float) -> None:
    watch = FreezeWatch(stopped_s, hung_disk_s)
    for state, limit_s in ((STOPPED, stopped_s), (DISK, hung_disk_s)):
        ends = [now for now, frozen in seen(watch, lambda now: ProcessReading(state), 70.0) if frozen.is_over]  # noqa: B023
        assert len(ends) == 1
        assert limit_s <= ends[0] <= limit_s + 2 * watch.interval_s
