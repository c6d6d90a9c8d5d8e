"""Settings of Python and of libraries that tasks have the same values of as the notebook; a class for each.

A setting is read in the application and applied in workers, and restored there when a task has changed it. If its value
is that of the start, it is None and not sent. `SettingsSnapshot` compares all settings at each submit and after each
task, in half a microsecond. Settings of a library are ignored until the library is imported.
"""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter, call
from typing import Any, ClassVar, Final

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.references import attribute_of

log = logging.getLogger(__name__)


#: a function without arguments, in C if possible, because it is called for each task; and what it returns now
Probe = tuple[Callable[[], Any], Any]


class Setting:
    """One setting of this process."""

    name: ClassVar[str]
    module: ClassVar[str] = ""  #: the setting does not exist before this module is imported
    in_threads: ClassVar[bool] = False  #: each thread has a value of its own

    def read(self) -> Any:
        """Return the value as it travels; None if it is that of the start."""
        raise NotImplementedError

    def apply(self, value: Any) -> None:
        """Set a value that `read` has returned in another process."""
        raise NotImplementedError

    def changed_by_imports(self, value: Any) -> Iterable[str]:
        """Return the modules whose import may change the value, which is then to be applied again."""
        return [self.module] if self.module else []

    def probes(self) -> list[Probe]:
        """Return the probes by which changes are noticed."""
        raise NotImplementedError


class SettingsSnapshot:
    """The present values of settings, to be compared with later ones."""

    def __init__(self, settings: Iterable[Setting] = ()) -> None:
        self.probes: list[Callable[[], Any]] = []
        self.values: list[Any] = []
        self._settings: list[Setting] = []
        for setting in settings:
            self.add(setting)

    def add(self, setting: Setting) -> None:
        """Add a setting."""
        for probe, value in setting.probes():
            self.probes.append(probe)
            self.values.append(value)
            self._settings.append(setting)

    def is_unchanged(self) -> bool:
        """Return whether no setting has changed. Raises what reading a user's own setting raises."""
        return [*map(call, self.probes)] == self.values

    def split(self) -> tuple[list[Setting], list[Setting]]:
        """Return the settings that have not changed, and those that have."""
        changed = [
            setting
            for setting, probe, value in zip(self._settings, self.probes, self.values, strict=True)
            if [probe()] != [value]  # in lists, as `is_unchanged` compares, where an object equals itself
        ]
        return [it for it in dict.fromkeys(self._settings) if it not in changed], list(dict.fromkeys(changed))


class _RecursionLimit(Setting):
    name = "recursion limit"

    def __init__(self) -> None:
        self._base = sys.getrecursionlimit()

    def read(self) -> Any:
        limit = sys.getrecursionlimit()
        return None if limit == _PLAIN_RECURSION else limit

    def apply(self, value: Any) -> None:
        sys.setrecursionlimit(self._base if value is None else min(value, RECURSION_MOST))

    def probes(self) -> list[Probe]:
        return [(sys.getrecursionlimit, sys.getrecursionlimit())]


_PLAIN_RECURSION: Final = 1000
#: larger limits are not applied: an endless recursion would take all memory before it is noticed
RECURSION_MOST: Final = 1_000_000


class _Arguments(Setting):
    """The arguments of a script, which tasks may parse. A kernel has only arguments of its own."""

    name = "arguments"

    def read(self) -> Any:
        arguments = list(sys.argv)
        return None if len(arguments) < 2 or "ipykernel" in arguments[0] else arguments

    def apply(self, value: Any) -> None:
        sys.argv[:] = value or [""]

    def probes(self) -> list[Probe]:
        return [(partial(getattr, sys, "argv"), list(sys.argv))]


class _ByName(type):
    """A class of warnings that is compared by name, so that a filter does not need its module to be imported."""

    def __subclasscheck__(cls, other: type) -> bool:
        return any((kind.__module__, kind.__qualname__) == cls.stands_for for kind in other.__mro__)  # type: ignore[attr-defined]


def _category(module: str, name: str) -> type:
    known = getattr(sys.modules.get(module), name, None)
    if isinstance(known, type):
        return known
    return _ByName(name, (Warning,), {"__module__": module, "stands_for": (module, name)})


_PLAIN_FILTERS: Final = [
    ("default", None, ("builtins", "DeprecationWarning"), "__main__", 0),
    ("ignore", None, ("builtins", "DeprecationWarning"), None, 0),
    ("ignore", None, ("builtins", "PendingDeprecationWarning"), None, 0),
    ("ignore", None, ("builtins", "ImportWarning"), None, 0),
    ("ignore", None, ("builtins", "ResourceWarning"), None, 0),
]


