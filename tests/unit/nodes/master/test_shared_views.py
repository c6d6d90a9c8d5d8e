"""The store of shared views: whose they are, who wants them, and what is dropped when."""

from math import inf

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.ids import JobId
from concurrent_nb.nodes.master.shared_views import SWEEP_S, WANTED_S, SharedViews
from concurrent_nb.outcome import Status
from concurrent_nb.telemetry.feed_state import ENDED_S
from concurrent_nb.wire import messages as m
from tests.unit.nodes.master.bench import ALICE, BOB, EAST, KEYS, Bench, function, with_two_clients

JOBS = [JobId(bytes([number]) * 16) for number in range(1, 5)]
ONE, TWO, THREE, UNKNOWN = JOBS
ALICES = KEYS[ALICE].decode()


@pytest.fixture
def bench() -> Bench:
    """Return a master with three jobs of a task each."""
    bench = with_two_clients(slots=4)
    bench.send(ALICE, function())
    for job in (ONE, TWO, THREE):
        submit = m.Submit(job, function().digest, None, 0, [m.TaskFrame(0, 0, b"")])
        bench.send(ALICE, m.OpenJob(job, "job", False, False), submit)
    bench.sent_to(EAST)
    return bench


def end(bench: Bench, job: JobId) -> None:
    """End a job, and have its owner take its results."""
    bench.send(EAST, m.Outcomes(job, "", [m.OutcomeFrame(0, 1, Status.OK, 0.1, 42, b"")]))
    bench.send(ALICE, m.CloseJob(job))
    bench.sent_to(ALICE)
    bench.send(ALICE)
    assert job not in bench.core.scheduler.jobs


def test_a_view_is_wanted_for_a_while_after_a_reader_has_asked(bench: Bench) -> None:
    views = bench.core.shared_views
    assert views.share(ONE, b"1", ALICES, 0.0) is False
    assert views.read(ONE, 0, None, 10.0)[1] == b"1"
    assert views.share(ONE, None, ALICES, 10.0 + WANTED_S) is True
    assert views.share(ONE, b"2", ALICES, 10.1 + WANTED_S) is False
    assert views.share(TWO, b"2", ALICES, 10.0) is False, "others are not wanted for that"


def test_asking_for_a_view_that_is_not_there_makes_it_wanted(bench: Bench) -> None:
    views = bench.core.shared_views
    assert views.read(ONE, 0, ALICES, 0.0) == (0, None)
    assert views.version_of(ONE) == 0
    assert views.share(ONE, None, ALICES, 1.0) is True


def test_versions_grow_and_a_known_one_has_no_content(bench: Bench) -> None:
    views = bench.core.shared_views
    views.share(ONE, b"a", ALICES, 0.0)
    views.share(TWO, b"b", ALICES, 0.0)
    first = views.version_of(ONE)
    assert views.read(ONE, first, None, 0.0) == (first, None)
    assert views.read(ONE, first - 1, None, 0.0) == (first, b"a")
    views.share(ONE, b"c", ALICES, 0.0)
    assert views.version_of(ONE) > views.version_of(TWO) > first
    assert views.read(ONE, first, None, 0.0) == (views.version_of(ONE), b"c")


@pytest.mark.parametrize("job", [ONE, UNKNOWN])
def test_a_job_of_another_looks_like_one_that_never_was(bench: Bench, job: JobId) -> None:
    views, bobs = bench.core.shared_views, KEYS[BOB].decode()
    for call in (
        lambda: views.share(job, b"", bobs, 0.0),
        lambda: views.share(job, None, bobs, 0.0),
        lambda: views.read(job, 0, bobs, 0.0),
    ):
        with pytest.raises(ConfigurationError, match=f"there is no job {job.hex()} with a view for this caller"):
            call()
    assert views.next_deadline() == inf, "and nothing was noted"


def test_when_all_are_too_large_the_oldest_that_nobody_reads_goes_first(bench: Bench) -> None:
    views = SharedViews(bench.core.scheduler, limit_bytes=25)
    views.share(ONE, b"1" * 10, ALICES, 0.0)
    views.share(TWO, b"2" * 10, ALICES, 0.0)
    views.read(ONE, 0, None, 1.0)
    views.share(THREE, b"3" * 10, ALICES, 2.0)
    assert [views.version_of(job) > 0 for job in (ONE, TWO, THREE)] == [True, False, True]
    assert views.read(TWO, 0, None, 2.0) == (0, None)
    views.share(TWO, b"2" * 20, ALICES, 3.0)  # wanted itself, so the older wanted one goes, and the unwanted one
    assert [views.version_of(job) > 0 for job in (ONE, TWO, THREE)] == [False, True, False]


def test_the_newest_view_stays_even_if_it_alone_is_too_large(bench: Bench) -> None:
    views = SharedViews(bench.core.scheduler, limit_bytes=5)
    views.share(ONE, b"1" * 10, ALICES, 0.0)
    assert views.read(ONE, 0, None, 0.0)[1] == b"1" * 10


def test_a_view_that_replaces_one_counts_once(bench: Bench) -> None:
    views = SharedViews(bench.core.scheduler, limit_bytes=25)
    for _ in range(5):
        views.share(ONE, b"1" * 10, ALICES, 0.0)
    views.share(TWO, b"2" * 10, ALICES, 0.0)
    assert views.version_of(ONE) > 0


def test_the_view_of_an_ended_job_stays_as_long_as_the_job_is_listed(bench: Bench) -> None:
    views = bench.core.shared_views
    end(bench, ONE)
    views.share(ONE, b"last", ALICES, 1.0)
    views.share(TWO, b"open", ALICES, 1.0)
    views.tick(ENDED_S - 1)
    assert views.read(ONE, 0, ALICES, ENDED_S - 1)[1] == b"last"
    with pytest.raises(ConfigurationError, match="is not listed any more"):
        views.read(ONE, 0, ALICES, ENDED_S + 1)
    assert views.version_of(ONE) > 0
    views.tick(ENDED_S - 1 + SWEEP_S)
    assert views.version_of(ONE) == 0
    assert views.version_of(TWO) > 0


def test_the_master_drops_views_by_itself(bench: Bench) -> None:
    """Also when nobody calls any more."""
    core = bench.core
    end(bench, ONE)
    core.shared_views.share(ONE, b"last", ALICES, 1.0)
    assert core.shared_views.next_deadline() == 1.0 + SWEEP_S
    core.step(ENDED_S + 2)
    assert core.shared_views.version_of(ONE) == 0
    assert core.shared_views.next_deadline() == inf


def test_a_question_is_forgotten_when_nothing_was_shared(bench: Bench) -> None:
    views = bench.core.shared_views
    views.read(ONE, 0, None, 0.0)
    views.tick(WANTED_S + 1)
    assert views.next_deadline() == inf
