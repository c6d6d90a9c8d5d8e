"""What `__main__` defines with the standard library's helpers works where it arrives, by value, as it does at home."""

import types

import pytest

from concurrent_nb.shipping.serialization import pickles
from tests.unit.shipping.serialization.main_module import answers_of

SOURCE = """
import abc, collections, contextlib, dataclasses, datetime, enum, functools, operator, typing, weakref
from typing import *

class Color(enum.Enum):
    RED = 1
    BLUE = enum.auto()
    @property
    def pretty(self): return self.name.title()
class Perm(enum.Flag):
    R = 1; W = 2; RW = 3
class Level(enum.StrEnum):
    LOW = enum.auto()
def use_enums(): return Color.RED.pretty, Color(2).name, (Perm.R | Perm.W) is Perm.RW, Level.LOW + "!"

class Planet(enum.Enum):
    EARTH = 6.0, 2
    MARS = 0.6, 1
    HOME = EARTH
    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius
        self.neighbours = {mass: self}
class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made
    X = 1, "x axis"
class Numbered(enum.Enum):
    def __new__(cls):
        made = object.__new__(cls)
        made._value_ = len(cls.__members__) + 1
        return made
    ONE = ()
    TWO = ()
class Operator(enum.Enum):
    ADD = functools.partial(lambda a, b: a + b)
    def __call__(self, *args): return self.value(*args)
class Rights(enum.IntFlag, boundary=enum.KEEP):
    NONE = 0; X = 1; W = 2; R = 4; ALL = 7
@dataclasses.dataclass
class Body:
    size: str
    legs: int = 4
class Animal(Body, enum.Enum):
    DOG = "m",
    ANT = "s", 6
class Sizes(enum.Enum):
    BOTH = [1, 2]
    @classmethod
    def _missing_(cls, value): return cls.BOTH
class Day(datetime.date, enum.Enum):
    FIRST = 2020, 1, 1
def use_enums_with_code_of_their_own():
    mars = Planet((0.6, 1))
    return (
        mars.radius, mars.neighbours[0.6] is Planet.MARS, Planet.HOME is Planet.EARTH, list(Planet.__members__),
        Coordinate(1).label, bytes(Coordinate.X), Numbered.TWO.value, Operator.ADD(1, 2), Rights.ALL.name, list(Rights),
        Rights(9).value, Rights.NONE.name, Animal.ANT.legs, Animal.DOG.size, Sizes(7).value, Day.FIRST.month,
    )

class Pair(NamedTuple):
    x: int
    y: int = 3
Old = collections.namedtuple("Old", "a b", defaults=[1])
def use_named_tuples(): return Pair(1)._replace(x=5), Old(1), Pair.__annotations__["x"].__name__

@runtime_checkable
class Goes(Protocol):
    def go(self) -> int: ...
class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): ...
class Concrete(Abstract):
    def f(self): return 5
    def go(self): return 6
@Abstract.register
class Registered: pass
def use_abstract_classes():
    return Concrete().f(), isinstance(Registered(), Abstract), isinstance(Concrete(), Goes)

T = TypeVar("T")
PS = ParamSpec("PS")
TS = TypeVarTuple("TS")
UserId = NewType("UserId", int)
Checked = NewType("Checked", UserId)
class Stack(Generic[T]):
    def push(self, x: T) -> T: return x
class Options(TypedDict, total=False):
    x: int
def use_types():
    is_same = Checked.__supertype__ is UserId
    return Stack[int]().push(3), Checked(UserId(5)), is_same, PS.__name__, TS.__name__, Options(x=1)

@dataclasses.dataclass
class Point:
    x: "int"
    y: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(slots=True, frozen=True, kw_only=True)
class Frozen:
    x: int
    y: int = 2
def use_dataclasses():
    @dataclasses.dataclass
    class Sub(Point):
        z: int = 7
    is_same = dataclasses.fields(Point)[0].default is dataclasses.MISSING
    return is_same, Sub(1).z, dataclasses.replace(Point(1), x=5).x, dataclasses.asdict(Frozen(x=1))

@functools.total_ordering
class Version:
    def __init__(self, v): self.v = v
    def __eq__(self, other): return self.v == other.v
    def __lt__(self, other): return self.v < other.v
def use_total_ordering(): return Version(1) <= Version(2), Version(3) > Version(1)

class Methods:
    @functools.cached_property
    def once(self): return 7
    @functools.lru_cache
    def m(self, x): return x + 1
    @functools.singledispatchmethod
    def kind(self, x): return "any"
    @kind.register
    def _(self, x: int): return "int"
    part = functools.partialmethod(lambda self, a, b: a + b, 1)
    @staticmethod
    @functools.cache
    def s(x): return x * 2
    @classmethod
    @functools.lru_cache(maxsize=4)
    def c(cls, x): return cls.__name__ * x
def use_methods():
    it = Methods()
    return it.once, it.m(1), it.kind(1), it.kind(""), it.part(2), it.s(2), Methods.c(2)

@functools.cache
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.lru_cache(maxsize=3, typed=True)
def bounded(n): return n
def use_caches(): return fib(80), bounded(1), bounded.cache_parameters(), fib.cache_info().misses

@functools.singledispatch
def kind(x): return "any"
@kind.register
def _(x: int): return "int"
@kind.register(str)
def _(x): return "str"
def use_singledispatch(): return kind(1), kind("x"), kind(1.0)

@contextlib.contextmanager
def four(): yield 4
class Suppresses(contextlib.ContextDecorator):
    def __enter__(self): return self
    def __exit__(self, *error): return True
@Suppresses()
def fails(): raise ValueError
def use_contexts():
    with four() as n: return n, fails()

def deco(f):
    @functools.wraps(f)
    def wrapper(*args): return f(*args)
    return wrapper
@functools.cache
@deco
def inside(x): return x
@deco
@functools.cache
def outside(x): return x + 1
def use_wraps(): return inside(1), outside(1), outside.__name__, outside.__wrapped__(1)

class Key: pass
KEY = Key()
TABLE = weakref.WeakKeyDictionary({KEY: 1})
VALUES = weakref.WeakValueDictionary({"key": KEY})
SET = weakref.WeakSet([KEY])
def use_weak_tables(): return TABLE[KEY], VALUES["key"] is KEY, KEY in SET

class Delegates:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name): return getattr(self.inner, name)
DELEGATE = Delegates("text")
def use_delegation(): return DELEGATE.upper()

class Missing:
    def __reduce__(self): return "MISSING"
MISSING = Missing()
def use_sentinels(x=MISSING): return x is MISSING

class Base:
    def __init_subclass__(cls, /, tag="", **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = tag
class Derived(Base, tag="t"):
    def name(self): return super().__getattribute__("tag")
def use_subclass_hooks(): return Derived().name()
class Strict:
    def __init_subclass__(cls, /, tag, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = tag
class Obeys(Strict, tag="first"): pass
class Follows(Obeys, tag="second"): pass
def use_subclass_hooks_with_required_arguments():
    class Later(Follows, tag="later"): pass
    return Obeys.tag, Follows.tag, Later.tag

double = functools.partial(operator.mul, 2)
first = operator.itemgetter(0)
def use_partials(): return double(4), first([7]), list(map(functools.partial(pow, 2), range(3)))
"""

CHILD = """
import pickle, sys, types
sys.modules["__main__"] = types.ModuleType("__main__")
answers = {}
for name, body in pickle.load(sys.stdin.buffer).items():
    try:
        answers[name] = repr(pickle.loads(body)())
    except BaseException as error:
        answers[name] = f"{type(error).__name__}: {error}"
sys.stdout.buffer.write(pickle.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(main: types.ModuleType) -> dict[str, str]:
    bodies = {name: pickles.dumps(getattr(main, name))[0] for name in USES}
    found: dict[str, str] = answers_of(CHILD, bodies)
    return found


USES = [line.removeprefix("def ").partition("(")[0] for line in SOURCE.splitlines() if line.startswith("def use_")]


@pytest.mark.parametrize("name", USES)
def test_it_does_there_what_it_does_here(name: str, main: types.ModuleType, answers: dict[str, str]) -> None:
    assert answers[name] == repr(getattr(main, name)())


def test_a_cache_starts_empty_there(main: types.ModuleType, answers: dict[str, str]) -> None:
    main.fib(200)
    body, _ = pickles.dumps(main.use_caches)
    assert len(body) < 10_000
    assert "81)" in answers["use_caches"]
