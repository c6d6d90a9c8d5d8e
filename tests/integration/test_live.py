"""The live display in a real kernel: what is sent and how often, and what is left when a job has ended."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.notebooks import Notebook


class Watched(Notebook):
    """Remembers every message, with the time at which it came."""

    def __init__(self, folder: Path) -> None:
        self.messages: list[tuple[float, dict[str, Any]]] = []
        super().__init__(folder)

    def _receive(self) -> dict[str, Any]:
        message = super()._receive()
        self.messages.append((time.monotonic(), message))
        return message

    def watch(self, source: str) -> list[tuple[float, str, dict[str, Any]]]:
        """Run a cell; give the messages that came meanwhile as (seconds, type, content)."""
        self.messages.clear()
        began = time.monotonic()
        self.run(source)
        return [(at - began, message["msg_type"], message["content"]) for at, message in self.messages]

    def open_things(self) -> str:
        """Name threads of the live display and open widgets."""
        answer = self.run(
            "import comm, threading\n"
            "[t.name for t in threading.enumerate() if 'live' in t.name], len(comm.get_comm_manager().comms)"
        )
        return str(answer.value)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    notebook = Watched(tmp_path_factory.mktemp("notebook"))
    try:
        notebook.run("%concurrent start --workers 2")
        assert notebook.run("%%concurrent_task\n1").value == "1"  # the slave has come by then
        yield notebook
    finally:
        notebook.close()


def displays(messages: list[tuple[float, str, dict[str, Any]]]) -> list[tuple[float, str, dict[str, Any]]]:
    return [(at, kind, content["data"]) for at, kind, content in messages if "display_data" in kind]


def test_a_job_is_shown_at_once_and_its_snapshot_stays(notebook: Watched) -> None:
    messages = notebook.watch(
        '%%concurrent_task --for "n in range(40)" --view image --out columns\n'
        "import time\n"
        "time.sleep(0.1)\n"
        "list(range(n, n + 30))"
    )
    (first_at, first, shown), *renewed, (_, last, snapshot) = displays(messages)
    # 200 ms on a machine that does nothing else.
    assert first_at < 1.0
    assert (first, last) == ("display_data", "update_display_data")
    assert all(data.keys() == {"text/plain", "text/html"} for _, _, data in [(0, "", shown), *renewed])
    assert snapshot.keys() == {"text/plain", "text/html"}
    assert snapshot["text/plain"].startswith("40 tasks in ")
    updates = [(at, content["data"]["state"]) for at, kind, content in messages if kind == "comm_msg"]
    assert len(updates) >= 10
    spent = updates[-1][0] - updates[0][0]
    assert len(updates) <= 20 * spent + 2
    assert next(state["tiles"]["width"] for _, state in updates if "tiles" in state) == 40
    assert notebook.open_things() == "([], 0)"


def test_prints_and_errors_come_beside_the_widget(notebook: Watched) -> None:
    messages = notebook.watch(
        '%%concurrent_task --for "n in range(6)"\n'
        "import time\n"
        "print('hello', n)\n"
        "time.sleep(0.2)\n"
        "if n == 3: raise ValueError('three')"
    )
    text = "".join(content["text"] for _, kind, content in messages if kind == "stream")
    assert "[0] hello 0\n" in text
    assert [kind for _, kind, _ in messages].count("error") == 1
    snapshot = displays(messages)[-1][2]
    assert "ValueError</b>: <bdi>three</bdi>" in snapshot["text/html"]
    assert notebook.open_things() == "([], 0)"


def test_a_stopped_job_leaves_nothing_open(notebook: Watched) -> None:
    cell = notebook.start('%%concurrent_task --for "n in range(6)" --view search\nimport time\ntime.sleep(600)')
    notebook.wait_for(cell, "2 running")
    notebook.interrupt()
    notebook.wait_for(cell, "stopped: 0 done, 2 stopped while running, 4 never ran")
    while notebook._next(cell)["content"].get("execution_state") != "idle":
        continue
    assert notebook.open_things() == "([], 0)"


def test_a_job_in_the_background_is_shown_too(notebook: Watched) -> None:
    messages = notebook.watch(
        '%%concurrent_task --no-block --out later --for "n in range(10)"\nimport time\ntime.sleep(0.1)\nn'
    )
    [(_, kind, shown)] = displays(messages)
    assert kind == "display_data"
    assert "concurrent-nb cnb-job-" in shown["text/html"]
    # Updates of a display come under whatever cell runs.
    messages = notebook.watch("later.wait()\nimport time\ntime.sleep(0.5)")
    (_, kind, snapshot) = displays(messages)[-1]
    assert kind == "update_display_data"
    assert snapshot["text/plain"].startswith("10 tasks in ")
    assert notebook.open_things() == "([], 0)"


def test_local_tasks_are_shown_while_they_run(notebook: Watched) -> None:
    messages = notebook.watch(
        '%%concurrent_task --local --for "n in range(4)" --view table --out rows\nimport time\ntime.sleep(0.2)\nn'
    )
    rows = [
        content["data"]["state"]["view"].count("<tr")
        for _, kind, content in messages
        if kind == "comm_msg" and "view" in content["data"]["state"]
    ]
    assert rows == sorted(rows)
    assert set(rows) & {2, 3, 4}  # with the head
    assert "in this process" in displays(messages)[-1][2]["text/plain"]
    assert notebook.open_things() == "([], 0)"


def test_without_the_live_view_there_is_one_line(notebook: Watched) -> None:
    notebook.run("%config ConcurrentMagics.live = False")
    try:
        messages = notebook.watch('%%concurrent_task --for "n in range(4)"\nimport time\ntime.sleep(0.3)\nn')
    finally:
        notebook.run("%config ConcurrentMagics.live = True")
    assert all(data.keys() == {"text/plain"} for _, _, data in displays(messages))
    assert not any(kind.startswith("comm") for _, kind, _ in messages)


def test_a_map_that_is_waited_for_has_a_bar(notebook: Watched) -> None:
    messages = notebook.watch(
        "import concurrent_nb, time\n"
        "def nap(n):\n    import time\n    time.sleep(0.5)\n    return n\n"
        "app = get_ipython().magics_manager.registry['ConcurrentMagics'].cluster.application_for_functions()\n"
        "list(app.map(nap, range(8), chunksize=1))"
    )
    shown = [data["text/plain"] for _, _, data in displays(messages)]
    assert re.fullmatch(r"nap: 8 of 8 items in \d\.\d s", shown[-1]), shown
    assert re.match(r"nap: [1-7] of 8 items", shown[0]), shown