#: since Python 3.14 a context may have its own
_filters_of_context: Final[Callable[[], list[Any]] | None] = getattr(warnings, "_get_filters", None)


def _filters() -> list[Any]:
    return warnings.filters if _filters_of_context is None else _filters_of_context()  # type: ignore[return-value]


class _Warnings(Setting):
    name = "warnings filters"

    def __init__(self) -> None:
        self._base = list(_filters())

    def read(self) -> Any:
        filters = [
            (action, message, (kind.__module__, kind.__qualname__), module, line)
            for action, message, kind, module, line in _filters()
        ]
        return None if filters == _PLAIN_FILTERS else filters

    def apply(self, value: Any) -> None:
        filters = self._base
        if value is not None:
            filters = [(action, text, _category(*kind), module, line) for action, text, kind, module, line in value]
        _filters()[:] = filters
        with warnings.catch_warnings():
            pass  # clears Python's caches of shown warnings

    def probes(self) -> list[Probe]:
        return [(_filters_of_context or partial(getattr, warnings, "filters"), list(_filters()))]


class _Stream(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to the present standard stream."""

    def __init__(self, name: str) -> None:
        self._of_name = name
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return getattr(sys, self._of_name)

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignore it."""


class _Logging(Setting):
    """Levels of loggers; levels and formats of the root logger's handlers that write to a standard stream."""

    name = "logging"
    module = "logging"

    def __init__(self) -> None:
        self._witness = logging.getLogger("concurrent_nb.levels")
        self._base = list(logging.root.handlers)
        self._base_levels = _levels()

    def read(self) -> Any:
        root = logging.getLogger()
        handlers = [
            (name, handler.level, _pickled(handler.formatter), _pickled(handler.filters or None))
            for handler in root.handlers
            if (name := _stream_name(_stream_of(handler)))
        ]
        value = (root.level, root.manager.disable, _levels(), handlers, _level_names())
        return None if value == _PLAIN_LOGGING else value

    def apply(self, value: Any) -> None:
        root = logging.getLogger()
        level, disabled, own_levels, handlers, level_names = value or _PLAIN_LOGGING
        _set_level_names(level_names)
        levels = {**self._base_levels, **own_levels}
        for name in _levels().keys() | levels.keys():
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))
        root.setLevel(level)
        logging.disable(disabled)
        ours: list[logging.Handler] = []
        for stream, own, formatter, filters in handlers:
            handler = _Stream(stream)
            handler.setLevel(own)
            if formatter is not None:
                handler.setFormatter(pickles.loads(formatter))
            for own_filter in pickles.loads(filters) if filters is not None else ():
                handler.addFilter(own_filter)
            ours.append(handler)
        root.handlers[:] = [*self._base, *ours]

    def changed_by_imports(self, value: Any) -> Iterable[str]:
        own_levels = value[2]
        # Libraries set the levels of their loggers when they are imported.
        return {self.module, *(name.partition(".")[0] for name in own_levels)}

    def probes(self) -> list[Probe]:
        cache: dict[Any, Any] = self._witness._cache  # type: ignore[attr-defined]
        cache[_MARK] = True  # `setLevel` and `disable` of any logger empty the caches of all
        handlers = partial(getattr, logging.root, "handlers") if not logging.root.handlers else _handlers
        names = partial(getattr, logging, "_levelToName")
        return [(partial(cache.__contains__, _MARK), True), (handlers, list(handlers())), (names, dict(names()))]


_PLAIN_LOGGING: Final[tuple[Any, ...]] = (logging.WARNING, 0, {}, [], {})
_STANDARD_LEVELS: Final = dict(logging._levelToName)
_MARK: Final = "levels are as they were"


def _handlers() -> list[Any]:
    return [(it, it.level, it.formatter, list(it.filters)) for it in logging.root.handlers]


def _levels() -> dict[str, int]:
    """Return the levels of loggers that have a level of their own."""
    return {
        name: logger.level
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level and not name.startswith("concurrent_nb")
    }


def _level_names() -> dict[int, str]:
    """Return the names of levels that were added or changed."""
    names: dict[int, str] = logging._levelToName
    if names == _STANDARD_LEVELS:
        return {}
    return {number: name for number, name in names.items() if _STANDARD_LEVELS.get(number) != name}


def _set_level_names(own: Mapping[int, str]) -> None:
    names: dict[int, str] = logging._levelToName
    expected = {**_STANDARD_LEVELS, **own}
    if names != expected:
        names.clear()
        names.update(expected)
        levels: dict[str, int] = logging._nameToLevel
        levels.update({name: number for number, name in own.items()})


