"""Which methods a registry finds, which it refuses, how it checks arguments."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.rpc import Caller, Registry, remote
from concurrent_nb.rpc.registry import Method
from concurrent_nb.wire.jsonrpc import INVALID_PARAMS, RpcError


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Master:
    """Methods for the tests."""

    @remote(roles=["admin", "client"])
    def jobs(self, limit: int = 10, *, state: Literal["open", "done"] = "open") -> list[str]:
        """List the jobs.

        The newest first.
        """
        return [state] * limit

    @remote(roles=["slave"], doc="Send a heartbeat.")
    def beat(self, caller: Caller, load: float, key: bytes = b"") -> None:
        """Not shown to callers."""

    @remote(roles=["admin"])
    def draw(self, points: list[Point], name: str | None = None) -> int:
        return len(points)

    def hidden(self) -> None: ...


def method(name: str) -> Method:
    found = Registry(Master()).find(name)
    assert found is not None
    return found


def test_only_marked_methods_are_found() -> None:
    registry = Registry(Master())
    assert registry.names() == ["api", "beat", "draw", "jobs"]
    for name in ("hidden", "__init__", "__class__", "_methods", "find", "", "jobs.limit"):
        assert registry.find(name) is None


def test_methods_of_several_objects_are_found() -> None:
    class Other:
        @remote(roles=["admin"])
        def other(self) -> None: ...

    assert {"jobs", "other"} <= set(Registry(Master(), Other()).names())


def test_an_override_that_is_not_marked_is_not_offered() -> None:
    class Silent(Master):
        def jobs(self, limit: int = 10, *, state: Literal["open", "done"] = "open") -> list[str]:
            return []

    assert Registry(Silent()).find("jobs") is None
    assert Registry(Silent()).find("beat") is not None


def test_the_decorator_leaves_the_method_as_it_was() -> None:
    assert Master().jobs(2, state="done") == ["done", "done"]


def test_a_method_is_described() -> None:
    assert Registry(Master()).api() == {
        "api_version": 1,
        "methods": {
            "api": {
                "doc": "Describe every method: documentation, parameters, roles.",
                "params": {},
                "roles": ["admin", "client", "slave"],
            },
            "beat": {
                "doc": "Send a heartbeat.",
                "params": {
                    "load": {"type": "float", "required": True},
                    "key": {"type": "bytes", "required": False, "default": ""},
                },
                "roles": ["slave"],
            },
            "draw": {
                "doc": "",
                "params": {
                    "points": {"type": f"list[{Point.__module__}.Point]", "required": True},
                    "name": {"type": "str | None", "required": False, "default": None},
                },
                "roles": ["admin"],
            },
            "jobs": {
                "doc": "List the jobs. The newest first.",
                "params": {
                    "limit": {"type": "int", "required": False, "default": 10},
                    "state": {"type": "Literal['open', 'done']", "required": False, "default": "open"},
                },
                "roles": ["admin", "client"],
            },
        },
    }


# ----------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("params", "arguments"),
    [
        ([], {}),
        ({}, {}),
        ([3], {"limit": 3}),
        ([3, "done"], {"limit": 3, "state": "done"}),
        ({"state": "done"}, {"state": "done"}),
    ],
)
def test_arguments_are_taken_by_position_and_by_name(params: Any, arguments: dict[str, Any]) -> None:
    assert method("jobs").arguments(params) == arguments


def test_arguments_are_converted_to_their_annotation() -> None:
    assert method("draw").arguments({"points": [{"x": 1}, {"x": 2, "y": 3}]}) == {"points": [Point(1), Point(2, 3)]}
    assert method("beat").arguments([1, "YWJj"]) == {"load": 1.0, "key": b"abc"}


@pytest.mark.parametrize(
    ("name", "params", "parameter", "text"),
    [
        ("jobs", {"limit": "3"}, "limit", "Expected `int`, got `str`"),
        ("jobs", {"limit": True}, "limit", "Expected `int`, got `bool`"),
        ("jobs", {"limit": 1.0}, "limit", "Expected `int`, got `float`"),
        ("jobs", {"limit": None}, "limit", "Expected `int`, got `null`"),
        ("jobs", {"state": "lost"}, "state", "Invalid enum value 'lost'"),
        ("jobs", {"colour": 1}, "colour", "is not one of its parameters"),
        ("jobs", {"self": 1}, "self", "is not one of its parameters"),
        ("beat", {"load": 1, "caller": {"role": "admin"}}, "caller", "is not one of its parameters"),
        ("beat", {}, "load", "is missing"),
        ("beat", {"load": 1, "key": "?"}, "key", "does not fit"),
        ("draw", [[{"x": 1}, {"x": "2"}]], "points", "$[1].x"),
    ],
)
def test_an_argument_that_does_not_fit_is_refused_by_name(name: str, params: Any, parameter: str, text: str) -> None:
    with pytest.raises(RpcError) as caught:
        method(name).arguments(params)
    fault = caught.value.fault
    assert fault.code == INVALID_PARAMS
    assert fault.data == {"parameter": parameter}
    assert repr(parameter) in fault.message
    assert name in fault.message
    assert text in fault.message


def test_too_many_arguments_are_refused() -> None:
    with pytest.raises(RpcError, match="jobs takes at most 2 parameters, not 3"):
        method("jobs").arguments([1, "open", 3])


def test_a_refusal_does_not_repeat_a_long_name() -> None:
    with pytest.raises(RpcError) as caught:
        method("jobs").arguments({"x" * 100_000: 1})
    assert len(caught.value.fault.message) < 300


# ------------------------------------------------------------------------------------------------------ bad definitions


@pytest.mark.parametrize("roles", [[], "", "admin", [""], ["admin", ""]])
def test_a_method_without_a_list_of_roles_is_refused(roles: Any) -> None:
    with pytest.raises(ConfigurationError, match="roles"):
        remote(roles=roles)


def untyped(self: object, a) -> None: ...  # type: ignore[no-untyped-def]
def positional_only(self: object, a: int, /) -> None: ...
def starred(self: object, *a: int) -> None: ...
def double_starred(self: object, **a: int) -> None: ...
def odd_default(self: object, a: Any = object()) -> None: ...  # noqa: B008
def odd_type(self: object, a: Callable[[int], int]) -> None: ...


@pytest.mark.parametrize(
    "function", [untyped, positional_only, starred, double_starred, odd_default, odd_type], ids=lambda f: f.__name__
)
def test_a_method_that_cannot_be_called_remotely_is_refused(function: Callable[..., None]) -> None:
    kind = type("Kind", (), {"method": remote(roles=["admin"])(function)})
    with pytest.raises(ConfigurationError):
        Registry(kind())


@pytest.mark.parametrize("name", ["_private", "__len__", "Upper", "x" * 65, "früh", "api"])
def test_a_method_with_an_invalid_name_is_refused(name: str) -> None:
    def function(self: object) -> None: ...

    kind = type("Kind", (), {name: remote(roles=["admin"])(function)})
    with pytest.raises(ConfigurationError):
        Registry(kind())


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="two remote methods are called 'beat'"):
        Registry(Master(), Master())
