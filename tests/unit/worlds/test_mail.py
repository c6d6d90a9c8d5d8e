"""Messages that go the same ways in the next step are not sorted anew, and the result is the same as if they were."""

import pickle
import random
from typing import Any

import numpy as np
import pytest

from concurrent_nb.worlds.mail import MemberInbox, MessagePack, new_route
from concurrent_nb.worlds.member_outbox import MemberOutbox

IDS = np.array([0, 1, 2, 5, 6, 9])
FIRST_IDS = np.array([0, 2, 6])


def send_some(outbox: MemberOutbox, chance: random.Random, kind: int) -> None:
    for _ in range(4):
        for _ in range(chance.randrange(4)):
            value: Any = (chance.random(), chance.randrange(9), [chance.random()], "word")[kind]
            to: Any = chance.randrange(10)
            if chance.random() < 0.3:
                to = [chance.randrange(10) for _ in range(chance.randrange(4))]
            outbox.send(to, value)
        outbox.end_member()
    outbox.end_step([0, 1, 5, 8])


def received(packs: list[MessagePack], before: MemberInbox | None = None) -> tuple[MemberInbox, Any]:
    inbox = MemberInbox(packs, IDS, before)
    found = [(inbox.values[inbox.slices[at]], inbox.senders_of(number)) for at, number in enumerate(IDS.tolist())]
    return inbox, (found, inbox.undelivered)


@pytest.mark.parametrize("kind", range(4))
def test_what_is_used_again_changes_nothing(kind: int) -> None:
    kept = MemberOutbox(lambda name: 0, 100)
    inbox: MemberInbox | None = None
    used = 0
    chance = random.Random(1)
    for step in range(60):
        pattern = step // 3 if step % 10 else chance.randrange(99)  # mostly the same ways as in the step before
        fresh = MemberOutbox(lambda name: 0, 100)
        for outbox in (kept, fresh):
            send_some(outbox, random.Random(pattern), kind)
        before = kept._addressed
        (one, wrong, count), (other, _, same) = kept.pack(10), fresh.pack(10)
        used += kept._addressed is before
        assert not wrong and count == same
        first = {group: part.route.to.tolist() for group, part in kept.split(one, FIRST_IDS).items()}
        assert first == {group: part.route.to.tolist() for group, part in other.split(FIRST_IDS).items()}
        inbox, found = received(list(kept.split(one, FIRST_IDS).values()), inbox)
        assert found == received(list(other.split(FIRST_IDS).values()))[1]
    assert used > 20, "nothing was used again"


def test_a_route_travels_in_one_buffer() -> None:
    for count in (1, 3):
        for which in (None, np.arange(count, dtype=np.int16)):
            route = new_route(np.arange(count, dtype=np.int32), np.arange(count, dtype=np.int64), which)
            buffers: list[Any] = []
            body = pickle.dumps(route, 5, buffer_callback=buffers.append)
            again = pickle.loads(body, buffers=buffers)
            assert len(buffers) == 1 and again.key == route.key
            assert (again.which is None) == (which is None)
            for before, after in zip(route[1:], again[1:], strict=True):
                if before is not None and after is not None:
                    assert before.tolist() == after.tolist() and before.dtype == after.dtype


def test_random_ids_find_their_members() -> None:
    chance = np.random.default_rng(1)
    for gap in (1, 3, 1000):
        ids = np.unique(chance.integers(0, 50 * gap, 50))
        to = chance.integers(0, 50 * gap, 500)
        inbox = MemberInbox([MessagePack(new_route(to, to, None), np.arange(500), None)], ids)
        for position, number in enumerate(ids.tolist()):
            values = inbox.values[inbox.slices[position]]
            assert values == np.flatnonzero(to == number).tolist()
        assert inbox.undelivered == int((~np.isin(to, ids)).sum())
