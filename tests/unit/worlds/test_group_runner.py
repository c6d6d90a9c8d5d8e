"""What members do in a step, and what bad members get: clear words with step and member."""

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from concurrent_nb.errors import ConfigurationError, NotPicklable, WorldError
from concurrent_nb.worlds.group_runner import NO_MEMBERS, Adoption, GroupInput, GroupOutput, GroupRunner, WorldTerms
from concurrent_nb.worlds.mail import MessagePack
from concurrent_nb.worlds.shared_values import SharedStore, declared, shared_array, shared_value
from concurrent_nb.worlds.step_record import measured_in
from tests.unit.worlds.virtual_workers import packed


class Doing:
    """Does in each step what it is told."""

    def __init__(self, what: Any) -> None:
        self.what = what
        self.got: list[Any] = []

    def step(self, ctx: Any) -> None:
        self.got += ctx.inbox
        self.what(ctx)


class OneGroup:
    """A world of one group."""

    def __init__(
        self,
        *members: Any,
        on_error: str = "stop",
        shared: dict[str, Any] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
        **terms: Any,
    ) -> None:
        self.store = SharedStore(declared(shared))
        found = WorldTerms(1, on_error, 100, None)._replace(**terms)
        adoption = Adoption(packed(list(members)), self.store.data, {f"m{i}": i for i in range(len(members))}, (), ())
        self.runner = GroupRunner(found, adoption, clock)
        self.next_id = len(members)
        self.step_number = 0
        self.change: Any = {}

    def step(self, packs: Sequence[MessagePack | None] = (None,)) -> GroupOutput:
        self.step_number += 1
        inputs = GroupInput(
            self.step_number, 1, packs, [self.change], NO_MEMBERS, {}, np.zeros(1, np.int64), 0, self.next_id
        )
        output = self.runner.run(inputs)
        self.change = self.store.merge([output.writes])
        return output

    @property
    def members(self) -> list[Any]:
        return self.runner._members


def failure(*members: Any, **options: Any) -> str:
    """Return what is said of the member that fails in the first step."""
    output = OneGroup(*members, **options).step()
    assert not output.sent and not output.writes
    (failed,) = output.failed
    assert failed.step == 1
    return f"{failed.member} {failed.type_name} {failed.text}"


def test_messages_arrive_in_the_next_step_in_the_order_of_their_senders() -> None:
    def send(ctx: Any) -> None:
        ctx.send(0, (ctx.id, "first"))
        ctx.send("m0", (ctx.id, "second"))
        ctx.send([0, "m2", np.int64(0)], ctx.step)
        ctx.send(np.array([1]), 1.5)

    world = OneGroup(Doing(send), Doing(send), Doing(lambda ctx: None))
    assert world.step().messages == 12
    assert world.members[0].got == []
    world.step()
    assert world.members[0].got == [(0, "first"), (0, "second"), 1, 1, (1, "first"), (1, "second"), 1, 1]
    assert world.members[1].got == [1.5, 1.5]
    assert world.members[2].got == [1, 1]
    assert [type(each) for each in world.members[2].got] == [int, int]


@pytest.mark.parametrize("value", [1, 1.0, 2**80, True, None, "text", (1, "a"), [1], {"a": [2]}, {3}])
def test_values_arrive_as_they_were_sent(value: Any) -> None:
    def send(ctx: Any) -> None:
        ctx.send([0, 1], value)

    world = OneGroup(Doing(send), Doing(lambda ctx: None))
    world.step()
    world.step()
    for member in world.members:
        assert member.got == [value] and type(member.got[0]) is type(value)
    if not isinstance(value, (int, float, str, tuple, type(None))):
        assert world.members[0].got[0] is not world.members[1].got[0]


def test_each_receiver_has_a_copy_of_its_own() -> None:
    class Note:
        def __init__(self) -> None:
            self.text = "a"

    def send(ctx: Any) -> None:
        for each in ctx.inbox:
            each.text += "b"
        ctx.send([0, 1], Note())

    world = OneGroup(Doing(send), Doing(send))
    world.step()
    world.step()
    assert [note.text for note in world.members[0].got] == ["ab", "ab"]


