"""The rules of a turn, one by one."""

import math
from typing import Any

import pytest

from concurrent_nb.samples.arena import battle_rules as rules
from concurrent_nb.samples.arena.battle_rules import Battle, Bullet, Commands, Tank


def battle(*places: tuple[float, float, float]) -> Battle:
    return Battle(800, 600, list(places))


def tank_of(heading: float = 0.0, x: float = 400.0, y: float = 300.0) -> tuple[Battle, Tank]:
    """A tank far from another one."""
    made = battle((x, y, heading), (780, 580, 0))
    return made, made.tanks[0]


# ------------------------------------------------------------------------------------------------------------ movement


@pytest.mark.parametrize(
    ("speed", "wanted", "after"),
    [
        (0, 8, 1), (1, 8, 2), (7.5, 8, 8), (8, 99, 8), (0, -8, -1), (-3, -8, -4),
        (5, 2, 3), (5, 4, 4), (5, 0, 3), (1, 0, 0), (5, -8, 3), (1, -8, 0), (-5, 0, -3), (-5, -4, -4), (3, math.nan, 1),
    ],
)  # fmt: skip
def test_tanks_accelerate_by_one_and_brake_by_two(speed: float, wanted: float, after: float) -> None:
    assert rules.next_speed(speed, wanted) == after


def test_a_tank_drives_where_it_heads() -> None:
    fight, tank = tank_of(heading=90)
    for _ in range(3):
        fight.advance({0: Commands(speed=8)})
    assert [tank.x, tank.y, tank.speed] == pytest.approx([400, 306, 3])


def test_fast_tanks_turn_slowly_and_gun_and_radar_turn_with_what_carries_them() -> None:
    fight, tank = tank_of()
    fight.advance({0: Commands(turn=90, turn_gun=90, turn_radar=90)})
    assert (tank.heading, tank.gun, tank.radar) == (10, 30, 75)
    tank.speed = 8
    fight.advance({0: Commands(speed=8, turn=-90)})
    assert (tank.heading, tank.gun, tank.radar) == (6, 26, 71)


def test_walls_stop_tanks_and_hurt_fast_ones() -> None:
    fight, tank = tank_of(x=780)
    tank.speed = 8
    events = fight.advance({0: Commands(speed=8)})
    assert (tank.x, tank.speed, tank.energy) == (782, 0, 97)
    assert events[0].hit_wall
    tank.speed = 1
    fight.advance({0: Commands(speed=2)})
    assert tank.energy == 97


def test_tanks_that_touch_hurt_each_other_and_stop() -> None:
    fight = battle((400, 300, 0), (438, 300, 0))
    fight.tanks[0].speed = 7
    events = fight.advance({0: Commands(speed=8)})
    first, second = fight.tanks
    assert (first.energy, second.energy) == (99.4, 99.4)
    assert (first.x, first.speed) == (400, 0)
    assert (events[0].rammed, events[1].rammed) == ([1], [0])
    assert fight.scores == [pytest.approx(1.2), 0]  # who stands still has rammed nobody
    fight.tanks[0].speed, fight.tanks[1].speed, fight.tanks[1].x = 7, 7, 430
    fight.advance({0: Commands(speed=8), 1: Commands(speed=8)})
    assert fight.scores == [pytest.approx(2.4), 0]  # nor has who drives away


# ------------------------------------------------------------------------------------------------------------ shooting


def test_numbers_of_bullets_are_those_of_the_rules() -> None:
    assert [rules.bullet_speed(power) for power in (0.1, 1, 3)] == [pytest.approx(19.7), 17, 11]
    assert [rules.bullet_damage(power) for power in (0.5, 1, 3)] == [2, 4, 16]


def test_a_gun_must_cool_before_it_fires_and_energy_is_ammunition() -> None:
    fight, tank = tank_of()
    fired = [fight.advance({0: Commands(fire=2)})[0].fired for _ in range(31)]
    assert fired.index(True) == 29
    assert [tank.energy, tank.heat] == pytest.approx([98, 1.3])
    tank.heat, tank.energy = 0, 2
    assert not fight.advance({0: Commands(fire=2)})[0].fired


@pytest.mark.parametrize("power", [0, 0.05, -1, math.nan])
def test_what_is_no_power_fires_nothing(power: float) -> None:
    fight, tank = tank_of()
    tank.heat = 0
    assert not fight.advance({0: Commands(fire=power)})[0].fired


def test_a_bullet_hits_the_first_tank_on_its_way() -> None:
    fight = battle((100, 300, 0), (300, 310, 0), (500, 300, 0))
    fight.tanks[0].heat = 0
    fight.advance({0: Commands(fire=3)})
    turns = 1
    while fight.bullets:
        events = fight.advance({})
        turns += 1
    assert turns == math.ceil((200 - math.sqrt(18**2 - 10**2)) / 11)
    assert [tank.energy for tank in fight.tanks] == [106, 84, 100]  # 100 - 3 + 9
    assert (events[0].hits, events[1].hit_by) == ([1], [0.0])
    assert fight.scores == [16, 0, 0]


def test_bullets_leave_the_arena_and_do_not_hit_who_fired_them() -> None:
    fight, tank = tank_of(x=700)
    tank.heat = 0
    fight.advance({0: Commands(fire=1)})
    assert len(fight.bullets) == 1
    for _ in range(6):
        fight.advance({})
    assert (fight.bullets, tank.energy) == ([], 99)


