"""Tasks that need results of others: when they are assigned, and what ends them."""

import msgspec

from concurrent_nb.outcome import Status
from concurrent_nb.scheduling import events as e
from concurrent_nb.scheduling.instructions import Instruction, ReleaseResult
from concurrent_nb.tasks.task_record import TaskState
from concurrent_nb.wire.messages import ErrorReport
from tests.unit.scheduling.bench import CANCELLED, DIED, ERROR, JOB, ME, OK, OTHER_JOB, YOU, Bench, F, G
from tests.unit.scheduling.client_events import (
    acknowledged,
    cancelled,
    closed,
    gone,
    needing,
    opened,
    submitted,
    taken_back,
)
from tests.unit.scheduling.instructions import assigned, delivered, withdrawn
from tests.unit.scheduling.slave_events import ended, joined, lost, returned, started

FAILED, GONE = Status.DEPENDENCY_FAILED, Status.INPUT_GONE


def a_bench(slots: int = 2) -> Bench:
    bench = Bench()
    bench(joined("a", slots, slots), opened())
    return bench


def released(instructions: list[Instruction]) -> list[tuple[int, bool]]:
    return [(it.index, it.clean) for it in instructions if type(it) is ReleaseResult]


def test_a_task_is_assigned_when_the_last_of_its_inputs_has_ended() -> None:
    bench = a_bench()
    assert assigned(bench(needing({0: [], 1: [], 2: [0, 1], 3: [2]}))) == {"a": [0, 1]}
    assert assigned(bench(ended("a", 0))) == {}
    assert assigned(bench(ended("a", 1))) == {"a": [2]}
    assert delivered(bench(ended("a", 2))) == {2: OK}  # the last one is there already
    assert delivered(bench(ended("a", 3))) == {3: OK}


def test_a_task_whose_inputs_are_there_is_assigned_at_once() -> None:
    bench = a_bench()
    bench(submitted([0]))
    bench(ended("a", 0))
    assert assigned(bench(needing({1: [0], 2: [0, 0]}))) == {"a": [1, 2]}


def test_a_task_whose_inputs_have_ended_runs_before_those_that_wait_longer_and_new_ones_after_them() -> None:
    bench = a_bench()
    bench(needing({0: [], 1: [], 2: [], 3: [], 4: [0, 1]}))
    assert assigned(bench(ended("a", 0))) == {"a": [2]}
    assert assigned(bench(ended("a", 1))) == {"a": [4]}  # so few results are kept at the same time
    bench(needing({5: [0]}))
    assert assigned(bench(ended("a", 4))) == {"a": [3]}
    assert assigned(bench(ended("a", 2))) == {"a": [5]}


def test_a_result_is_retained_while_tasks_need_it() -> None:
    bench = a_bench()
    bench(needing({0: [], 1: [0], 2: [0]}))
    bench(ended("a", 0))
    assert released(bench(acknowledged([0]))) == []
    assert bench.scheduler.needs_result(JOB, 0)
    assert assigned(bench(needing({3: [0]}))) == {}  # both slots are taken; but the result is there
    assert released(bench(ended("a", 1))) == []
    assert released(bench(ended("a", 2))) == []
    assert released(bench(ended("a", 3))) == [(0, True)]
    assert not bench.scheduler.needs_result(JOB, 0)


def test_a_result_to_which_a_worker_may_still_refer_is_not_released_cleanly() -> None:
    # Given a task that ran twice, and its input, which was acknowledged before or after that
    for acknowledge_first in (True, False):
        bench = a_bench()
        bench(needing({0: [], 1: [0]}))
        bench(ended("a", 0))
        if acknowledge_first:
            bench(acknowledged([0]))
        bench(ended("a", 1, status=DIED))
        out = bench(ended("a", 1, attempt=2))
        if not acknowledge_first:
            assert bench.scheduler.needs_result(JOB, 0)
            out = bench(acknowledged([0]))
        assert released(out) == [(0, False)]


def test_an_input_that_the_master_does_not_have_sends_the_task_back() -> None:
    bench = a_bench()
    bench(submitted([0]))
    bench(ended("a", 0))
    bench(acknowledged([0]))
    assert delivered(bench(needing({1: [0], 2: [1], 3: [99]}))) == dict.fromkeys([1, 2, 3], GONE)
    bench(acknowledged([1, 2, 3]))
    assert assigned(bench(submitted([1]))) == {"a": [1]}  # with what it needs


