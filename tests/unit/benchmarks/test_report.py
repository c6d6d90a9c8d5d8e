"""Figures become medians, ranges, ratios and tables; missing ones are named, not left out."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import PROBLEM, About, Figure, Results, Summary
from benchmarks.targets import TARGETS, Target

RATE = Target("no-ops", "submit_10k/s", "tasks/s", (), (), more_is_better=True)
TIME = Target("a lone no-op", "latency_p50_us", "µs", (), (), more_is_better=False)


def about(*contenders: str, absent: tuple[str, ...] = (), size: str = "full") -> About:
    machine = (("cores", "2"), ("Python", "CPython 3.11"))
    versions = (("ray", "2.60.0"),)
    return About("python -m benchmarks.run", "today", 90.0, 3, size, machine, versions, contenders, absent)


def rounds(contender: str, metric: str, *values: float | None, n: int | None = None, note: str = "") -> list[Figure]:
    return [Figure(contender, number, metric, value, n, note) for number, value in enumerate(values)]


def test_a_summary_has_median_range_counts_and_every_note_once() -> None:
    figures = [
        Figure("ray", 0, "m", 5.0, 100),
        Figure("ray", 1, "m", 1.0, 300, "slow"),
        Figure("ray", 2, "m", None, None, "slow"),
    ]
    assert report.summarise(figures) == Summary(3.0, 1.0, 5.0, (100, 300), ("slow",))


def test_without_values_there_is_no_median() -> None:
    assert report.summarise(rounds("ray", "m", None, note="not offered")) == Summary(
        None, 0.0, 0.0, (), ("not offered",)
    )


def test_results_distinguish_contenders() -> None:
    results = Results([*rounds("pool", "m", 1.0, 2.0, 9.0), *rounds("ours", "m", 4.0), *rounds("ray", "other", 7.0)])
    assert results.median("m", "pool") == 2.0
    assert results.median("m", "ray") is None
    assert results.contenders("m") == ["ours", "pool"]
    assert sorted(results.values("m")) == [1.0, 2.0, 4.0, 9.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.00"),
        (0.012345, "0.0123"),
        (1.0, "1.00"),
        (99.94, "99.9"),
        (123.4, "123"),
        (1e6, "1,000,000"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_an_advantage_is_above_one_whichever_way_better_is() -> None:
    assert report.advantage(RATE, 30.0, 10.0) == "3.00 x"
    assert report.advantage(TIME, 10.0, 30.0) == "3.00 x"
    assert report.advantage(TIME, 30.0, 10.0) == "0.333 x"
    assert report.advantage(TIME, None, 10.0) == report.advantage(TIME, 10.0, None) == "-"


def test_a_table_keeps_its_columns_whatever_a_note_contains() -> None:
    assert report.table(("a", "b"), [("x|y", "1")], [1]) == "| a | b |\n| --- | --: |\n| x/y | 1 |\n"


def test_contenders_stand_best_first_and_those_without_a_figure_last() -> None:
    results = Results(
        [
            *rounds("joblib", "submit_10k/s", None, note="not offered"),
            *rounds("ours", "submit_10k/s", 30_000.0, n=10_000),
            *rounds("ray", "submit_10k/s", 1_000.0, 3_000.0, n=2_000),
        ]
    )
    lines = report.contenders_table(RATE, results).splitlines()[2:]
    assert lines == [
        "| concurrent_nb | 30,000 | 30,000 | 30,000 |  | n=10,000 |",
        "| Ray | 2,000 | 1,000 | 3,000 | 15.0 x | n=2,000 |",
        "| joblib | - | - | - | - | not offered |",
    ]
    best_first = report.contenders_table(
        TIME, Results([*rounds("ppe", TIME.metric, 2.0), *rounds("ours", TIME.metric, 1.0)])
    )
    assert best_first.index("concurrent_nb") < best_first.index("ProcessPoolExecutor")


def test_costs_are_reported_by_process() -> None:
    results = Results(
        [
            *rounds("ours", "cpu_us/task", 60.0),
            *rounds("ours", "cpu_us/task, client", 40.0),
            *rounds("ours", "cpu_us/task, master", 20.0),
            *rounds("joblib", "cpu_us/task", None),
        ]
    )
    head, _, *rows = report.roles_table("cpu_us/task", results).splitlines()
    assert head == "| contender | all | client | master | slave | template | workers | other |"
    assert rows == ["| concurrent_nb | 60.0 | 40.0 | 20.0 | - | - | - | - |"]


def test_the_table_of_targets_has_every_row_even_if_nothing_was_measured() -> None:
    _, _, *rows = report.targets_table(Results([])).splitlines()
    assert len(rows) == len(TARGETS)
    assert all(row.endswith("| not measured | not measured |") for row in rows)


def test_a_target_is_judged_in_its_row() -> None:
    figures = [*rounds("ours", "submit_10k/s", 25_000.0)]
    for peer, rate in (("pool", 10_000.0), ("ray", 1_000.0), ("dask", 300.0)):
        figures += rounds(peer, "submit_10k/s", rate)
    row = report.targets_table(Results(figures)).splitlines()[2]
    assert "25,000 [25,000 .. 25,000] tasks/s" in row
    assert "2.50 x multiprocessing.Pool, 25.0 x Ray, 83.3 x Dask" in row
    assert row.endswith("| multiprocessing.Pool 10,000 | met | missed |")


def test_a_report_names_what_is_missing_and_what_went_wrong() -> None:
    figures = [
        *rounds("ours", "submit_10k/s", 25_000.0),
        Figure("ray", 1, PROBLEM, None, None, "figures: took more than 90 s, ended"),
    ]
    text = report.render(figures, about("ours", "ray", "dask", absent=("dask",)), "results.svg")
    assert "| Ray | 2.60.0 |" in text
    assert "| Dask | not installed |" in text
    assert "- round 2, Ray: figures: took more than 90 s, ended" in text
    assert "(results.svg)" in text
    assert "no verdict" not in text


def test_a_report_of_smaller_counts_has_a_note() -> None:
    assert "no verdict below is the promised one" in report.render([], about("ours", size="quick"))


@pytest.mark.parametrize(("calm", "busy"), [((98.0, 70.0, 99.0), False), ((98.0, 70.0, 60.0), True), ((), False)])
def test_a_report_from_a_busy_machine_has_a_note(calm: tuple[float, ...], busy: bool) -> None:
    assert ("machine was busy" in report.render(rounds("ours", "calm_%", *calm), about("ours"))) is busy


def test_a_section_is_put_at_the_end_and_replaced_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    report.write_section(path, "One", "first")
    report.write_section(path, "Two", "second\n\n### of two\n")
    report.write_section(path, "One", "changed")
    assert path.read_text() == "# Benchmarks\n\n## One\n\nchanged\n\n## Two\n\nsecond\n\n### of two\n"
    report.write_section(path, "Two", "changed too")
    assert path.read_text() == "# Benchmarks\n\n## One\n\nchanged\n\n## Two\n\nchanged too\n"
    report.write_section(path, "Tw", "another")
    assert path.read_text().endswith("## Two\n\nchanged too\n\n## Tw\n\nanother\n")


def test_how_a_section_was_made() -> None:
    about = report.about_section("engines", ["--rounds", "2"])
    assert about.startswith("`python -m benchmarks.engines --rounds 2`, 2") and "cores: " in about
