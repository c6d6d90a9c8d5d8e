"""`concurrent-nb` as people type it, in shells of its own: what it does, what it says, and what it refuses."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import concurrent_nb
from concurrent_nb.cli.main import main
from concurrent_nb.errors import AccessRefused, ClusterNotFound, LimitExceeded, MasterLost, MasterUnreachable
from concurrent_nb.nodes.common import registration
from concurrent_nb.transport import connection_file, keys
from concurrent_nb.wire.session import Session
from tests import work
from tests.clusters import alive, command, descendants, eventually, run, running, status_of, workers_of
from tests.work import PATIENCE_S

ITEMS = 10_000


def refused(*arguments: str) -> str:
    """Run a command that is to be refused, and give what it says."""
    ended = run(*arguments)
    assert ended.returncode == 1, (ended.stdout, ended.stderr)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    return ended.stderr.strip()


@contextlib.contextmanager
def started(name: str, *more: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `concurrent-nb start` for a while."""
    with running("start", "--name", name, "--workers", "1", *more, says=f"cluster {name} is running") as process:
        yield process


def dead_masters_file(name: str) -> Path:
    """Leave the connection file of a master that is no more."""
    with running("master", "--name", name, says="is running") as master:
        path = connection_file.default_path(name)
        kept = path.read_bytes()
        master.kill()
        master.wait()
    assert path.read_bytes() == kept
    return path


# ----------------------------------------------------------------------------------------------------- what it offers


def test_help_tells_every_command_and_how_to_begin() -> None:
    told = run("--help")
    assert told.returncode == 0
    for each in ("start", "master", "slave", "status", "stop", "--Class.item=value", "--workers 2 --name demo"):
        assert each in told.stdout
    for each in ("slaves", "jobs", "cancel", "drain", "trace", "config", "top"):
        assert re.search(rf"^    {each} ", told.stdout, re.MULTILINE)
        described = run(each, "--help")
        assert described.returncode == 0
        assert "--json" in described.stdout
    for each, option in {"start": "--workers", "master": "--host", "slave": "--connect", "status": "name"}.items():
        told = run(each, "--help")
        assert told.returncode == 0
        assert option in told.stdout


def test_the_version() -> None:
    assert run("--version").stdout == f"concurrent-nb {concurrent_nb.__version__}\n"


