"""Matches, replays and tournaments: reproducible, and safe from robots that fail."""

import itertools
import json
import math
import pickle
import re
import signal
from base64 import b64decode
from random import Random
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest
from traitlets.config import Config

from concurrent_nb.components.core import ComponentManager
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.samples.arena.arena_sample import ArenaSample
from concurrent_nb.samples.arena.battle_rules import Battle, Commands, Sighting
from concurrent_nb.samples.arena.match import fight, start_places
from concurrent_nb.samples.arena.replay import TANK_NUMBERS, battle_picture, colour
from concurrent_nb.samples.arena.robots import EXAMPLES, Robot, Senses, Sniper, Spinner, aimed, noisy
from concurrent_nb.samples.arena.tournament import TournamentPlan, grouped
from concurrent_nb.samples.phased_plan import run_plan


class Still(Robot):
    def decide(self, senses: Senses) -> Commands:
        return Commands()


class Broken(Robot):
    def __init__(self) -> None:
        self.turns = 0

    def decide(self, senses: Senses) -> Commands:
        self.turns += 1
        if self.turns == 5:
            raise LookupError("no idea")
        return Commands(speed=8)


def examples(count: int = 4) -> list[Robot]:
    return [EXAMPLES[number % 4]() for number in range(count)]


# ------------------------------------------------------------------------------------------------------------- a match


def test_a_match_depends_on_its_seed_only() -> None:
    one, same, other = (fight(examples(), seed, max_turns=300) for seed in (1, 1, 2))
    assert one == same
    assert one.scores != other.scores
    assert one.names == ["Spinner", "Sniper", "Rammer", "Dodger"]
    assert one.failures == {}


def test_robots_are_copied_so_a_match_leaves_them_as_they_are() -> None:
    broken = Broken()
    result = fight([broken, Still()], max_turns=20)
    assert broken.turns == 0
    assert result.failures == {0: "LookupError in turn 5: no idea"}
    assert result.turns == 20


def test_what_is_no_order_is_a_failure() -> None:
    class Silent(Robot):
        def decide(self, senses: Senses) -> Commands:
            return None  # type: ignore[return-value]

    class Nothing(Robot):
        pass

    failures = fight([Silent(), Nothing()], max_turns=2).failures
    assert failures[0].startswith("TypeError in turn 1")
    assert failures[1] == "NotImplementedError in turn 1: Nothing decides nothing: give it a method decide"


class Slow(Robot):
    """Takes too long in some turns."""

    def __init__(self, late: set[int]) -> None:
        self.late = late
        self.skipped: list[int] = []

    def decide(self, senses: Senses) -> Commands:
        if senses.events.skipped:
            self.skipped.append(senses.turn - 1)
        while senses.turn in self.late:
            pass
        if senses.turn == 9 and self.skipped != sorted(self.late):
            raise ValueError(self.skipped)
        return Commands(turn=senses.turn)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="only an alarm interrupts a robot")
def test_a_robot_that_takes_too_long_skips_the_turn_and_does_as_before() -> None:
    headings: list[float] = []
    result = fight(
        [Slow({2, 3, 5}), Still()],
        max_turns=12,
        timeout_s=0.2,
        on_turn=lambda each: headings.append(each.tanks[0].heading),
    )
    turned = [round((after - before) % 360, 6) for before, after in itertools.pairwise(headings[:7])]
    assert turned == [1, 1, 1, 4, 4, 6]
    assert (result.skips[0], result.failures) == (3, {})


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="only an alarm interrupts a robot")
def test_a_robot_that_hangs_is_out_after_thirty_turns() -> None:
    result = fight([Slow(set(range(100))), Still()], max_turns=40, timeout_s=0.001)
    assert result.failures[0] == "TimeoutError in turn 30: it took longer than 0.001 s in 30 turns"
    assert (result.skips[0], result.turns) == (30, 40)


@pytest.mark.parametrize(
    ("decided", "failure"),
    [
        ({"speed": 8}, "TypeError in turn 1: decide must return Commands, which are numbers, not {'speed': 8}"),
        (Commands(speed="fast"), "TypeError in turn 1: decide must return Commands, which are numbers, not Commands("),  # type: ignore[arg-type]
        (Commands(fire=None), "TypeError in turn 1: decide must return Commands"),  # type: ignore[arg-type]
        (Commands(speed=10**400), "OverflowError in turn 1"),
    ],
)
def test_what_are_no_numbers_is_a_failure_of_the_robot_only(decided: Any, failure: str) -> None:
    class Odd(Robot):
        def decide(self, senses: Senses) -> Any:
            return decided

    result = fight([Odd(), Still()], max_turns=3)
    assert result.failures[0].startswith(failure)
    assert result.turns == 3


