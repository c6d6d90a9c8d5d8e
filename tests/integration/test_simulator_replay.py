"""A seed that failed on one machine is the same history on any other: nothing hangs on how an interpreter hashes."""

import os
import subprocess
import sys

SEEDS = range(40, 60)
DIGESTS = """
import sys
from tests.simulator.simulation import simulate
print([simulate(int(seed), trace=True).digest for seed in sys.argv[1:]])
"""


def digests(hash_seed: str) -> str:
    command = [sys.executable, "-c", DIGESTS, *map(str, SEEDS)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=100).stdout


def test_a_seed_is_the_same_history_in_every_process() -> None:
    assert digests("1") == digests("2")