def test_it_is_installed_as_a_command() -> None:
    found = shutil.which("concurrent-nb", path=Path(sys.executable).parent)
    assert found is not None
    assert subprocess.run([found, "--version"], capture_output=True, timeout=PATIENCE_S).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["strat"], "invalid choice: 'strat'"),
        (["start", "--wrokers", "2"], "unknown option '--wrokers'"),
        (["start", "--work", "2"], "unknown option '--work'"),
        (["start", "--workers"], "expected one argument"),
        (["start", "--workers", "0"], "0 is too small, it must be at least 1"),
        (["start", "--workers=-1"], "-1 is too small, it must be at least 1"),
        (["start", "--workers", "abc"], "'abc' is not a whole number"),
        (["slave", "--workers", "2.5"], "'2.5' is not a whole number"),
        (["start", "--port", "abc"], "'abc' is not a whole number"),
        (["start", "--port", "99999"], "argument --port: 99999 is too large, it must be at most 65535"),
        (["master", "--port", "-1"], "argument --port: -1 is too small"),
        (["slave", "--workers", "1001"], "argument --workers: 1001 is too large"),
        (["status", "lab", "--watch", "soon"], "argument --watch: 'soon' is not a number of seconds"),
        (["status", "lab", "--watch", "0"], "argument --watch: 0 is out of range"),
        (["start", "extra"], "unknown option 'extra'"),
        (["status", "a", "b"], "unknown option 'b'"),
    ],
)
def test_wrong_usage_is_refused_and_named(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert "usage: concurrent-nb" in told.err
    assert says in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start", "--name", "a/b"], "'a/b' cannot name a cluster"),
        (["start", "--name", ""], "'' cannot name a cluster"),
        (["start", "--name", "<script>"], "'<script>' cannot name a cluster: a name has 1 to 64 letters, digits"),
        (["master", "--name", ".x"], "'.x' cannot name a cluster"),
        (["status", "no such"], "'no such' cannot name a cluster"),
        (["start", "--name", "bad", "--MasterNode.control_port=70000"], "MasterNode.control_port cannot be 70000"),
        (
            ["master", "--name", "bad", "--host", "nowhere.invalid"],
            "--host has 'nowhere.invalid', which is no IP",
        ),
        (
            ["start", "--name", "bad", "--host", "192.0.2.1"],
            "--host has 192.0.2.1, on which this machine cannot listen",
        ),
        (["start", "--name", "bad", "--MasterNode.addresses=['192.0.2.1']"], "MasterNode.addresses has 192.0.2.1"),
        (["status", "--watch"], "needs the name of a cluster"),
        (["master", "--log", "somewhere"], "--log needs --daemon"),
        (["start", "--name", "bad", "--log", "/proc/nowhere/log"], "/proc/nowhere/log cannot be written"),
        (["start", "--name", "bad", "--MasterNode.strategy=Fair"], "choose one of PullRoundRobin"),
        (["status", "--MasterNode.strategy=PushBest"], "status takes no configuration"),
        (["stop", "x", "--MasterNode.strategy=PushBest"], "stop takes no configuration"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(arguments: list[str], says: str) -> None:
    assert says in refused(*arguments)
    assert connection_file.names() == []


def test_a_port_that_is_taken_is_named() -> None:
    with started("first"):
        port = connection_file.read("first").endpoints[0].rpartition(":")[2]
        assert f"cannot listen on port {port}" in refused("start", "--name", "second", "--port", port)
        assert connection_file.names() == ["first"]


# --------------------------------------------------------------------------------------------------- finding a cluster


@pytest.mark.parametrize("verb", [["status"], ["stop"], ["slave", "--connect"]], ids=lambda verb: verb[0])
def test_a_cluster_that_does_not_exist(verb: list[str]) -> None:
    told = refused(*verb, "nosuch")
    assert told.count("\n") == 0, "one line"
    assert "no cluster 'nosuch'" in told
    assert "Clusters in" in told


def test_a_cluster_that_does_not_exist_in_python() -> None:
    with pytest.raises(ClusterNotFound, match="no cluster 'nosuch'"):
        concurrent_nb.connect("nosuch")
    with pytest.raises(ClusterNotFound, match=r"elsewhere\.json"):
        concurrent_nb.connect("/tmp/elsewhere.json")


def test_the_file_of_a_dead_master_is_named_as_such_and_is_no_obstacle() -> None:
    path = dead_masters_file("dead")
    for verb in (["status"], ["stop"], ["slave", "--connect"]):
        told = refused(*verb, "dead")
        assert "no master answers" in told
        assert "can be deleted" in told
    with pytest.raises(MasterUnreachable, match="no master answers"):
        concurrent_nb.connect("dead")
    with started("dead"), concurrent_nb.connect("dead") as app:
        assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
    assert not path.exists()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(lambda path: path.chmod(0o644), "others", id="readable by others"),
        pytest.param(lambda path: path.write_text("{"), "is no connection file", id="half a file"),
        pytest.param(lambda path: path.write_text(""), "is no connection file", id="empty"),
        pytest.param(
            lambda path: path.write_text(path.read_text().replace('"version": 1', '"version": 2')),
            "version 2",
            id="of a later version",
        ),
    ],
)
def test_a_connection_file_that_is_not_right(tmp_path: Path, harm: object, says: str) -> None:
    assert callable(harm)
    path = dead_masters_file("harmed").rename(tmp_path / "harmed.json")
    harm(path)
    for verb in (["status"], ["slave", "--connect"]):
        told = refused(*verb, str(path))
        assert says in told
        assert "harmed.json" in told


def test_a_token_of_another_role_or_of_nobody_is_refused(tmp_path: Path) -> None:
    with started("guarded"):
        told = json.loads(connection_file.default_path("guarded").read_text())
        told["tokens"] = {"client": told["tokens"]["client"]}
        copy = tmp_path / "client.json"
        copy.touch(mode=0o600)
        copy.write_text(json.dumps(told))
        with concurrent_nb.connect(copy) as app:
            assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
        assert "has no token for a slave" in refused("slave", "--connect", str(copy))
        assert "stop_cluster" in refused("stop", str(copy))
        told["tokens"] = {"admin": "x" * 43}
        copy.write_text(json.dumps(told))
        assert "does not know the token" in refused("status", str(copy))
        assert "does not know the token" in refused("slave", "--connect", str(copy))
        with pytest.raises(AccessRefused, match="does not know the token"):
            concurrent_nb.connect(copy)


