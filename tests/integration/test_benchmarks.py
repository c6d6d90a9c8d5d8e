"""The benchmark's driver with real processes: it comes to its end, and what does not is ended."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from benchmarks import processes, run
from benchmarks.report import Figure
from tests.clusters import eventually

ROOT = Path(run.__file__).parent.parent


def test_a_tiny_run_writes_what_it_prints(tmp_path: Path) -> None:
    results, log = tmp_path / "RESULTS.md", tmp_path / "figures.jsonl"
    command = [sys.executable, "-m", "benchmarks.run", "--size", "tiny", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--results", str(results), "--figures", str(log), "ours", "ppe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == results.read_text()
    assert "came to its end and left nothing behind" in done.stdout
    assert (tmp_path / "results.svg").read_text().count("<svg") == 1
    figures = [msgspec.json.decode(line, type=Figure) for line in log.read_bytes().splitlines()]
    measured = {(figure.contender, figure.metric) for figure in figures if figure.value is not None}
    ours = {
        "submit_10k/s",
        "cpu_us/task, master",
        "idle_MiB, slave",
        "mandel_%bare",
        "queue_B/task",
        "scheduler_growth",
    }
    both = {
        "submit_10k/s",
        "latency_p50_us",
        "burn_1ms_%bare",
        "change_64MiB_MiB/s",
        "passed_50_s",
        "start_s",
        "exit_s",
    }
    assert {("ours", metric) for metric in ours | both} | {("ppe", metric) for metric in both} <= measured
    assert ("ppe", "shared_50_s") in {(figure.contender, figure.metric) for figure in figures}


def test_a_contender_that_takes_too_long_is_ended_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.LIMIT_S, "queue", 0.0)
    figures = list(run.measured("ppe", 3, "tiny", "queue"))
    assert {figure.metric for figure in figures} >= {"start_s", "idle_MiB, workers"}
    assert figures[-1] == Figure("ppe", 3, "problem", None, None, "queue: took more than 0 s, ended")


def test_what_a_run_has_started_is_found_in_a_session_of_its_own_and_ended(tmp_path: Path) -> None:
    started = tmp_path / "started"
    orphan = f"import os, time; os.setsid(); open({str(started)!r}, 'w').close(); time.sleep(100)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}])"
    subprocess.run([sys.executable, "-c", parent], env={**os.environ, processes.MARK: "mine"}, check=True)
    eventually(started.exists, "the orphan is there")
    (pid,) = processes.members("mine")
    assert processes.members("another") == {}
    (command,) = processes.end("mine")
    assert "time.sleep(100)" in command
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_somebody_has_open_is_told_from_what_nobody_has(tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "folder" / "open", "w"):
        assert processes.holding(tmp_path) == {"folder"}
    assert processes.holding(tmp_path) == set()
