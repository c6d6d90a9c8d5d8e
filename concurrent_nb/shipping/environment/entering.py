"""The worker's side: enter the environment of a function, and undo what tasks have changed.

    environments.restore_for(job, function)      before a task, and before something is changed for it
    environments.begin(environment)              then; does nothing if the last task had the same environment
    environments.end()                           after it

The base environment is the process as it was when it became a worker. The folder is restored after each task, the rest
before a task of another job or function, because comparing it takes as long as running a small task.
"""

import contextlib
import os
import pickle
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakValueDictionary

from concurrent_nb import start_snapshot
from concurrent_nb.shipping.environment.envelope import Environment, EnvironmentState
from concurrent_nb.shipping.environment.loader import ModuleFinder, ModuleSet
from concurrent_nb.shipping.environment.modules import ModuleSource
from concurrent_nb.shipping.environment.process_state import ProcessState
from concurrent_nb.shipping.environment.settings import Setting, SettingsSnapshot, all_settings, is_imported
from concurrent_nb.shipping.serialization import pickles

#: how many sets of modules are kept without a function that uses them
RECENT_SETS: Final = 8
#: how often a thread that waits for its environment checks for an interrupt, in seconds
WAIT_S: Final = 0.05


class LoadedEnvironment:
    """An environment in a worker."""

    def __init__(self, environment: Environment | None, modules: ModuleSet) -> None:
        self.environment = environment
        self.modules = modules
        self.state = EnvironmentState("", {}, (), (), b"", b"")
        if environment is not None:
            self.state = EnvironmentState(*pickle.loads(environment.state))
        self.values: dict[str, Any] | None = None  #: of settings, once they are unpickled
        self.user_settings: list[Setting] = []


