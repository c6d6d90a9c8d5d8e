"""Long tasks are measured, and short ones cost nothing."""

from concurrent_nb.workers.worker_side.usage_meter import UsageMeter


class Clock:
    def __init__(self) -> None:
        self.reads = 0
        self.now_s = 5.0

    def __call__(self) -> float:
        self.reads += 1
        return self.now_s


def run(meter: UsageMeter, clock: Clock, elapsed_s: float, cpu_s: float) -> tuple[int, int]:
    meter.begin()
    clock.now_s += cpu_s
    return meter.end(elapsed_s)


def test_a_long_task_has_its_own_cpu_time_and_the_memory_of_its_process() -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    clock.now_s += 100.0  # before the task
    cpu_us, peak_kib = run(meter, clock, 0.5, 2.0)
    assert cpu_us == 2_000_000
    assert peak_kib > 1000


def test_short_tasks_do_not_read_the_clock() -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    run(meter, clock, 0.00001, 0.0)
    reads = clock.reads
    for _ in range(100):
        assert run(meter, clock, 0.00001, 0.00001) == (0, 0)
    assert clock.reads == reads


def test_a_long_task_after_a_short_one_used_at_most_its_run_time() -> None:
    clock = Clock()
    meter = UsageMeter(clock)
    run(meter, clock, 0.00001, 0.0)
    clock.now_s += 100.0
    assert run(meter, clock, 0.5, 0.25)[0] == 500_000
    assert run(meter, clock, 0.5, 0.25)[0] == 250_000