def test_a_job_of_another_owner_is_as_if_it_was_not_there() -> None:
    bench = a_bench()
    bench(submitted([0]), opened(YOU, "you", OTHER_JOB))
    assert delivered(bench(needing({5: [0]}, job=OTHER_JOB, client=YOU))) == {5: GONE}


def test_all_that_depends_on_a_failure_ends_with_it() -> None:
    bench = a_bench()
    bench(needing({0: [], 1: [0], 2: [1], 3: [1, 2], 4: []}))
    out = bench(ended("a", 0, status=ERROR))
    assert delivered(out) == {0: ERROR, 1: FAILED, 2: FAILED, 3: FAILED}
    assert delivered(bench(needing({5: [0], 6: [3]}))) == {5: FAILED, 6: FAILED}


def test_cancelling_an_input_ends_its_dependents_and_cancelling_a_job_cancels_all() -> None:
    bench = a_bench(1)
    bench(needing({0: [], 1: [], 2: [1], 3: [0]}))
    assert delivered(bench(cancelled([1]))) == {1: CANCELLED, 2: FAILED}
    assert withdrawn(bench(cancelled([3])), stop=True) == {"a": [3]}  # it was sent ahead
    assert delivered(bench(returned("a", 3))) == {3: CANCELLED}
    bench = a_bench(1)
    bench(needing({0: [], 1: [], 2: [1], 3: [0]}))
    assert delivered(bench(cancelled())) == dict.fromkeys([1, 2], CANCELLED)
    assert delivered(bench(ended("a", 0, status=CANCELLED), returned("a", 3))) == dict.fromkeys([0, 3], CANCELLED)


def test_a_failed_dependent_ends_a_job_that_stops_at_errors() -> None:
    bench = a_bench()
    bench(opened(job=OTHER_JOB, stop_on_error=True), submitted([0]))
    bench(needing({1: [0], 2: [0]}, job=OTHER_JOB), submitted([3], job=OTHER_JOB))
    out = bench(ended("a", 0, status=ERROR))
    assert sorted(delivered(out).values()) == sorted([ERROR, FAILED, FAILED])
    assert bench.scheduler.jobs[OTHER_JOB].ended


def test_a_dependent_of_a_task_that_has_failed_ends_such_a_job_at_once() -> None:
    bench = a_bench()
    bench(opened(job=OTHER_JOB, stop_on_error=True), submitted([0]))
    bench(ended("a", 0, status=ERROR))
    bench(submitted([1, 2, 3], job=OTHER_JOB))
    out = bench(needing({4: [0]}, job=OTHER_JOB))
    assert delivered(out) == {4: FAILED, 3: CANCELLED}  # the others run
    assert bench.scheduler.jobs[OTHER_JOB].ended


def test_a_dependent_that_lost_its_slave_runs_again_with_its_inputs() -> None:
    bench = a_bench(1)
    bench(needing({0: [], 1: [0]}))
    bench(ended("a", 0))
    bench(acknowledged([0]))
    bench(lost("a"))
    assert assigned(bench(joined("b"))) == {"b": [1]}
    (needed,) = bench.scheduler.jobs[JOB].tasks[1].links.inputs  # type: ignore[union-attr]
    assert needed.outcome is not None
    assert needed.state is TaskState.FORGOTTEN


def test_linked_tasks_are_not_taken_back_and_tasks_taken_back_send_their_dependents_back() -> None:
    bench = a_bench(1)
    bench(needing({9: [], 0: [], 1: [0]}))
    assert delivered(bench(taken_back([0, 1]))) == {}
    bench(submitted([2]))
    assert delivered(bench(taken_back([2]))) == {2: Status.TAKEN_BACK}
    assert delivered(bench(needing({3: [2]}))) == {3: GONE}


def test_a_task_that_its_application_has_asked_for_in_vain_is_waited_for_as_any_other() -> None:
    bench = a_bench(2)
    bench(submitted([0, 1]))
    bench(taken_back([0, 1]))
    bench(started("a", 0))
    assert delivered(bench(needing({2: [0], 3: [1]}))) == {}
    assert delivered(bench(returned("a", 1), ended("a", 0))) == {0: OK, 1: Status.TAKEN_BACK, 3: GONE}
    assert delivered(bench(ended("a", 2))) == {2: OK}


