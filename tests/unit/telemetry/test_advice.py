"""There is advice where following it helps, and none elsewhere."""

import pytest

from concurrent_nb.telemetry.advice import JobFacts, advice, short_tasks

#: a job of 100 tasks that kept 8 slots busy for 10 s
GOOD = JobFacts(
    tasks=100, elapsed_s=10.0, run_s=78.0, longest_s=1.0, slot_s=80.0, idle_slot_s=1.0, busy_s=10.0, shipping_s=2.0
)
#: one in which arguments travelled most of the time
MOVING = GOOD._replace(run_s=10.0, shipping_s=60.0, waiting_s=5.0, in_bytes=3_000_000_000, out_bytes=5)


def test_a_job_that_keeps_all_slots_busy_gets_none() -> None:
    assert advice(GOOD) == ""
    assert advice(JobFacts(tasks=0, elapsed_s=0.0, run_s=0.0)) == ""


def test_many_short_tasks_had_better_travel_together() -> None:
    facts = GOOD._replace(tasks=50_000, run_s=10.0)
    assert advice(facts).startswith("50,000 tasks of 0.2 ms each: --batch auto")
    assert advice(facts._replace(is_batched=True)) == ""


@pytest.mark.parametrize(
    ("tasks", "elapsed_s", "run_s"), [(0, 5.0, 0.0), (999, 5.0, 0.1), (1000, 0.9, 0.1), (1000, 5.0, 2.0)]
)
def test_few_long_or_quick_tasks_need_no_batches(tasks: int, elapsed_s: float, run_s: float) -> None:
    assert short_tasks(tasks, elapsed_s, run_s) == ""


def test_arguments_that_travel_most_of_the_time_had_better_be_put() -> None:
    assert advice(MOVING) == (
        "80 % of the tasks' time went into moving 3 GB of arguments: app.put(value) sends what tasks share once"
    )


def test_results_that_travel_most_of_the_time_had_better_be_smaller() -> None:
    facts = MOVING._replace(in_bytes=0, out_bytes=3_000_000_000, shipping_s=0.0, fetching_s=60.0)
    assert advice(facts).startswith("80 % of the tasks' time went into moving 3 GB of results: return less")


@pytest.mark.parametrize(
    "harmless",
    [
        {"in_bytes": 9_000_000},  # too little
        {"in_bytes": 90_000_000, "elapsed_s": 100.0},  # ... for so long a job
        {"run_s": 75.0},  # the slots were busy, so tasks waited behind others
        {"waiting_s": 500.0},
        {"slot_s": 0.0},  # it is not known
    ],
)
def test_bytes_that_cost_no_time_are_no_matter(harmless: dict[str, float]) -> None:
    assert "moving" not in advice(MOVING._replace(**harmless))  # type: ignore[arg-type]


def test_fewer_tasks_than_slots_leave_slots_idle() -> None:
    facts = GOOD._replace(tasks=4, run_s=40.0, longest_s=10.0, idle_slot_s=40.0)
    assert advice(facts) == "4 of 8 slots were idle on average: the job has 4 tasks, cut it into more"
    assert "has 1 task, cut" in advice(facts._replace(tasks=1))


def test_one_long_task_leaves_slots_idle() -> None:
    facts = GOOD._replace(run_s=20.0, longest_s=9.0, idle_slot_s=60.0)
    assert advice(facts) == (
        "6 of 8 slots were idle on average: the longest task took 9 s, the average 200 ms;"
        " start long ones first, or cut them"
    )
    assert advice(facts._replace(longest_s=0.3)) == ""  # there is another reason
