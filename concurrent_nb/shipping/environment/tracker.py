"""The application's side: the state of this process, compared with the last known one at each submit.

A comparison that finds no change costs about two microseconds. It misses no change, because it compares the objects.
"""

import os
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterable
from functools import cached_property
from importlib.machinery import SourceFileLoader
from typing import Any, Final, NamedTuple

from concurrent_nb import start_snapshot
from concurrent_nb.errors import ConfigurationError, NotPicklable
from concurrent_nb.ids import SYS_PATH_VARIABLE
from concurrent_nb.shipping.environment import modules as sources
from concurrent_nb.shipping.environment.envelope import Environment, EnvironmentState
from concurrent_nb.shipping.environment.folder import folder_reader
from concurrent_nb.shipping.environment.modules import ImportWatcher, ModuleSource
from concurrent_nb.shipping.environment.origin import is_users
from concurrent_nb.shipping.environment.settings import (
    Setting,
    SettingsSnapshot,
    UserSetting,
    UserSettingFailed,
    all_settings,
    check_user_setting,
    is_imported,
)
from concurrent_nb.shipping.serialization import pickles
from concurrent_nb.shipping.serialization.sizes import format_bytes

#: limit of the sources of all modules of the user
MODULES_BYTES_MAX: Final = 32 << 20
#: how many environments are kept, for changes that are undone later
ENVIRONMENTS_MAX: Final = 16
#: variables that belong to a process, and are not set by the user
_OWN_VARIABLES: Final = frozenset({"MPLBACKEND", SYS_PATH_VARIABLE})


class _KnownModule(NamedTuple):
    module: types.ModuleType
    spec: Any
    source: ModuleSource
    code: list[types.CodeType]


