"""Names are found wherever an object holds them."""

from collections import OrderedDict, deque
from dataclasses import dataclass

import msgspec

from tests.fuzzer.reachable_names import find_names

NEEDLE = b"0123456789abcdef"


@dataclass(slots=True)
class Slotted:
    inner: object


class Record(msgspec.Struct):
    inner: object


class Plain:
    def __init__(self, inner: object) -> None:
        self._inner = inner


def places(root: object) -> list[str]:
    return find_names(root, "it", {NEEDLE: "the needle"})[0]


def test_it_is_found_in_every_kind_of_book() -> None:
    for book in (
        {NEEDLE: 1},
        {1: NEEDLE},
        [NEEDLE],
        {NEEDLE},
        deque([(1, NEEDLE)]),
        OrderedDict({"a": [NEEDLE]}),
        Slotted(NEEDLE),
        Record([NEEDLE]),
        Plain(Slotted({1: Plain(NEEDLE)})),
        Plain(b"1/2/" + NEEDLE),
        Plain(NEEDLE.decode()),
    ):
        assert places(book), book


def test_the_place_is_told() -> None:
    assert places(Plain({"key": [NEEDLE]})) == ["it._inner[key][]: the needle"]


def test_what_is_not_there_is_not_found_and_rings_are_gone_round_once() -> None:
    ring = Plain(None)
    ring._inner = [ring, b"something else"]
    assert places(ring) == []
    assert find_names(ring, "it", {})[1] == 2
