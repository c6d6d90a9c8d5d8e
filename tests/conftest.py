"""What every test gets: a home of its own for the run, and a check that it leaves nothing behind."""

import builtins
import copyreg
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import hypothesis
import pytest

from concurrent_nb.shipping.environment.tracker import TRACKER
from tests import leaks

pytest_plugins = ["pytester"]

HOME = pytest.StashKey[Path]()
AT_START = pytest.StashKey[leaks.Held]()
STATUS = pytest.StashKey[int]()
FAILED = pytest.StashKey[bool]()
ENVIRONMENT = pytest.StashKey[dict[str, str]]()
PRINT = builtins.print

# A busy machine is no reason to fail, and a failure found once is found again.
hypothesis.settings.register_profile("ours", deadline=None, print_blob=True)
hypothesis.settings.load_profile("ours")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the tests in a browser."""
    group = parser.getgroup("browser")
    group.addoption("--pictures", type=lambda text: Path(text).resolve(), help="folder for pictures of their pages")
    group.addoption("--theme", choices=("light", "dark"), default="light", help="theme of the pages")


def pytest_configure(config: pytest.Config) -> None:
    """Give the run a private home before any test module is imported: nothing of the user's is read or written."""
    # pytest keeps the last few runs' tmp_path where a person can look at them, so those stay outside.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # A short name: a Unix socket's path has 107 bytes at most.
    home = config.stash[HOME] = Path(tempfile.mkdtemp(prefix="cnb-"))
    for variable in [name for name in os.environ if name.startswith(("XDG_", "JUPYTER", "IPYTHON"))]:
        del os.environ[variable]
    for variable, folder in {
        "HOME": ".",
        "TMPDIR": "tmp",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_CONFIG_DIR": "config",
        "IPYTHONDIR": "ipython",
    }.items():
        (home / folder).mkdir(mode=0o700, exist_ok=True)
        os.environ[variable] = str(home / folder)
    tempfile.tempdir = None  # read TMPDIR again
    os.environ[leaks.MARK] = secrets.token_hex(8)
    # A shell has what it starts in the background ignore this signal, and so would the processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The standard library starts this process when it is first needed and keeps it, so have it before the first test.
    resource_tracker.ensure_running()
    # The tests themselves are on this machine only, and too many to be laid into shared memory within each of them.
    TRACKER.follow_modules(leave_out=["tests"])
    config.stash[AT_START] = leaks.held()
    config.stash[ENVIRONMENT] = dict(os.environ)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the private home; after a test that left something, end what it left and do not wait for it."""
    home, at_start = config.stash.get(HOME, None), config.stash.get(AT_START, None)
    if home is None or at_start is None:
        return
    status = config.stash.get(STATUS, 1)
    left = leaks.left_since(at_start, patience_s=0.1 if status else leaks.PATIENCE_S)
    leaks.kill_since(at_start)
    shutil.rmtree(home, ignore_errors=True)
    if left:
        sys.stderr.write("\n  ".join(["the run left behind:", *left, ""]))
        # A thread or a ZeroMQ context that somebody left would keep the interpreter from ending, for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def leak_patience_s() -> float:
    """How long things may take to go after the test, in seconds."""
    return leaks.PATIENCE_S


@pytest.fixture(scope="module", autouse=True)
def other_modules_changed_nothing(pytestconfig: pytest.Config) -> None:
    """Undo what libraries have done to this process in another module.

    Dask leaves the environment variables of its workers here, and its tblib registers how exceptions are pickled; Ray
    replaces the built-in print. A slave core in this process sets the log level that the fuzzer has made up.
    """
    logging.getLogger("concurrent_nb").setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)
    for kind, function in list(copyreg.dispatch_table.items()):
        if getattr(function, "__module__", "").startswith("tblib"):
            del copyreg.dispatch_table[kind]
    builtins.print = PRINT
    for name in os.environ.keys() - (environment := pytestconfig.stash[ENVIRONMENT]).keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest, leak_patience_s: float) -> Iterator[None]:
    """Fail the test if it leaves a process, thread, descriptor, shared-memory block or file."""
    folders = [Path(os.environ["JUPYTER_RUNTIME_DIR"]), Path(os.environ["TMPDIR"])]
    before = leaks.held(folders)
    yield
    # The traceback of a failed test holds its locals, so what they hold is no news.
    if request.node.stash.get(FAILED, False):
        return
    if left := leaks.left_since(before, folders, leak_patience_s):
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)