class Environments:
    """The environments of a process that runs one task at a time, and the one that it is in."""

    # A task with these very objects needs no `restore_for`.
    job = b""  #: of the last task
    function = b""  #: of the last task

    def __init__(self) -> None:
        self._modules = ModuleFinder()
        self._local = threading.local()
        sys.meta_path.insert(0, self._modules)
        self._base_variables = dict(os.environ)
        self._base_path = list(sys.path)
        self._base_folder = start_snapshot.current_folder()
        self._settings: list[Setting] = all_settings()
        self._user_settings: dict[str, tuple[Setting, Any]] = {}  # by name, with their values in the base environment
        self._loaded: WeakValueDictionary[bytes, LoadedEnvironment] = WeakValueDictionary()
        self._sets: WeakValueDictionary[bytes, ModuleSet] = WeakValueDictionary()
        self._recent: deque[ModuleSet] = deque(maxlen=RECENT_SETS)  # kept, so that their modules keep their state
        self._base = self.current = LoadedEnvironment(None, self._modules.current)
        self._folder = os.open(".", os.O_RDONLY)
        self._folder_path = self._base_folder
        self._variables: Any = {}
        self._path: list[str] = []
        self._settings_snapshot = SettingsSnapshot()
        self._process_state: ProcessState | None = None
        self._last_module = ""
        self._module_count = 0
        self._snapshot()
        self._apply_settings_on_import()

    # ---------------------------------------------------------------------------------------- called by the task runner

    def load(self, environment: Environment | None) -> LoadedEnvironment:
        """Return an environment with its modules; the same object for the same environment."""
        if environment is None:
            if self._base.modules.is_stale:
                self._base = LoadedEnvironment(None, ModuleSet())
            return self._base
        loaded = self._loaded.get(environment.digest)
        if loaded is None or loaded.modules.is_stale:
            modules = self._sets.get(environment.modules_digest)
            if modules is None or modules.is_stale:
                found = pickle.loads(environment.modules) if environment.modules else []
                modules = self._sets[environment.modules_digest] = self._set_of(
                    [ModuleSource(*parts) for parts in found]
                )
            loaded = self._loaded[environment.digest] = LoadedEnvironment(environment, modules)
        return loaded

    def _set_of(self, sources: list[ModuleSource]) -> ModuleSet:
        """Return a set of these modules: if possible a recent one, extended, so that its modules keep their state."""
        new = {source.name: source for source in sources}
        for known in reversed(self._recent):
            added = new.keys() - known.sources.keys()
            is_part = all(new.get(name) == source for name, source in known.sources.items())
            imported = sys.modules if known is self._modules.current else known.loaded
            if is_part and not known.is_stale and not any(name in imported for name in added):
                known.sources.update(new)
                return known
        self._recent.append(ModuleSet(sources))
        return self._recent[-1]

    def begin(self, loaded: LoadedEnvironment) -> bool:
        """Enter an environment, unless it is the current one.

        Return False if it cannot be used any more, because files that it has imported have changed. Raises ImportError
        for compiled modules of another version, and whatever unpickling its settings raises.
        """
        modules = loaded.modules
        if modules.by_path and modules.has_changed():
            return False
        if modules.is_stale:
            return False
        if loaded is not self.current:
            self._switch_to(loaded)
        return True

    def end(self) -> None:
        """Change back to the folder of the environment."""
        modules = sys.modules
        try:
            is_known = len(modules) == self._module_count and next(reversed(modules)) == self._last_module
        except RuntimeError:  # a thread of the task imports a module at this moment
            is_known = False
        if not is_known:
            self._modules.record_imports()
            self._snapshot_modules()
        try:
            os.fchdir(self._folder)
        except OSError:
            self._change_folder(self._folder_path)

    def restore_for(self, job: bytes, function: bytes, always: bool = False) -> None:
        """Undo all changes of tasks but the folder, if this task is of another job or function than the last one."""
        if always or job != self.job:  # with `always`, `keep_changes` follows, which must not keep what tasks have left
            self._restore_process()
        if always or job != self.job or function != self.function:
            self._restore_if_changed()
        self.job, self.function = job, function  # last, because an interrupt may be raised before

    def _restore_if_changed(self) -> None:
        if not self._is_unchanged():
            self._restore()

    def _restore_process(self) -> None:
        if self._process_state is None:  # before the first task, when the worker has set its signal handlers
            self._process_state = ProcessState()
        else:
            self._process_state.restore()

    def task_variables(self) -> dict[str, str]:
        """Return the variables that were set for the next task, for example the number of its threads."""
        return {
            name: value
            for name, value in os.environ.items()
            if self._variables.get(os.environ.encodekey(name)) != os.environ.encodevalue(value)
        }

    def keep_changes(self, task_variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Keep the changes since the last `begin`, in all environments: they become part of the base.

        Args:
            task_variables: variables that are only the task's.
        """
        for name, value in self.task_variables().items():
            if task_variables.get(name) != value:
                self._base_variables[name] = value
        for entry in sys.path:
            if entry not in self._path:
                self._base_path.append(entry)
        self._modules.record_imports()
        self._snapshot()
        if self._process_state is not None:
            self._process_state = ProcessState()

    def explain(self, error: BaseException) -> None:
        """Add a note with this process's host and folder, if the error is about a module or file that was not found."""
        note = ""
        if isinstance(error, ModuleNotFoundError):
            note = (
                f"module {error.name} was not found on host {socket.gethostname()}: install it there, or put it"
                " beside the notebook or on the notebook's sys.path, from where the user's own modules travel"
            )
        elif isinstance(error, FileNotFoundError) and not os.path.isabs(_text(error.filename) or "/"):
            expected = self.current.state.folder
            folder = start_snapshot.current_folder()
            note = f"the task's folder is {folder or 'gone'}, on host {socket.gethostname()}"
            if expected and expected != folder and not os.path.isdir(expected):
                note += f", which has no {expected}"
        if note:
            with contextlib.suppress(Exception):  # `add_note` may be user code
                error.add_note(note)

    # ------------------------------------------------------------------------------------------------------- entering

    def _switch_to(self, loaded: LoadedEnvironment) -> None:
        state = loaded.state
        task_variables = self.task_variables()
        self.current = loaded
        self._change_folder(state.folder if state.folder and os.path.isdir(state.folder) else self._base_folder)
        self._set_variables(self._expected_variables())
        sys.path[:] = self._expected_path()
        self._modules.enter(loaded.modules)
        try:
            self._load_settings(loaded)
            self._apply()
            self._snapshot()
        except BaseException:
            self.current = LoadedEnvironment(None, loaded.modules)  # so that the next task enters its environment anew
            raise
        os.environ.update(task_variables)

    def _load_settings(self, loaded: LoadedEnvironment) -> None:
        if loaded.values is None:
            loaded.user_settings = pickles.loads(loaded.state.user_settings) if loaded.state.user_settings else []
            loaded.values = pickles.loads(loaded.state.settings) if loaded.state.settings else {}
        for setting in loaded.user_settings:
            if setting.name not in self._user_settings:
                self._user_settings[setting.name] = setting, setting.read()

    def _apply(self) -> None:
        values = self.current.values or {}
        for setting in self._settings:
            value = values.get(setting.name)
            if is_imported(setting):
                setting.apply(value)
            if value is not None:
                for module in setting.changed_by_imports(value):
                    self._modules.on_import[module] = self._apply_after_import
        for name, (setting, base) in self._user_settings.items():
            setting.apply(values.get(name, base))

    def _apply_settings_on_import(self) -> None:
        """Apply the settings of libraries when tasks import them."""
        for setting in self._settings:
            if not is_imported(setting):
                self._modules.on_import[setting.module] = self._apply_after_import

    def _apply_after_import(self, module: str) -> None:
        values = self.current.values or {}
        for setting in self._settings:
            value = values.get(setting.name)
            if value is not None and module in setting.changed_by_imports(value):
                setting.apply(value)
            if setting.module == module and self._is_process_wide(setting):
                self._settings_snapshot.add(setting)

    def _is_process_wide(self, setting: Setting) -> bool:
        """Return whether all tasks of this process share the setting."""
        return True

    def _change_folder(self, folder: str) -> None:
        """Change to a folder, and keep it open, so that `end` needs no path."""
        with contextlib.suppress(OSError):
            os.chdir(folder)
        with contextlib.suppress(OSError):
            fresh = os.open(".", os.O_RDONLY)
            os.close(self._folder)
            self._folder = fresh
        self._folder_path = folder

    def _expected_variables(self) -> dict[str, str]:
        expected = dict(self._base_variables)
        for name, value in self.current.state.variables.items():
            if value is None:
                expected.pop(name, None)
            else:
                expected[name] = value
        return expected

    def _set_variables(self, expected: dict[str, str]) -> None:
        zone = os.environ.get("TZ")
        for name in [name for name in os.environ if name not in expected]:
            del os.environ[name]
        for name, value in expected.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if os.environ.get("TZ") != zone and hasattr(time, "tzset"):
            time.tzset()

    def _expected_path(self) -> list[str]:
        state = self.current.state
        path = [entry for entry in self._base_path if entry not in state.removed]
        for entry, followers in reversed(state.added):
            if entry in path or not (entry == "" or os.path.exists(entry)):
                continue
            place = next((path.index(follower) for follower in followers if follower in path), len(path))
            path.insert(place, entry)
        return path

    # -------------------------------------------------------------------------------------------------- restoring

    def _snapshot(self) -> None:
        self._variables = dict(os.environ._data)  # type: ignore[attr-defined]
        self._path = list(sys.path)
        self._settings_snapshot = SettingsSnapshot(
            setting
            for setting in (*self._settings, *(setting for setting, _ in self._user_settings.values()))
            if is_imported(setting) and self._is_process_wide(setting)
        )
        self._snapshot_modules()

    def _snapshot_modules(self) -> None:
        names = list(sys.modules)
        self._module_count, self._last_module = len(names), names[-1]

    def _is_unchanged(self) -> bool:
        return bool(
            os.environ._data == self._variables  # type: ignore[attr-defined]
            and sys.path == self._path
            and self._settings_snapshot.is_unchanged()
        )

    def _restore(self) -> None:
        self._set_variables({os.fsdecode(name): os.fsdecode(value) for name, value in self._variables.items()})
        sys.path[:] = self._path
        values = self.current.values or {}
        same, changed = self._settings_snapshot.split()
        for setting in changed:
            base = self._user_settings[setting.name][1] if setting.name in self._user_settings else None
            setting.apply(values.get(setting.name, base))
        self._settings_snapshot = SettingsSnapshot([*same, *changed])


class ThreadEnvironments(Environments):
    """The environments of a process whose tasks run in threads: all running tasks are in the same one.

    A task of another environment waits until they have ended, and later tasks wait for it. Changes of tasks are undone
    when no task runs.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._queue: list[object] = []
        super().__init__()

    def begin(self, loaded: LoadedEnvironment) -> bool:
        """Enter an environment, once no task is in another one. Returns and raises as `Environments.begin`."""
        me = object()
        with self._condition:
            self._queue.append(me)
            try:
                while self._queue[0] is not me or (self._running and loaded is not self.current):
                    self._condition.wait(WAIT_S)  # a thread that waits without a timeout cannot be interrupted
                if loaded.modules.has_changed() if self._running else not super().begin(loaded):
                    return False
                self._running += 1
                self._local.runs = True
            finally:
                self._queue.remove(me)
                self._condition.notify_all()
        self._apply_in_thread()
        return True

    def end(self) -> None:
        """Undo changes of tasks, if no task runs any more."""
        with self._condition:
            if self._local.runs:
                self._local.runs = False
                self._running -= 1
            if not self._running:
                super().end()
                self._restore_if_changed()
            self._condition.notify_all()

    def _restore_if_changed(self) -> None:
        with self._condition:
            if not self._running:  # else they may be changes of running tasks
                super()._restore_if_changed()

    def _restore_process(self) -> None:
        """Do nothing: other tasks run, and only the main thread may set signal handlers."""

    def _is_process_wide(self, setting: Setting) -> bool:
        return not setting.in_threads

    def _apply_in_thread(self) -> None:
        """Apply the settings that each thread has for itself."""
        local = self._local
        if getattr(local, "loaded", None) is not self.current or not local.saved.is_unchanged():
            values = self.current.values or {}
            own = [setting for setting in self._settings if setting.in_threads and is_imported(setting)]
            for setting in own:
                setting.apply(values.get(setting.name))
            local.loaded, local.saved = self.current, SettingsSnapshot(own)


class _TaskEnvironment:
    """The environment source of what a task sends to the cluster, as a system host does: the task's environment."""

    environments: Environments | None = None

    def current(self) -> Environment | None:
        """Return the environment that the task runs in; None for the base."""
        return None if self.environments is None else self.environments.current.environment

    def add_modules(self, imported: Iterable[str]) -> None:
        """Do nothing: only modules that came with the task travel."""


TASK_ENVIRONMENT: Final = _TaskEnvironment()


def pass_on_environment(environments: Environments) -> None:
    """Use the environments of this process for what its tasks send."""
    TASK_ENVIRONMENT.environments = environments


def _text(name: Any) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