def test_members_share_nothing() -> None:
    common: list[int] = []
    world = OneGroup(*[Doing(lambda ctx: None) for _ in range(2)])
    for member in world.members:
        member.got = common
    again = OneGroup(*world.members)
    again.members[0].got.append(1)
    assert again.members[1].got == []


def test_random_numbers_are_those_of_the_member_and_step() -> None:
    def draw(ctx: Any) -> None:
        ctx.write("drawn", ctx.rng.random())

    drawn = []
    for _ in range(2):
        world = OneGroup(Doing(draw), Doing(draw), shared={"drawn": shared_value([], merge="concat")})
        world.step()
        world.step()
        drawn.append(world.store.data["drawn"].value)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


def test_members_that_take_microseconds_are_timed_one_by_one_in_some_steps() -> None:
    passed = [0.0]
    late: dict[int, float] = {}  # seconds that member 1 takes, by step

    def take(ctx: Any) -> None:
        passed[0] += late.get(ctx.step, 1e-6) if ctx.id == 1 else 1e-6

    world = OneGroup(*[Doing(None) for _ in range(4)], clock=lambda: passed[0])
    for member in world.members:
        member.what = take  # not before, as a closure is copied
    assert [world.step().slowest >= 0 for _ in range(17)] == [step in (1, 8, 16) for step in range(1, 18)]
    late |= {18: 0.7, 19: 0.6, 24: 0.9}
    outputs = [world.step() for _ in range(8)]
    late_ones = [(each.step, round(each.slowest_s, 3)) for each in outputs if each.slowest == 1]
    assert late_ones[:1] == [(19, 0.6)] and (24, 0.9) in late_ones, "all but the first delay are known"
    assert outputs[0].slowest == -1 and outputs[0].slowest_s == 0.0


def test_reads_are_of_the_step_before() -> None:
    def add(ctx: Any) -> None:
        assert ctx.read("sum") == 2 * (ctx.step - 1)
        ctx.add("sum", 1)

    world = OneGroup(Doing(add), Doing(add), shared={"sum": shared_value(0, merge="sum")})
    assert not world.step().failed and not world.step().failed


def test_an_exception_is_named_with_its_member() -> None:
    assert failure(Doing(lambda ctx: None), Doing(lambda ctx: 1 / 0)) == "1 ZeroDivisionError division by zero"


def test_sending_to_nobody_is_named() -> None:
    text = failure(Doing(lambda ctx: ctx.send(7, 1)))
    assert text == "0  it sends to 7, and the members of this world have ids from 0 to 0"
    assert "to -1," in failure(Doing(lambda ctx: ctx.send(-1, 1)))
    assert "to 1.5," in failure(Doing(lambda ctx: ctx.send([1.5], 1)))
    assert "no member has the name 'x'" in failure(Doing(lambda ctx: ctx.send("x", 1)))
    assert "not to a NoneType" in failure(Doing(lambda ctx: ctx.send(None, 1)))


def test_sending_and_begetting_what_cannot_be_pickled_is_named() -> None:
    good, lock = Doing(lambda ctx: ctx.send(0, [1])), threading.Lock
    text = failure(good, Doing(lambda ctx: (ctx.send(0, 1), ctx.send(0, [lock()]))))
    assert text.startswith("1  it sends what cannot be pickled: TypeError: cannot pickle")
    assert failure(Doing(lambda ctx: ctx.spawn(Doing(lock())))).startswith("0 TypeError cannot pickle")
    assert "ValueError" in failure(Doing(lambda ctx: ctx.write("x", [1, 2], at=0)), shared={"x": np.zeros(3)})
    world = OneGroup(good, Doing(lambda ctx: ctx.send(0, [lock()])), on_error="drop")
    assert [each.member for each in world.step().failed] == [1]
    world.step()
    assert world.members[0].got == [[1]]


