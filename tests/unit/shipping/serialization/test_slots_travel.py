"""Objects of classes with `__slots__`, which `__main__` defines, go to a task and come back as they were."""

import re
import types
from typing import Any

import pytest

from concurrent_nb.shipping.serialization import pickles
from tests.unit.shipping.serialization.main_module import answers_of

SOURCE = """
import abc, dataclasses, typing

def fill(thing, **values):
    for name, value in values.items():
        setattr(thing, name, value)
    return thing

class OneText: __slots__ = "one"
class Private:
    __slots__ = ("__hidden", "open")
    def __init__(self): self.__hidden, self.open = 1, 2
    def look(self): return self.__hidden, self.open
class Documented: __slots__ = {"a": "what a is"}
class Referable: __slots__ = ("a", "__weakref__")
class WithDict: __slots__ = ("a", "__dict__")
class Abstract(abc.ABC):
    __slots__ = ()
    @abc.abstractmethod
    def look(self): ...
class Concrete(Abstract):
    __slots__ = ["k"]
    def look(self): return self.k
class Goes(typing.Protocol): __slots__ = ("z",)
class Goer(Goes): __slots__ = ()
class Generic(typing.Generic[typing.TypeVar("T")]): __slots__ = ("v",)
class Name(str): __slots__ = ()
class Table(dict): __slots__ = ("heading",)
class Node: __slots__ = ("next", "value")
class Stateful:
    __slots__ = ("a",)
    def __getstate__(self): return {"kept": self.a}
    def __setstate__(self, state): self.a = state["kept"]
@dataclasses.dataclass(slots=True)
class Point:
    x: int = 1
    others: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(slots=True, frozen=True)
class Frozen: x: int
class Child(Point): pass
class SlottedChild(Point): __slots__ = ("q",)
class Coded(Exception):
    __slots__ = ("code",)
    def __init__(self, code, *, where): super().__init__(where); self.code = code
class Plain(ValueError): __slots__ = ("detail",)
class Reduced(Exception):
    __slots__ = ("code",)
    def __init__(self, code): super().__init__(); self.code = code
    def __reduce__(self): return Reduced, (self.code,)
class Setting(Exception):
    __slots__ = ("code",)
    def __setstate__(self, state): self.code = state["code"]
    def __reduce__(self): return Setting, (), {"code": self.code}

def noted(error):
    error.add_note("a note")
    return error

def ring():
    node = fill(Node(), value=1)
    node.next = fill(Node(), value=2, next=node)
    return node

THINGS = {
    "one_text": fill(OneText(), one=1), "private": Private(), "documented": fill(Documented(), a=1),
    "referable": fill(Referable(), a=1), "with_dict": fill(WithDict(), a=1, other=2), "concrete": fill(Concrete(), k=3),
    "goer": fill(Goer(), z=1), "generic": fill(Generic(), v=[1]), "name": Name("text"),
    "table": fill(Table(x=1), heading="t"), "ring": ring(), "stateful": fill(Stateful(), a=1), "unset": OneText(),
    "point": Point(3, [4]), "frozen": Frozen(5), "child": fill(Child(2), more=1),
    "slotted_child": fill(SlottedChild(), q=1),
    "coded": Coded(7, where="disk"), "plain": fill(Plain("text"), detail=[1]),
    "reduced": noted(Reduced(3)), "setting": fill(Setting(), code=4), "coded_noted": noted(Coded(7, where="disk")),
}
NAMES = ("one", "open", "a", "k", "z", "v", "heading", "value", "x", "others", "q", "more", "other",
         "code", "detail", "args", "__notes__")

def facts(thing):
    looked = thing.look() if hasattr(thing, "look") else None
    base = thing if isinstance(thing, (str, dict)) else None
    values = {name: getattr(thing, name) for name in NAMES if hasattr(thing, name)}
    return values, looked, base, hasattr(thing, "__dict__")
"""

TASKS = """
import pickle, sys, types
from concurrent_nb.shipping.serialization import pickles
sys.modules["__main__"] = types.ModuleType("__main__")
answers = {}
for name, (body, facts) in pickle.load(sys.stdin.buffer).items():
    try:
        thing = pickles.loads(body)
        answers[name] = repr(pickles.loads(facts)(thing)), pickles.dumps(thing)[0]
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}", None
sys.stdout.buffer.write(pickle.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(main: types.ModuleType) -> dict[str, tuple[str, bytes]]:
    facts = pickles.dumps(main.facts)[0]
    bodies = {name: (pickles.dumps(thing)[0], facts) for name, thing in main.THINGS.items()}
    found: dict[str, tuple[str, bytes]] = answers_of(TASKS, bodies)
    return found


THINGS = re.findall(r'"(\w+)": ', SOURCE.partition("THINGS")[2].partition("NAMES")[0])


@pytest.mark.parametrize("name", THINGS)
def test_it_is_there_what_it_is_here_and_comes_back(name: str, main: types.ModuleType, answers: dict[str, Any]) -> None:
    thing = main.THINGS[name]
    seen, returned = answers[name]
    assert seen == repr(main.facts(thing))
    back = pickles.loads(returned)
    assert type(back) is type(thing)
    assert repr(main.facts(back)) == repr(main.facts(thing))


def test_a_function_may_mention_a_class_whose_metaclass_makes_the_slots_itself(main: types.ModuleType) -> None:
    exec(
        "import msgspec\nclass Struct(msgspec.Struct): a: int\ndef ask(x): return isinstance(x, Struct)", main.__dict__
    )
    body, buffers = pickles.dumps(main.ask)
    assert pickles.loads(body, buffers)(3) is False