class Tracker:
    """Tracks the environment of this process. Safe to use from many threads.

    Args:
        variables, path, folder: those of the start.
    """

    def __init__(
        self,
        variables: dict[str, str] = start_snapshot.VARIABLES,
        path: Iterable[str] = start_snapshot.PATH,
        folder: str = start_snapshot.FOLDER,
        settings: list[Setting] | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._imports = ImportWatcher()
        # Of the start; then what has ever differed from it when workers were started, which may have inherited it.
        self._first_variables = variables
        self._first_path = tuple(path)
        self._first_folder = folder
        self._inherited_variables: set[str] = set()
        self._touched_path: set[str] = set()
        self._has_moved = False
        # At the last comparison:
        self._is_current = False
        self._variables: Any = {}
        self._path: list[str] = []
        self._read_folder = folder_reader()
        self._folder_bytes = b""
        self._built_in: list[Setting] = all_settings() if settings is None else settings
        self._settings: list[Setting] = list(self._built_in)
        self._saved = SettingsSnapshot()
        self._there = ""  # modules of settings that were imported
        self._import_count = -1
        self._module_count = 0
        self._last_module = ""
        self._ids: dict[str, int] = {}  # of all modules that were checked
        self._known: dict[str, _KnownModule] = {}
        self._added_modules: set[str] = set()
        self._files: list[tuple[str, tuple[int, int] | None]] = []  # read, but not imported
        self._is_code_checked = True
        self._must_build = False
        self._built_for: tuple[str, ...] = ()
        self._edited: dict[str, Any] = {}
        self._modules = b""
        self._refusal = ""
        self._left_out: tuple[str, ...] = ()
        self._limit_bytes = MODULES_BYTES_MAX
        self._environment: Environment | None = None
        self._recent: dict[bytes, Environment] = {}

    # --------------------------------------------------------------------------------------- called by the application

    def install(self) -> None:
        """Install the import hook that reads the user's modules when they are imported."""
        if self._imports not in sys.meta_path:
            sys.meta_path.insert(0, self._imports)

    def uninstall(self) -> None:
        """Remove the import hook."""
        if self._imports in sys.meta_path:
            sys.meta_path.remove(self._imports)

    def current(self) -> Environment | None:
        """Return the present environment: the same object while nothing has changed; None if it is that of the start.

        Raises NotPicklable if the user's modules are too large, or a setting cannot be read or pickled.
        """
        try:
            is_unchanged = self._is_unchanged()
        except Exception:  # noqa: BLE001  (another thread imports a module at this moment; no finders; a user's reader)
            is_unchanged = False
        if not is_unchanged:
            self._update()
        if self._refusal:
            raise NotPicklable(self._refusal)
        return self._environment

    def add_modules(self, imported: Iterable[str]) -> None:
        """Add these modules to the environment, if they are the user's and not imported yet."""
        fresh = set(imported) - self._added_modules
        if fresh:
            with self._lock:
                self._added_modules |= fresh
                if not fresh <= self._ids.keys():
                    self._must_build, self._is_current = True, False

    def note(self) -> str:
        """Update the environment, because workers are about to be started that inherit the present one.

        Return why a setting cannot be sent, which `current` raises; "" if all can.
        """
        self._inherited_variables.update(self._changed_variables(dict(os.environ)))
        try:
            self._update()
        except NotPicklable as error:
            return str(error)
        return ""

    def cell_begins(self) -> None:
        """Note that the code of modules may have been changed in place, as by %autoreload."""
        self._is_code_checked = False

    def follow(self, name: str, read: Callable[[], Any], apply: Callable[[Any], None]) -> None:
        """Add a setting of the user, which tasks get from this process. Raises ConfigurationError."""
        setting = UserSetting(name, read, apply)
        check_user_setting(setting)
        with self._lock:
            self._settings = [it for it in self._settings if it.name != name]
            self._settings.append(setting)
            self._is_current = False

    def unfollow(self, name: str) -> None:
        """Remove a setting of the user; a setting of the same name that it has replaced is followed again.

        Raises ConfigurationError if there is none of that name.
        """
        with self._lock:
            followed = [it.name for it in self._settings if isinstance(it, UserSetting)]
            if name not in followed:
                known = ", ".join(map(repr, followed)) or "none"
                raise ConfigurationError(
                    f"no setting {name!r} was added with concurrent_nb.follow; those that were: {known}"
                )
            self._settings = [it for it in self._settings if it.name != name]
            self._settings += [it for it in self._built_in if it.name == name]
            self._is_current = False

    def send_folder(self) -> None:
        """Include the current folder in the environment, because workers were started elsewhere."""
        if not self._has_moved:
            with self._lock:
                self._has_moved = True
                self._is_current = False

    def follow_modules(self, *, limit_bytes: int | None = None, leave_out: Iterable[str] = ()) -> None:
        """Set the limit of the user's modules, and which of them are left out, because workers have them installed."""
        with self._lock:
            if limit_bytes is not None:
                self._limit_bytes = limit_bytes
            self._left_out = (*self._left_out, *leave_out)
            self._forget_modules()

    def _forget_modules(self) -> None:
        self._ids.clear()
        self._known.clear()
        self._import_count = -1
        self._must_build, self._is_current = True, False

    # ------------------------------------------------------------------------------------------------------- comparing

    def _is_unchanged(self) -> bool:
        """Return whether nothing has changed since the last comparison. One expression, because each submit waits for
        it."""
        loaded, saved = sys.modules, self._saved
        return (
            self._is_current
            and self._imports.count == self._import_count
            and len(loaded) == self._module_count
            and next(reversed(loaded)) == self._last_module
            and sys.meta_path[0] is self._imports
            and self._is_code_checked
            and os.environ._data == self._variables  # type: ignore[attr-defined]
            and sys.path == self._path
            and self._read_folder() == self._folder_bytes
            and [probe() for probe in saved.probes] == saved.values
            and not (self._files and any(sources.stamp_of(path) != stamp for path, stamp in self._files))
        )

    def _update(self) -> None:
        with self._lock:
            self._is_current = False
            self.install()
            if sys.meta_path[0] is not self._imports:
                sys.meta_path.remove(self._imports)
                sys.meta_path.insert(0, self._imports)
            self._update_modules()
            state = self._state()
            is_plain = state == _PLAIN
            if is_plain and not self._modules:
                self._environment = None
            else:
                made = Environment(pickle.dumps(tuple(state), 5), self._modules)
                known_environment = self._recent.pop(made.digest, made)
                self._recent[known_environment.digest] = self._environment = known_environment
                while len(self._recent) > ENVIRONMENTS_MAX:
                    del self._recent[next(iter(self._recent))]
            self._is_current = True

    def _state(self) -> EnvironmentState:
        self._variables = dict(os.environ._data)  # type: ignore[attr-defined]
        variables = dict(os.environ)
        sent_variables = self._inherited_variables.union(self._changed_variables(variables))
        self._path = list(sys.path)
        self._touched_path.update(set(self._path) ^ set(self._first_path))
        self._folder_bytes = self._read_folder()
        folder = os.fsdecode(self._folder_bytes)
        self._has_moved = self._has_moved or folder != self._first_folder
        entries = self._path
        return EnvironmentState(
            folder if self._has_moved else "",
            {name: variables.get(name) for name in sorted(sent_variables)},
            tuple(
                (entry, tuple(entries[place + 1 :]))
                for place, entry in enumerate(entries)
                if entry in self._touched_path
            ),
            tuple(sorted(self._touched_path - set(entries))),
            *self._values(),
        )

    def _changed_variables(self, variables: dict[str, str]) -> list[str]:
        """Return the names of variables whose value is not that of the start."""
        first = self._first_variables
        names = variables.keys() | first.keys()
        return [name for name in names if variables.get(name) != first.get(name) and name not in _OWN_VARIABLES]

    def _values(self) -> tuple[bytes, bytes]:
        values: dict[str, Any] = {}
        saved = SettingsSnapshot()
        user_settings: list[Setting] = []
        for setting in self._settings:
            if not is_imported(setting):
                continue
            try:
                saved.add(setting)
                value = setting.read()
            except Exception as error:  # a user's reader may raise anything
                raise _cannot_be_sent(setting, "read", error) from error
            if isinstance(setting, UserSetting):
                user_settings.append(setting)
            if value is not None:
                values[setting.name] = value
        self._saved = saved
        try:
            return (
                pickles.dumps(values)[0] if values else b"",
                pickles.dumps(user_settings)[0] if user_settings else b"",
            )
        except Exception as error:  # a value's own pickling may raise anything
            raise _cannot_be_sent(_unpicklable(self._settings, values), "pickled", error) from error

    # ------------------------------------------------------------------------------------------------------- modules

    def _update_modules(self) -> None:
        loaded = sys.modules
        self._import_count = self._imports.count
        current = dict(loaded)
        self._module_count, self._last_module = len(current), next(reversed(current))
        ids = {name: id(module) for name, module in current.items()}
        is_changed = False
        for name, known in list(self._known.items()):
            module = current.get(name)
            if module is not known.module:
                del self._known[name]
                is_changed = True
            elif module.__spec__ is not known.spec:
                is_changed |= self._record_module(name, module)
            elif not self._is_code_checked and known.code != (code := sources.code_of(module)):
                is_changed |= self._record_module(name, module, code)
        self._is_code_checked = True
        for name, identity in ids.items():
            if self._ids.get(name) != identity:
                is_changed |= self._record_module(name, current[name])
        self._ids = ids
        path = tuple(sys.path)
        if is_changed or self._files or self._must_build or path != self._built_for:
            self._must_build, self._built_for = False, path
            self._build()

    def _record_module(self, name: str, module: Any, code: list[types.CodeType] | None = None) -> bool:
        """Record a module, if it is the user's; return whether it is."""
        spec = getattr(module, "__spec__", None)
        if not isinstance(module, types.ModuleType) or self._is_left_out(name) or not is_users(name, spec):
            return False
        old = self._known.get(name)
        read = self._imports.read.get(name)
        text: bytes | None
        if code is None and read is not None and read[0] is spec:
            text = read[1]
        else:
            text = sources.read_source(spec)
            if (
                code is None
                and text is not None
                and self._may_be_edited(spec)
                and not sources.runs_source(module, text)
            ):
                self._edited[name] = spec
        if old is not None and text is not None and not _compiles(text):
            text = old.source.text  # the reload has failed, and the process runs the former code
        source = sources.source_of(name, spec, text or b"")
        self._known[name] = _KnownModule(module, spec, source, sources.code_of(module) if code is None else code)
        return True

    def _may_be_edited(self, spec: Any) -> bool:
        """Return whether a file was changed since this process began, perhaps after it was imported."""
        if type(spec.loader) is not SourceFileLoader:  # code of other loaders cannot be compared with the source
            return False
        stamp = sources.stamp_of(spec.origin)
        return stamp is not None and stamp[0] > self._began_ns

    @cached_property
    def _began_ns(self) -> int:
        import psutil  # here, because most processes never need it

        return int(psutil.Process().create_time() * 1e9)

    def _is_left_out(self, name: str) -> bool:
        return any(name == out or name.startswith(f"{out}.") for out in self._left_out)

    def _build(self) -> None:
        """Pickle the sources of all modules of the environment."""
        found = {name: known.source for name, known in self._known.items()}
        self._files = []
        todo = set(self._added_modules)
        for source in found.values():
            todo |= sources.imported_by(source.text, _package_of(source))
        looked: set[str] = set()
        while todo:
            name = todo.pop()
            if name in looked or name in found:
                continue
            looked.add(name)
            parent = name.rpartition(".")[0]
            if parent and parent not in looked:
                todo.add(parent)
            if name in self._ids or self._is_left_out(name) or not self._may_be_users(name):
                continue
            spec = sources.find_unloaded(name)
            if spec is None or not is_users(name, spec):
                continue
            stamp = sources.stamp_of(spec.origin) if spec.origin and spec.has_location else None
            source = sources.source_of(name, spec, sources.read_source(spec) or b"")
            if source.filename:
                self._files.append((source.filename, stamp))
            found[name] = source
            todo |= sources.imported_by(source.text, _package_of(source))
        self._refusal = self._refuse(found)
        self._modules = pickle.dumps([tuple(found[name]) for name in sorted(found)], 5) if found else b""

    def _may_be_users(self, name: str) -> bool:
        top = name.partition(".")[0]
        return top not in self._ids or top in self._known

    def _refuse(self, found: dict[str, ModuleSource]) -> str:
        total = sum(len(source.text) for source in found.values())
        if total > self._limit_bytes:
            largest = sorted(found.values(), key=lambda source: -len(source.text))[:3]
            named = ", ".join(f"{source.name} ({format_bytes(len(source.text))})" for source in largest)
            return (
                f"the modules that tasks get from this process take {format_bytes(total)}, and"
                f" {format_bytes(self._limit_bytes)} are allowed; the largest are {named}. Install them where workers"
                " run and leave them out, as in concurrent_nb.follow_modules(leave_out=['package']), or allow more:"
                " concurrent_nb.follow_modules(limit_bytes=...)"
            )
        for name, spec in self._edited.items():
            if name in self._known and self._known[name].spec is spec:
                return (
                    f"module {name} was changed on disk after this process had imported it, so tasks would run other"
                    f" code than this process: importlib.reload({name}), or restart the process"
                )
        return ""


def _package_of(source: ModuleSource) -> str:
    return source.name if source.folders is not None else source.name.rpartition(".")[0]


def _compiles(text: bytes) -> bool:
    try:
        compile(text, "<source>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


_PLAIN: Final = EnvironmentState("", {}, (), (), b"", b"")

#: of this process
TRACKER: Final = Tracker()


def _cannot_be_sent(setting: Setting | None, done: str, error: Exception) -> NotPicklable:
    """Return the error of a submit while a setting cannot be read or pickled."""
    what = "a setting" if setting is None else f"the setting {setting.name!r}"
    error = error.error if isinstance(error, UserSettingFailed) else error
    remedy = ""
    if isinstance(setting, UserSetting):
        remedy = f": correct its reader, or end that with concurrent_nb.unfollow({setting.name!r})"
    return NotPicklable(
        f"{what} that tasks follow cannot be {done}, so no task can be sent: {type(error).__name__}: {error}{remedy}"
    )


def _unpicklable(settings: list[Setting], values: dict[str, Any]) -> Setting | None:
    """Return the first setting that cannot be pickled, or whose value cannot."""
    for setting in settings:
        try:
            pickles.dumps((values.get(setting.name), setting if isinstance(setting, UserSetting) else None))
        except Exception:  # noqa: BLE001  (as above)
            return setting
    return None
