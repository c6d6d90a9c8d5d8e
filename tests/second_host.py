"""A second host for tests: network namespaces joined by a cable, and a copied connection file there.

Needs root and `ip`. Where they are missing, tests that use it are skipped with a reason; in CI they fail.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import leaks
from tests.clusters import running
from tests.work import PATIENCE_S

MASTERS_ADDRESS, OTHER_ADDRESS = "10.77.0.1", "10.77.0.2"
NAME = "lab"


@dataclass(frozen=True)
class Host:
    """A network namespace, and what a user has there."""

    namespace: str
    interface: str
    home: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to write before a command so that it runs there."""
        return ("ip", "netns", "exec", self.namespace)

    @property
    def env(self) -> dict[str, str]:
        folders = {
            "HOME": str(self.home),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
        }
        return {**os.environ, **folders}

    def cable(self, state: str) -> None:
        """Pull the cable out ("down") or put it back ("up")."""
        ip("-n", self.namespace, "link", "set", self.interface, state)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Give two hosts that see nothing but each other."""
    before = leaks.processes()
    here, there = (
        Host(f"cnb{os.getpid()}{end}", f"cnb{os.getpid()}{end}", tmp_path_factory.mktemp(f"home-{end}"))
        for end in ("a", "b")
    )
    with contextlib.ExitStack() as undo:
        try:
            for host in (here, there):
                ip("netns", "add", host.namespace)
                undo.callback(ip, "netns", "del", host.namespace)
            ends = ("netns", here.namespace, "type", "veth", "peer", "name", there.interface, "netns", there.namespace)
            ip("link", "add", here.interface, *ends)
            for host, address in ((here, MASTERS_ADDRESS), (there, OTHER_ADDRESS)):
                ip("-n", host.namespace, "addr", "add", f"{address}/24", "dev", host.interface)
                ip("-n", host.namespace, "link", "set", "lo", "up")
                host.cable("up")
        except (OSError, subprocess.CalledProcessError) as error:
            reason = f"no network namespaces here: {getattr(error, 'stderr', '') or error}"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}. CI has to be root and to have iproute2")
            pytest.skip(f"{reason}. Run as root with iproute2")
        yield here, there
    assert leaks.processes().keys() <= before.keys()
    assert not Path("/run/netns", here.namespace).exists()


@pytest.fixture
def copy(hosts: tuple[Host, Host], request: pytest.FixtureRequest) -> Iterator[Path]:
    """Run a cluster on the first host; give the copy of its connection file that the second host got."""
    here, there = hosts
    arguments = ("start", "--name", NAME, "--workers", "1", "--host", MASTERS_ADDRESS, *getattr(request, "param", ()))
    with running(*arguments, says="is running", prefix=here.prefix, env=here.env):
        copy = there.home / "another folder" / "copied.json"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(here.home / "runtime" / f"concurrent_nb-{NAME}.json", copy)
        yield copy
        copy.unlink()
