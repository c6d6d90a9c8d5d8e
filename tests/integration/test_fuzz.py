"""Bad peers of every role, beside good ones who must not notice. By hand: python -m tests.fuzzer.fuzz."""

import subprocess
import sys

import pytest

from tests.fuzzer.fuzz import TARGETS

#: seconds for each target: about a minute in all
SECONDS = {
    "client": 18,
    "slave": 14,
    "worker": 12,
    "worker's bytes": 5,  # 200 sequences take 2 s
    "slave's master": 6,
    "application's master": 4,
}


def test_every_target_has_its_time() -> None:
    assert SECONDS.keys() == TARGETS.keys()


# In a process of its own, whose memory is bounded: nonsense that is believed is to fail here, not on the machine.
@pytest.mark.parametrize("target", SECONDS)
def test_whatever_a_bad_peer_does_the_good_ones_do_not_notice(target: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzzer.fuzz",
        "--target",
        target,
        "--seconds",
        str(SECONDS[target]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
