"""`on="command:..."`: slaves that any command starts or submits: PBS, LSF, HTCondor, kubectl, mpirun, docker.

The command is a template. Its words are split as in a shell, then the names in braces are replaced, so a value needs no
quotes; no shell runs. If neither the command nor the script has {connection_file} (or {slave}, which contains it), the
slave is expected to read connection and configuration from the standard input of the command, which then is its lease.
"""

import logging
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from concurrent_nb.clock import monotonic
from concurrent_nb.components.config import BoolItem, FloatItem, IntItem, ListItem, TextItem
from concurrent_nb.components.core import Component, ComponentManager, implements
from concurrent_nb.errors import ConfigurationError, LaunchFailed
from concurrent_nb.nodes.common.launch_lines import read_configuration
from concurrent_nb.nodes.launchers.launch_files import make_folder_for_slaves, write_for_slave
from concurrent_nb.nodes.launchers.launcher import (
    EVERY_ADDRESS,
    ILauncher,
    LaunchedSlave,
    LaunchState,
    SlaveStart,
    ended_slave,
)
from concurrent_nb.nodes.launchers.started_process import StartedProcess, end_processes
from concurrent_nb.transport import connection_file

log = logging.getLogger(__name__)

#: the names that a template may have in braces
NAMES: Final = ("python", "name", "connection_file", "config_file", "workers", "slave", "script", "folder", "job")
#: not those of a shell, ${name}
_NAME: Final = re.compile(r"(?<!\$)\{([a-z_]+)\}")
#: seconds that the commands which end slaves may take; they run at the same time
END_COMMAND_S: Final = 20.0


@dataclass(slots=True)
class _Commanded:
    started: StartedProcess | None  # None: it was submitted, and the command has ended
    values: Mapping[str, str]
    job: str = ""  # the last line that a submitting command has printed