def test_an_owner_that_is_gone_leaves_nothing_behind() -> None:
    bench = a_bench()
    bench(needing({0: [], 1: [0], 2: [1]}), opened(job=OTHER_JOB), needing({7: [0, 2]}, job=OTHER_JOB))
    bench(ended("a", 0))
    bench(acknowledged([0]))
    bench(gone(linger_s=1.0))
    out = bench.after(2.0)
    assert released(out) == [(0, False)]
    assert not bench.scheduler.jobs
    assert not bench.scheduler.retained


def test_a_long_chain_fails_without_recursion_and_ends_in_proportion_to_its_length() -> None:
    bench = a_bench(1)
    bench.scheduler.validate = lambda: None  # type: ignore[method-assign]  # it reads every task
    bench(needing({index: [index - 1] if index else [] for index in range(20_000)}))
    assert len(delivered(bench(ended("a", 0, status=ERROR)))) == 20_000


def test_the_failure_of_an_input_says_what_it_was() -> None:
    bench = a_bench()
    bench(needing({0: [], 1: [0], 2: [1]}))
    body = msgspec.msgpack.encode(ErrorReport("ValueError", "bad", ""))
    out = bench(ended("a", 0, status=ERROR, body=body))
    frames = [item for it in out for item in getattr(it, "items", ()) if item.status == FAILED]
    reports = [msgspec.msgpack.decode(frame.body, type=ErrorReport) for frame in frames]
    assert reports[0] == reports[1]  # both name the task that has failed, and not one another
    name = bench.scheduler.jobs[JOB].tasks[0].name
    assert reports[0].message == f"task {name}, whose result it needs, has failed: ValueError: bad"


# -------------------------------------------------------------------------------------------------------- kept results


def keeping(*indexes: int) -> e.TasksSubmitted:
    return msgspec.structs.replace(submitted(indexes), keep=True)


def wanted(*indexes: int) -> e.ResultsWanted:
    return e.ResultsWanted(ME, JOB, indexes)


def freed(*indexes: int) -> e.ResultsFreed:
    return e.ResultsFreed(ME, JOB, indexes)


def test_the_owner_of_a_kept_result_gets_a_receipt_and_the_result_when_it_asks() -> None:
    bench = a_bench()
    bench(keeping(0))
    assert delivered(bench(ended("a", 0))) == {0: Status.KEPT}
    assert released(bench(acknowledged([0]), closed())) == []
    assert delivered(bench(wanted(0))) == {0: OK}
    bench(acknowledged([0]))
    assert assigned(bench(opened(), needing({1: [0]}))) == {"a": [1]}
    assert released(bench(freed(0))) == []  # a task needs it
    assert released(bench(ended("a", 1))) == [(0, True)]
    assert delivered(bench(wanted(0))) == {0: GONE}
    bench(acknowledged([0, 1]), closed())
    assert not bench.scheduler.jobs


def test_a_closed_job_stays_until_the_last_of_its_results_is_freed() -> None:
    bench = a_bench()
    bench(keeping(0, 1), closed())
    bench(ended("a", 0, 1))
    bench(acknowledged([0, 1]))
    assert released(bench(freed(0))) == [(0, True)]
    assert JOB in bench.scheduler.jobs
    assert released(bench(freed(1, 0, 99))) == [(1, True)]
    assert not bench.scheduler.jobs


def test_only_values_are_kept() -> None:
    bench = a_bench()
    bench(keeping(0, 1))
    assert delivered(bench(ended("a", 0, status=ERROR), ended("a", 1, status=Status.HIT))) == {0: ERROR, 1: Status.HIT}
    bench(acknowledged([0, 1]), closed())
    assert not bench.scheduler.jobs


def test_kept_results_end_with_their_owner() -> None:
    bench = a_bench()
    bench(keeping(0, 1, 2))
    bench(ended("a", 0))
    bench(acknowledged([0]))
    bench(gone(linger_s=1.0))
    assert released(bench.after(2.0)) == [(0, True)]
    assert not bench.scheduler.retained


def test_a_new_session_of_the_owner_still_has_the_kept_results() -> None:
    bench = a_bench()
    bench(keeping(0), closed())
    bench(ended("a", 0))
    bench(acknowledged([0]))
    bench(gone(linger_s=1.0), opened(YOU, "me"))
    assert released(bench.after(2.0)) == []
    assert delivered(bench(e.ResultsWanted(YOU, JOB, [0]))) == {0: OK}


