"""The fuzzer finds planted faults of several kinds, and shortens them to the actions that they need."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from concurrent_nb.nodes.master.core import MasterCore
from concurrent_nb.workers.slave_side.pool import Pool
from tests.fuzzer import fuzz
from tests.fuzzer.fuzzed_master import FuzzedMaster, FuzzFailure, mutated


def findings(target: str, count: int = 5) -> list[fuzz.Finding]:
    return list(fuzz.fuzz([target], seconds=0, count=count).findings.values())


def test_what_is_raised_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MasterCore.received

    def received(self: MasterCore, session_id: bytes, key: bytes, frames: Sequence[Any], now: float) -> None:
        right(self, session_id, key, frames, now)
        if key.startswith(b"bad-peer"):
            raise LookupError("planted")

    monkeypatch.setattr(MasterCore, "received", received)
    (found,) = findings("client")
    assert found.signature == "LookupError in test_fuzz.py:received: planted"
    assert len(found.trace) == 1  # the first envelope of the peer is enough
    assert f"--target client --seed {found.seed} --count 1 --trace" in fuzz.describe(found)


def test_what_is_still_held_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MasterCore.add_slave

    def add_slave(self: Any, session_id: Any, *args: Any, **more: Any) -> str:
        self.planted = [*getattr(self, "planted", ()), {"seen": {session_id}}]
        return right(self, session_id, *args, **more)

    monkeypatch.setattr(MasterCore, "add_slave", add_slave)
    assert any("core.planted[][seen][]: its session" in found.what for found in findings("slave"))


def test_a_good_peer_that_is_thrown_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = MasterCore.received

    def received(self: MasterCore, session_id: bytes, key: bytes, frames: Sequence[Any], now: float) -> None:
        right(self, session_id, key, frames, now)
        if key.startswith(b"bad-peer"):
            self.remove(next(iter(self.peers)), "planted", now)

    monkeypatch.setattr(MasterCore, "received", received)
    assert any("sessions that are over: {'client" in found.what for found in findings("client", 3))


def test_a_pool_that_raises_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Pool.withdraw

    def withdraw(self: Pool, refs: Any, stop: bool, now: float) -> None:
        right(self, refs, stop, now)
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Pool, "withdraw", withdraw)
    assert any("planted" in found.signature for found in findings("slave's master", 15))


class Stub:
    """A rig in which two actions together fail."""

    def __init__(self, seed: int) -> None:
        self.trace: list[str] = []

    def run_sequence(self, role: str, seed: int, actions: Sequence[int]) -> None:
        self.trace += [str(action) for action in actions]
        if {3, 7} <= set(actions):
            raise FuzzFailure("task 5 of 0123456789abcdef")

    def close(self) -> None:
        pass


def test_a_sequence_is_shortened_to_the_acts_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fuzz.TARGETS, "client", (Stub, "client"))
    shorter = fuzz.shorten("client", 1, [1, 3, 4, 5, 7, 9], "task * of *")
    assert shorter == ([3, 7], ["3", "7"])
    assert fuzz.shorten("client", 1, [1, 3], "task * of *") is None


def test_a_seed_is_the_same_sequence_again() -> None:
    assert fuzz.actions_of("client", 5) == fuzz.actions_of("client", 5) != fuzz.actions_of("client", 6)
    printed = []
    for _ in range(2):
        rig = FuzzedMaster(1)
        fuzz.run_once(rig, "slave", 3, fuzz.actions_of("slave", 3))
        printed.append([line.split("(")[0] for line in rig.trace])
        rig.close()
    assert printed[0] == printed[1] != []


def test_memory_and_descriptors_that_are_left_are_wrong() -> None:
    assert fuzz.verdict(fuzz.FuzzReport()) == []
    assert fuzz.verdict(fuzz.FuzzReport(left_bytes=fuzz.LEFT_MAX_BYTES + 1)) == ["50 MB of memory are left"]
    assert fuzz.verdict(fuzz.FuzzReport(left_fds=2)) == ["2 descriptors are left open"]


def test_mutation_changes_frames_and_survives_nothing() -> None:
    chance = random.Random(1)
    assert any(mutated([b"header", b"body"], chance) != [b"header", b"body"] for _ in range(10))
    for _ in range(500):
        assert mutated([b""], chance)
