"""Which slave runs on which host of another engine: pure. Each host has one slave; slaves without a host wait.

Also what the engine's hosts must have in common with this machine, and how one finds out.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from concurrent_nb.nodes.launchers.launcher import LaunchedSlave, LaunchState

#: Python text whose value is a dict of a machine's facts. It is sent as text, because other versions of Python run it,
#: and machines that do not have this package.
FACTS: Final = (
    "(lambda import_, find: {"
    "'python': '.'.join(map(str, import_('sys').version_info[:2])),"
    " 'executable': import_('sys').executable,"
    " 'posix': import_('os').name == 'posix',"
    " 'concurrent-nb': import_('concurrent_nb').__version__ if find('concurrent_nb') else '',"
    " 'cloudpickle': import_('cloudpickle').__version__ if find('cloudpickle') else ''"
    "})(__import__, __import__('importlib.util').util.find_spec)"
)


@dataclass(frozen=True, slots=True)
class PilotHost:
    """A host of another engine, on which one slave can run."""

    key: str  #: of the engine: the same as long as the same processes of the engine run there
    place: str  #: for people
    cores: int  #: that the engine counts there
    is_busy: bool = False  #: with other work of the engine, as far as that is known


@dataclass(frozen=True, slots=True)
class StartOnHost:
    """Have a slave started on a host."""

    name: str
    host: PilotHost


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Return why a machine with these facts cannot run our slaves, and what to do; "" if it can.

    Args:
        here: the facts of the machine with the cluster's owner, the value of FACTS.
        there: those of the other machine.
    """
    python = there.get("executable", "python")
    if not there.get("posix", False):
        return "slaves need Linux or macOS, and it has neither"
    if here["python"] != there.get("python"):
        return (
            f"it has Python {there.get('python')} ({python}) and this process {here['python']}, and functions run"
            f" only on the minor version from which they are sent: use Python {there.get('python')} here"
        )
    if not there.get("concurrent-nb"):
        return f"its Python has no concurrent_nb: run `{python} -m pip install {_wanted(here, 'concurrent-nb')}` there"
    # Pickles of the same major version of cloudpickle can be read.
    for package, counts in (("concurrent-nb", 3), ("cloudpickle", 1)):
        if here[package].split(".")[:counts] != there.get(package, "").split(".")[:counts]:
            return (
                f"it has {package} {there.get(package) or '(none)'} and this process {here[package]}: run"
                f" `{python} -m pip install {_wanted(here, package)}` there"
            )
    return ""


class PilotSlaves:
    """The slaves of a pilot, and the hosts on which they run.

    Args:
        engine: for people: "Dask".
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._slaves: dict[str, LaunchedSlave] = {}
        self._hosts: dict[str, str] = {}  # name of a slave to the key of its host

    def launch(self, name: str) -> None:
        """Have a slave wait for a host."""
        self._slaves[name] = LaunchedSlave(name, LaunchState.QUEUED, f"{self._engine}: no host is free")

    def place(self, hosts: Iterable[PilotHost]) -> list[StartOnHost]:
        """Give hosts to the slaves that wait, in their order: idle ones first, then those with most cores."""
        taken = set(self._hosts.values())
        free = sorted(
            (host for host in hosts if host.key not in taken), key=lambda host: (host.is_busy, -host.cores, host.key)
        )
        waiting = [name for name, slave in self._slaves.items() if slave.state is LaunchState.QUEUED]
        starts = [StartOnHost(name, host) for name, host in zip(waiting, free, strict=False)]
        for start in starts:
            self._hosts[start.name] = start.host.key
            self._slaves[start.name] = LaunchedSlave(start.name, LaunchState.STARTING, start.host.place)
        return starts

    def runs(self, name: str) -> None:
        """Record that the process of a slave runs."""
        slave = self._slaves.get(name)
        if slave is not None and slave.state is LaunchState.STARTING:
            self._slaves[name] = replace(slave, state=LaunchState.RUNNING)

    def ended(self, ended: LaunchedSlave) -> None:
        """Record how a slave has ended; its host is free."""
        if ended.name in self._slaves:
            self._slaves[ended.name] = replace(ended, place=self._slaves[ended.name].place)
            self._hosts.pop(ended.name, None)

    def explain(self, why: str) -> None:
        """Record why slaves wait, for people."""
        for name, slave in self._slaves.items():
            if slave.state is LaunchState.QUEUED:
                self._slaves[name] = replace(slave, place=f"{self._engine}: {why}")

    def forget(self, names: Collection[str]) -> list[str]:
        """Forget slaves. Return those that were given a host and may not have ended. Their hosts are free."""
        known = [self._slaves.pop(name) for name in names if name in self._slaves]
        for slave in known:
            self._hosts.pop(slave.name, None)
        return [slave.name for slave in known if slave.state in (LaunchState.STARTING, LaunchState.RUNNING)]

    def slaves(self) -> list[LaunchedSlave]:
        """Return all slaves that were not forgotten."""
        return list(self._slaves.values())


def _wanted(here: Mapping[str, Any], package: str) -> str:
    return f"{package}=={here[package]}" if here.get(package) else package
