"""The types that a class names in annotations that are text travel with the class."""

import types

from concurrent_nb.shipping.serialization import pickles
from tests.unit.shipping.serialization.main_module import answers_of

SOURCE = """
from __future__ import annotations
import dataclasses, datetime as dt, threading, typing
from typing import Optional
import msgspec

data = [1, 2, 3]

class Held:
    lock = threading.Lock()
@dataclasses.dataclass
class Leaf:
    when: dt.date
    tree: Optional[Tree] = None
@dataclasses.dataclass
class Tree:
    leaves: list[Leaf]
class Config(msgspec.Struct):
    leaf: Leaf
    limits: dict[str, typing.List["Limit"]]
class Limit(msgspec.Struct):
    most: int
class Odd:
    x: "not a type"
    y: missing

def hints(): return sorted(typing.get_type_hints(Leaf))
def config(): return repr(msgspec.convert({"leaf": {"when": "2026-01-02"}, "limits": {"a": [{"most": 1}]}}, Config))
def odd(): return Odd.__annotations__
def tree(): return repr(Tree([]))
class Left:
    size: data
    held: Held
def left(): return Left.__name__
"""

CHILD = """
import pickle, sys
from concurrent_nb.shipping.serialization import task_main
answers = {}
for name, body in pickle.load(sys.stdin.buffer).items():
    module = task_main.new_module()
    task_main.enter(module, is_loading_function=True)
    try:
        answers[name] = pickle.loads(body)()
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
    answers[name] = answers[name], sorted(task_main.defined_names())
sys.stdout.buffer.write(pickle.dumps(answers))
"""


def test_they_travel_if_they_are_types_and_can(main: types.ModuleType) -> None:
    names = ("hints", "config", "odd", "tree", "left")
    main.config()  # msgspec keeps something in the classes, which is left here
    answers = answers_of(CHILD, {name: pickles.dumps(getattr(main, name))[0] for name in names})
    assert answers["hints"][0] == main.hints() == ["tree", "when"]
    assert answers["config"][0] == main.config()
    assert answers["odd"] == ({"x": "'not a type'", "y": "missing"}, ["Odd", "odd"])
    assert answers["tree"][0] == "Tree(leaves=[])"
    assert answers["tree"][1] == ["Leaf", "Optional", "Tree", "dt", "tree"]
    assert answers["left"] == ("Left", ["Left", "left"])


def test_arguments_bring_them_too(main: types.ModuleType) -> None:
    assert b"Tree" in pickles.dumps(main.Leaf(None))[0]
