"""The last events are kept, with bounded texts."""

from concurrent_nb.tasks.event_log import EVENTS_KEPT, TEXT_MAX, EventLog


def test_the_last_events_are_kept_with_their_numbers() -> None:
    events = EventLog()
    for number in range(EVENTS_KEPT + 5):
        events.add(float(number), "slave joined", "hello", slave="east")
    assert [event.number for event in events.kept] == list(range(5, EVENTS_KEPT + 5))
    assert events.kept[0].at_s == 5.0
    assert events.count == EVENTS_KEPT + 5


def test_long_texts_are_cut() -> None:
    events = EventLog()
    events.add(0.0, "job failed", "x" * TEXT_MAX)
    events.add(0.0, "job failed", "x" * 1_000_000)
    assert [len(event.text) for event in events.kept] == [TEXT_MAX, TEXT_MAX]
    assert events.kept[1].text.endswith("...")
