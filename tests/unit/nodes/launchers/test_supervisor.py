"""Which slaves are started, replaced, drained and given up on: a launcher and a master played by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from concurrent_nb.nodes.launchers import supervisor as s
from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState
from concurrent_nb.nodes.launchers.supervisor import Supervisor

BOUND_S = 10.0


class Place:
    """A launcher whose slaves start at once, and a master that they join at once, unless a test says otherwise."""

    def __init__(self, wanted: int) -> None:
        self.supervisor = Supervisor("x", wanted, BOUND_S)
        self.launched: dict[str, LaunchedSlave] = {}
        self.members: dict[str, s.MemberSlave] = {}
        self.joins = True
        self.dies = ""  #: how slaves end as soon as they have started
        self.refuses = False
        self.now = 0.0
        self.done: list[s.Instruction] = []

    def turn(self, after_s: float = 0.5, *, master_answers: bool = True) -> Sequence[s.Instruction]:
        """Let time pass, and obey."""
        self.now += after_s
        members = dict(self.members) if master_answers else None
        instructions = self.supervisor.turn(self.now, list(self.launched.values()), members)
        for each in instructions:
            match each:
                case s.StartSlave(name):
                    state = LaunchState.ENDED if self.dies or self.refuses else LaunchState.RUNNING
                    self.launched[name] = LaunchedSlave(name, state, "here", self.dies, refused=self.refuses)
                    if self.joins and state is LaunchState.RUNNING:
                        self.members[name] = s.MemberSlave(name, 2, 0, False)
                case s.EndSlaves(names):
                    for name in names:
                        self.launched.pop(name, None)
                        self.members.pop(name, None)
        self.done += instructions
        return instructions

    def end(self, name: str, reason: str = "it was killed", *, drained: bool = False) -> None:
        self.launched[name] = LaunchedSlave(name, LaunchState.ENDED, "here", reason, drained=drained)
        self.members.pop(name, None)

    def started(self) -> list[str]:
        return [each.name for each in self.done if isinstance(each, s.StartSlave)]


def test_the_wanted_number_is_started_once() -> None:
    place = Place(3)
    assert place.turn() == [s.StartSlave("x-1"), s.StartSlave("x-2"), s.StartSlave("x-3")]
    for _ in range(5):
        assert not place.turn()
    assert place.supervisor.joined == 3


def test_a_slave_that_dies_is_replaced_under_a_new_name() -> None:
    place = Place(2)
    place.turn()
    place.turn()
    place.end("x-1", "it ended with exit code 9; its log ends: boom")
    instructions = place.turn()
    assert instructions[0] == s.ReportFailure(
        "slave x-1 (here) has failed: it ended with exit code 9; its log ends: boom"
    )
    assert instructions[1] == s.EndSlaves(("x-1",))
    assert instructions[2] == s.StartSlave("x-3")


def test_all_slaves_are_replaced_when_all_have_died() -> None:
    place = Place(3)
    place.turn()
    place.turn(s.GOOD_S)
    place.turn(s.GOOD_S)
    for name in list(place.launched):
        place.end(name)
    place.turn()
    for _ in range(20):
        place.turn()
    assert place.supervisor.joined == 3
    assert len(place.launched) == 3


def test_deaths_in_a_row_wait_and_then_give_up_with_the_reason() -> None:
    place = Place(1)
    place.dies = "no libzmq there"
    for _ in range(200):
        place.turn(0.1)
    assert len(place.started()) == s.FAILURES_MAX
    assert place.supervisor.has_given_up
    given_up = place.done[-1]
    assert isinstance(given_up, s.GiveUp)
    assert "5 in a row have failed" in given_up.reason
    assert "no libzmq there" in given_up.reason
    assert place.turn() == ()


def test_a_good_slave_ends_a_row_of_failures() -> None:
    place = Place(1)
    for _ in range(3 * s.FAILURES_MAX):
        place.turn(6.0)
        place.turn(6.0)
        place.turn(s.GOOD_S + 1)
        place.end(place.started()[-1])
    assert not place.supervisor.has_given_up


def test_beside_a_good_slave_those_that_fail_are_started_ever_less_often_and_at_last_once_a_minute() -> None:
    place = Place(2)
    place.turn()
    place.turn(s.GOOD_S)
    place.turn(s.GOOD_S)
    place.dies = "its node is broken"
    place.end("x-2")
    began = place.now
    while place.now < began + 2 * s.RETRY_S:
        place.turn(0.1)
    assert len(place.started()) == 2 + s.FAILURES_MAX + 1
    assert (place.supervisor.wanted, place.supervisor.joined) == (2, 1)
    place.dies = ""
    for _ in range(4):
        place.turn(s.RETRY_S / 2)
    assert place.supervisor.joined == 2


def test_a_row_that_ended_with_its_queue_does_not_count_in_the_next_one() -> None:
    place = Place(1)
    place.dies = "the file server is gone"
    while len(place.started()) < s.FAILURES_MAX:
        place.turn(1.0)
    place.supervisor.follow(0)
    place.turn()
    place.supervisor.follow(1)
    place.dies = ""
    for _ in range(3):
        place.turn()
    assert place.supervisor.joined == 1


def test_a_refused_slave_is_not_started_again() -> None:
    place = Place(1)
    place.dies, place.refuses = "there is no Python", True
    place.turn()
    instructions = place.turn()
    assert isinstance(instructions[-1], s.GiveUp)
    assert "there is no Python" in instructions[-1].reason
    assert len(place.started()) == 1


def test_the_others_go_on_without_a_refused_one() -> None:
    place = Place(3)
    place.turn()
    place.turn()
    place.launched["x-2"] = LaunchedSlave("x-2", LaunchState.ENDED, "hostB", "another version", refused=True)
    place.members.pop("x-2")
    for _ in range(5):
        place.turn()
    assert not place.supervisor.has_given_up
    assert (place.supervisor.wanted, place.supervisor.joined, len(place.started())) == (2, 2, 3)


@pytest.mark.parametrize("has_joined", [True, False])
def test_a_cluster_whose_queue_empties_after_a_failure_that_passes_goes_on(has_joined: bool) -> None:
    place = Place(1)
    place.turn()
    place.turn()
    place.end("x-1")
    place.joins = has_joined
    place.turn()  # starts the next one
    place.turn()
    place.supervisor.follow(0)
    for _ in range(3):
        place.turn()
    assert not place.supervisor.has_given_up
    place.supervisor.follow(1)
    place.joins = True
    for _ in range(3):
        place.turn()
    assert (place.supervisor.joined, place.started()) == (1, ["x-1", "x-2", "x-3"])


def test_a_refused_slave_is_not_started_again_for_the_queue() -> None:
    place = Place(0)
    place.supervisor.follow(3)
    place.turn()
    place.turn()
    place.launched["x-2"] = LaunchedSlave("x-2", LaunchState.ENDED, "hostB", "another version", refused=True)
    place.members.pop("x-2")
    for number in (3, 1, 3, 3):
        place.supervisor.follow(number)
        place.turn()
    assert (place.supervisor.wanted, len(place.started())) == (2, 4)  # the fourth one after the queue was short
    place.supervisor.want(3)  # a user asks for it
    place.turn()
    assert len(place.started()) == 5


def test_a_slave_that_cannot_be_launched_counts_as_failed() -> None:
    place = Place(1)
    for _ in range(100):
        for each in place.turn(1.0):
            if isinstance(each, s.StartSlave):
                place.launched.clear()
                place.supervisor.launch_failed(each.name, "sbatch: queue is full", refused=False)
    assert "queue is full" in str(place.done[-1])
    assert place.supervisor.has_given_up


def test_a_slave_that_does_not_join_in_time_is_ended() -> None:
    place = Place(1)
    place.joins = False
    place.turn()
    place.turn()
    place.turn(BOUND_S - 1)
    assert len(place.started()) == 1
    instructions = place.turn(2.0)
    assert "has not joined within 10 s" in str(instructions[0])
    assert s.EndSlaves(("x-1",)) in instructions


def test_a_queued_slave_may_wait_for_ever() -> None:
    place = Place(1)
    place.joins = False
    place.turn()
    place.launched["x-1"] = LaunchedSlave("x-1", LaunchState.QUEUED, "Slurm job 17")
    for _ in range(5):
        assert not place.turn(3600.0)


def test_a_slave_that_the_master_has_lost_is_ended_after_a_while() -> None:
    place = Place(1)
    place.turn()
    place.turn()
    place.members.clear()
    assert not place.turn(s.GONE_S - 1)
    assert "has lost it" in str(place.turn(2.0)[0])


def test_a_master_that_does_not_answer_is_no_reason() -> None:
    place = Place(1)
    place.turn()
    place.turn()
    assert not place.turn(10 * s.GONE_S, master_answers=False)


def test_more_slaves_come() -> None:
    place = Place(1)
    place.turn()
    place.turn()
    place.supervisor.want(3)
    assert place.turn() == [s.StartSlave("x-2"), s.StartSlave("x-3")]


def test_of_too_many_those_leave_that_have_not_joined_then_idle_ones() -> None:
    place = Place(3)
    place.turn()
    place.turn()
    place.members["x-1"] = s.MemberSlave("x-1", 2, 5, False)
    place.members["x-2"] = s.MemberSlave("x-2", 2, 0, False)
    place.members["x-3"] = s.MemberSlave("x-3", 2, 1, False)
    place.joins = False
    place.supervisor.want(4)
    place.turn()
    place.supervisor.want(2)
    assert place.turn() == [s.EndSlaves(("x-4",)), s.DrainSlave("x-2")]
    place.end("x-2", "it has left", drained=True)
    assert place.turn() == [s.EndSlaves(("x-2",))]
    assert not place.turn()


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_slave_that_an_admin_has_drained_is_not_replaced(is_seen: bool) -> None:
    place = Place(2)
    place.turn()
    place.turn()
    if is_seen:
        place.members["x-1"] = s.MemberSlave("x-1", 2, 1, True)
        assert not place.turn()
    place.end("x-1", drained=True)
    assert place.turn() == [s.EndSlaves(("x-1",))]
    assert not place.turn()
    assert place.supervisor.wanted == 1


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_slave_that_leaves_and_is_killed_is_no_failure(is_seen: bool) -> None:
    place = Place(2)
    place.turn()
    place.turn()
    place.supervisor.want(1)
    place.turn()
    if is_seen:
        place.members["x-2"] = s.MemberSlave("x-2", 2, 1, True)
        place.turn()
    place.end("x-2")
    assert place.turn() == [s.EndSlaves(("x-2",))]


def test_a_slave_is_replaced_before_its_time_is_up() -> None:
    place = Place(1)
    place.turn()
    place.turn()
    place.launched["x-1"] = LaunchedSlave("x-1", LaunchState.RUNNING, "job", ends_in_s=s.REPLACE_BEFORE_S + 5)
    assert not place.turn()
    place.launched["x-1"] = LaunchedSlave("x-1", LaunchState.RUNNING, "job", ends_in_s=s.REPLACE_BEFORE_S - 1)
    assert place.turn() == [s.StartSlave("x-2")]
    place.turn()
    assert s.DrainSlave("x-1") in place.done  # the other one has joined


def test_a_slave_leaves_in_time_although_the_other_one_still_waits() -> None:
    place = Place(1)
    place.turn()
    place.turn()
    place.joins = False
    place.launched["x-1"] = LaunchedSlave("x-1", LaunchState.RUNNING, "job", ends_in_s=s.REPLACE_BEFORE_S - 1)
    assert place.turn() == [s.StartSlave("x-2")]
    place.launched["x-2"] = LaunchedSlave("x-2", LaunchState.QUEUED, "job")
    assert not place.turn()
    place.launched["x-1"] = LaunchedSlave("x-1", LaunchState.RUNNING, "job", ends_in_s=s.DRAIN_BEFORE_S - 1)
    assert place.turn() == [s.DrainSlave("x-1")]


def test_an_admin_has_a_slave_replaced() -> None:
    place = Place(2)
    place.turn()
    place.turn()
    assert place.supervisor.replace("x-1")
    assert place.turn() == [s.StartSlave("x-3")]
    assert place.turn() == [s.DrainSlave("x-1")]
    assert not place.supervisor.replace("x-1")
    assert not place.supervisor.replace("y-1")


def test_a_slave_that_an_admin_drains_while_another_one_comes_for_it_is_replaced() -> None:
    place = Place(1)
    place.turn()
    place.turn()
    place.joins = False
    place.supervisor.replace("x-1")
    assert place.turn() == [s.StartSlave("x-2")]
    place.end("x-1", drained=True)
    assert place.turn() == [s.EndSlaves(("x-1",))]
    assert (place.supervisor.wanted, list(place.launched)) == (1, ["x-2"])


def test_an_initializer_that_fails_is_told_apart() -> None:
    place = Place(1)
    place.turn()
    place.launched["x-1"] = LaunchedSlave(
        "x-1", LaunchState.ENDED, "here", "NameError", refused=True, initializer_failed=True
    )
    given_up = place.turn()[-1]
    assert isinstance(given_up, s.GiveUp)
    assert given_up.initializer_failed


def test_a_machine_that_is_short_of_something_ends_no_cluster_that_has_had_slaves() -> None:
    place = Place(2)
    place.turn()
    place.turn()
    for name in ("x-1", "x-2"):
        place.end(name)
    began, failed = place.now, 0
    while place.now < began + 120:
        for each in place.turn():
            if isinstance(each, s.StartSlave):
                del place.launched[each.name], place.members[each.name]
                place.supervisor.launch_failed(each.name, "too many open files", refused=False, is_shortage=True)
                failed += 1
    assert not place.supervisor.has_given_up
    assert 5 <= failed <= 12  # ever less often
    while place.supervisor.joined < 2:  # there is room again: one tries, then the other one comes at once
        place.turn()
    assert place.now < began + 160


def test_a_machine_that_is_short_of_something_from_the_beginning_is_a_failure() -> None:
    place = Place(1)
    while not place.supervisor.has_given_up:
        for each in place.turn():
            if isinstance(each, s.StartSlave):
                del place.launched[each.name], place.members[each.name]
                place.supervisor.launch_failed(each.name, "too many open files", refused=False, is_shortage=True)
    given_up = place.done[-1]
    assert isinstance(given_up, s.GiveUp) and "too many open files" in given_up.reason


def test_a_misplaced_slave_leaves_when_another_one_has_joined_for_it() -> None:
    place = Place(2)
    place.turn()
    place.turn()
    place.launched["x-1"] = replace(place.launched["x-1"], is_misplaced=True)
    assert place.turn() == [s.StartSlave("x-3")]
    assert place.turn() == [s.DrainSlave("x-1")]
    place.end("x-1", drained=True)
    place.turn()
    assert place.supervisor.wanted == place.supervisor.joined == 2