def test_a_job_counts_its_edges_by_function() -> None:
    bench = a_bench()
    bench.scheduler.task_log.name_of = lambda digest: digest[:1].decode()
    bench(submitted([0, 1], function=G), opened(job=OTHER_JOB))
    bench(needing({2: [0, 1], 3: [0]}), needing({0: [2]}, job=OTHER_JOB))
    assert bench.scheduler.jobs[JOB].edges == {("g", "f"): 3}


#: names of functions by their digests
NAMES: dict[bytes, str] = {F: "clean", G: "load"}


def graph_of(bench: Bench) -> dict[str, list[int]]:
    """Return for each function of the only graph: tasks, blocked, waiting or running, done, failed, cancelled."""
    (graph,) = bench.scheduler.graphs
    return {
        name: [*counts[:2], counts[2] + counts[3], *counts[4:]] for name, *counts in graph.describe({})["functions"]
    }


def edges_of(bench: Bench) -> dict[tuple[str, str], int]:
    (graph,) = bench.scheduler.graphs
    return {(source.name, target.name): count for (source, target), count in graph.edges.items()}


def a_named_bench(slots: int = 2) -> Bench:
    bench = a_bench(slots)
    bench.scheduler.task_log.name_of = NAMES.__getitem__
    return bench


def test_the_graph_is_folded_by_function() -> None:
    bench = a_named_bench()
    bench(submitted([0, 1, 2], function=G), opened(job=OTHER_JOB))
    assert not list(bench.scheduler.graphs)  # tasks without edges cost nothing
    bench(needing({3: [0], 4: [0, 1], 5: [3, 4]}), needing({0: [5]}, job=OTHER_JOB))
    assert graph_of(bench) == {"clean": [4, 4, 0, 0, 0, 0], "load": [2, 0, 2, 0, 0, 0]}
    assert edges_of(bench) == {("load", "clean"): 3, ("clean", "clean"): 3}  # one that needs itself
    bench(ended("a", 0), ended("a", 1))
    assert graph_of(bench) == {"clean": [4, 2, 2, 0, 0, 0], "load": [2, 0, 0, 2, 0, 0]}
    bench(ended("a", 2), ended("a", 3))
    bench(ended("a", 4, status=ERROR))
    assert graph_of(bench) == {"clean": [4, 0, 0, 1, 3, 0], "load": [2, 0, 0, 2, 0, 0]}
    (graph,) = bench.scheduler.graphs
    assert graph.unfinished == 0
    bench(acknowledged([0, 1, 2, 3, 4, 5]), closed())
    assert graph_of(bench)["load"] == [2, 0, 0, 2, 0, 0]  # it is still to be seen


def test_a_dependent_of_a_failed_task_is_in_the_graph_and_one_that_is_sent_back_is_not() -> None:
    bench = a_named_bench()
    bench(submitted([0, 1], function=G))
    bench(ended("a", 0, status=ERROR), ended("a", 1))
    bench(acknowledged([1]))
    assert delivered(bench(needing({2: [0], 3: [1]}))) == {2: FAILED, 3: GONE}
    assert graph_of(bench) == {"clean": [1, 0, 0, 0, 1, 0], "load": [1, 0, 0, 0, 1, 0]}


def test_the_graph_counts_tasks_that_are_cancelled_abandoned_or_run_again() -> None:
    bench = a_named_bench(1)
    bench(submitted([0, 1], function=G), needing({2: [0], 3: [1], 4: [3]}))
    bench(cancelled([1]))
    assert graph_of(bench) == {"clean": [3, 1, 0, 0, 2, 0], "load": [2, 0, 1, 0, 0, 1]}
    bench(ended("a", 0, status=DIED))
    assert graph_of(bench)["load"] == [2, 0, 1, 0, 0, 1]
    bench(gone(linger_s=1.0))
    bench.after(2.0)
    assert graph_of(bench) == {"clean": [2, 0, 0, 0, 2, 0], "load": [1, 0, 0, 0, 0, 1]}


def test_functions_of_the_graph_are_named_as_people_know_them() -> None:
    bench = a_bench()
    names: dict[bytes, str] = {F: "make.<locals>.clean", G: "<cell In[3]>"}
    bench.scheduler.task_log.name_of = names.__getitem__
    bench(submitted([0], function=G), needing({1: [0]}))
    (graph,) = bench.scheduler.graphs
    assert list(graph.nodes) == ["clean", bench.scheduler.jobs[JOB].name]