def test_bullets_that_fly_on_after_their_tank_has_died_still_score() -> None:
    fight = battle((100, 300, 0), (300, 300, 0), (700, 500, 0))
    fight.bullets = [Bullet(0, 275, 300, 0, 1.0)]
    fight.tanks[0].is_alive = False
    fight.advance({})
    assert (fight.tanks[1].energy, fight.tanks[0].energy, fight.scores[0]) == (96, 100, 4)


def test_bullets_of_two_tanks_hit_each_other() -> None:
    fight = battle((100, 300, 0), (700, 300, 180), (400, 50, 0))
    fight.bullets = [Bullet(0, 390, 300, 0, 3.0), Bullet(1, 410, 300, 180, 3.0), Bullet(2, 700, 500, 90, 1.0)]
    events = fight.advance({})
    assert [bullet.owner for bullet in fight.bullets] == [2]
    assert [events[n].hit_bullets for n in range(3)] == [1, 1, 0]
    assert [tank.energy for tank in fight.tanks] == [100, 100, 100]


@pytest.mark.parametrize(
    ("first", "second", "meet"),
    [
        ((0, 0, 0), (5, -5, 90), True),
        ((0, 0, 0), (12, -5, 90), False),
        ((0, 0, 0), (5, -12, 90), False),
        ((0, 0, 0), (5, 5, 90), False),
        ((0, 0, 0), (20, 0, 180), True),
        ((0, 0, 0), (23, 0, 180), False),
        ((0, 0, 0), (-3, 0, 180), False),
        ((0, 0, 0), (20, 1, 180), False),
        ((0, 0, 0), (5, 0, 0), False),
        ((0, 0, 45), (7, 1, 135), True),
    ],
)
def test_bullets_hit_each_other_where_their_ways_cross(first: Any, second: Any, meet: bool) -> None:
    one, other = (Bullet(owner, x, y, heading, 3.0) for owner, (x, y, heading) in enumerate((first, second)))
    assert rules.ways_cross(one, other) is meet
    assert rules.ways_cross(other, one) is meet


def test_bullets_of_one_tank_pass_and_each_hits_one_other() -> None:
    fight = battle((100, 100, 0), (700, 100, 0))
    fight.bullets = [Bullet(0, 400, 300, 0, 3.0), Bullet(0, 405, 295, 90, 3.0)]
    fight.advance({})
    assert len(fight.bullets) == 2
    fight.bullets = [
        Bullet(n, x, y, angle, 3.0) for n, x, y, angle in ((0, 400, 300, 0), (1, 405, 295, 90), (1, 404, 305, 270))
    ]
    fight.advance({})
    assert [bullet.heading for bullet in fight.bullets] == [270]


# ------------------------------------------------------------------------------------------------------ death and score


def test_a_death_scores_for_the_killer_and_for_all_who_survive() -> None:
    fight = battle((100, 300, 0), (300, 300, 0), (700, 500, 0))
    fight.tanks[1].energy = 16
    fight.bullets = [Bullet(0, 275, 300, 0, 3.0)]
    fight.advance({})
    assert [tank.is_alive for tank in fight.tanks] == [True, False, True]
    assert fight.scores == [pytest.approx(16 + 0.2 * 16 + 50), 0, 50]
    assert len(fight.alive) == 2
    fight.tanks[2].energy = 4
    fight.bullets = [Bullet(0, 690, 500, 0, 1.0)]
    fight.advance({})
    assert fight.is_over
    assert fight.scores[0] == pytest.approx(69.2 + 4 + 0.8 + 50 + 10 * 2)


def test_battles_without_damage_end() -> None:
    fight, _ = tank_of()
    while not fight.is_over:
        fight.advance({})
    assert fight.turn == pytest.approx(450 + 1000, abs=2)


# ----------------------------------------------------------------------------------------------------------- the radar


def test_a_radar_sees_what_it_has_swept_over() -> None:
    fight = battle((400, 300, 0), (400, 500, 30), (600, 300, 0), (200, 300, 0))
    fight.tanks[1].speed = 0.0
    nothing = fight.advance({0: Commands()})
    assert [sighting.number for sighting in nothing[0].sightings] == [2]  # straight ahead
    seen = [fight.advance({0: Commands(turn_radar=45)})[0].sightings for _ in range(8)]
    assert [[each.number for each in turn] for turn in seen] == [[2], [1], [1], [3], [3], [], [], [2]]
    sighting = seen[1][0]
    assert sighting[1:4] == pytest.approx((90, 200, 30))


def test_a_radar_reaches_1200_units() -> None:
    far = Battle(3000, 600, [(100, 300, 0), (1301, 300, 0), (1299, 500, 0)])
    far.tanks[0].radar = 0
    assert far.advance({})[0].sightings == []
    far.tanks[1].x = 1300
    assert [each.number for each in far.advance({})[0].sightings] == [1]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_orders_that_are_no_numbers_are_ignored(value: Any) -> None:
    fight, tank = tank_of()
    fight.advance({0: Commands(value, value, value, value, value if value < 0 else 0)})
    assert (tank.x, tank.heading, tank.gun, tank.radar) == (400, 0, 0, 0)