def test_a_member_that_cannot_be_pickled_any_more_is_named() -> None:
    world = OneGroup(Doing(lambda ctx: None), Doing(lambda ctx: None))
    world.members[1].got = [threading.Lock()]
    with pytest.raises(WorldError, match="member 1, after step 0: it cannot be pickled for a checkpoint") as caught:
        world.runner.members()
    assert caught.value.member == 1


def test_who_sends_to_nobody_can_be_dropped() -> None:
    def good(ctx: Any) -> None:
        ctx.send(0, "good")

    def bad(ctx: Any) -> None:
        ctx.send(0, "bad")
        ctx.add("sum", 1)
        ctx.send(99, 1)

    world = OneGroup(Doing(good), Doing(bad), on_error="drop", shared={"sum": shared_value(0, merge="sum")})
    output = world.step()
    assert [each.member for each in output.failed] == [1] and output.members == 1
    assert world.store.data["sum"].value == 0
    world.step()
    assert world.members[0].got == ["good"]


def test_what_only_a_dropped_member_has_measured_is_no_statistic() -> None:
    def measure(ctx: Any) -> None:
        ctx.measure("x")
        assert ctx.id == 1 and ctx.step == 2

    world = OneGroup(Doing(lambda ctx: None), Doing(measure), on_error="drop")
    output = world.step()
    assert len(output.failed) == 1 and measured_in([output]) == {}


def test_messages_to_those_who_have_left_are_counted() -> None:
    def bye(ctx: Any) -> None:
        ctx.send(0, "bye")
        ctx.leave()

    world = OneGroup(Doing(lambda ctx: ctx.send(1, "hello")), Doing(bye))
    assert world.step().left == [1]
    output = world.step()
    assert output.undelivered == 1 and output.members == 1
    assert world.members[0].got == ["bye"]


def flood(ctx: Any) -> None:
    while True:
        ctx.send(0, "again")


def flood_lists(ctx: Any) -> None:
    for _ in range(10**6):
        ctx.send([0] * 100, "again")


@pytest.mark.parametrize("what", [flood, flood_lists])
def test_a_flood_of_messages_ends(what: Any) -> None:
    text = failure(Doing(lambda ctx: None), Doing(what), messages_max=5000)
    assert text.startswith("1 WorldError it has sent more than 5,000 messages in this step")


def test_a_step_that_takes_too_long_is_interrupted() -> None:
    def hang(ctx: Any) -> None:
        while True:
            pass

    text = failure(Doing(lambda ctx: None), Doing(hang), timeout_s=0.05)
    assert text == "1 WorldError it took longer than 0.05 s, the world's timeout_s for a member's step"


def spin() -> None:
    while True:
        pass


def catch_errors(ctx: Any) -> None:
    while True:
        with contextlib.suppress(Exception):
            spin()


def catch_everything(ctx: Any) -> None:
    while True:
        try:
            spin()
        except BaseException:  # noqa: BLE001  (what no limit must be stopped by)
            ctx.measure("caught")


def catch_once(ctx: Any) -> None:
    with contextlib.suppress(BaseException):
        spin()


@pytest.mark.parametrize("step", [catch_errors, catch_everything, catch_once])
def test_a_step_that_catches_all_exceptions_is_interrupted_too(step: Any) -> None:
    before = signal.getsignal(signal.SIGALRM)
    text = failure(Doing(step), Doing(lambda ctx: None), timeout_s=0.01)
    assert text == "0 WorldError it took longer than 0.01 s, the world's timeout_s for a member's step"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (np.zeros(3), lambda value: value.__setitem__(0, 1)),
        ({"a": 1}, lambda value: value.__setitem__("a", 2)),
        ([1], lambda value: value.append(2)),
        ({1}, lambda value: value.add(2)),
        ({"a": {"b": 1}}, lambda value: value["a"].clear()),
        ((np.zeros(3), [np.zeros(3)]), lambda value: value[1][0].fill(1)),
    ],
)
def test_what_may_only_be_read_refuses_changes(value: Any, change: Any) -> None:
    text = failure(Doing(lambda ctx: change(ctx.read("data"))), shared={"data": value})
    assert text.startswith(("0 ValueError", "0 TypeError", "0 AttributeError"))


