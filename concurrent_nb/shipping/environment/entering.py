"""The worker's side: become like the process that has sent a function, and undo what a task has changed.

    environments.restore_for(job, function)      before a task, and before something is changed for it
    environments.begin(environment)              then; nothing to do if it is that of the task before
    environments.end()                           after it

What there is without an environment is home: the process as it was when it became a worker. The folder is put back
after each task, the rest before a task of another job or function: looking at it takes as long as running a small task.
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
from concurrent_nb.shipping.environment.settings import Setting, SettingsSnapshot, all_settings, is_imported
from concurrent_nb.shipping.serialization import pickles

#: so many sets of modules are kept although no function of theirs is
RECENT_SETS: Final = 8
#: a thread that waits for its environment looks so often whether it was interrupted, in seconds
WAIT_S: Final = 0.05


class LoadedEnvironment:
    """An environment as a worker has it."""

    def __init__(self, environment: Environment | None, modules: ModuleSet) -> None:
        self.environment = environment
        self.modules = modules
        self.state = EnvironmentState("", {}, (), (), b"", b"")
        if environment is not None:
            self.state = EnvironmentState(*pickle.loads(environment.state))
        self.values: dict[str, Any] | None = None  #: of settings, once they were unpickled
        self.user_settings: list[Setting] = []


class Environments:
    """The environments of a process that runs one task at a time."""

    def __init__(self) -> None:
        self._modules = ModuleFinder()
        self._local = threading.local()
        sys.meta_path.insert(0, self._modules)
        self._base_variables = dict(os.environ)
        self._base_path = list(sys.path)
        self._base_folder = start_snapshot.current_folder()
        self._settings: list[Setting] = all_settings()
        self._user_settings: dict[str, tuple[Setting, Any]] = {}  # the user's own, with their values at home
        self._loaded: WeakValueDictionary[bytes, LoadedEnvironment] = WeakValueDictionary()
        self._sets: WeakValueDictionary[bytes, ModuleSet] = WeakValueDictionary()
        self._recent: deque[ModuleSet] = deque(maxlen=RECENT_SETS)  # their modules keep their state
        self._base = self.current = LoadedEnvironment(None, self._modules.current)
        self._folder = os.open(".", os.O_RDONLY)
        self._folder_path = self._base_folder
        self._variables: Any = {}
        self._path: list[str] = []
        self._settings_snapshot = SettingsSnapshot()
        self._job = self._function = b""  # of the last task
        self._last_module = ""
        self._module_count = 0
        self._snapshot()
        self._apply_settings_on_import()

    # ------------------------------------------------------------------------------------------------- for its users

    def load(self, environment: Environment | None) -> LoadedEnvironment:
        """Give an environment as it is entered; the same object for the same environment."""
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
        """Give a set for these modules: a recent one to which some are added, so that its modules keep their state."""
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
        """Be in an environment. False if it cannot be used any more, because files that it has imported have changed.

        Raises ImportError for compiled modules that do not fit, and whatever unpickling its settings raises.
        """
        if loaded.modules.has_changed():
            return False
        if loaded is not self.current:
            self._switch_to(loaded)
        return True

    def end(self) -> None:
        """Go back to the folder of the environment."""
        modules = sys.modules
        try:
            is_known = len(modules) == self._module_count and next(reversed(modules)) == self._last_module
        except RuntimeError:  # a thread that the task has left imports something at this very moment
            is_known = False
        if not is_known:
            self._modules.record_imports()
            self._snapshot_modules()
        try:
            os.fchdir(self._folder)
        except OSError:
            self._change_folder(self._folder_path)

    def restore_for(self, job: bytes, function: bytes, *, always: bool = False) -> None:
        """Undo what tasks have changed, but for the folder, if those of another job or function come now."""
        if always or job != self._job or function != self._function:
            self._restore_if_changed()
            self._job, self._function = job, function  # last, because an interrupt may come in between

    def _restore_if_changed(self) -> None:
        if not self._is_unchanged():
            self._restore()

    def task_variables(self) -> dict[str, str]:
        """Give the variables that were set for the task that is about to run, its threads for example."""
        return {
            name: value
            for name, value in os.environ.items()
            if self._variables.get(os.environ.encodekey(name)) != os.environ.encodevalue(value)
        }

    def keep_changes(self, task_variables: Mapping[str, str] = MappingProxyType({})) -> None:
        """Let what has changed since the last `begin` stay, in all environments: it is part of what a worker is.

        Args:
            task_variables: variables that are the task's own.
        """
        for name, value in self.task_variables().items():
            if task_variables.get(name) != value:
                self._base_variables[name] = value
        for entry in sys.path:
            if entry not in self._path:
                self._base_path.append(entry)
        self._modules.record_imports()
        self._snapshot()

    def explain(self, error: BaseException) -> None:
        """Say in a note where this process is, if the error is about something that was not found."""
        note = ""
        if isinstance(error, ModuleNotFoundError):
            note = (
                f"module {error.name} was not found on host {socket.gethostname()}: install it there, or have it"
                " beside the notebook or on the notebook's sys.path, from where the user's own modules travel"
            )
        elif isinstance(error, FileNotFoundError) and not os.path.isabs(_text(error.filename) or "/"):
            expected = self.current.state.folder
            folder = start_snapshot.current_folder()
            note = f"the task's folder is {folder or 'gone'}, on host {socket.gethostname()}"
            if expected and expected != folder and not os.path.isdir(expected):
                note += f", which has no {expected}"
        if note:
            with contextlib.suppress(Exception):  # the error is the user's, and so may be its notes
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
        self._load_settings(loaded)
        self._apply()
        self._snapshot()
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
            if is_imported(setting):
                setting.apply(values.get(setting.name))
        for name, (setting, base) in self._user_settings.items():
            setting.apply(values.get(name, base))

    def _apply_settings_on_import(self) -> None:
        """Have the settings of libraries applied when tasks import these."""
        for setting in self._settings:
            if not is_imported(setting):
                self._modules.on_import[setting.module] = self._apply_after_import

    def _apply_after_import(self, module: str) -> None:
        values = self.current.values or {}
        for setting in self._settings:
            if setting.module == module:
                if (value := values.get(setting.name)) is not None:
                    setting.apply(value)
                if self._is_process_wide(setting):
                    self._settings_snapshot.add(setting)

    def _is_process_wide(self, setting: Setting) -> bool:
        """Say whether there is one such setting for all tasks of this process."""
        return True

    def _change_folder(self, folder: str) -> None:
        """Change to a folder, and keep it open, so that coming back does not depend on its name."""
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

    # -------------------------------------------------------------------------------------------------- putting back

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
    """The environments of a process whose tasks run in threads: those that run at once are all in the same one.

    A task with another environment waits until they have ended, and those that come after it wait for it. What tasks
    change is put back when no task runs.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running = 0
        self._queue: list[object] = []
        super().__init__()

    def begin(self, loaded: LoadedEnvironment) -> bool:
        """Be in an environment, once no task is in another."""
        me = object()
        with self._condition:
            self._queue.append(me)
            try:
                while self._queue[0] is not me or (self._running and loaded is not self.current):
                    self._condition.wait(WAIT_S)  # nothing interrupts a thread that waits without a limit
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
        """Undo what tasks have changed, if this was the last one that ran."""
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
            if not self._running:  # else it may be what those have changed that run
                super()._restore_if_changed()

    def _is_process_wide(self, setting: Setting) -> bool:
        return not setting.in_threads

    def _apply_in_thread(self) -> None:
        """Apply the settings of which each thread has its own."""
        local = self._local
        if getattr(local, "loaded", None) is not self.current or not local.saved.is_unchanged():
            values = self.current.values or {}
            own = [setting for setting in self._settings if setting.in_threads and is_imported(setting)]
            for setting in own:
                setting.apply(values.get(setting.name))
            local.loaded, local.saved = self.current, SettingsSnapshot(own)


class _TaskEnvironment:
    """Surroundings of what a task sends to the cluster, as a host does: those of the task."""

    environments: Environments | None = None

    def current(self) -> Environment | None:
        """Give the environment that the task runs in."""
        return None if self.environments is None else self.environments.current.environment

    def add_modules(self, imported: Iterable[str]) -> None:
        """Take no more along than what has come."""


TASK_ENVIRONMENT: Final = _TaskEnvironment()


def pass_on_environment(environments: Environments) -> None:
    """Let what tasks of this process send have their environments."""
    TASK_ENVIRONMENT.environments = environments


def _text(name: Any) -> str:
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