def _stream_of(handler: logging.Handler) -> Any:
    """Return the stream that a handler writes to, also one of rich; None if there is none."""
    stream = attribute_of(handler, "stream")
    return stream if stream is not None else attribute_of(attribute_of(handler, "console"), "file")


def _stream_name(stream: Any) -> str:
    for name in ("stderr", "stdout") if stream is not None else ():
        if stream in (getattr(sys, name), getattr(sys, f"__{name}__")):
            return name
    return ""


def _pickled(part: Any) -> bytes | None:
    """Pickle the formatter or the filters of a handler."""
    if part is None:
        return None
    try:
        return pickles.dumps(part)[0]
    except Exception as error:  # noqa: BLE001  (their own pickling may raise anything)
        log.warning("tasks do not format or filter their log records as this process does: %s", error)
        return None


class _Decimal(Setting):
    name = "decimal context"
    module = "decimal"
    in_threads = True

    def read(self) -> Any:
        decimal = sys.modules["decimal"]
        context = decimal.getcontext()
        traps = sorted(signal.__name__ for signal, is_on in context.traps.items() if is_on)
        value = [getattr(context, name) for name in _CONTEXT]
        return None if (value, traps) == _PLAIN_CONTEXT else (value, traps)

    def apply(self, value: Any) -> None:
        decimal = sys.modules["decimal"]
        numbers, traps = value or _PLAIN_CONTEXT
        settings = dict(zip(_CONTEXT, numbers, strict=True))
        decimal.setcontext(decimal.Context(**settings, traps=[getattr(decimal, name) for name in traps]))

    def probes(self) -> list[Probe]:
        getcontext, all_of = sys.modules["decimal"].getcontext, _all_of
        saved = getcontext().copy()

        def probe(_stays: object = saved) -> Any:  # keeps the copy alive, which owns the traps that are compared
            return all_of(getcontext())

        return [(probe, all_of(saved))]


#: reads all attributes in one call
_all_of: Final = attrgetter("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
_CONTEXT: Final = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_PLAIN_CONTEXT: Final = (
    [28, "ROUND_HALF_EVEN", -999999, 999999, 1, 0],
    ["DivisionByZero", "InvalidOperation", "Overflow"],
)


class _NumpyErrors(Setting):
    name = "numpy.seterr"
    module = "numpy"
    in_threads = True

    def read(self) -> Any:
        numpy = sys.modules["numpy"]
        errors, call = numpy.geterr(), numpy.geterrcall()
        return None if errors == _PLAIN_ERRORS and call is None else (errors, call)

    def apply(self, value: Any) -> None:
        numpy = sys.modules["numpy"]
        errors, call = value or (_PLAIN_ERRORS, None)
        numpy.seterr(**errors)
        numpy.seterrcall(call)

    def probes(self) -> list[Probe]:
        variable = getattr(sys.modules.get("numpy._core.umath"), "_extobj_contextvar", None)
        if variable is not None:  # each change sets another object
            return [(partial(variable.get, None), variable.get(None))]
        numpy: Any = sys.modules["numpy"]
        return [(numpy.geterr, numpy.geterr()), (numpy.geterrcall, numpy.geterrcall())]


_PLAIN_ERRORS: Final = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class _NumpyPrinting(Setting):
    name = "numpy.set_printoptions"
    module = "numpy"
    in_threads = True

    def read(self) -> Any:
        options = sys.modules["numpy"].get_printoptions()
        return {name: value for name, value in options.items() if value != _PLAIN_PRINTING.get(name)} or None

    def apply(self, value: Any) -> None:
        numpy: Any = sys.modules["numpy"]
        options = {**_PLAIN_PRINTING, **(value or {})}
        numpy.set_printoptions(**{name: options[name] for name in numpy.get_printoptions() if name in options})

    def probes(self) -> list[Probe]:
        options: Any = sys.modules.get("numpy._core.printoptions")
        probe = options.format_options.get if options is not None else sys.modules["numpy"].get_printoptions
        return [(probe, probe())]


_PLAIN_PRINTING: Final[Mapping[str, Any]] = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "formatter": None,
    "legacy": False,
    "override_repr": None,
}


