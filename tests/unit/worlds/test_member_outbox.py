"""Members that send to the same ones again are not noted anew, and the result is the same as if they were."""

import random
from typing import Any

import numpy as np
import pytest

from concurrent_nb.errors import WorldError
from concurrent_nb.worlds.member_outbox import MemberOutbox

Plan = list[tuple[int, list[tuple[Any, Any]]]]


def outbox_for(room: int = 100) -> MemberOutbox:
    return MemberOutbox(lambda name: 0, room)


def sent(outbox: MemberOutbox, plan: Plan, fails: int = -1, send: Any = None) -> tuple[Any, ...]:
    """Make a step of members that send what a plan says; return all that comes out."""
    errors = []
    for member, sends in plan:
        try:
            for to, value in sends:
                (send or outbox.send)(to, value)
            if member == fails:
                raise WorldError("enough")
        except WorldError as error:
            errors.append(f"{member} {error}")
            outbox.drop_member()
        outbox.end_member()
    outbox.end_step([member for member, _ in plan])
    pack, wrong, _ = outbox.pack(10)
    errors += [f"{member} {to}" for member, to in wrong.items()]
    values = pack.values if pack.route.which is None else [pack.values[at] for at in pack.route.which.tolist()]
    return pack.route.to.tolist(), pack.route.senders.tolist(), list(values), errors


def other_values(plan: Plan, chance: random.Random) -> Plan:
    """Return a plan with new values, most of which are the same objects where they were."""
    found: Plan = []
    for member, sends in plan:
        new: dict[int, float] = {}
        mixes = chance.random() < 0.1
        found.append(
            (member, [(to, chance.choice((1.0, -1.0)) if mixes else new.setdefault(id(v), v + 1)) for to, v in sends])
        )
    return found


@pytest.mark.parametrize("has_common_values", [True, False])
def test_members_that_send_something_else_than_in_the_step_before_are_noticed(has_common_values: bool) -> None:
    """The outbox expects the calls of the step before; one that is new each time expects nothing."""
    chance = random.Random(3)
    kept = outbox_for(6)

    def new_plan(*receivers: Any) -> Plan:
        values = [chance.random() for _ in range(2 if has_common_values else 9)]
        return [(member, [(to, values[at % len(values)]) for at, to in enumerate(receivers)]) for member in range(3)]

    plan = new_plan(3, [1, 2], 4, [5])
    expected = diverged = 0
    for step in range(800):
        if step % 5 == 4:  # the others are the same as the step before
            sends = plan[chance.randrange(3)][1]
            at = chance.randrange(len(sends) + 1)
            new: Any = chance.choice([7, [7, 8], (1, 2), [7] * 7, 99, "name", np.array([1]), [], [2.5]])
            sends[at : at + chance.randrange(2)] = [(new, 2.5)] * chance.randrange(3)
        plan = other_values(plan, chance)
        fails = chance.randrange(3) if chance.random() < 0.2 else -1
        was_expected = kept._expected is not None
        before = kept._expected
        found = sent(kept, plan, fails)
        assert found == sent(outbox_for(6), plan, fails)
        expected += was_expected and kept._expected is before
        diverged += was_expected and kept._expected is not before
        if found[3]:
            plan = new_plan(3, [1, 2], 4)
    assert expected > 50 and diverged > 30, "nothing was expected, or all of it"


def test_a_value_that_goes_to_several_in_single_calls_is_packed_once() -> None:
    outbox = outbox_for()
    for step in range(6):
        value = 0.5 + step
        plan: Plan = [(0, [(1, value), (2, value), (3, value)]), (1, [(2, value), (0, value)]), (2, [([1, 3], -value)])]
        for _, sends in plan:
            for to, each in sends:
                outbox.send(to, each)
            outbox.end_member()
        outbox.end_step([0, 1, 2])
        pack, _, count = outbox.pack(10)
        assert count == 7
        if step:  # the first step is not known to be the same as another one
            assert pack.values.tolist() == [value, value, -value]
            assert pack.route.which is not None and pack.route.which.tolist() == [0, 0, 0, 1, 1, 2, 2]
            assert pack.route.to.tolist() == [1, 2, 3, 2, 0, 1, 3]


def test_a_member_that_takes_over_a_message_of_the_one_before_is_its_sender() -> None:
    """Both send the same object to the same receivers, and only who sends how many of them has changed."""
    outbox = outbox_for()
    for counts in ((2, 1), (2, 1), (2, 1), (1, 2), (3, 0)):
        plan: Plan = [(member, [(3, 1.0)] * count) for member, count in enumerate(counts)]
        assert sent(outbox, plan)[:2] == ([3, 3, 3], [0] * counts[0] + [1] * counts[1])


def test_a_flood_of_what_others_have_sent_before_is_noticed() -> None:
    outbox = outbox_for(4)
    for counts in ((2, 4), (2, 4), (2, 4)):
        assert not sent(outbox, [(member, [(3, 1.0)] * count) for member, count in enumerate(counts)])[3]
    to, senders, _, errors = sent(outbox, [(0, [(3, 1.0)] * 6), (1, [])])
    assert (to, senders) == ([], [])
    assert len(errors) == 1 and "0 it has sent more than 4 messages" in errors[0]


def test_a_send_function_of_another_step_still_sends() -> None:
    outbox, noting = outbox_for(), outbox_for().send
    plan: Plan = [(0, [(1, 0.5), ([2, 3], 0.5)]), (1, [(0, 1.5)])]
    noting = outbox.send
    first = sent(outbox, plan)
    sent(outbox, plan)
    expecting = outbox.send
    assert expecting is not noting
    assert sent(outbox, plan, send=noting) == first and outbox._expected is None
    assert sent(outbox, plan, send=expecting) == first
    assert sent(outbox, [(0, [(4, 0.5)])], send=expecting) == ([4], [0], [0.5], [])


def test_what_cannot_be_pickled_is_the_fault_of_its_sender() -> None:
    outbox = outbox_for()
    values: list[Any] = [[1], [1], [1]]
    for _ in range(3):
        sent(outbox, [(number, [(3, value), (4, value)]) for number, value in enumerate(values)])
    assert outbox._expected is not None
    to, senders, values, errors = sent(
        outbox, [(number, [(3, value), (4, value)]) for number, value in enumerate([[1], open, (each for each in "a")])]
    )
    assert (to, senders) == ([3, 4, 3, 4], [0, 0, 1, 1])
    assert len(errors) == 1 and errors[0].startswith("2 TypeError: ")