# ------------------------------------------------------------------------------------------------------- its whole life


def test_start_status_and_stop() -> None:
    with started("life") as process:
        told = run("status", "life")
        assert told.returncode == 0
        assert told.stdout.startswith("cluster life: ")
        eventually(lambda: "1 slave, 1 worker," in run("status", "life").stdout, "its slave has joined")
        assert run("status").stdout == "life\n"
        taken = refused("start", "--name", "life")
        assert "a cluster named 'life' is running" in taken
        assert "concurrent-nb stop life" in taken
        assert "'life' is running" in refused("master", "--name", "life")
        with concurrent_nb.connect("life") as app:
            assert app.submit(pow, 2, 3).result(PATIENCE_S) == 8
            assert f"application {app.name}" in run("status", "life").stdout
            below = descendants(process.pid)
            stopped = run("stop", "life")
            assert (stopped.returncode, stopped.stdout) == (0, "cluster life is stopping\n")
            out, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
            assert "cluster life has been stopped" in out
            assert errors == ""
            # Whoever is connected hears of it.
            with pytest.raises(MasterLost, match="has been stopped"):
                app.submit(time.sleep, PATIENCE_S).result(PATIENCE_S)
    assert not alive(below)
    assert run("status").stdout == "no cluster is running: there is no connection file\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_cluster_cleanly(number: signal.Signals) -> None:
    with started("interrupted") as process:
        eventually(lambda: len(descendants(process.pid)) >= 4, "everything is up")
        below = descendants(process.pid)
        process.send_signal(number)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    assert not alive(below)


def test_kill_9_of_start_leaves_nothing() -> None:
    with started("killed") as process:
        eventually(lambda: len(descendants(process.pid)) >= 4, "everything is up")
        below = descendants(process.pid)
        process.kill()
        eventually(lambda: not alive(below), "everything is gone")


def daemon(*arguments: str) -> tuple[int, Path, str]:
    """Start a node in the background: its process, its log, and what was said."""
    told = run(*arguments, "--daemon")
    assert (told.returncode, told.stderr) == (0, ""), told
    match = re.search(r"^process id (\d+), log file (.*)$", told.stdout, re.MULTILINE)
    assert match is not None
    return int(match[1]), Path(match[2]), told.stdout


def test_a_cluster_and_a_slave_in_the_background() -> None:
    cluster, log, told = daemon("start", "--name", "demon", "--workers", "1", "--host", "0.0.0.0")
    slave = 0
    try:
        file = connection_file.default_path("demon")
        assert told.startswith(f"cluster demon is running; connection file {file}\n")
        assert "stop it with `concurrent-nb stop demon`" in told
        for line in (f"scp -p {file} HOST:", f"ssh HOST concurrent-nb slave --connect ./{file.name}"):
            assert f"    {line}\n" in told
        slave, slaves_log, told = daemon("slave", "--connect", "demon", "--workers=1", "--name", "east")
        assert told.startswith("slave east has joined cluster demon\n")
        # A session of its own, so that it stays when its terminal goes.
        assert {os.getsid(pid) for pid in (cluster, slave)} == {cluster, slave}
        with concurrent_nb.connect("demon") as app:
            app.submit(print, "hello").result(PATIENCE_S)
            job = app.start_job(pow, [(2, 3)], name="powers")
            assert job.results() == [8]
            eventually(lambda: len(status_of("demon")["slaves"]) == 2, "both are there")
            status = run("status", "demon").stdout
            assert re.search(
                r"^  slave east on \S+, \d+ cores?: active, 1 worker, .*memory .* of .*, up \d+ s$", status, re.M
            )
            assert re.match(r"cluster demon: 2 slaves, 2 workers, \d busy; 0 tasks wait\n  master on", status)
            assert [each["name"] for each in json.loads(run("status", "demon", "--json").stdout)["slaves"]][1] == "east"
            assert json.loads(run("status", "--json").stdout)["demon"] == str(file)
        assert "a cluster named 'demon' is running" in refused("start", "--name", "demon", "--daemon")
        assert log.read_text().startswith("cluster demon is running")  # not written over
        assert run("stop", "demon").returncode == 0
        eventually(lambda: not alive({cluster, slave}), "both have ended")
        assert "cluster demon has been stopped" in log.read_text()
        assert slaves_log.read_text().startswith("slave east has joined")
        assert log.stat().st_mode & 0o077 == 0
    finally:
        for pid in alive({cluster, slave} - {0}):
            os.kill(pid, signal.SIGTERM)
        for path in log.parent.glob("concurrent_nb-demon*.log"):
            path.unlink()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["start", "--name", "failing", "--host", "192.0.2.1"],
            "--host has 192.0.2.1, on which this machine cannot listen",
        ),
        (["master", "--name", "failing", "--MasterNode.strategy=Fair"], "choose one of PullRoundRobin"),
        (["start", "--name", "failing", "--SlaveNode.nope=3"], "SlaveNode has no item 'nope'"),
        (["start", "--name", "failing", "--SlaveNode.patience_s=abc"], "patience_s cannot be 'abc'"),
        (["start", "--name", "failing", "--WorkerNode.x=1"], "did you mean SlaveNode?"),
        (["master", "--name", "failing", "--SlaveNode.workers=1"], "'SlaveNode' has no effect on this node"),
        (["slave", "--connect", "failing"], "no cluster 'failing'"),
        (["start", "--name", "failing", "--log", "/proc/nowhere/log"], "/proc/nowhere"),
    ],
)
def test_a_failed_start_in_the_background_is_told_at_once(arguments: list[str], says: str) -> None:
    folder = connection_file.folder_to_write()
    try:
        told = refused(*arguments, "--daemon")
        assert told.count(says) == 1
        assert "owner has ended" not in told
        assert "failing" not in connection_file.names()
    finally:
        for path in folder.glob("concurrent_nb-failing*.log"):
            path.unlink()


