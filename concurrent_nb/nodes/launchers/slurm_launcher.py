"""Slaves as jobs of Slurm: `Cluster(on="slurm", partition="short", slaves=4)`. Each slave is one job on one node.

The script (`slurm_script.py`) goes to the standard input of `sbatch`. The connection file is in a folder of the owner's
that the nodes see, too, and that only the owner may read. One thread runs the commands of Slurm, one at a time, because
a busy controller may take seconds to answer; what it has learnt is in `slurm_queue.py`.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Final

from concurrent_nb.clock import monotonic
from concurrent_nb.components.config import FloatItem, IntItem, ListItem, TextItem
from concurrent_nb.components.core import Component, ComponentManager, implements
from concurrent_nb.errors import ConfigurationError, LaunchFailed
from concurrent_nb.foreign import describe
from concurrent_nb.nodes.launchers.launch_files import make_folder_for_slaves, write_for_slave
from concurrent_nb.nodes.launchers.launcher import (
    LOG_TAIL_CHARACTERS,
    ILauncher,
    LaunchedSlave,
    SlaveStart,
    ended_slave,
)
from concurrent_nb.nodes.launchers.own_address import address_of_interface, address_towards, beyond_loopback
from concurrent_nb.nodes.launchers.slurm_queue import (
    LOOK,
    SHORTEST_S,
    SlurmQueue,
    exit_code_of,
    is_hopeless,
    is_unanswered,
    is_wrong_request,
    read_look,
)
from concurrent_nb.nodes.launchers.slurm_script import TEMPLATE, batch_script, directives, file_pattern, limit_s
from concurrent_nb.nodes.launchers.worker_count import with_workers
from concurrent_nb.transport import connection_file, private_files

log = logging.getLogger(__name__)

#: the first address of the controller in `scontrol show config`: a host, and perhaps its address
_CONTROLLER: Final = re.compile(r"^SlurmctldHost(?:\[0\])?\s*=\s*([^\s(,]+)(?:\(([^)\s]+)\))?", re.MULTILINE)
#: jobs that have not ended so long after they were cancelled are killed; then they have as long again
CANCEL_S: Final = 5.0
#: bytes of a log that are read
LOG_BYTES: Final = 16384
#: what the names of a slave's files end in
_FILES: Final = ("connection.json", "configuration.json", "log")
#: seconds until the first look whether cancelled jobs have ended; each further one comes after twice as long
FIRST_CLOSING_LOOK_S: Final = 0.1


@implements(ILauncher)
class Slurm(Component):
    """Starts slaves as jobs of Slurm."""

    short_name = "slurm"

    partition = TextItem("", help="Partition of the jobs; also `on=slurm:PARTITION`. Empty: Slurm's default.")
    account = TextItem("", help="Account that the jobs are charged to. Empty: the user's default.")
    qos = TextItem("", help="Quality of service of the jobs. Empty: Slurm's default.")
    time = TextItem("", help="Time limit of each job: minutes, HH:MM:SS or D-HH:MM:SS. Empty: the partition's default.")
    cores = IntItem(1, min=1, help="Cores of each job, so of each slave, which has a worker for each of them.")
    memory = TextItem("", help="Memory of each job, such as 8G. Empty: the partition's default.")
    directives: ListItem[str] = ListItem([], help="Further options of sbatch, such as --gres=gpu:1.")
    prologue: ListItem[str] = ListItem([], help="Shell lines before the slave starts, such as `module load python`.")
    template = TextItem("", help="Path of a script to use instead of the built-in one; see docs/clusters.md.")
    python = TextItem("", help="Python that runs slaves on the nodes. Empty: the path of the one that runs here.")
    folder = TextItem("", help="Folder that this machine and the nodes see. Empty: Jupyter's runtime folder.")
    interface = TextItem(
        "", help="Interface or address of this machine that nodes reach. Empty: that to the controller."
    )
    poll_s = FloatItem(10.0, min=1.0, help="Seconds between two calls of squeue; just after a submission it is sooner.")
    command_s = FloatItem(60.0, min=1.0, help="Seconds in which a command of Slurm must end.")

    place = ""
    slaves_default = 1
    start_bound_s = 60.0

    def __init__(self, manager: ComponentManager) -> None:
        super().__init__(manager)
        self._job_name = f"concurrent_nb-{secrets.token_hex(8)}"  # of all jobs of this launcher, and of no other one
        self._queue = SlurmQueue(self.poll_s)
        self._condition = threading.Condition()
        self._work: deque[Callable[[], None]] = deque()  # what the thread has to do
        self._thread: threading.Thread | None = None
        self._closing = False
        self._failed = ""  # why the thread has ended before its time
        self._has_submitted = False
        self._files: Path | None = None
        self._count = 0  # of slaves that were ever launched
        self._numbers: dict[str, int] = {}  # by the name of a slave, in the names of its files

    # ----------------------------------------------------------------------------------------------- the contract

    def addresses(self) -> Sequence[str]:
        """Return the address that the nodes reach: of `interface`, or the one towards Slurm's controller."""
        if self.interface:
            return beyond_loopback(address_of_interface(self.interface))
        shown = self._run("scontrol", "show", "config")
        match = _CONTROLLER.search(shown)
        if match is None:
            raise LaunchFailed("`scontrol show config` names no controller of Slurm: give Slurm.interface")
        return beyond_loopback(address_towards(match[2] or match[1]))

    def check(self) -> None:
        """Let sbatch judge the script, without a submission. Raises LaunchFailed with its words."""
        asked_s = limit_s(self.time)
        if asked_s is not None and asked_s < SHORTEST_S:
            raise ConfigurationError(
                f"Slurm.time is {self.time!r}, too short for tasks: give {SHORTEST_S:g} s at least"
            )
        self._run("sbatch", "--test-only", text=self._script(self._command("check", 0, "text"), "/dev/null"))

    def launch(self, start: SlaveStart) -> None:
        """Have a job submitted."""
        self._count += 1
        folder, number = self._folder(), self._count
        self._numbers[start.name] = number
        write_for_slave(folder / f"{number}.connection.json", start.connection)
        configuration = with_workers(start.configuration, self.cores)
        write_for_slave(folder / f"{number}.configuration.json", configuration)
        command = self._command(start.name, number, start.log_format)
        script = self._script(command, file_pattern(str(folder / f"{number}.log")))
        with self._condition:
            self._queue.submitting(start.name)
        self._do(lambda: self._submit(start.name, script))

    def slaves(self) -> Sequence[LaunchedSlave]:
        """Return what is known of the slaves, without a call of Slurm."""
        if self._failed:
            raise LaunchFailed(self._failed)
        with self._condition:
            return self._queue.slaves(monotonic())

    def end(self, names: Collection[str]) -> None:
        """Cancel the jobs of these slaves, and remove their files: a job that has not begun finds no secrets then."""
        with self._condition:
            numbers = self._queue.forget(list(names))
        for name in names:
            number = self._numbers.pop(name, None)
            if number is not None and self._files is not None:
                for kind in _FILES:
                    with contextlib.suppress(OSError):  # the folder is removed at the end
                        (self._files / f"{number}.{kind}").unlink(missing_ok=True)
        if numbers:
            self._do(lambda: self._cancel(numbers))

    def close(self) -> None:
        """Cancel all jobs, wait until they have ended, and remove the folder."""
        with self._condition:
            self._closing = True
            self._work.clear()
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        try:
            if self._has_submitted:
                self._end_all()
        finally:
            if self._files is not None:
                shutil.rmtree(self._files, ignore_errors=True)

    # ------------------------------------------------------------------------------------------------- the script

    def _script(self, command: Sequence[str], output: str) -> str:
        partition = self.partition or self.place
        if self.place and partition != self.place:
            raise ConfigurationError(
                f"on=slurm:{self.place} and Slurm.partition {self.partition!r} name two partitions: give one of them"
            )
        options: dict[str, str | int] = {
            "job-name": self._job_name,
            "partition": partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time,
            "nodes": 1,
            "ntasks": 1,
            "cpus-per-task": self.cores,
            "mem": self.memory,
            "output": output,
        }
        # A slave that is lost is replaced by another one, which has another name.
        lines = [*directives(options, ()), "#SBATCH --no-requeue", *directives({}, self.directives)]
        return batch_script(self._template(), lines, self.prologue, command)

    def _template(self) -> str:
        if not self.template:
            return TEMPLATE
        path = Path(self.template).expanduser()
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the template {path} of Slurm.template cannot be read: {error}") from None

    def _command(self, name: str, number: int, log_format: str) -> list[str]:
        files = self._files or Path()
        return [
            self.python or sys.executable,
            *("-P", "-m", "concurrent_nb", "slave", "--name", name, "--log-format", log_format),
            *("--connect", str(files / f"{number}.connection.json")),
            *("--config", str(files / f"{number}.configuration.json")),
        ]

    def _folder(self) -> Path:
        """Return the folder of this launcher, in which only its owner can read; made when it is first needed."""
        if self._files is None:
            parent = Path(self.folder).expanduser() if self.folder else connection_file.folder_to_write()
            private_files.make_folder(parent)
            self._files = make_folder_for_slaves(parent.absolute())
        return self._files

    # ------------------------------------------------------------------------------------------------- the thread

    def _do(self, work: Callable[[], None]) -> None:
        with self._condition:
            if self._closing:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._serve, name=f"Slurm {self._job_name}", daemon=True)
                thread.start()  # which a machine short of resources refuses
                self._thread = thread
            self._work.append(work)
            self._condition.notify_all()

    def _serve(self) -> None:
        while True:
            with self._condition:
                look_at = self._queue.next_look_at()
                while not self._closing and not self._work and (look_at is None or monotonic() < look_at):
                    self._condition.wait(None if look_at is None else max(0.0, look_at - monotonic()))
                    look_at = self._queue.next_look_at()
                if self._closing:
                    return
                work = self._work.popleft() if self._work else self._look
            try:
                work()
            except Exception as error:  # `slaves` reports it, and no thread waits for this one
                log.exception("the thread for Slurm's commands has failed")
                self._failed = f"the thread for Slurm's commands has failed: {describe(error)}"
                return

    def _submit(self, name: str, script: str) -> None:
        with self._condition:
            if self._queue.slave(name) is None:  # ended before it was submitted
                return
        self._has_submitted = True  # also if the answer does not come: the job has our name
        try:
            number = self._run("sbatch", "--parsable", text=script).strip().partition(";")[0]
        except LaunchFailed as error:
            with self._condition:
                if isinstance(error, _SlurmSilent) or is_unanswered(str(error)):
                    self._queue.unanswered(name, str(error), monotonic())
                else:
                    self._queue.not_submitted(name, str(error), refused=is_wrong_request(str(error)))
            return
        with self._condition:
            self._queue.submitted(name, number, monotonic())
            is_forgotten = self._queue.slave(name) is None
        if is_forgotten:  # ended while it was submitted
            self._cancel([number])

    def _look(self) -> None:
        asked_at = monotonic()
        try:
            rows = read_look(self._run("squeue", "--me", f"--name={self._job_name}", *LOOK))
        except LaunchFailed as error:
            log.warning("the state of the jobs of Slurm is unknown: %s", error)
            with self._condition:
                self._queue.not_looked(monotonic())
            return
        with self._condition:
            ended = self._queue.looked(rows, asked_at)
            unclaimed = self._queue.unclaimed(rows)
        if unclaimed:
            self._cancel(unclaimed)
        for name in ended:
            self._explain(name)

    def _explain(self, name: str) -> None:
        """Find out how a slave has ended, and its log."""
        with self._condition:
            ended, number = self._queue.slave(name), self._queue.number_of(name)
            is_its_own_end = self._queue.has_ended_itself(name)
        if ended is None:
            return
        if ended.refused:  # it waits, and would do so for ever
            self._cancel([number])
            with self._condition:
                self._queue.explained(name, ended)
            return
        code = None
        with contextlib.suppress(LaunchFailed):  # Slurm may have forgotten the job
            code = exit_code_of(self._run("scontrol", "show", "job", number))
        text, has_log = self._log_of(name)
        if code is None or code < 0 or not is_its_own_end:
            tail = text.strip()[-LOG_TAIL_CHARACTERS:]
            reason = f"{ended.reason}; its log ends:\n{tail}" if tail else ended.reason
            ended = replace(ended, reason=reason)
        else:
            known = ended_slave(name, ended.place, code, text)
            ended = replace(known, refused=known.refused or is_hopeless(code, text))
        if not has_log and not ended.drained:
            hint = (
                f"there is no log in {self._files}: if the nodes do not see that folder, name another as Slurm.folder"
            )
            ended = replace(ended, reason=f"{ended.reason}; {hint}")
        with self._condition:
            self._queue.explained(name, ended)

    def _log_of(self, name: str) -> tuple[str, bool]:
        """Return the end of the log of a slave's job, and whether there is a log."""
        try:
            with (self._files or Path()).joinpath(f"{self._numbers.get(name)}.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
                return file.read().decode(errors="replace"), True
        except OSError:
            return "", False

    # ----------------------------------------------------------------------------------------------- commands

    def _cancel(self, numbers: Sequence[str]) -> None:
        try:
            self._run("scancel", *numbers)
        except LaunchFailed as error:
            log.warning("jobs %s of Slurm could not be cancelled: %s", ", ".join(numbers), error)

    def _end_all(self) -> None:
        """Cancel what is left of our jobs and wait until it has ended; kill it if that takes long."""
        ours = ("--me", f"--name={self._job_name}")
        left: list[str] = []
        try:
            for signal in ((), ("--signal=KILL", "--full")):
                self._run("scancel", *ours, *signal)
                deadline, gap_s = monotonic() + CANCEL_S, FIRST_CLOSING_LOOK_S
                while left := self._run("squeue", *ours, "--noheader", "--format=%i").split():
                    if monotonic() + gap_s > deadline:
                        break
                    sleep(gap_s)
                    gap_s *= 2
                if not left:
                    return
        except LaunchFailed as error:
            log.error("jobs of Slurm may be left; `scancel --name=%s` ends them: %s", self._job_name, error)
        else:
            log.error("jobs %s of Slurm have not ended %g s after they were killed", ", ".join(left), CANCEL_S)

    def _run(self, *words: str, text: str = "") -> str:
        """Run a command of Slurm; return its output. Raises LaunchFailed with its error output."""
        try:
            ended = subprocess.run(
                words,
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.command_s,
                check=False,
                start_new_session=True,  # an interrupt of the notebook is not meant for it
            )
        except FileNotFoundError:
            raise LaunchFailed(
                f"there is no command {words[0]} on this machine: start the cluster where Slurm's commands are, such as"
                " a login node"
            ) from None
        except subprocess.TimeoutExpired:
            raise _SlurmSilent(
                f"{' '.join(words[:2])} did not end within {self.command_s:g} s (Slurm.command_s): Slurm's controller"
                " is busy or does not answer"
            ) from None
        except OSError as error:
            raise LaunchFailed(f"{words[0]} cannot be run: {error}") from None
        if ended.returncode:
            said = " ".join(line.removeprefix(f"{words[0]}: ").strip() for line in ended.stderr.splitlines())
            raise LaunchFailed(f"{words[0]} refuses: {said or f'it ended with exit code {ended.returncode}'}")
        return ended.stdout


class _SlurmSilent(LaunchFailed):
    """A command of Slurm has not ended in time: nothing is known of what it has done."""
