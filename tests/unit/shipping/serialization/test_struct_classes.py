"""Classes of msgspec that `__main__` defines work where they arrive as they do at home."""

import types

import pytest

from concurrent_nb.shipping.serialization import pickles
from tests.unit.shipping.serialization.main_module import answers_of

SOURCE = """
import typing
import msgspec
from msgspec import Struct

class Point(Struct, frozen=True, order=True):
    x: int
    y: int = 3
    def norm(self): return self.x + self.y
    @property
    def twice(self): return 2 * self.x
    @classmethod
    def zero(cls): return cls(0, 0)
class Named(Point, rename="camel", kw_only=True, frozen=True, order=True):
    first_name: str = "n"
    tags: list[str] = []
    other: float = msgspec.field(default=1.5, name="o")
    def norm(self): return super().norm() + 100
class Shape(Struct, tag_field="kind", tag=str.lower, forbid_unknown_fields=True, dict=True):
    points: list[Point]
    next: typing.Optional["Shape"] = None
    limit: typing.ClassVar[int] = 7
    def __post_init__(self): self.size = len(self.points)
class Box(Shape, tag="b"):
    made: dict = msgspec.field(default_factory=lambda: {"made": True})
class Flat(Struct, array_like=True, omit_defaults=True, eq=False, gc=False):
    a: int = 0
    b: int = 0
class Required(Struct, kw_only=True):
    a: int = 0
    b: int

def use_plain():
    one = Point(1)
    return one, one < Point(2), hash(one) == hash(Point(1)), one.norm(), one.twice, Point.zero()
def use_rename(): return msgspec.json.encode(Named(1, first_name="a")), Named(1).tags, Named(1).norm(), Named(1).y
def use_tag():
    text = msgspec.json.encode(Box([Point(1)], Shape([])))
    return text, msgspec.json.decode(b'{"kind":"shape","points":[]}', type=Shape)
def use_unknown():
    try: return msgspec.convert({"kind": "shape", "points": [], "z": 1}, Shape)
    except msgspec.ValidationError as error: return str(error)
def use_post_init(): return Box([Point(1), Point(2)]).size, Shape.limit, Box([]).made, vars(Box([]))
def use_flat(): return msgspec.json.encode(Flat(1)), Flat(1) == Flat(1)
def use_required():
    try: return Required(a=1)
    except TypeError as error: return str(error), Required(b=2)
def use_frozen():
    try: Point(1).x = 2
    except AttributeError as error: return str(error)
def use_replace(): return msgspec.structs.replace(Named(1), first_name="b"), msgspec.structs.asdict(Point(1))
"""

CHILD = """
import pickle, sys
from concurrent_nb.shipping.serialization import pickles, task_main
answers = {}
for name, body in pickle.load(sys.stdin.buffer).items():
    task_main.enter(task_main.new_module(), is_loading_function=True)
    try:
        thing = pickle.loads(body)
        answers[name] = repr(thing()) if callable(thing) else repr(thing), pickles.dumps(thing)[0]
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}", None
sys.stdout.buffer.write(pickle.dumps(answers))
"""

USES = [line.removeprefix("def ").partition("(")[0] for line in SOURCE.splitlines() if line.startswith("def use_")]


@pytest.fixture(scope="module")
def answers(main: types.ModuleType) -> dict[str, tuple[str, bytes]]:
    things = {name: getattr(main, name) for name in USES}
    things["instance"] = main.Box([main.Named(1, first_name="a")], None)
    found: dict[str, tuple[str, bytes]] = answers_of(CHILD, {name: pickles.dumps(it)[0] for name, it in things.items()})
    return found


@pytest.mark.parametrize("name", USES)
def test_a_struct_does_there_what_it_does_here(
    name: str, main: types.ModuleType, answers: dict[str, tuple[str, bytes]]
) -> None:
    assert answers[name][0] == repr(getattr(main, name)())


def test_an_instance_comes_back_as_one_of_the_same_class(
    main: types.ModuleType, answers: dict[str, tuple[str, bytes]]
) -> None:
    text, body = answers["instance"]
    back = pickles.loads(body, [])
    assert type(back) is main.Box
    assert type(back.points[0]) is main.Named
    assert text == repr(back)
