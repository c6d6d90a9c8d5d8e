"""PROTOCOL.md is the contract: every message has an example there, and every example is what the code reads."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import concurrent_nb.wire
from concurrent_nb.outcome import Status
from concurrent_nb.wire import codec, session
from concurrent_nb.wire import messages as m

TEXT = (Path(concurrent_nb.wire.__file__).parent / "PROTOCOL.md").read_text()
CLASSES: dict[int, type[m.Message]] = {cls.__struct_config__.tag: cls for cls in get_args(m.AnyMessage)}


def from_json(value: Any) -> Any:
    """Turn {"hex": ...} into bytes, everywhere."""
    if isinstance(value, dict) and set(value) == {"hex"}:
        return bytes.fromhex(value["hex"])
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return value


EXAMPLES = [from_json(json.loads(text)) for text in re.findall(r"```json\n(\[.*?\])\n```", TEXT, re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: CLASSES[example[0]].__name__)
def test_an_example_is_a_message_and_encodes_to_itself(example: list[Any]) -> None:
    message = msgspec.msgpack.decode(msgspec.msgpack.encode(example), type=CLASSES[example[0]])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message)) == example
    assert f"`{type(message).__name__}` {example[0]}" in TEXT


def test_every_message_has_an_example() -> None:
    assert sorted(example[0] for example in EXAMPLES) == sorted(CLASSES)


def test_fields_are_listed_as_they_are() -> None:
    for tag, cls in CLASSES.items():
        (listed,) = re.findall(rf"^`{cls.__name__}` {tag}[^:\n]*: ([^.\n]*)", TEXT, re.MULTILINE)
        names = re.findall(r"\w+", " ".join(part.split()[0] for part in _fields(listed)))
        assert names == list(cls.__struct_fields__), cls


def _fields(listed: str) -> list[str]:
    """Split a list of fields at its commas, without what stands in parentheses."""
    return [part for part in re.sub(r"\(.*?\)", "", listed).split(",") if part.strip()]


@pytest.mark.parametrize(
    "record", [m.TaskFrame, m.OutcomeFrame, m.TaskRef, m.Needs, m.ErrorReport, m.Slice, m.MeasuredValue]
)
def test_records_are_listed_as_they_are(record: type[msgspec.Struct]) -> None:
    (listed,) = re.findall(rf"^\| {record.__name__} \| (.*) \|$", TEXT, re.MULTILINE)
    names = [re.match(r"\w+", part.strip())[0] for part in re.sub(r"\(.*?\)", "", listed).split(",")]  # type: ignore[index]
    assert names == list(record.__struct_fields__)


def test_every_status_is_listed() -> None:
    assert re.findall(r"^\| (\d+) ([A-Z_]+) \|", TEXT, re.MULTILINE) == [(str(int(s)), s.name) for s in Status]


def test_every_kind_of_task_is_listed() -> None:
    listed = re.findall(r"^\| ([A-Z_]+) \((\d)\)", TEXT, re.MULTILINE)
    assert listed == [(kind.name, str(int(kind))) for kind in m.TaskKind]


def test_the_limits_are_those_of_the_code() -> None:
    from concurrent_nb.scheduling.placement import TOO_LARGE_AFTER_S
    from concurrent_nb.transport.compute import HANDSHAKE_MS, MAX_FRAME_BYTES, SILENT_S
    from concurrent_nb.transport.connections import KEY_MAX, SILENT_MAX, UNDELIVERED_BYTES, WITHDRAWN_S

    for number in (codec.FRAME_BYTES, codec.INLINE_BYTES, codec.RUN_BYTES, codec.REFS, codec.OUTPUT_BYTES):
        assert f"{number:,}" in TEXT
    for number in (codec.PART_BYTES, codec.ENVELOPE_FRAMES_MAX, codec.ENVELOPE_BYTES_MAX, session.EARLY_BYTES):
        assert f"{number:,}" in TEXT
    for number in (m.BUFFERS_MAX,):
        assert f"{number:,}" in TEXT
    for number in (session.ENVELOPE_BYTES, session.WINDOW_BYTES, MAX_FRAME_BYTES):
        assert f"{number:,}" in TEXT
    assert f"{codec.RUN_ITEMS} records" in TEXT
    assert f"or are more than {codec.PART_BUFFERS}" in TEXT
    assert f"at most {m.HOSTS_MAX} system hosts" in TEXT
    assert f"only smaller ones for {TOO_LARGE_AFTER_S:.0f} s" in TEXT
    assert f"At most {session.WINDOW} envelopes" in TEXT
    assert f"within {session.ACK_AFTER_S} s" in TEXT
    assert f"after {session.ACK_AFTER} envelopes" in TEXT
    assert f"may take at most {HANDSHAKE_MS // 1000} s" in TEXT
    assert f"unacknowledged for {session.RESEND_AFTER_S:.0f} s" in TEXT
    assert f"more than {UNDELIVERED_BYTES:,} bytes" in TEXT
    assert f"nothing for {SILENT_S:.0f} s; the oldest above a limit" in TEXT
    assert f"{KEY_MAX} of one key and {KEY_MAX} for each" in TEXT
    assert f"{SILENT_MAX} that have delivered nothing" in TEXT
    assert f"registered for {WITHDRAWN_S:.0f} s" in TEXT