class Settings:
    def __init__(self) -> None:
        self.level = 1


def change_settings(ctx: Any) -> None:
    if ctx.id == 1:
        ctx.read("settings").level = 7


def test_or_a_change_is_found_and_undone() -> None:
    members = [Doing(lambda ctx: None), Doing(change_settings)]
    text = failure(*members, shared={"settings": Settings()})
    assert text.startswith("1  'settings' was changed, and may only be read; it was read by 1")
    world = OneGroup(*members, on_error="drop", shared={"settings": Settings()})
    world.step()
    assert world.runner._shared.data["settings"].value.level == 1


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (bytearray(3), lambda value: value.append(1)),
        ({"a": [Settings()]}, lambda value: setattr(value["a"][0], "level", 7)),
        ((Settings(), np.zeros(100_000)), lambda value: setattr(value[0], "level", 7)),
    ],
)
def test_the_member_that_changes_a_part_of_shared_data_is_dropped(value: Any, change: Any) -> None:
    def read_and_write(ctx: Any) -> None:
        ctx.add("sum", 1)
        ctx.send(1, 1)
        ctx.read("data")

    def change_it(ctx: Any) -> None:
        change(ctx.read("data"))
        read_and_write(ctx)

    members = [Doing(read_and_write), Doing(change_it), Doing(read_and_write)]
    shared = {"data": value, "sum": shared_value(0, merge="sum")}
    assert "'data' was changed, and may only be read" in failure(*members, shared=shared)
    for _ in range(2):
        world = OneGroup(*members, on_error="drop", shared=shared)
        output = world.step()
        assert [each.member for each in output.failed] == [1] and output.messages == 2
        assert world.store.data["sum"].value == 2


def test_what_a_member_keeps_of_shared_arrays_stays_as_it_was() -> None:
    kept: list[Any] = []

    def keep(ctx: Any) -> None:
        kept.append(ctx.read("a")[1:] if ctx.step % 2 else ctx.read("a"))
        ctx.add("a", slice(None), 1.0)

    world = OneGroup(Doing(None), shared={"a": shared_array(np.zeros(3), merge="sum")})
    world.members[0].what = keep
    for _ in range(5):
        world.step()
    assert [float(each[-1]) for each in kept] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_an_array_that_nobody_keeps_is_not_copied() -> None:
    world = OneGroup(
        Doing(lambda ctx: ctx.add("a", 0, ctx.read("a")[1:][0] + 1.0)),
        shared={"a": shared_array(np.zeros(3), merge="sum")},
    )
    world.step()
    world.step()
    before = id(world.runner._shared.data["a"].value)
    world.step()
    assert id(world.runner._shared.data["a"].value) == before
    assert world.store.read("a").tolist() == [3.0, 0.0, 0.0]


@pytest.mark.parametrize("what", [lambda ctx: ctx, lambda ctx: ctx.send, lambda ctx: [ctx.write]])
def test_ctx_cannot_be_kept_sent_or_begotten(what: Any) -> None:
    def keep(ctx: Any) -> None:
        world.members[0].got = what(ctx)

    world = OneGroup(Doing(None))
    world.members[0].what = keep
    world.step()
    with pytest.raises(WorldError, match=r"member 0, after step 1: .* ctx and its methods cannot be kept or sent"):
        world.runner.members()
    assert "ctx and its methods" in failure(Doing(lambda ctx: ctx.send(0, what(ctx))))
    assert "ctx and its methods" in failure(Doing(lambda ctx: ctx.spawn(Doing(what(ctx)))))


def test_what_is_written_to_a_value_is_copied_at_once() -> None:
    def write(ctx: Any) -> None:
        words = ["a"]
        ctx.write("words", words)
        ctx.write("words", b"bytes")
        words.append("b")

    world = OneGroup(Doing(write), shared={"words": shared_value([], merge="concat")})
    world.step()
    assert world.store.data["words"].value == [["a"], b"bytes"]
    assert failure(Doing(lambda ctx: ctx.write("x", threading.Lock())), shared={"x": 0}).startswith(
        "0 TypeError cannot"
    )