def test_a_slave_in_the_background_does_not_write_over_the_log_of_another() -> None:
    with running("master", "--name", "logs", says="is running"):
        slave, log, _ = daemon("slave", "--connect", "logs", "--workers=1", "--name", "east")
        try:
            before = log.read_text()
            told = refused("slave", "--connect", "logs", "--workers=1", "--name", "east", "--daemon")
            assert "has a slave named 'east' already" in told
            assert log.read_text() == before
        finally:
            os.kill(slave, signal.SIGTERM)
            eventually(lambda: not alive({slave}), "it has ended")
            log.unlink()


def test_output_that_nobody_reads_is_no_error() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(command("status"), stdout=writes, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_status_again_and_again_is_an_object_on_each_line() -> None:
    with (
        running("master", "--name", "seen", says="is running"),
        running("status", "seen", "--json", "--watch", "0.1", says='"name": "seen"') as watch,
    ):
        assert watch.stdout is not None
        assert [json.loads(watch.stdout.readline())["name"] for _ in range(3)] == ["seen"] * 3
        watch.send_signal(signal.SIGINT)
        watch.communicate(timeout=PATIENCE_S)
        assert watch.returncode == 130


def test_the_package_runs_as_the_command() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "concurrent_nb", "--version"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert told.stdout == run("--version").stdout


def test_a_master_and_slaves_one_by_one() -> None:
    with (
        running("master", "--name", "parts", "--MasterNode.strategy=PushBest", says="is running") as master,
        concurrent_nb.connect("parts") as app,
    ):
        future = app.submit(pow, 2, 3)  # nobody is there to do it, so it waits
        assert "1 task waits" in run("status", "parts").stdout
        arguments = ("slave", "--connect", "parts", "--workers", "1", "--name")
        with running(*arguments, "east", says="slave east has joined cluster parts") as east:
            assert future.result(PATIENCE_S) == 8
            assert future.slave == "east"
            # A name that is taken becomes another one.
            with running(*arguments, "east", says="slave east-2 has joined") as second:
                second.send_signal(signal.SIGINT)  # leaves in peace
                second.communicate(timeout=PATIENCE_S)
                assert second.returncode == 0
            eventually(lambda: [s["name"] for s in status_of("parts")["slaves"]] == ["east"], "east-2 has left")
            assert app.submit(pow, 2, 4).result(PATIENCE_S) == 16
            master.send_signal(signal.SIGTERM)
            master.communicate(timeout=PATIENCE_S)
            assert master.returncode == 0
            # Slaves go when their cluster is stopped.
            east.communicate(timeout=PATIENCE_S)
            assert east.returncode == 0


def test_a_slave_that_waits_for_its_master_outlives_a_short_absence() -> None:
    with running("master", "--name", "again", says="is running") as master:
        arguments = ("slave", "--connect", "again", "--workers", "1", "--name", "patient")
        with running(*arguments, says="has joined") as slave:
            master.kill()
            master.wait()
            with running("master", "--name", "again", says="is running"), concurrent_nb.connect("again") as app:
                future = app.submit(work.pid_of_worker)
                assert future.result(PATIENCE_S) in workers_of([slave.pid])
                assert future.slave == "patient"


PROGRAM = """
    import json, sys
    import concurrent_nb
    from tests import work

    items = int(sys.argv[1])
    with concurrent_nb.connect("demo") as app:
        done = []
        for square, pid in app.map(work.slow_square, range(items)):
            done.append((square, pid))
            if len(done) in (500, items // 2):
                print("progress", len(done), flush=True)
        print(json.dumps(done))
"""


def test_done_when_5_a_late_slave_gets_its_share_and_what_dies_loses_nothing() -> None:
    """Two shells and a Python: `start`, `connect` and 10,000 items, a slave that joins later, kill -9 meanwhile."""
    arguments = ("start", "--workers", "2", "--name", "demo")
    with running(*arguments, says="cluster demo is running") as cluster:
        program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(ITEMS)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as user:
            assert user.stdout is not None
            assert user.stdout.readline() == "progress 500\n"
            (first,) = [int(slave["name"].rpartition("-")[2]) for slave in status_of("demo")["slaves"]]
            early = workers_of([first])
            # When a slave joins in the middle, and after a while workers and the first slave are killed
            with running("slave", "--connect", "demo", "--workers", "2", says="has joined") as late:
                eventually(lambda: len(workers_of([late.pid])) == 2, "the late slave has its workers")
                late_workers = workers_of([late.pid])
                os.kill(min(early), signal.SIGKILL)
                os.kill(min(late_workers), signal.SIGKILL)
                assert user.stdout.readline() == f"progress {ITEMS // 2}\n"
                os.kill(first, signal.SIGKILL)
                done = json.loads(user.stdout.read())
                assert user.wait(PATIENCE_S) == 0
                late_workers |= workers_of([late.pid])
        # Then each item has one result, the right one, and the late slave has done its share of them
        assert [square for square, _ in done] == [n * n for n in range(ITEMS)]
        by_pid = Counter(pid for _, pid in done)
        share = sum(count for pid, count in by_pid.items() if pid in late_workers)
        assert ITEMS // 4 < share < ITEMS, by_pid
        # ... and a slave of its own is there again.
        eventually(
            lambda: first not in descendants(cluster.pid) and len(status_of("demo")["slaves"]) >= 1, "it is back"
        )
        assert psutil.pid_exists(cluster.pid)


def test_commands_start_quickly_because_they_import_little() -> None:
    code = "import sys; from concurrent_nb.cli import main; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S).stdout
    heavy = re.findall(r"^(tornado|asyncio|zmq|numpy|IPython|cloudpickle|cryptography)$", loaded, re.MULTILINE)
    assert heavy == []
    assert command()[1:] == ["-m", "concurrent_nb.cli.main"]


# --------------------------------------------------------------------------------------------------------- honest ends

#: makes the compute thread of a master fail as soon as a file is there
CRASHES = """
import pathlib, sys, threading, time

def crash():
    while not pathlib.Path({mark!r}).exists():
        time.sleep(0.05)
    from concurrent_nb.nodes.master.core import MasterCore
    MasterCore.step = lambda *args: 1 / 0

if "master" in sys.orig_argv:
    threading.Thread(target=crash, daemon=True).start()
"""


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Give how a command ends by itself: exit code, output, errors."""
    out, errors = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, errors


def test_start_whose_master_is_killed_again_and_again_says_so_and_fails() -> None:
    with started("killed") as process:
        path, dead = connection_file.default_path("killed"), 0
        while process.poll() is None:
            pid = connection_file.read(path).pid if path.exists() else dead
            if pid != dead:
                os.kill(pid, signal.SIGKILL)
                dead = pid
            time.sleep(0.01)
        code, out, errors = ended(process)
    assert code == 1
    assert "has been stopped" not in out
    assert errors.count("the master of cluster killed was killed by SIGKILL; another one is started") == 4
    too_often = "has died too often and is not started again: it was killed by SIGKILL; its log ends:"
    assert f"concurrent-nb start: the master of cluster 'killed' {too_often}" in errors
    assert "Traceback" not in errors


@pytest.fixture
def crashes(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Give a file that makes masters fail, and an environment in which it does."""
    mark = tmp_path / "now"
    (tmp_path / "sitecustomize.py").write_text(CRASHES.format(mark=str(mark)))
    return mark, {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("what", ["start", "master"])
def test_a_master_that_fails_says_why_and_so_does_its_start(what: str, crashes: tuple[Path, dict[str, str]]) -> None:
    mark, env = crashes
    with running(what, "--name", "failing", says="cluster failing is running", env=env) as process:
        mark.touch()
        code, out, errors = ended(process)
    assert code == 1
    assert "has been stopped" not in out
    why = "the compute thread has failed: ZeroDivisionError: division by zero"
    if what == "start":
        assert "the master of cluster 'failing' has died too often and is not started again" in errors
        assert "it ended with exit code 1; its log ends:" in errors
        assert f"the master ends: {why}" in errors
    else:
        assert f"concurrent-nb master: {why}" in errors


def test_start_whose_slaves_all_die_says_so_and_fails() -> None:
    with started("slaveless") as process:
        dead: set[int] = set()
        while process.poll() is None:
            for slave in psutil.Process(process.pid).children() if psutil.pid_exists(process.pid) else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "slave" in slave.cmdline() and slave.pid not in dead:
                        slave.kill()
                        dead.add(slave.pid)
            time.sleep(0.01)
        code, out, errors = ended(process)
    assert code == 1
    assert "has been stopped" not in out
    assert (
        "the slave of cluster 'slaveless' has died 5 times in a row and is not started again; its log ends:" in errors
    )


@pytest.mark.parametrize("how", ["stop", signal.SIGINT, signal.SIGTERM], ids=str)
def test_start_that_is_stopped_ends_well(how: str | signal.Signals) -> None:
    with started("stopped") as process:
        if isinstance(how, signal.Signals):
            process.send_signal(how)
        else:
            assert run("stop", "stopped").returncode == 0
        code, out, errors = ended(process)
    assert (code, errors) == (0, "")
    assert "no cluster" not in out
    assert out.endswith("cluster stopped has been stopped\n")


# --------------------------------------------------------------------------------------------------------- descriptors


def limited(soft: int, hard: int, *arguments: str) -> list[str]:
    """Give the words of a command that runs with so many descriptors."""
    return ["bash", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "bash", *command(*arguments)]


@pytest.mark.parametrize("what", [["start"], ["master"], ["start", "--workers", "1"]], ids=" ".join)
def test_too_few_descriptors_are_refused_in_one_sentence(what: list[str]) -> None:
    done = subprocess.run(limited(20, 20, *what), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"concurrent-nb {what[0]}: this process may open 20 files and connections, a node needs at least 64: "
        "raise `ulimit -n`\n"
    )


def test_nodes_may_open_as_many_descriptors_as_the_system_lets_them() -> None:
    prefix = limited(100, 1000)[:4]
    with running("start", "--name", "many", "--workers", "1", says="is running", prefix=prefix) as process:
        for pid in {process.pid, *descendants(process.pid)}:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(node in psutil.Process(pid).cmdline() for node in ("start", "master", "slave")):
                    assert psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE) == (1000, 1000)


def test_a_master_without_descriptors_refuses_nodes_by_name_and_answers_others() -> None:
    with running("master", "--name", "full", says="is running", prefix=limited(100, 100)[:4]) as master:
        info = connection_file.read("full")
        members = []
        why = ""
        while not why:
            try:
                members.append(registration.register(info, "client", keys.fresh(), name="x"))
                members[-1].link.send(Session(members[-1].epoch, "to_client").heartbeat())
            except LimitExceeded as error:
                why = str(error)
        assert re.match(r"the master is full: it has \d+ of 100 files .*no room for application 'x'", why)
        assert len(members) > 5
        eventually(lambda: len(status_of("full")["clients"]) == len(members), "all are heard")
        for member in members:
            member.leave()
        registration.register(info, "client", keys.fresh(), name="x").leave()
        assert run("stop", "full").returncode == 0
        code, _, errors = ended(master)
    assert code == 0
    assert "Traceback" not in errors
