"""What mypy makes of a user's file: types come through the cluster, and wrong arguments are seen."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: each line with what mypy is to say of it: the type that is revealed, or a part of the error
LINES = {
    "reveal_type(app.submit(square, 3))": "TaskFuture[int]",
    "reveal_type(app.submit(square, 3).result())": "int",
    "future: Future[int] = app.submit(square, 3)": "",
    "text: str = app.submit(square, 3).result()": 'variable has type "str"',
    "app.submit(square, 'a')": 'incompatible type "str"; expected "int"',
    "app.submit(square)": 'Missing positional argument "x"',
    "app.submit(square, x=3)": "",
    "app.submit(square, y=3)": 'Unexpected keyword argument "y"',
    "app.submit(square, app.put(3))": "",
    "app.submit(pow, 2, 10)": "",
    "reveal_type(app.map(square, [1, 2]))": "Iterator[int]",
    "reveal_type(list(app.map(add, [1, 2], ['a', 'b'], chunksize=4)))": "list[str]",
    "app.map(square, ['a'])": "incompatible type",
    "app.map(add, [1, 2], [1, 2])": "incompatible type",
    "app.map(square, [1], chunk=3)": 'No overload variant of "map"',
    "reveal_type(app.map(square, [1], return_exceptions=True))": "Iterator[int | BaseException]",
    "reveal_type(app.map(many, 'a', 'b', 'c', 'd', 'e'))": "Iterator[float]",
    "reveal_type(app.start_job(square, [(1,)]))": "Job[int]",
    "reveal_type(app.start_job(square, [(1,)]).results())": "list[int]",
    "reveal_type(app.options(timeout_s=3).submit(square, 3))": "TaskFuture[int]",
    "app.options(timeout_s=3).submit(square, 'a')": 'incompatible type "str"; expected "int"',
    "reveal_type(app.options(retries=3).map(square, [3]))": "Iterator[int]",
    "app.options(timeout=3)": 'Unexpected keyword argument "timeout"',
    "app.options(retries='3')": 'expected "int"',
    "reveal_type(cube(3))": "int",
    "cube('a')": 'incompatible type "str"; expected "int"',
    "reveal_type(cube.submit(2))": "TaskFuture[int]",
    "cube.submit('a')": 'incompatible type "str"; expected "int"',
    "reveal_type(cube.map([2, 3]))": "Job[int]",
    "reveal_type(cube.options(retries=2).submit(2))": "TaskFuture[int]",
    "reveal_type(cube.map([2, 3])[0])": "int",
    "reveal_type(cube.map([2, 3])[:1])": "list[int]",
    "reveal_type([y for y in cube.map([2, 3])])": "list[int]",
    "reveal_type(cube.map([2, 3]).done_results())": "dict[int, int]",
    "reveal_type(app.push_task(Length('ab')))": "TaskFuture[int]",
    "app.push_task(3)": "incompatible type",
    "reveal_type(app.push_tasks([Length('ab')]))": "Job[int]",
    "anything: concurrent_nb.TaskFuture": "",
    "job: concurrent_nb.Job[int]": "",
}

PRELUDE = """
from concurrent.futures import Future
import concurrent_nb

def square(x: int) -> int:
    return x * x

def add(x: int, y: str) -> str:
    return y * x

def many(*letters: str) -> float:
    return float(len(letters))

@concurrent_nb.task
def cube(x: int) -> int:
    return x ** 3

class Length(concurrent_nb.Task):
    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self) -> int:
        return len(self.text)

app = concurrent_nb.Cluster().application()

async def awaited() -> None:
    reveal_type(await app.submit(square, 3))
    async for value in cube.map([1]):
        reveal_type(value)
"""


def test_mypy_sees_the_types_of_tasks_through_the_cluster(tmp_path: Path) -> None:
    prelude = PRELUDE.strip().split("\n")
    (tmp_path / "user.py").write_text("\n".join([*prelude, *LINES]) + "\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--cache-dir", str(tmp_path), "user.py"]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    found: dict[int, str] = {}
    for line in said.stdout.splitlines():
        if match := re.match(r"user\.py:(\d+): (.*)", line):
            found[int(match[1])] = found.get(int(match[1]), "") + match[2].replace("builtins.", "") + "\n"
    assert found, said
    wrong = {}
    for number, (line, wanted) in enumerate(LINES.items(), len(prelude) + 1):
        text = found.pop(number, "")
        if (wanted not in text) if wanted else text:
            wrong[line] = text
    assert not wrong
    assert [text.split('"')[1] for text in found.values()] == ["int", "int"], "what is awaited"
