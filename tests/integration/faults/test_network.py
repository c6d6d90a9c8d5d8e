"""F9, F11, F12: a link that is slow and drops packets, one that works in one direction, a cable that is pulled."""

import contextlib
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import command, running
from tests.second_host import MASTERS_ADDRESS, Host, copy, hosts, ip
from tests.work import PATIENCE_S

#: fixtures
__all__ = ["copy", "hosts"]

pytestmark = pytest.mark.netns
LOST_AFTER_S = 2.0
BRISK = (
    "--MasterNode.interval_s=0.2",
    "--MasterNode.suspect_after_s=1.0",
    f"--MasterNode.lost_after_s={LOST_AFTER_S}",
)
#: a link of 1 Mbit per second whose queue is so short that it drops packets
SLOW = ("root", "tbf", "rate", "1mbit", "burst", "4kb", "limit", "6kb")
#: nobody has this hardware address, so what is sent to it is lost
NOWHERE = "02:00:00:00:00:01"

PROGRAM = """
    import pathlib, sys
    import concurrent_nb
    from tests import work

    path, stop = sys.argv[1:]
    rounds = 0
    with concurrent_nb.connect(path) as app:
        while not pathlib.Path(stop).exists():
            squares = [square for square, _ in app.map(work.slow_square, range(200))]
            assert squares == [n * n for n in range(200)], squares
            rounds += 1
            if rounds == 1:
                print("it works", flush=True)
    print("rounds", rounds)
"""


@contextlib.contextmanager
def started(host: Host, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program on a host; kill it at the end."""
    process = subprocess.Popen(
        [*host.prefix, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=host.env
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def tc(host: Host, verb: str, *words: str) -> None:
    subprocess.run([*host.prefix, "tc", "qdisc", verb, "dev", host.interface, *words], check=True, timeout=PATIENCE_S)


@pytest.mark.slow
@pytest.mark.parametrize("copy", [BRISK], indirect=True)
def test_whatever_becomes_of_the_link_to_a_slave_nothing_is_lost_or_doubled(
    hosts: tuple[Host, Host], copy: Path, tmp_path: Path
) -> None:
    here, there = hosts
    stop = tmp_path / "stop"
    far = ("slave", "--connect", str(copy), "--workers", "1", "--name", "far")
    with (
        running(*far, says="has joined", prefix=there.prefix, env=there.env) as slave,
        started(here, *command("status", str(copy), "--json", "--watch", "0.2")) as status,
        started(here, sys.executable, "-c", textwrap.dedent(PROGRAM), str(copy), str(stop)) as user,
    ):

        def until(holds: Callable[[dict[str, Any]], object]) -> None:
            assert status.stdout is not None
            for line in status.stdout:
                if holds({each["name"]: each for each in json.loads(line)["slaves"]}):
                    return
            raise AssertionError(status.communicate()[1])

        until(lambda slaves: "far" in slaves)
        assert user.stdout is not None
        assert user.stdout.readline() == "it works\n"

        # F12: slower, but nobody is taken for dead.
        tc(there, "add", *SLOW)
        began = time.monotonic()
        until(lambda slaves: slaves["far"]["uptime_s"] > 2 * LOST_AFTER_S and time.monotonic() > began + LOST_AFTER_S)
        tc(there, "del", "root")

        # F11: what the slave sends is lost, what is sent to it arrives. It is lost, and registers again later.
        ip("-n", there.namespace, "neigh", "replace", MASTERS_ADDRESS, "lladdr", NOWHERE, "dev", there.interface)
        until(lambda slaves: "far" not in slaves)
        ip("-n", there.namespace, "neigh", "del", MASTERS_ADDRESS, "dev", there.interface)
        until(lambda slaves: "far" in slaves and slaves["far"]["state"] == "active")

        # F9: the cable is pulled, for good.
        there.cable("down")
        try:
            until(lambda slaves: "far" not in slaves)
            stop.touch()
            out, errors = user.communicate(timeout=PATIENCE_S)
            assert user.returncode == 0, errors
            assert out.startswith("rounds ")
        finally:
            there.cable("up")
        slave.terminate()
