"""The view model of a job, and when its parts are sent."""

from concurrent_nb import SystemRun, Tile
from concurrent_nb.api import Counts, TaskFuture, TaskNote
from concurrent_nb.ids import JobId
from concurrent_nb.notebook.live.colours import CANCELLED, DONE, FAILED, HIT, RUNNING, WAITING
from concurrent_nb.notebook.live.error_groups import ErrorGroups
from concurrent_nb.notebook.live.job_view_model import BARS_MOST, REPORTS_MOST, JobViewModel
from concurrent_nb.notebook.live.update_throttle import PIXELS_BURST, PIXELS_S, TICK_S, UpdateThrottle
from concurrent_nb.notebook.live.views import ImageView, SearchView, TableView, strip
from concurrent_nb.shipping.runtime.notes import PhaseCounts, ProgressReport, Publication, SystemCounts
from concurrent_nb.shipping.serialization import pickles
from tests.made_up_jobs import MadeUpJob


def publication(value: object) -> Publication:
    body, buffers = pickles.dumps(value)
    return Publication(body, [bytes(buffer) for buffer in buffers])


def test_each_task_has_a_state() -> None:
    it = MadeUpJob(6)
    it.model.update([it.start(0, 0.1), it.start(1, 0.1)], [])
    assert list(it.model.states) == [RUNNING, RUNNING, WAITING, WAITING, WAITING, WAITING]
    it.model.update([it.end(0, 1), it.end(1, ValueError("x")), it.hit(2, 5), it.cancel(3)], [])
    assert list(it.model.states) == [DONE, FAILED, HIT, CANCELLED, WAITING, WAITING]
    it.job.futures[4].end_cancelled()
    it.model.finish()
    assert list(it.model.states) == [DONE, FAILED, HIT, CANCELLED, CANCELLED, WAITING]


def test_the_head_contains_pace_and_time_left() -> None:
    it = MadeUpJob(100)
    head = it.model.head(Counts(99, 1, 0, 0, 0), 0.5)
    assert (head["total"], head["elapsed"], head["rate"], head["left"]) == (100, 0.5, None, None)
    head = it.model.head(Counts(60, 0, 40, 0, 0), 4.0)
    assert (head["rate"], head["left"]) == (10.0, 6.0)
    # What was long ago does not count.
    for second in range(5, 30):
        head = it.model.head(Counts(58 - second, 2, 40 + second, 0, 0), float(second))
    assert head["rate"] is not None
    assert 0.9 < head["rate"] < 1.1


def test_the_time_left_is_estimated_from_reports() -> None:
    it = MadeUpJob(4)
    for step in range(1, 44):
        it.model.update([], [TaskNote(task, ProgressReport(step / 100, "")) for task in (0, 1)])
        head = it.model.head(Counts(2, 2, 0, 0, 0), step / 10)
    assert head["part"] == 0.86
    assert 14 < head["left"] < 17
    assert head["rate"] is None
    # Without reports nothing is known of it yet.
    assert MadeUpJob(4).model.head(Counts(2, 2, 0, 0, 0), 4.3)["left"] is None


def test_bars_are_those_of_tasks_that_run_and_then_of_those_that_have_ended() -> None:
    it = MadeUpJob(20)
    it.job.label = lambda index: f"k = {index}"
    it.model.update([], [TaskNote(index, ProgressReport(0.5, "half\x1b[2J\n")) for index in reversed(range(11))])
    bars = it.model.bars()
    assert bars["bars"][0] == ["task 0 · k = 0", 0.5, "half\\n", RUNNING]
    assert [bar[0].split()[1] for bar in bars["bars"]] == [str(index) for index in range(BARS_MOST)]
    assert bars["more"] == 11 - BARS_MOST
    it.model.update([it.end(10, None)], [])
    assert (len(it.model.bars()["bars"]), it.model.bars()["more"]) == (10, 0)  # two more are not worth a line
    it.model.update([it.end(index, None) for index in range(1, 10)], [TaskNote(3, ProgressReport(1.0, "late"))])
    it.model.update([], [TaskNote(3, ProgressReport(1.0, "too late"))])
    assert it.model.bars()["bars"][0] == ["task 0 · k = 0", 0.5, "half\\n", RUNNING]
    it.model.update([it.end(0, ValueError("x"))], [])
    it.model.finish()
    last = it.model.bars()
    assert (len(last["bars"]), len(last["others"]), last["more"]) == (10, 1, 1)
    assert ["task 3 · k = 3", 1.0, "late", DONE] in last["bars"]
    assert last["bars"][0][3] == FAILED


def test_many_reports_are_counted_and_not_kept() -> None:
    it = MadeUpJob(1000)
    for index in range(1000):
        it.model.update([], [TaskNote(index, ProgressReport(None, str(index)))])
        it.model.update([it.end(index, None)], [])
    it.model.finish()
    last = it.model.bars()
    assert last["more"] == 1000 - len(last["bars"])
    assert len(last["others"]) + len(last["bars"]) == REPORTS_MOST


