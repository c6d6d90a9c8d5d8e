"""The fork server's records: invalid ones are no events."""

import random

import pytest

from concurrent_nb.workers.protocol.fork_records import ENDED, RECORD, STARTED
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher


@pytest.mark.parametrize(
    "record",
    [
        RECORD.pack(0, 1, 100, 0, 0),
        RECORD.pack(255, 1, 100, 0, 0),
        RECORD.pack(STARTED, 2, 100, 0, 0),
        RECORD.pack(STARTED, 1, -1, 0, 0),
        RECORD.pack(ENDED, 2, 100, 0, 0),
        RECORD.pack(ENDED, 1, 100, 0x7F, 0),
        RECORD.pack(ENDED, 1, 100, -1, 0),
    ],
    ids=["kind 0", "kind 255", "another's start", "no process", "another's end", "stopped", "no status"],
)
def test_an_invalid_record_of_the_fork_server_is_no_event(record: bytes) -> None:
    launcher = ForkServerLauncher({}, ["true"])
    try:
        launcher._workers[1] = 0
        assert launcher._event(record) is None
        chance = random.Random(1)
        for _ in range(1000):
            launcher._event(chance.randbytes(RECORD.size))
        assert launcher._event(RECORD.pack(STARTED, 1, 100, 0, 0)) is not None
        assert launcher._event(RECORD.pack(ENDED, 1, 100, 0, 0)) is not None
    finally:
        launcher.close(0.1)
