"""What is said of a step afterwards, and its trace."""

from dataclasses import replace

import pytest

from concurrent_nb.worlds.step_record import GroupShare, Step
from concurrent_nb.worlds.world_trace import events_of

SHARES = [GroupShare(0, "host 1", "a", 50, 7, 0.2, 0.0), GroupShare(1, "host 2", "b", 50, 8, 0.1, 0.1)]
STEP = Step(1, 0.25, 100, 15, 0, 0, 0, [], {}, 3, 0.01, SHARES)


def test_the_time_at_the_barrier_is_the_mean_of_the_groups() -> None:
    assert STEP.wait_s == pytest.approx(0.05)
    assert replace(STEP, groups=()).wait_s == 0.0


def test_a_member_that_takes_far_longer_than_others_is_named() -> None:
    assert STEP.late_member == ""
    late = replace(STEP, slowest_s=2.0, groups=[replace(SHARES[0], elapsed_s=2.1), SHARES[1]])
    assert late.late_member.startswith("member 3 took 2 s in step 1, and the other members 0.002 s each")
    all_slow = replace(STEP, slowest_s=2.0, groups=[replace(SHARES[0], elapsed_s=100.0), SHARES[1]])
    assert all_slow.late_member == ""


def test_a_trace_has_a_slice_for_each_step_and_part_of_it() -> None:
    events = list(events_of([STEP, replace(STEP, number=2)]))
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert names == {"world", "slave a", "slave b", "worker host 1", "worker host 2"}
    slices = [(each["name"], each["ts"], each["dur"]) for each in events if each["ph"] == "X"]
    assert slices == [
        ("step 1", 0.0, 250_000.0),
        ("step 1", 50_000.0, 200_000.0),
        ("step 1", 50_000.0, 100_000.0),
        ("barrier", 150_000.0, 100_000.0),
        ("step 2", 250_000.0, 250_000.0),
        ("step 2", 300_000.0, 200_000.0),
        ("step 2", 300_000.0, 100_000.0),
        ("barrier", 400_000.0, 100_000.0),
    ]
    assert len({(event["pid"], event["tid"]) for event in events if event["ph"] == "X"}) == 3