def test_errors_are_folded_by_kind() -> None:
    folds = ErrorGroups()
    for task in range(1000):
        folds.add(task, ValueError(f"bad input {task}\nwith details"), lambda: "\x1b[2Jthe traceback\r\n")
    (kind,) = folds.parts()["kinds"]
    assert (kind["type"], kind["message"], kind["count"]) == ("ValueError", "bad input 0 …", 1000)
    assert kind["text"].endswith("the traceback\n") and "\x1b" not in kind["text"]
    assert folds.version == 1000


def test_errors_of_tasks_come_with_their_tracebacks() -> None:
    it = MadeUpJob(3)
    it.model.update([it.end(2, ValueError("x"))], [])
    assert it.model.error_groups.parts()["kinds"][0]["text"] == "Traceback of 2"


def test_a_picture_fills_up_with_results_and_publications() -> None:
    view = ImageView(4, None)
    it = MadeUpJob(4, view)
    it.model.update([it.end(0, [1, 2])], [TaskNote(1, publication([3, 4]))])
    it.model.update([it.end(2, "no pixels"), it.end(3, None)], [])
    parts = it.model.view_parts()
    assert parts is not None
    assert (parts["width"], parts["height"], parts["range"], parts["odd"]) == (4, 2, ["1", "4"], 1)
    assert parts["first_odd"] == "task 2: str is not an array of pixels"


def test_a_task_may_give_several_tiles() -> None:
    view = ImageView(1, None)
    it = MadeUpJob(1, view)
    it.model.update([it.end(0, [Tile([[1]], 0, 0), Tile([[2]], 3, 1), Tile("x", 0, 0)])], [])
    assert (view.picture.width, view.picture.height, view.picture.range) == (4, 2, (1.0, 2.0))
    parts = it.model.view_parts()
    assert parts is not None
    assert parts["odd"] == 1


def test_a_name_is_shown_if_the_user_has_set_it() -> None:
    assert MadeUpJob(1).model.head(Counts(1, 0, 0, 0, 0), 0.0)["name"] == ""
    assert MadeUpJob(1, name="<b>mine\n").model.head(Counts(1, 0, 0, 0, 0), 0.0)["name"] == "<b>mine\\n"


def test_a_publication_that_cannot_be_opened_is_counted() -> None:
    it = MadeUpJob(1, ImageView(1, None))
    it.model.update([], [TaskNote(0, Publication(b"no pickle", []))])
    assert it.model.head(Counts(1, 0, 0, 0, 0), 1.0)["unread"] == 1


def test_a_search_names_its_hit() -> None:
    it = MadeUpJob(4, SearchView(4, lambda index: f"n = {10 * index}"))
    it.model.update([it.end(0, None), it.hit(2, "<b>found</b>"), it.cancel(3)], [])
    parts = it.model.view_parts()
    assert parts is not None
    assert parts["hit"] == {"index": 2, "label": "n = 20", "value": "'<b>found</b>'"}
    assert (parts["cells"], parts["searched"], parts["cancelled"]) == ("2054", 2, 1)
    assert parts["over"] is False
    assert (parts["first"], parts["last"]) == ("n = 0", "n = 30")


def test_the_strip_of_many_tasks_shows_first_what_is_rare() -> None:
    states = bytearray([DONE] * 100_000)
    states[50_000] = HIT
    states[25_000] = FAILED
    cells = strip(states, 100)
    assert len(cells) == 100
    assert cells[50] == str(HIT)
    assert cells[25] == str(FAILED)
    assert set(cells) == {str(DONE), str(HIT), str(FAILED)}


def test_a_table_has_the_first_and_the_last_results() -> None:
    it = MadeUpJob(100, TableView(["n", "w"], lambda index: (index, "<i>")))
    for index in [*range(99, 49, -1), *range(50)]:
        value = ValueError("bad\nthing") if index == 98 else index * index
        it.model.update([it.end(index, value, took=0.25)], [])
    parts = it.model.view_parts()
    assert parts is not None
    assert parts["columns"] == ["task", "n", "w", "value", "slave", "seconds", "status"]
    rows = parts["rows"]
    assert [row if isinstance(row, int) else row[0] for row in rows] == [
        *map(str, range(10)), 80, *map(str, range(90, 100))
    ]  # fmt: skip
    assert rows[3] == ["3", "3", "'<i>'", "9", "one", "0.250", "done"]
    assert rows[19] == ["98", "98", "'<i>'", "ValueError: bad …", "one", "0.250", "failed"]
    assert parts["right"] == [True, True, False, False, False, True, False]