class _Pandas(Setting):
    name = "pandas options"
    module = "pandas"

    def __init__(self) -> None:
        self._set: set[str] = set()

    def read(self) -> Any:
        config: Any = sys.modules["pandas._config.config"]
        changed = {}
        for name, option in config._registered_options.items():
            value: Any = config._global_config
            for part in name.split("."):
                value = value[part]
            if value is not option.defval and value != option.defval:
                changed[name] = value
        return changed or None

    def apply(self, value: Any) -> None:
        pandas: Any = sys.modules["pandas"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # options may be deprecated, of which the notebook has warned
            for name in self.read() or {}:
                if name not in (value or {}):
                    pandas.reset_option(name)
            for name, own in (value or {}).items():
                pandas.set_option(name, own)

    def probes(self) -> list[Probe]:
        probe = partial(getattr, sys.modules["pandas._config.config"], "_global_config")
        return [(probe, _copied(probe()))]


def _copied(options: Any) -> Any:
    return {key: _copied(value) for key, value in options.items()} if isinstance(options, dict) else options


class _DeapClasses(Setting):
    """The classes that `deap.creator.create` has made, which are names of that module."""

    name = "deap.creator classes"
    module = "deap.creator"

    def read(self) -> Any:
        value = {name: body for name, kind in self._made().items() if (body := _pickled_class(name, kind)) is not None}
        return value or None

    def apply(self, value: Any) -> None:
        creator = sys.modules["deap.creator"]
        # A class that is known here is not made again (see `pickler`).
        made = {name: pickles.loads(body) for name, body in (value or {}).items()}
        for name in self._made().keys() - made.keys():
            delattr(creator, name)
        for name, kind in made.items():
            setattr(creator, name, kind)

    def probes(self) -> list[Probe]:
        probe = vars(sys.modules["deap.creator"]).copy
        return [(probe, probe())]

    def _made(self) -> dict[str, type]:
        creator = sys.modules["deap.creator"]
        metaclass = getattr(creator, "MetaCreator", ())  # since DEAP 1.4
        return {name: thing for name, thing in list(vars(creator).items()) if isinstance(thing, metaclass)}


def _pickled_class(name: str, kind: type) -> bytes | None:
    try:
        return pickles.dumps(kind)[0]
    except Exception as error:  # noqa: BLE001  (a class's own pickling may raise anything)
        log.warning("tasks do not have deap.creator.%s: %s", name, error)
        return None


class UserSettingFailed(ConfigurationError):
    """A function of a user's setting has raised `error`."""

    def __init__(self, name: str, function: str, error: Exception) -> None:
        what = f"`{function}` of the setting {name!r}, which was added with concurrent_nb.follow,"
        super().__init__(f"{what} has raised {type(error).__name__}: {error}")
        self.error = error


class UserSetting(Setting):
    """A setting that the user has added. `read` and `apply` raise UserSettingFailed."""

    name: str  # type: ignore[misc]

    def __init__(self, name: str, read: Callable[[], Any], apply: Callable[[Any], None]) -> None:
        self.name = name
        self.functions = read, apply

    def read(self) -> Any:
        """Return the value."""
        try:
            return self.functions[0]()
        except Exception as error:
            raise UserSettingFailed(self.name, "read", error) from error

    def apply(self, value: Any) -> None:
        """Set the value."""
        try:
            self.functions[1](value)
        except Exception as error:
            raise UserSettingFailed(self.name, "apply", error) from error

    def probes(self) -> list[Probe]:
        """Return one probe: `read`."""
        return [(self.read, self.read())]

    def __reduce__(self) -> tuple[Any, ...]:
        return UserSetting, (self.name, *self.functions)


def check_user_setting(setting: UserSetting) -> None:
    """Raise ConfigurationError if a user's setting cannot be read here, sent, or compared."""
    what = f"concurrent_nb.follow({setting.name!r}, read, apply)"
    if not isinstance(setting.name, str):
        raise ConfigurationError(f"{what}: the name of a setting must be a string")
    for argument, function in zip(("read", "apply"), setting.functions, strict=True):
        if not callable(function):
            raise ConfigurationError(f"{what}: {argument} must be a function, not {function!r}")
    doing = "read() raised"
    try:
        value = setting.read()
        doing = "read, apply or the value cannot be pickled:"
        body, buffers = pickles.dumps((value, setting))
        copy, _ = pickles.loads(body, buffers)
        doing = "values cannot be compared with ==:"
        bool([copy] == [value])
    except Exception as error:  # noqa: BLE001  (the user's code may raise anything)
        cause = error.error if isinstance(error, UserSettingFailed) else error
        raise ConfigurationError(f"{what}: {doing} {type(cause).__name__}: {cause}; tasks do not follow it") from cause


def all_settings() -> list[Setting]:
    """Return the settings of this process."""
    return [
        *(
            _Arguments(),
            _RecursionLimit(),
            _Warnings(),
            _Logging(),
            _Decimal(),
            _NumpyErrors(),
            _NumpyPrinting(),
            _Pandas(),
        ),
        _DeapClasses(),
    ]


def is_imported(setting: Setting) -> bool:
    """Return whether the setting's module is imported completely."""
    if not setting.module:
        return True
    module = sys.modules.get(setting.module)
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)