def test_a_rule_gets_a_copy_of_the_value() -> None:
    def append(value: list[int], written: list[int]) -> list[int]:
        value += written
        return value

    first = [7]
    world = OneGroup(Doing(lambda ctx: ctx.write("x", ctx.step)), shared={"x": shared_value(first, merge=append)})
    before = world.store.copy()
    changes = []
    for _ in range(3):
        world.step()
        changes.append(world.change["x"])
    assert changes == [[7, 1], [7, 1, 2], [7, 1, 2, 3]]
    assert before.data["x"].value == first == [7]


def test_a_value_that_becomes_an_array_stays_a_value() -> None:
    world = OneGroup(Doing(lambda ctx: ctx.write("x", np.ones(2))), shared={"x": shared_value(0.0, merge="sum")})
    changes = []
    for _ in range(3):
        world.step()
        changes.append(world.change["x"])
    assert [each.tolist() for each in changes] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    assert world.runner._shared.data["x"].value.tolist() == [2.0, 2.0]


def test_what_is_written_to_cells_does_not_depend_on_what_others_write() -> None:
    large = 2**60 + 1

    def write(ctx: Any) -> None:
        ctx.write("x", (np.uint64(large), np.int64(large), -1)[ctx.id], at=ctx.id)

    world = OneGroup(*[Doing(write) for _ in range(3)], shared={"x": np.zeros(3, np.int64)})
    world.step()
    assert world.store.data["x"].value.tolist() == [large, large, -1]


@pytest.mark.parametrize("datum", [threading.Lock(), shared_value(0, merge=threading.Lock().__enter__)])
def test_shared_data_that_cannot_be_sent_are_named(datum: Any) -> None:
    with pytest.raises(NotPicklable, match="shared data 'x'"):
        declared({"x": datum})


def test_a_member_that_exits_is_named() -> None:
    assert failure(Doing(lambda ctx: exec("raise SystemExit(3)"))) == "0 SystemExit 3"


def test_a_rule_that_cannot_merge_names_the_writers() -> None:
    world = OneGroup(Doing(lambda ctx: ctx.add("a", "word")), shared={"a": shared_value(0, merge="sum")})
    with pytest.raises(WorldError, match="members 0 have written to 'a' could not be merged by its rule \"sum\": Type"):
        world.step()


@pytest.mark.parametrize("order", ["C", "F"])
def test_cells_of_an_array_of_any_order_are_written(order: Any) -> None:
    world = OneGroup(
        Doing(lambda ctx: ctx.add("a", (0, 1), 1.0)),
        shared={"a": shared_array(np.zeros((2, 30), order=order), merge="sum")},
    )
    kept = world.store.copy()
    world.step()
    world.step()
    assert world.store.read("a")[0, 1] == 2.0 and world.store.read("a").sum() == 2.0
    assert world.runner._shared.read("a")[0, 1] == 1.0
    assert kept.read("a").sum() == 0.0


@pytest.mark.parametrize("on_error", ["stop", "drop"])
def test_a_member_that_cannot_be_pickled_for_a_checkpoint_fails(on_error: str) -> None:
    def keep_lock(ctx: Any) -> None:
        world.members[0].got.append(threading.Lock())

    world = OneGroup(Doing(None), Doing(lambda ctx: ctx.send(0, 1)), on_error=on_error)
    world.members[0].what = keep_lock
    inputs = GroupInput(1, 1, (None,), [], NO_MEMBERS, {}, np.zeros(1, np.int64), 0, 2)
    output = world.runner.run(inputs, collect=True)
    (failed,) = output.failed
    assert failed.member == 0 and "it cannot be pickled for a checkpoint" in failed.text
    if on_error == "drop":
        assert output.members == 1 and output.collected is not None
        assert output.collected.members.ids.tolist() == [1] and len(output.collected.members.bodies) == 1


