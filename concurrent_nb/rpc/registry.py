"""The methods that may be called: `@remote` methods of some objects, with parameters, roles and documentation.

A node builds one from itself for its dispatcher. Every fault of a method (no annotation, an invalid name, a name used
twice) is found when the registry is built, not when the method is called.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.rpc.remote import Mark, mark_of
from concurrent_nb.wire import jsonrpc
from concurrent_nb.wire.jsonrpc import Caller, RpcError


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method."""

    name: str
    annotation: Any  #: the type to which an argument is converted
    default: Any  #: inspect.Parameter.empty if the argument is required

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def describe(self) -> dict[str, Any]:
        """Return its description for introspection."""
        described: dict[str, Any] = {"type": _type_text(self.annotation), "required": self.required}
        if not self.required:
            described["default"] = self.default
        return described


@dataclass(frozen=True)
class Method:
    """A method that may be called, bound to its object."""

    name: str
    function: Callable[..., Any]
    doc: str
    roles: frozenset[str]
    parameters: tuple[Parameter, ...]
    wants_caller: bool

    def arguments(self, params: list[Any] | dict[str, Any]) -> dict[str, Any]:
        """Check and convert the arguments of a call. Raises RpcError, which names the invalid parameter."""
        given = params if isinstance(params, dict) else self._named(params)
        known = {parameter.name for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise self._invalid(name, "is not one of its parameters")
        return {
            parameter.name: self._convert(parameter, given[parameter.name])
            for parameter in self.parameters
            if parameter.name in given or self._is_missing(parameter)
        }

    def _named(self, params: list[Any]) -> dict[str, Any]:
        if len(params) > len(self.parameters):
            text = f"{self.name} takes at most {len(self.parameters)} parameters, not {len(params)}"
            raise RpcError(jsonrpc.INVALID_PARAMS, text)
        return {parameter.name: value for parameter, value in zip(self.parameters, params, strict=False)}

    def _is_missing(self, parameter: Parameter) -> bool:
        if parameter.required:
            raise self._invalid(parameter.name, "is missing")
        return False

    def _convert(self, parameter: Parameter, value: Any) -> Any:
        try:
            return msgspec.convert(value, parameter.annotation)
        except msgspec.ValidationError as error:
            raise self._invalid(parameter.name, f"does not fit: {error}") from None

    def _invalid(self, parameter: str, text: str) -> RpcError:
        parameter = jsonrpc.clipped(parameter, 64)
        message = jsonrpc.clipped(f"parameter {parameter!r} of {self.name} {text}")
        return RpcError(jsonrpc.INVALID_PARAMS, message, {"parameter": parameter})

    def describe(self) -> dict[str, Any]:
        """Return its description for introspection."""
        params = {parameter.name: parameter.describe() for parameter in self.parameters}
        return {"doc": self.doc, "params": params, "roles": sorted(self.roles)}


class Registry:
    """The remote methods of some objects, and the method `api`, open to every role that may call any method."""

    def __init__(self, *targets: object) -> None:
        self._methods: dict[str, Method] = {}
        for target in targets:
            for name in sorted(dir(type(target))):
                mark = mark_of(inspect.getattr_static(target, name))
                if mark is not None:
                    self._add(name, getattr(target, name), mark)
        roles = frozenset[str]().union(*(method.roles for method in self._methods.values()))
        self._add("api", self.api, Mark(roles, "Describe every method: documentation, parameters, roles."))
        self._description = self._describe()

    def find(self, name: str) -> Method | None:
        """Return the method of that name; None if there is none."""
        return self._methods.get(name)

    def names(self) -> list[str]:
        """Return the names of all methods, sorted."""
        return sorted(self._methods)

    def api(self) -> dict[str, Any]:
        """Describe every method."""
        return self._description

    def _add(self, name: str, function: Callable[..., Any], mark: Mark) -> None:
        if jsonrpc.METHOD_NAME.fullmatch(name) is None:
            raise ConfigurationError(f"{name!r} cannot be a remote method: name it like {jsonrpc.METHOD_NAME.pattern}")
        if name in self._methods:
            raise ConfigurationError(f"two remote methods are called {name!r}: rename one")
        wants_caller, parameters = _signature(name, function)
        self._methods[name] = Method(name, function, mark.doc, mark.roles, parameters, wants_caller)

    def _describe(self) -> dict[str, Any]:
        methods = {name: self._methods[name].describe() for name in self.names()}
        try:
            return {"api_version": jsonrpc.API_VERSION, "methods": msgspec.to_builtins(methods)}
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"a default of a remote method cannot be encoded in JSON: {error}") from None


def _signature(name: str, function: Callable[..., Any]) -> tuple[bool, tuple[Parameter, ...]]:
    """Return whether the function takes its caller as first argument, and its other parameters."""
    signature = inspect.signature(function, eval_str=True)
    parameters = list(signature.parameters.values())
    wants_caller = bool(parameters) and parameters[0].annotation is Caller
    return wants_caller, tuple(_parameter(name, parameter) for parameter in parameters[wants_caller:])


def _parameter(method: str, parameter: inspect.Parameter) -> Parameter:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ConfigurationError(f"remote method {method}: {parameter} cannot be called by name; give it a name")
    if parameter.annotation is parameter.empty:
        raise ConfigurationError(f"remote method {method}: parameter {parameter.name} needs an annotation")
    try:
        # Only types with a JSON schema can be converted from JSON; the schema itself is not used.
        msgspec.json.schema(parameter.annotation)
    except TypeError as error:
        text = f"remote method {method}: the type of parameter {parameter.name} cannot be read from JSON: {error}"
        raise ConfigurationError(text) from None
    return Parameter(parameter.name, parameter.annotation, parameter.default)


def _type_text(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
