"""The leak check can fail: each kind of thing that a test may leave is reported by name."""

import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import leaks

IMPATIENT_S = 0.0


def test_nothing_is_reported_when_nothing_is_left(tmp_path: Path) -> None:
    before = leaks.held([tmp_path])
    # When something is made and put away again
    with open(tmp_path / "file", "w"):
        pass
    (tmp_path / "file").unlink()
    # Then
    assert leaks.left_since(before, [tmp_path], IMPATIENT_S) == []


def test_a_thread_is_reported_with_its_name_and_place() -> None:
    before = leaks.held()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-thread")
    thread.start()
    try:
        (report,) = leaks.left_since(before, patience_s=IMPATIENT_S)
    finally:
        stop.set()
        thread.join()
    assert "thread 'left-thread'" in report
    assert "wait" in report


def test_a_process_is_reported_with_its_id_and_command() -> None:
    before = leaks.held()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        reports = leaks.left_since(before, patience_s=IMPATIENT_S)
    finally:
        process.communicate(b"\n")
    assert any(f"process {process.pid} (" in report and "input()" in report for report in reports)


def test_a_zombie_is_reported() -> None:
    before = leaks.held()
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not asked how
    try:
        (report,) = leaks.left_since(before, patience_s=IMPATIENT_S)
    finally:
        process.wait()
    assert f"process {process.pid} (" in report
    assert "zombie" in report


def test_an_orphan_is_reported_though_it_is_no_child_of_ours() -> None:
    before = leaks.held()
    # Given a process whose parent has ended
    orphaned = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()']).pid)"
    parent = subprocess.Popen([sys.executable, "-c", orphaned], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdin and parent.stdout
    with parent.stdin, parent.stdout:
        orphan = int(parent.stdout.readline())
        parent.wait()
        # When
        reports = leaks.left_since(before, patience_s=IMPATIENT_S)
    # Then
    assert any(f"process {orphan} (" in report for report in reports)
    assert leaks.left_since(before) == []


def test_a_descriptor_is_reported_with_what_it_points_to(tmp_path: Path) -> None:
    before = leaks.held()
    with open(tmp_path / "left-open", "w") as file:
        (report,) = leaks.left_since(before, patience_s=IMPATIENT_S)
        assert report == f"descriptor {file.fileno()} -> {tmp_path / 'left-open'}"


@pytest.mark.skipif(not leaks.SHARED_MEMORY.is_dir(), reason="shared memory is no folder here")
def test_shared_memory_is_reported() -> None:
    before = leaks.held()
    block = leaks.SHARED_MEMORY / f"left-{secrets.token_hex(4)}"
    block.touch()
    try:
        reports = leaks.left_since(before, patience_s=IMPATIENT_S)
    finally:
        block.unlink()
    assert f"file {block}" in reports


@pytest.mark.skipif(not leaks.SHARED_MEMORY.is_dir(), reason="shared memory is no folder here")
def test_shared_memory_of_another_run_is_not_reported() -> None:
    before = leaks.held()
    block = leaks.SHARED_MEMORY / f"left-{secrets.token_hex(4)}"
    block.touch()
    # Given a process that has it open and is not of this run: no mark, and its parent has ended
    unmarked = {name: value for name, value in os.environ.items() if name != leaks.MARK}
    script = f"exec 3<{block}; read line"
    starter = f"import subprocess; subprocess.Popen(['sh', '-c', {script!r}]); print('started', flush=True)"
    parent = subprocess.Popen(
        [sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=unmarked
    )
    assert parent.stdin and parent.stdout
    try:
        with parent.stdin, parent.stdout:
            parent.stdout.readline()
            parent.wait()
            reports = leaks.left_since(before, patience_s=0.3)
    finally:
        block.unlink()
    assert not any(str(block) in report for report in reports)


def test_what_joblib_of_another_run_shares_is_not_reported() -> None:
    before = leaks.held()
    theirs, own = (
        [leaks.SHARED_MEMORY / f"{name}{pid}-left" for name in ("joblib_memmapping_folder_", "sem.loky-")]
        for pid in (os.getppid(), os.getpid())
    )
    for file in (*theirs, *own):
        file.touch()
    try:
        reports = leaks.left_since(before, patience_s=IMPATIENT_S)
    finally:
        for file in (*theirs, *own):
            file.unlink()
    assert [file for file in (*theirs, *own) if f"file {file}" in reports] == own


def test_a_file_in_a_watched_folder_is_reported(tmp_path: Path) -> None:
    before = leaks.held([tmp_path])
    (tmp_path / "kernel-1.json").touch()
    assert leaks.left_since(before, [tmp_path], IMPATIENT_S) == [f"file {tmp_path / 'kernel-1.json'}"]


def test_leftovers_that_end_in_time_are_not_reported() -> None:
    before = leaks.held()
    thread = threading.Timer(0.05, lambda: None)
    thread.start()
    assert leaks.left_since(before) == []


def test_a_test_that_leaves_something_fails(pytester: pytest.Pytester) -> None:
    # Given one test that tidies up, one that does not, and one that fails anyway
    pytester.makeconftest(
        "import pytest\n"
        "from tests.conftest import leaves_nothing_behind, pytest_runtest_makereport\n"
        "@pytest.fixture\n"
        "def leak_patience_s(): return 0.0\n"
    )
    pytester.makepyfile(
        "import pathlib, tempfile\n"
        "def leave(name): pathlib.Path(tempfile.gettempdir(), name).touch()\n"
        "def test_tidy(): pass\n"
        "def test_untidy(): leave('left-1')\n"
        "def test_broken(): leave('left-2'); raise AssertionError\n"
    )
    # When
    result = pytester.runpytest_inprocess()
    for name in "left-1", "left-2":
        Path(os.environ["TMPDIR"], name).unlink()
    # Then only the second fails with what it left
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_untidy*", "the test left behind:", "  file */left-1"])
