"""Whatever a network does to envelopes, both ends hear everything once and in order."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concurrent_nb.errors import ProtocolError
from concurrent_nb.wire import messages as m
from concurrent_nb.wire.codec import Buffer, Received
from concurrent_nb.wire.session import ACK_AFTER, ACK_AFTER_S, RESEND_AFTER_S, WINDOW, Session

JOB = b"j" * 16


def pair() -> tuple[Session, Session]:
    """A client and a master, as two ends of one link."""
    return Session(7, "to_client"), Session(7, "from_client")


def numbered(number: int) -> m.Cancel:
    return m.Cancel(JOB, [number])


def numbers(received: Sequence[Received]) -> list[int]:
    return [number for item in received for number in getattr(item.message, "indexes", ())]


def test_what_is_said_arrives_and_needs_one_envelope() -> None:
    client, master = pair()
    for number in range(5):
        client.send(numbered(number))
    (frames,) = client.flush(0.0)
    assert numbers(master.receive(frames, 0.0)) == [0, 1, 2, 3, 4]
    assert client.flush(0.0) == []


def test_an_answer_acknowledges_so_nothing_else_is_sent() -> None:
    client, master = pair()
    client.send(numbered(1), tag="one")
    master.receive(client.flush(0.0)[0], 0.0)
    master.send(m.Started("s", []))
    client.receive(master.flush(0.001)[0], 0.001)
    assert client.take_acked() == ["one"]
    assert client.take_acked() == []
    assert client.in_flight == 0
    assert master.flush(10.0) != []  # the answer itself was not acknowledged in time


def test_a_lone_message_is_acknowledged_a_little_later() -> None:
    client, master = pair()
    client.send(numbered(1))
    master.receive(client.flush(0.0)[0], 0.0)
    assert master.flush(ACK_AFTER_S / 2) == []
    assert master.next_deadline() == pytest.approx(ACK_AFTER_S)
    (ack,) = master.flush(ACK_AFTER_S)
    assert client.receive(ack, 0.1) == []
    assert client.in_flight == 0
    assert client.next_deadline() is None


def test_many_envelopes_are_acknowledged_at_once() -> None:
    client, master = pair()
    for number in range(ACK_AFTER):
        client.send(numbered(number))
        master.receive(client.flush(0.0)[0], 0.0)
    assert len(master.flush(0.0)) == 1


def test_what_stays_unacknowledged_is_sent_again_until_it_is() -> None:
    client, master = pair()
    client.send(numbered(1))
    client.flush(0.0)  # lost
    assert client.flush(RESEND_AFTER_S / 2) == []
    (again,) = client.flush(RESEND_AFTER_S)
    assert numbers(master.receive(again, 2.0)) == [1]
    assert master.receive(again, 2.0) == []  # doubled: heard once
    (ack,) = master.flush(2.0)
    client.receive(ack, 2.0)
    assert client.flush(100.0) == []


def test_after_silence_all_that_was_in_flight_is_sent_again_as_answers_come() -> None:
    client, master = pair()
    for number in range(10):
        client.send(numbered(number))
        client.flush(0.0)  # all lost
    heard: list[int] = []
    now = RESEND_AFTER_S
    for _ in range(8):
        for frames in client.flush(now):
            heard += numbers(master.receive(frames, now))
        for frames in master.flush(now + ACK_AFTER_S):
            client.receive(frames, now)
        now += ACK_AFTER_S
    assert heard == list(range(10))


def test_what_overtakes_waits_for_its_predecessor() -> None:
    client, master = pair()
    envelopes = []
    for number in range(3):
        client.send(numbered(number))
        envelopes += client.flush(0.0)
    assert master.receive(envelopes[2], 0.0) == []
    assert master.receive(envelopes[1], 0.0) == []
    assert numbers(master.receive(envelopes[0], 0.0)) == [0, 1, 2]


def test_the_window_is_obeyed_and_what_waits_is_packed() -> None:
    client, master = pair()
    sent = []
    for number in range(WINDOW + 50):
        client.send(numbered(number))
        sent += client.flush(0.0)
    assert len(sent) == WINDOW
    assert client.backlog == 50
    for frames in sent:
        master.receive(frames, 0.0)
    client.receive(master.keepalive(), 0.0)
    assert len(client.flush(0.0)) == 1  # the fifty in one envelope


def test_a_message_larger_than_the_window_still_goes_alone() -> None:
    client, _ = pair()
    huge = memoryview(bytearray(65 * 1024 * 1024))
    task = m.TaskFrame(0, 0, b"", (huge.nbytes,))
    client.send(m.Submit(JOB, b"f" * 32, None, 0, [task]), [[huge]])
    client.send(numbered(1))
    assert len(client.flush(0.0)) == 1
    assert client.backlog == 1


def test_a_tag_comes_back_when_the_last_part_of_a_cut_message_is_acknowledged() -> None:
    client, master = pair()
    client.send(m.Cancel(JOB, list(range(100_000))), tag="all")
    first, *rest = client.flush(0.0)
    master.receive(first, 0.0)
    client.receive(master.keepalive(), 0.0)
    assert client.take_acked() == ([] if rest else ["all"])
    for frames in rest:
        master.receive(frames, 0.0)
    client.receive(master.keepalive(), 0.0)
    assert client.take_acked() == (["all"] if rest else [])


def test_bye_ends_a_session_and_stands_outside_of_the_stream() -> None:
    client, master = pair()
    assert client.receive(master.bye("enough"), 0.0) == []
    assert client.closed_by_peer == "enough"


@pytest.mark.parametrize("wrong", ["epoch", "ack", "outside", "far"])
def test_what_cannot_be_is_a_protocol_error(wrong: str) -> None:
    client, master = pair()
    if wrong == "epoch":
        frames = Session(8, "to_client").keepalive()
    elif wrong == "ack":
        other = Session(7, "to_client")
        other._heard = 3
        frames = other.keepalive()
    elif wrong == "outside":
        frames = client._bare([numbered(1)])
    else:
        client._last_seq = 1000
        client.send(numbered(1))
        (frames,) = client.flush(0.0)
    with pytest.raises(ProtocolError):
        master.receive(frames, 0.0)


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 120), st.floats(0.0, 0.5))
def test_over_a_bad_network_everything_arrives_once_and_in_order(seed: int, count: int, loss: float) -> None:
    dice = random.Random(seed)
    ends = pair()
    heard: tuple[list[int], list[int]] = ([], [])
    underway: list[tuple[float, int, Sequence[Buffer]]] = []  # arrival, to whom, frames
    said = [0, 0]
    now = 0.0
    while (len(heard[0]) < count or len(heard[1]) < count) and now < 2000.0:
        for who in (0, 1):
            if said[who] < count and dice.random() < 0.5:
                ends[who].send(numbered(said[who]) if who == 0 else m.Started(str(said[who]), []))
                said[who] += 1
            for frames in ends[who].flush(now):
                for _ in range(dice.choice((1, 1, 1, 2))):
                    if dice.random() >= loss:
                        underway.append((now + dice.random() * 0.3, 1 - who, frames))
        now += 0.05
        for item in sorted((x for x in underway if x[0] <= now), key=lambda x: x[0]):
            underway.remove(item)
            for received in ends[item[1]].receive(item[2], now):
                told = received.message
                heard[item[1]].append(int(told.slave) if isinstance(told, m.Started) else numbers([received])[0])
    assert heard[0] == list(range(count))
    assert heard[1] == list(range(count))
