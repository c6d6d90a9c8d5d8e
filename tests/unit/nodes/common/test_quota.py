"""How much of a job may be at the master."""

import pytest

from concurrent_nb.errors import ProtocolError
from concurrent_nb.nodes.common.quota import UNLIMITED, Quota, parse_limits, room


@pytest.mark.parametrize(
    ("limits", "quota"),
    [
        (None, UNLIMITED),
        ({}, UNLIMITED),
        ({"tasks": None, "of a later version": "x"}, UNLIMITED),
        ({"tasks": 5}, Quota(tasks=5)),
        ({"tasks": 5, "bytes": 7, "segments": 1}, Quota(5, 7, 1)),
    ],
)
def test_what_a_master_announces(limits: object, quota: Quota) -> None:
    assert parse_limits(limits) == quota


@pytest.mark.parametrize(
    "limits", [[], "5", 5, {"tasks": 0}, {"bytes": -1}, {"tasks": 1.5}, {"tasks": True}, {"bytes": "9"}]
)
def test_nonsense_is_a_breach_of_the_protocol(limits: object) -> None:
    with pytest.raises(ProtocolError, match="the master announces"):
        parse_limits(limits)


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 50, 1000, 200_000])
def test_one_job_fills_nearly_all_and_leaves_room_for_the_next(limit: int) -> None:
    own = 0
    while (more := room(limit, own, own)) > 0:
        own += more
    assert own <= limit
    assert own >= limit * 6 // 8
    if limit > 8:
        assert room(limit, own, 0) > 0


def test_jobs_that_want_all_get_the_same_as_answers_come() -> None:
    limit, jobs = 1000, [0, 0, 0]
    for turn in range(100):
        if turn == 0:
            jobs[0] += room(limit, 0, 0)
        for at in range(3):
            jobs[at] += max(0, room(limit, sum(jobs), jobs[at]))
        assert sum(jobs) <= limit
        answered = max(range(3), key=lambda at: jobs[at])
        jobs[answered] -= min(jobs[answered], 50)
    assert max(jobs) - min(jobs) <= 100


def test_over_a_limit_there_is_no_room() -> None:
    assert room(10, 10, 3) <= 0
    assert room(10, 12, 0) <= 0
    assert room(10, 12, 12) <= 0