def test_a_robot_may_give_numbers_of_numpy_and_may_not_end_the_process() -> None:
    class Odd(Robot):
        def decide(self, senses: Senses) -> Any:
            return (numpy.float32(8), numpy.int64(1))

    class Ends(Robot):
        def decide(self, senses: Senses) -> Commands:
            raise SystemExit(3)

    assert fight([Odd(), Ends()], max_turns=3).failures == {1: "SystemExit in turn 1: 3"}


def test_examples_beat_a_tank_that_stands_still() -> None:
    for kind in EXAMPLES:
        scores = [fight([kind(), Still()], seed, max_turns=1500, record=False).scores for seed in range(3)]
        assert sum(first for first, _ in scores) > sum(second for _, second in scores), kind


def test_every_turn_can_be_watched() -> None:
    turns: list[int] = []

    def watch(battle: Battle) -> None:
        turns.append(battle.turn)

    fight([Still(), Still()], max_turns=5, on_turn=watch)
    assert turns == [1, 2, 3, 4, 5]


def test_matches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="1 robots: a match needs two"):
        fight([Still()])
    with pytest.raises(ValueError, match="an arena of 100 x 100 has no room for 30 tanks"):
        start_places(30, 100, 100, 0)
    places = start_places(20, 800, 600, 3)
    assert all(18 <= x <= 782 and 18 <= y <= 582 for x, y, _ in places)
    assert places == start_places(20, 800, 600, 3) != start_places(20, 800, 600, 4)


# ---------------------------------------------------------------------------------------------------------- the sensors


def test_a_radar_measures_with_noise() -> None:
    sighting = Sighting(1, 359.9, 400.0, 10.0, 5.0, 80.0)
    found = [noisy(sighting, Random(seed)) for seed in range(400)]
    off = [(each.bearing - 359.9 + 180) % 360 - 180 for each in found]
    assert 0.25 < (sum(each**2 for each in off) / 400) ** 0.5 < 0.35
    assert 3 < (sum((each.distance - 400) ** 2 for each in found) / 400) ** 0.5 < 5
    assert {(each.number, each.heading, each.speed) for each in found} == {(1, 10.0, 5.0)}
    assert all(0 <= each.bearing < 360 for each in found)


def test_aiming_leads_a_moving_target() -> None:
    seen: list[Senses] = []

    class Ask(Robot):
        def decide(self, senses: Senses) -> Commands:
            seen.append(senses)
            return Commands()

    fight([Ask(), Still()], max_turns=1)
    senses = seen[0]._replace(x=100, y=100, heading=0, gun=0, radar=0, heat=0.0, width=800, height=600)
    still = aimed(senses, Sighting(1, 0, 300, 90, 0, 100), power=1)
    moving = aimed(senses, Sighting(1, 0, 300, 90, 8, 100), power=1)
    assert (still.turn_gun, still.fire) == (0, 1)
    assert (moving.turn_gun, moving.fire) == (20, 0)  # as far as a gun turns, and not there yet
    there = math.degrees(math.asin(8 / 17))
    assert aimed(senses._replace(gun=there), Sighting(1, 0, 300, 90, 8, 100), power=1).fire == 1


# ---------------------------------------------------------------------------------------------------------- the replay


def test_a_replay_has_all_turns() -> None:
    result = fight(examples(), 1, max_turns=60)
    assert result.replay is not None
    found, turns, place = result.replay.numbers(), 0, 0
    while place < len(found):
        tanks = found[place : place + 4 * TANK_NUMBERS]
        assert set(tanks[::TANK_NUMBERS]) <= {0, 1}
        place += len(tanks)
        place += 1 + 4 * found[place]
        turns += 1
    assert turns == result.replay.turns == 61
    start = start_places(4, 800, 600, 1)
    assert [found[n * TANK_NUMBERS + 1] / 16 for n in range(4)] == [pytest.approx(x, abs=0.04) for x, _, _ in start]
    assert pickle.loads(pickle.dumps(result.replay)) == result.replay
    assert len(repr(result)) < 600


def test_a_battle_is_drawn_while_it_runs() -> None:
    pictures: list[str] = []

    def draw(battle: Battle) -> None:
        pictures.append(battle_picture(battle, ["<a>", "b", "c", "d"]))
        assert pictures[-1].count("<rect") == len(battle.alive)
        assert ("&lt;a&gt;" in pictures[-1]) is battle.tanks[0].is_alive
        assert pictures[-1].count("<circle") == len(battle.bullets)

    fight(examples(), 1, max_turns=60, on_turn=draw)
    assert any("<circle" in picture for picture in pictures)
    assert all(ElementTree.fromstring(picture).tag.endswith("svg") for picture in pictures)