def test_two_writers_need_a_rule() -> None:
    def write(ctx: Any) -> None:
        ctx.write("best", ctx.id)

    world = OneGroup(Doing(write), Doing(write), Doing(write), shared={"best": 0})
    with pytest.raises(WorldError, match=r"members 0 and 1 write 'best' in the same step: name a rule"):
        world.step()
    single = OneGroup(Doing(lambda ctx: None), Doing(write), shared={"best": 0})
    single.step()
    assert single.store.data["best"].value == 1


def test_two_writers_of_a_cell_need_a_rule() -> None:
    def write(ctx: Any) -> None:
        ctx.write("grid", 1.0, at=(0, ctx.id % 2))

    shared = {"grid": np.zeros((2, 2))}
    OneGroup(Doing(write), Doing(write), shared=shared).step()
    with pytest.raises(WorldError, match=r"members 0 and 2 write to the same cell \(0\) of 'grid'"):
        OneGroup(Doing(write), Doing(write), Doing(write), shared=shared).step()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda ctx: ctx.read("x"), "this world shares no 'x'; it shares 'grid', 'best'"),
        (lambda ctx: ctx.write("grid", 1, at=9), "IndexError"),
        (lambda ctx: ctx.write("grid", "a", at=0), "cannot take a value of"),
        (lambda ctx: ctx.write("grid", 1.5, at=0), "cannot take a value of float64"),
        (lambda ctx: ctx.write("best", 1, at=0), "no array"),
        (lambda ctx: ctx.add("best", 1), "not merged by sum"),
        (lambda ctx: ctx.spawn(1), "a member has a method step"),
        (lambda ctx: ctx.measure("x", "y"), "ValueError"),
    ],
)
def test_wrong_calls_are_errors_of_their_member(what: Any, words: str) -> None:
    assert words in failure(Doing(what), shared={"grid": np.zeros(3, int), "best": 0})


@pytest.mark.parametrize(
    ("merge", "expected"), [("sum", [6, 1, 0]), ("min", [0, 0, 0]), ("max", [3, 1, 0]), ("last", [1, 1, 0])]
)
def test_rules_of_arrays(merge: str, expected: list[int]) -> None:
    def write(ctx: Any) -> None:
        ctx.write("grid", 3 - ctx.id, at=0)
        if ctx.id == 2:
            ctx.write("grid", 1, at=[0, 1])

    world = OneGroup(Doing(write), Doing(write), Doing(write), shared={"grid": shared_array(np.zeros(3, int), merge)})
    world.step()
    assert world.store.data["grid"].value.tolist() == (expected if merge != "sum" else [7, 1, 0])
    other = SharedStore(declared({"grid": shared_array(np.zeros(3, int), merge)}))
    other.apply(world.change)
    assert other.data["grid"].value.tolist() == world.store.data["grid"].value.tolist()


@pytest.mark.parametrize(
    ("merge", "first", "expected"),
    [("sum", 1, 4), ("min", 1, 0), ("max", 1, 2), ("last", 9, 2), ("concat", [9], [9, 0, 1, 2])],
)
def test_rules_of_values(merge: str, first: Any, expected: Any) -> None:
    members = [Doing(lambda ctx: ctx.write("x", ctx.id)) for _ in range(3)]
    world = OneGroup(*members, shared={"x": shared_value(first, merge)})
    world.step()
    assert world.store.data["x"].value == expected


def test_only_what_has_changed_of_an_array_travels() -> None:
    world = OneGroup(
        Doing(lambda ctx: ctx.add("grid", 500, 2)), shared={"grid": shared_array(np.zeros(1000), merge="sum")}
    )
    world.step()
    assert world.change["grid"].at.tolist() == [500] and world.change["grid"].values.tolist() == [2.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: shared_value(1, merge="median"), "is no rule"),
        (lambda: shared_value(1, merge="concat"), "appends to a list"),
        (lambda: shared_array(np.zeros(1), merge="concat"), "an array keeps its size"),
        (lambda: shared_array(np.array([None])), "numbers, not objects"),
        (lambda: declared({1: 2}), "not a string"),  # type: ignore[dict-item]
    ],
)
def test_wrong_declarations_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()