@implements(ILauncher)
class Command(Component):
    """Starts slaves with a command."""

    short_name = "command"
    place = ""
    slaves_default = 1

    end_command = TextItem(
        "", help="Command that ends a slave: `qdel {job}`, where {job} is the last line that the command has printed."
    )
    submits = BoolItem(
        False, help="The command only submits the slave to a batch system; it has ended when the slave has not begun."
    )
    script = TextItem("", help="Text of a file that the command gets as {script}, with the same names in braces.")
    python = TextItem("", help="The Python that runs slaves; empty: the one that starts the cluster.")
    folder = TextItem("", help="Folder for connection files, which slaves must see; empty: Jupyter's runtime folder.")
    listen = ListItem(
        list(EVERY_ADDRESS), help="IP addresses of this machine at which slaves reach the master; 127.0.0.1: only here."
    )
    start_bound_s = FloatItem(60.0, min=1.0, help="Seconds from its begin in which a slave must have joined.")
    count = IntItem(1, min=1, help="Slaves to start if no number is given.")

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        self.slaves_default = self.count
        self._commanded: dict[str, _Commanded] = {}
        self._folder: Path | None = None  # with the connection files; made when it is needed

    def addresses(self) -> Sequence[str]:
        """Return the addresses of the item `listen`."""
        return () if self.listen == ["127.0.0.1"] else tuple(self.listen)

    def check(self) -> None:
        """Look whether the command exists and its names are known. Raises ConfigurationError or LaunchFailed."""
        words = self._words(self.place, "on=command:")
        if not words:
            raise ConfigurationError(
                "on=command: needs a command that starts a slave, such as"
                " command:mpirun -n 1 {python} -m concurrent_nb slave --connect - --name {name}"
            )
        self._words(self.end_command, "Command.end_command")
        _check_names(self.script, "Command.script")
        if self.submits and not self._uses_files():
            raise ConfigurationError(
                "a submitted slave has no standard input, so the command or its script must contain {slave}, or"
                " {connection_file} and {config_file}"
            )
        if "{" not in words[0] and shutil.which(words[0]) is None:
            raise LaunchFailed(f"on=command: this machine has no command {words[0]!r}: install it, or correct it")

    def launch(self, start: SlaveStart) -> None:
        """Run the command for one slave."""
        values = self._values(start)
        words = [_fill(word, values) for word in self._words(self.place, "on=command:")]
        started = StartedProcess(words, f"slave {start.name}")
        self._commanded[start.name] = _Commanded(started, values)
        if not self._uses_files():
            started.write_lines([start.connection, start.configuration])
        elif self.submits:
            started.close_input()

    def slaves(self) -> Sequence[LaunchedSlave]:
        """Return the slaves. Of those that were submitted, only the master knows whether they run."""
        return [self._describe(name, commanded) for name, commanded in self._commanded.items()]

    def end(self, names: Collection[str]) -> None:
        """End slaves, with the end command if there is one. Raises LaunchFailed if that has not worked for each."""
        ending = {name: self._commanded.pop(name) for name in names if name in self._commanded}
        to_run = []
        for commanded in ending.values():
            if commanded.started is not None and self.submits:
                self._note_job(commanded)
            if self.end_command and (commanded.job or "{job}" not in self.end_command):
                to_run.append(self._end_words(commanded))
        failures = _run_end_commands(to_run)
        end_processes([each.started for each in ending.values() if each.started is not None])
        for name in ending:
            self._remove_files(name)
        if failures:
            raise LaunchFailed(f"Command.end_command: {'; '.join(failures)}")

    def close(self) -> None:
        """End all slaves, and remove the files."""
        try:
            self.end(list(self._commanded))
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None

    # ---------------------------------------------------------------------------------------------------- one slave

    def _describe(self, name: str, commanded: _Commanded) -> LaunchedSlave:
        program = Path(_fill(self._words(self.place, "on=command:")[0], commanded.values)).name
        place = f"{program} {commanded.job}".strip()
        if commanded.started is None:
            return LaunchedSlave(name, LaunchState.QUEUED, place)
        code = commanded.started.exit_code
        if code is None:
            return LaunchedSlave(name, LaunchState.STARTING if self.submits else LaunchState.RUNNING, place)
        if not self.submits or code != 0:
            return ended_slave(name, place, code, commanded.started.log_tail())
        self._note_job(commanded)
        return LaunchedSlave(name, LaunchState.QUEUED, f"{program} {commanded.job}".strip())

    def _note_job(self, commanded: _Commanded) -> None:
        """Take the job's id from what a submitting command has printed, once it has ended."""
        if commanded.started is not None and commanded.started.exit_code == 0:
            lines = commanded.started.log_tail().split("\n")
            commanded.job = next((line.strip() for line in reversed(lines) if line.strip()), "")
            commanded.started.release()
            commanded.started = None

    def _end_words(self, commanded: _Commanded) -> list[str]:
        values = {**commanded.values, "job": commanded.job}
        return [_fill(word, values) for word in self._words(self.end_command, "Command.end_command")]

    def _values(self, start: SlaveStart) -> dict[str, str]:
        python = self.python or sys.executable
        workers = read_configuration(start.configuration.encode(), "").sections.get("SlaveNode", {}).get("workers", 0)
        if not workers and any("{workers}" in text for text in (self.place, self.script)):
            raise ConfigurationError("on=command: has {workers}, so their number must be given: --workers N")
        values = {"python": python, "name": start.name, "workers": str(workers), "job": ""}
        values["folder"] = str(self._make_folder()) if self._uses_files() or self.script else ""
        if self._uses_files():
            files = {"connection_file": start.connection, "config_file": start.configuration}
            for what, text in files.items():
                path = self._make_folder() / f"{start.name}-{what}.json"
                write_for_slave(path, text)
                values[what] = str(path)
            values["slave"] = shlex.join(_fill(word, values) for word in _SLAVE_WORDS)
        if self.script:
            path = self._make_folder() / f"{start.name}-script"
            write_for_slave(path, _fill(self.script, values))
            path.chmod(stat.S_IRWXU)
            values["script"] = str(path)
        return values

    def _uses_files(self) -> bool:
        return any(f"{{{name}}}" in text for text in (self.place, self.script) for name in ("connection_file", "slave"))

    def _words(self, template: str, item: str) -> list[str]:
        _check_names(template, item)
        try:
            words = shlex.split(template)
        except ValueError as error:
            raise ConfigurationError(f"{item} {template!r} is no command: {error}") from None
        # {slave} is a whole command: alone it becomes its words, inside of a word it stays one.
        return [part for word in words for part in (_SLAVE_WORDS if word == "{slave}" else (word,))]

    def _make_folder(self) -> Path:
        if self._folder is None:
            parent = Path(self.folder).expanduser() if self.folder else connection_file.folder_to_write()
            self._folder = make_folder_for_slaves(parent)
        return self._folder

    def _remove_files(self, name: str) -> None:
        if self._folder is not None:
            for path in self._folder.glob(f"{name}-*"):
                path.unlink(missing_ok=True)


_SLAVE_WORDS: Final = (
    "{python}", "-P", "-m", "concurrent_nb", "slave", "--connect", "{connection_file}", "--config", "{config_file}",
    "--name", "{name}",
)  # fmt: skip


def _run_end_commands(commands: Sequence[Sequence[str]]) -> list[str]:
    """Run commands side by side; return why some have not begun or not ended.

    A command that fails is only logged: the slave's job may have ended before, in which case `qdel` fails, too.
    """
    failures, running = [], []
    for words in commands:
        try:
            running.append((words, StartedProcess(words, shlex.join(words))))
        except LaunchFailed as error:
            failures.append(str(error))
    try:
        deadline = monotonic() + END_COMMAND_S
        for words, started in running:
            started.close_input()
            try:
                code = started.process.wait(max(0.0, deadline - monotonic()))
            except subprocess.TimeoutExpired:
                failures.append(f"{shlex.join(words)} has not ended within {END_COMMAND_S:g} s")
                continue
            if code:
                said = started.log_tail().strip()
                log.warning("%s has ended with exit code %d: %s", shlex.join(words), code, said or "without output")
    finally:
        end_processes([started for _, started in running])
    return failures


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _NAME.sub(lambda match: values.get(match[1], match[0]) if match[1] in NAMES else match[0], text)


def _check_names(text: str, item: str) -> None:
    """Raise ConfigurationError for a name in braces that is not known, but may be meant as one: {conection_file}."""
    for name in _NAME.findall(text):
        if name not in NAMES:
            raise ConfigurationError(f"{item} has {{{name}}}: the names in braces are {', '.join(NAMES)}")