def test_a_replay_of_64_robots_is_small() -> None:
    robots = [Spinner() for _ in range(64)]
    result = fight(robots, 1, width=2400, height=1800, max_turns=100)
    assert result.replay is not None
    assert len(result.replay.body) < 101 * 64 * 20  # so 2,000 turns take 2.5 MB


def test_its_page_has_the_numbers_a_still_picture_and_nothing_from_elsewhere() -> None:
    class Evil(Still):
        @property
        def name(self) -> str:
            return "<script>alert(1)</script>"

    result = fight([Evil(), Still()], 1, max_turns=3)
    assert result.replay is not None
    page = result.replay.page()
    assert "alert(1)</script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert r'["\u003cscript>alert(1)\u003c/script>", "Still"]' in page
    assert not re.search(r"@[A-Z]+@", page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    data = re.search(r'atob\("([^"]+)"\)', page)
    assert data is not None
    assert b64decode(data[1]) == result.replay.numbers().tobytes()
    assert page.count("<rect") == 2
    assert colour(0) != colour(1)
    bundle = result.replay._repr_mimebundle_()
    assert bundle["text/plain"] == "a match of 2 robots in 3 turns"
    assert 'sandbox="allow-scripts"' in bundle["text/html"]
    json.dumps(bundle)


# ------------------------------------------------------------------------------------------------------- the tournament


def test_a_tournament_has_rounds_of_matches() -> None:
    plan = TournamentPlan(examples(9), rounds=2, size=4, seed=3, max_turns=150)
    first = plan.begin()
    assert [task.name for task in first] == ["round 1, match 0", "round 1, match 1", "round 1, match 2"]
    assert sorted(number for group in plan.groups for number in group) == list(range(9))
    result = run_plan(None, plan)
    assert sum(each.points for each in result.standings) == pytest.approx(6)
    assert sorted(each.number for each in result.standings) == list(range(9))
    points = [each.points for each in result.standings]
    assert points == sorted(points, reverse=True)
    assert result.final.replay is not None
    again = run_plan(None, TournamentPlan(examples(9), rounds=2, size=4, seed=3, max_turns=150))
    assert again == result


def test_robots_that_fail_lose_but_do_not_end_the_tournament() -> None:
    result = run_plan(None, TournamentPlan([Broken(), *examples(3)], rounds=1, size=4, max_turns=400))
    assert result.failures == {0: "LookupError in turn 5: no idea"}
    assert len(result.standings) == 4


def test_groups_are_even() -> None:
    assert [len(group) for group in grouped(range(64), 8)] == [8] * 8
    assert [len(group) for group in grouped(range(9), 4)] == [3, 3, 3]
    with pytest.raises(ValueError, match="1 robots in 5 rounds of matches of 8"):
        TournamentPlan([Sniper()])


def test_a_tournament_is_shown_after_each_match() -> None:
    seen: list[tuple[str, float]] = []
    plan = TournamentPlan(examples(6), rounds=2, size=3, seed=3, max_turns=40)

    def show(shown: Any) -> None:
        bundle = shown._repr_mimebundle_()
        ElementTree.fromstring(bundle["text/html"])
        assert bundle["text/plain"].startswith(f"{shown.progress}\n{shown.standings[0].name} ")
        seen.append((shown.progress, round(sum(each.points for each in shown.standings), 9)))

    run_plan(None, plan, show)
    assert seen == [(f"round {n} of 2, {m} of 2 matches have ended", 2 * (n - 1) + m) for n in (1, 2) for m in (1, 2)]


def test_the_sample_runs_its_tournament_and_writes_the_final(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**items: Any) -> Any:
        manager = ComponentManager(Config({"ArenaSample": Config(items)}))
        return manager.get(manager.register(ArenaSample))

    sample = made(robots=6, rounds=1, size=3, turns=50, replay=str(tmp_path / "final.html"))
    assert sample.count == 2
    found = run_plan(None, sample.plan)
    assert sample.describe(found, 1.0).endswith("\n6 robots, 2 matches in 1 rounds (1.00 s)")
    lines: list[str] = []
    assert sample.answer(None, "all-at-once", lines.append) == found
    assert lines[0].startswith("round 1 of 1, 1 of 2 matches have ended; first is ")
    monkeypatch.setattr("concurrent_nb.samples.sample.Sample.answer", lambda *_: found)
    assert sample.answer(None, "system") == found
    assert (tmp_path / "final.html").read_text().startswith("<!doctype html>")
    with pytest.raises(ConfigurationError, match="the replay cannot be written: there is no folder"):
        made(robots=2, replay=str(tmp_path / "no" / "folder.html"))
    folder = made(robots=2, replay=str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"the replay cannot be written: .*directory"):
        folder.answer(None, "system")
