"""The measuring process: counts that grow, results that are checked, costs by process; and the order of the runs."""

import io
import json
import os
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.measure import REPEATS, SIZES, Measurement, check, roles
from benchmarks.peers import CONTENDERS, QUICK, Ours
from benchmarks.run import groups, in_turn


def test_every_contender_runs_once_a_round_and_each_round_begins_with_another() -> None:
    order = list(in_turn(["a", "b", "c", "d"], 2))
    assert order == [(0, "a"), (0, "b"), (0, "c"), (0, "d"), (1, "c"), (1, "d"), (1, "a"), (1, "b")]
    assert [name for _, name in in_turn(["a", "b"], 3)] == ["a", "b", "b", "a", "a", "b"]


def test_a_peers_queue_is_measured_once_and_ours_in_every_round() -> None:
    assert [groups("ray", number) for number in (0, 1)] == [["figures", "queue"], ["figures"]]
    assert groups("ours", 1) == ["figures", "queue", "scheduler"]


def test_quick_has_the_contenders_that_need_no_installation() -> None:
    assert [CONTENDERS[name].distribution for name in QUICK] == ["concurrent-nb", "", ""]


def test_one_of_a_thousand_mixed_inputs_fails() -> None:
    items = workloads.mixed(5000)
    results = [workloads.kept(workloads.checked, item) for item in items]
    assert sum(isinstance(result, workloads.Failure) for result in results) == 5
    assert len({type(item) for item in items}) == 5
    check(items, results)


def test_md5_ranges_cover_every_number_once() -> None:
    ranges = workloads.md5_ranges()
    assert [first for first, _ in ranges] == [1, *(end for _, end in ranges[:-1])]
    assert len(ranges) == workloads.MD5_TASKS
    assert ranges[-1][1] == workloads.MD5_TOP + 1


@pytest.mark.parametrize("got", [[1, 2], [1, 2, 4], [1, 2, None], [1, 2, ValueError()]])
def test_wrong_results_give_no_figure(got: list[Any]) -> None:
    with pytest.raises(AssertionError):
        check([1, 2, 3], got)


def test_a_missing_error_is_detected() -> None:
    check([1, -2], [1, ValueError()])
    with pytest.raises(AssertionError):
        check([1, -2], [1, -2])


def test_costs_are_added_by_role() -> None:
    commands = {
        10: "python -P -m concurrent_nb.nodes master {} name",
        11: "python -P -m concurrent_nb.nodes slave {}",
        12: "python -m concurrent_nb.nodes.worker.process --fork-server 3",
        13: "python -m concurrent_nb.nodes.worker.process --fork-server 3",
        14: "something else",
    }
    values = {os.getpid(): 1.0, 10: 2.0, 11: 4.0, 12: 8.0, 13: 16.0, 14: 32.0, 15: 64.0}
    assert roles(Ours(), values, commands, workers={13}) == {
        "client": 1.0,
        "master": 2.0,
        "slave": 4.0,
        "template": 8.0,
        "workers": 16.0,
        "other": 96.0,
    }
    assert roles(Ours(), {10: 2.0}, commands, set(), client=10) == {"client": 2.0}


def test_counts_grow_up_to_all_items_and_short_runs_are_repeated() -> None:
    counts: list[int] = []

    def call(items: Sequence[Any]) -> list[Any]:
        counts.append(len(items))
        return list(items)

    out = io.StringIO()
    Measurement(Ours(), "run", SIZES["full"], out).rate("m", call, range, 10_000)
    figure = json.loads(out.getvalue())
    assert counts == [200, 200, 2000, *[10_000] * REPEATS]
    assert (figure["metric"], figure["n"]) == ("m", 10_000)
    assert figure["value"] > 0


def test_an_operation_that_a_contender_lacks_is_recorded_and_the_rest_goes_on() -> None:
    out = io.StringIO()
    measurement = Measurement(Ours(), "run", SIZES["tiny"], out)
    with measurement.figure("m"):
        os.stat("/no/such/thing")
    (line,) = out.getvalue().splitlines()
    figure = json.loads(line)
    assert (figure["metric"], figure["value"]) == ("m", None)
    assert figure["note"].startswith("FileNotFoundError: ")
