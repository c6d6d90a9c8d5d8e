"""The fork server's records: invalid ones are no events. How an end is described."""

import random
import signal

import pytest

from concurrent_nb.workers.protocol.fork_records import ENDED, RECORD, STARTED
from concurrent_nb.workers.slave_side.launchers import ForkServerLauncher, describe_exit


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


def test_a_large_worker_that_was_killed_may_have_been_the_cause_of_a_lack_of_memory() -> None:
    assert describe_exit(-signal.SIGKILL, 900 << 20) == (
        "died of SIGKILL (peak memory 900 MiB; if no one has killed it, the machine was out of memory)"
    )
    assert describe_exit(-signal.SIGKILL, 20 << 20) == "died of SIGKILL (peak memory 20 MiB)"
    assert describe_exit(3) == "ended with exit code 3"