def test_a_table_of_few_results_leaves_nothing_out_and_shows_where_one_is_to_come() -> None:
    it = MadeUpJob(15, TableView([], lambda index: ()))
    it.model.update([it.end(index, index) for index in (14, 3, 7, 4)] + [it.cancel(5)], [])
    parts = it.model.view_parts()
    assert parts is not None
    assert [row if isinstance(row, int) else row[0] for row in parts["rows"]] == [0, "3", "4", 0, "7", 0, "14"]


def test_a_table_names_the_least_and_the_greatest_value() -> None:
    import numpy

    values = [0.5, numpy.float64(0.9716193656093489), 1e-7, "text", ValueError("x"), True, float("nan"), -3]
    for by_value in (False, True):
        it = MadeUpJob(8, TableView(["lr"], lambda index: (index / 10,), by_value))
        it.model.update([it.end(index, value) for index, value in enumerate(values)], [])
        parts = it.model.view_parts()
        assert parts is not None
        assert parts["limits"] == "least -3 (task 7, lr = 0.7) · greatest 0.9716 (task 1, lr = 0.1)"
        assert parts["best"] == ["7", "1"]
        order = [row[0] for row in parts["rows"]]
        assert order == (["7", "2", "0", "1", "3", "4", "5", "6"] if by_value else list("01234567"))
        assert "0.9716" in {row[2] for row in parts["rows"]}


def test_a_table_by_value_keeps_both_ends() -> None:
    it = MadeUpJob(100, TableView([], lambda index: (), by_value=True))
    it.model.update([it.end(index, (37 * index) % 100) for index in range(100)], [])
    parts = it.model.view_parts()
    assert parts is not None
    assert [row if isinstance(row, int) else row[1] for row in parts["rows"]] == [
        *map(str, range(10)), 80, *map(str, range(90, 100))
    ]  # fmt: skip


def test_bulletins_keep_to_their_pace() -> None:
    it = MadeUpJob(1000, ImageView(1000, (1000, 800)))
    throttle = UpdateThrottle(it.model)
    messages = pixels = 0
    for tick in range(int(60 / TICK_S)):
        at = tick * TICK_S
        if tick < 1000:
            it.model.update([it.end(tick, [float(tick)] * 800, at)], [])
        due = throttle.take(Counts(1000 - tick, 1, tick, 0, 0), at, at)
        messages += bool(due)
        pixels += len(due["tiles"]["data"]) if "tiles" in due else 0
    assert messages <= 60 / TICK_S
    assert 1000 * 800 <= pixels <= PIXELS_BURST + 60 * PIXELS_S


def test_a_quiet_job_is_updated_rarely() -> None:
    it = MadeUpJob(10)
    throttle = UpdateThrottle(it.model)
    early = [throttle.take(Counts(9, 1, 0, 0, 0), at / 20, at / 20) for at in range(200)]
    assert early[0].keys() == {"head", "bars", "errors", "timeline"}
    assert sum("head" in due for due in early) <= 21
    late = [throttle.take(Counts(9, 1, 0, 0, 0), 1000 + at / 20, 1000 + at / 20) for at in range(200)]
    assert sum(map(bool, late)) <= 15


def test_a_browser_that_comes_late_gets_the_whole_picture() -> None:
    view = ImageView(10, None)
    it = MadeUpJob(10, view)
    throttle = UpdateThrottle(it.model)
    it.model.update([it.end(0, [0.0, 1.0])], [])
    whole = []
    for tick in range(200):
        at = tick * TICK_S
        tiles = throttle.take(Counts(9, 1, 1, 0, 0), at, at).get("tiles")
        if tiles and tiles["full"]:
            whole.append(round(at, 2))
    assert whole[0] == 0.0
    assert len(whole) == 5


def test_the_phases_of_a_task_system_are_shown() -> None:
    run = SystemRun(JobId(b"\1" * 16), "In[1]", lambda job, indexes: None, watched=True)
    run.futures = [TaskFuture(run.id, 0, lambda job, indexes: None, run)]
    model = JobViewModel(run, 0.0, None, lambda future: "")
    phases = [PhaseCounts(1, 2000, 0, 2000, 0, 0), PhaseCounts(2, 40, 30, 8, 2, 0)]
    counts = SystemCounts("running", 2040, 30, 28, 2, 2008, 2, 0, False, 2.0, phases)
    run._task_noted(0, [counts])
    model.update([], run.take_notes())
    assert model.bars()["bars"] == [["phase 2", 0.25, "10 of 40 tasks, 2 failed", RUNNING]]
    model.head(run.counts(), 1.0)
    head = model.head(run.counts(), 2.0)
    assert (head["total"], head["done"], head["left"]) == (2040, 2008, None)
    preparing = SystemCounts("preparing", 0, 0, 0, 0, 0, 0, 0, True, 0.0, [])
    model.update([], [TaskNote(0, preparing)])
    assert model.bars()["bars"] == [["", None, "preparing", RUNNING]]
    model.finish()
    assert model.bars()["bars"] == []
