"""How many slaves the queue needs."""

from concurrent_nb.nodes.launchers.adapt import WAIT_BEFORE_UP_S, Adaptation, ClusterLoad

WAIT_S = 30.0


def adaptation(least: int = 1, most: int = 8) -> Adaptation:
    return Adaptation(least, most, WAIT_S)


def test_slaves_come_when_tasks_have_waited() -> None:
    adapt = adaptation()
    load = ClusterLoad(waiting=12, assigned=4, slots_per_slave=4)
    assert adapt.wanted(0.0, 1, load) == 1
    assert adapt.wanted(WAIT_BEFORE_UP_S / 2, 1, load) == 1
    assert adapt.wanted(WAIT_BEFORE_UP_S, 1, load) == 4


def test_a_queue_that_is_gone_at_once_starts_nothing() -> None:
    adapt = adaptation()
    busy, idle = ClusterLoad(100, 4, 4), ClusterLoad(0, 4, 4)
    for second in range(10):
        assert adapt.wanted(second, 1, busy if second % 2 == 0 else idle) == 1


def test_the_first_slave_comes_at_once() -> None:
    assert adaptation(least=0).wanted(0.0, 0, ClusterLoad(1, 0, 4)) == 1


def test_never_more_than_the_most_or_less_than_the_least() -> None:
    adapt = adaptation(least=2, most=3)
    adapt.wanted(0.0, 2, ClusterLoad(1000, 0, 1))
    assert adapt.wanted(5.0, 2, ClusterLoad(1000, 0, 1)) == 3
    for second in range(6, 60):
        wanted = adapt.wanted(second, 3, ClusterLoad(0, 0, 1))
    assert wanted == 2


def test_slaves_leave_when_fewer_were_needed_for_a_while() -> None:
    adapt = adaptation()
    busy, idle = ClusterLoad(8, 8, 4), ClusterLoad(0, 2, 4)
    assert adapt.wanted(0.0, 4, busy) == 4
    assert adapt.wanted(1.0, 4, idle) == 4
    assert adapt.wanted(WAIT_S, 4, idle) == 4
    assert adapt.wanted(WAIT_S + 1.5, 4, idle) == 1


def test_a_need_in_between_keeps_them() -> None:
    adapt = adaptation()
    busy, idle = ClusterLoad(0, 12, 4), ClusterLoad(0, 0, 4)
    adapt.wanted(0.0, 4, busy)
    adapt.wanted(1.0, 4, idle)
    assert adapt.wanted(20.0, 4, busy) == 4
    assert adapt.wanted(40.0, 4, idle) == 3  # the need of second 20
    assert adapt.wanted(51.0, 3, idle) == 1


def test_what_was_there_before_stays_for_the_same_while() -> None:
    adapt = adaptation(least=0)
    idle = ClusterLoad(0, 0, 4)
    assert adapt.wanted(0.0, 5, idle) == 5
    assert adapt.wanted(WAIT_S, 5, idle) == 5
    assert adapt.wanted(WAIT_S + 0.1, 5, idle) == 0


def test_workers_of_a_slave_that_are_not_known_count_as_one() -> None:
    adapt = adaptation()
    load = ClusterLoad(3, 0, 0)
    adapt.wanted(0.0, 1, load)
    assert adapt.wanted(2.0, 1, load) == 3
