"""Cython cells and the real compilers: refused, interrupted, damaged in the cache, sent to machines unlike this one."""

import dataclasses
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from concurrent_nb import TaskFunction
from concurrent_nb.errors import BuildFailed, CellError, CompileError
from concurrent_nb.shipping.cells.captured_names import capture
from concurrent_nb.shipping.compiled import build as building
from concurrent_nb.shipping.compiled import compiler
from concurrent_nb.shipping.compiled.build import Build, cython_version, load, load_and_check, make
from concurrent_nb.shipping.compiled.cache import VARIABLE, Cache
from concurrent_nb.shipping.compiled.function import CythonFunction
from concurrent_nb.shipping.compiled.platforms import local_tag
from concurrent_nb.shipping.compiled.recipe import Recipe
from concurrent_nb.shipping.functions.pickled_functions import Functions
from concurrent_nb.shipping.serialization import pickles
from tests.unshared_pool import travelled

ROOT = Path(__file__).parents[2]
FUNCTION = "def half(int x):\n    return x // (x - 1)\n"
#: what another machine does with a function that was sent to it: unpickle it, and call it with 3
THERE = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))(3))"


def recipe(source: str, **changes: Any) -> Recipe:
    return dataclasses.replace(Recipe(source, ("-O0",), False, cython_version()), **changes)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, Path]:
    """A build, and the cache that it is in; for looking, not for changing."""
    folder = tmp_path_factory.mktemp("cache") / "c"
    build, _ = make(recipe(FUNCTION), "%%cython_task", Cache(folder))
    return build, folder


@pytest.fixture(scope="module")
def half(built: tuple[Build, Path]) -> Iterator[CythonFunction]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(built[1]))
        yield CythonFunction(built[0], "half")


@pytest.fixture
def cache(built: tuple[Build, Path], tmp_path: Path) -> Path:
    """A copy of that cache."""
    return Path(shutil.copytree(built[1], tmp_path / "copy"))


def there(build: Build, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the function in another process, as a worker of another machine would, with its own cache."""
    file = folder.parent / "function.pickle"
    function = object.__new__(CythonFunction)
    function.build, function.__qualname__ = build, "half"
    file.write_bytes(pickle.dumps(function))
    variables = {**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: str(folder), **environment}
    command = [sys.executable, "-c", THERE, str(file)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)


def unlike(build: Build) -> Build:
    """Give a build whose binary is for other machines."""
    return dataclasses.replace(build, tag=dataclasses.replace(build.tag, platform="plan9-x86_64"), binary=b"")


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("def f(x):\n    return x +\n", 3, "Expected an identifier or literal"),
        ("def f(x)\n    return x\n", 2, "Expected ':'"),
        ("def f(x):\n    return nowhere\n", 3, "undeclared name not builtin: nowhere"),
        ("include 'x.pxi'\ndef f(): pass", 2, "include is not allowed, because other machines have no x.pxi"),
        ("\ncimport scipy.linalg\ndef f(): pass", 3, "cimport scipy.linalg is not allowed"),
        ("from .mine cimport x\ndef f(): pass", 2, "is not allowed"),
        ("cdef extern from '/etc/passwd':\n    int x\ndef f(): return x", 2, "/etc/passwd is not allowed"),
        ("cdef extern from '../x.h':\n    int x\ndef f(): return x", 2, "../x.h is not allowed"),
        (
            "cdef extern from *:\n    '''\n    #include \"/etc/passwd\"\n    '''\n    int x\ndef f(): return x",
            2,
            "/etc/passwd is not allowed",
        ),
        (
            "cdef extern from *:\n    '''\n    %:include </etc/passwd>\n    '''\n    int x\ndef f(): return x",
            2,
            "/etc/passwd is not allowed",
        ),
        (
            "cdef extern from *:\n    '''\n    #define M <m>\n    #include M\n    '''\n    int x\ndef f(): return x",
            2,
            "include M is not allowed",
        ),
        (
            "cdef extern from *:\n    '''\n    __asm__(\".incbin 'x'\");\n    '''\n    int x\ndef f(): return x",
            2,
            "an assembler that reads files",
        ),
        (
            'cdef extern from *:\n    int x "x;\\n#include </etc/passwd>\\nint y"\ndef f(): return x',
            0,
            "/etc/passwd is not allowed",
        ),
        pytest.param(
            f"def f(x):\n    return {' + '.join(['x'] * 1_000)}",
            3,
            "this expression is too long, or nested too deeply",
            id="1_000 terms",
        ),
        pytest.param(
            f"def f(x):\n    return {' + '.join(['x'] * 100_000)}",
            3,
            "this expression is too long, or nested too deeply",
            id="100_000 terms",
        ),
        (
            "cimport cython\n@cython.control_flow.dot_output('/tmp/x')\ndef f(): pass",
            3,
            "'control_flow.dot_output' not a valid cython language construct",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    source: str, line: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = recipe(source)
    request = {"module": told.module, "pyx": told.pyx, "cplus": False, "annotate": False}
    answer = compiler.translate(request)
    assert answer["errors"][0][0] == line
    assert message in answer["errors"][0][2]


def test_cython_s_errors_are_typed(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        make(recipe("def f(x):\n    return a + b\n"), "", Cache(tmp_path / "c"))
    assert [problem[:2] for problem in caught.value.problems] == [(3, 11), (3, 15)]
    assert str(caught.value) == "line 3: undeclared name not builtin: a (and 1 more)"
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "defines no function"),
        ("cdef int g():\n    return 1\n", "only compiled code can call g: write cpdef or def"),
        ("def f(): pass\ndef f(): pass\n", "f is defined twice, in line 2 and in line 3"),
    ],
)
def test_a_cell_without_anything_to_call_is_no_cell(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process, which has Cython already: it is the answer that matters.
    monkeypatch.setattr(building, "_run", lambda request, *_: compiler.translate(request))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CellError) as caught:
        make(recipe(source), "", Cache(tmp_path / "c"))
    assert message in str(caught.value)


def test_what_the_c_compiler_does_not_take_is_told_in_a_line(tmp_path: Path) -> None:
    source = "cdef extern from 'no_such_header.h':\n    int x\ndef f(): return x"
    with pytest.raises(BuildFailed, match=r"no_such_header\.h: No such file") as caught:
        make(recipe(source), "", Cache(tmp_path / "c"))
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("environment", [{"CC": "/nonexistent/cc"}, {"PATH": ""}], ids=["CC", "PATH"])
def test_without_a_compiler_the_error_says_what_to_install(
    environment: dict[str, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for binary in cache.glob("*.so"):
        binary.unlink()
    with pytest.raises(BuildFailed, match=r"no C compiler here.*apt-get install gcc"):
        make(recipe(FUNCTION), "", Cache(cache))
    assert list(cache.glob("new-*")) == []


def test_without_cython_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "version_of", lambda package: None)
    with pytest.raises(BuildFailed, match=r"pip install 'concurrent-nb\[cython\]'"):
        cython_version()


def test_the_user_s_own_flags_do_not_count_and_a_binary_that_is_none_is_made_again(
    half: CythonFunction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CFLAGS", "-no-such-flag")
    monkeypatch.setenv("LDFLAGS", "-no-such-flag")
    # Functions of the same name, of other cells, are others; and a binary that is whole and none is made again.
    build, _ = make(recipe("def half(int x): return -x\n"), "", Cache(tmp_path / "c"))
    [file] = (tmp_path / "c").glob("*.so")
    Cache(tmp_path / "c").write_binary(file.name, b"no binary")
    wrong, _ = make(recipe("def half(int x): return -x\n"), "", Cache(tmp_path / "c"))
    assert zlib.decompress(wrong.binary) == b"no binary"
    right = load_and_check(wrong, Cache(tmp_path / "c"))
    assert zlib.decompress(right.binary) == file.read_bytes() != b"no binary"
    assert load_and_check(right, Cache(tmp_path / "c")) is right
    assert (CythonFunction(right, "half")(3), half(3)) == (-3, 1)
    assert build.functions == ("half",)


# ------------------------------------------------------------------------------------------------ once, and whole


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the steps for which a compiler was started."""
    steps: list[str] = []
    run = building._run

    def noted(request: dict[str, Any], *rest: Any) -> dict[str, Any]:
        steps.append(request["step"])
        return run(request, *rest)

    monkeypatch.setattr(building, "_run", noted)
    return steps


def test_two_that_compile_the_same_at_once_compile_it_once(tmp_path: Path, runs: list[str]) -> None:
    made: list[Build] = []

    def go() -> None:
        made.append(make(recipe("def f(int x): return x + 1\n"), "", Cache(tmp_path / "c"))[0])

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs == ["translate", "compile"]
    assert len(made) == 3
    assert made[0] == made[1] == made[2]


def test_what_is_in_the_cache_needs_no_compiler(cache: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    make(recipe(FUNCTION), "", Cache(cache))
    assert runs == []


@pytest.mark.parametrize(("ending", "steps"), [(".so", ["compile"]), (".generated", ["translate"])])
def test_what_is_damaged_is_made_again(ending: str, steps: list[str], cache: Path, runs: list[str]) -> None:
    [file] = cache.glob(f"*{ending}")
    file.write_bytes(file.read_bytes()[:1000])
    again, _ = make(recipe(FUNCTION), "%%cython_task", Cache(cache))
    assert runs == steps
    assert there(again, cache).stdout == "1\n"


@pytest.mark.parametrize("step", ["translate", "compile"])
def test_an_interrupt_ends_the_compiler_and_leaves_nothing(
    step: str, cache: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in cache.glob("*.so" if step == "compile" else "*.*"):
        path.unlink()
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def interrupt() -> None:
        if runs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(recipe(FUNCTION), "", Cache(cache), tick=interrupt)
    assert runs == [step]
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert [path.name for path in cache.iterdir() if path.name.startswith("new-") or path.suffix == ".so"] == []


def test_a_compiler_whose_notebook_is_gone_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from concurrent_nb.shipping.compiled.build import *; from concurrent_nb.shipping.compiled.cache import *\n"
        "tick = lambda: print('tick', flush=True)\n"
        f"make(Recipe({FUNCTION!r}, ('-O3',), False, cython_version()), '', Cache(Path(sys.argv[1])), tick=tick)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "c")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as notebook:
        assert notebook.stdout is not None
        assert notebook.stdout.readline() == b"tick\n"
        compilers = psutil.Process(notebook.pid).children(recursive=True)
        notebook.kill()
    assert len(compilers) >= 1
    assert psutil.wait_procs(compilers, timeout=5)[1] == []


# ------------------------------------------------------------------------------------------------ other machines


def test_a_machine_that_is_alike_takes_the_binary(built: tuple[Build, Path], tmp_path: Path) -> None:
    result = there(built[0], tmp_path / "c", PATH="")
    assert result.stdout == "1\n", result.stderr
    [binary] = (tmp_path / "c").glob("*.so")
    # The second time it is there already.
    assert there(dataclasses.replace(built[0], binary=b""), tmp_path / "c", PATH="").stdout == "1\n"
    assert list((tmp_path / "c").glob("*.so")) == [binary]


def test_a_binary_of_another_abi_in_the_cache_is_not_used(built: tuple[Build, Path], cache: Path) -> None:
    [binary] = cache.glob("*.so")
    good = binary.read_bytes()
    Cache(cache).write_binary(binary.name, good.replace(b"PyList_New\0", b"PyLost_New\0"))
    result = there(built[0], cache, PATH="")
    assert result.stdout == "1\n", result.stderr
    assert binary.read_bytes() == good


def test_an_unlike_machine_builds_from_the_c_and_else_from_the_source(
    built: tuple[Build, Path], tmp_path: Path
) -> None:
    result = there(unlike(built[0]), tmp_path / "d")
    assert result.stdout == "1\n", result.stderr
    assert list((tmp_path / "d").glob("*.generated")) == []
    broken = dataclasses.replace(unlike(built[0]), c=zlib.compress(b"#error another Python"))
    result = there(broken, tmp_path / "e")
    assert result.stdout == "1\n", result.stderr


def test_an_unlike_machine_without_a_compiler_says_what_it_is_and_what_to_do(
    built: tuple[Build, Path], tmp_path: Path
) -> None:
    result = there(unlike(built[0]), tmp_path / "c", CC="/nonexistent/cc")
    error = result.stderr.strip().splitlines()[-1]
    assert "BuildFailed" in error
    assert f"({local_tag(False)})" in error
    assert "plan9-x86_64" in error
    assert "Install a C compiler there" in error


def test_a_processor_that_lacks_what_the_flags_ask_for_is_told(
    built: tuple[Build, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "local_cpu_level", lambda: 1)
    build = dataclasses.replace(built[0], recipe=recipe(FUNCTION, flags=("-march=x86-64-v4",)))
    with pytest.raises(BuildFailed, match="level x86-64-v4"):
        load(build)


# ------------------------------------------------------------------------------------------------------ functions


def test_a_function_is_called_here_as_any_other(half: CythonFunction) -> None:
    assert half(2) == 2
    assert repr(half) == "<compiled function half>"
    assert (half.__name__, half.__doc__) == ("half", None)
    assert str(half.__signature__) == "(int x)" or list(half.__signature__.parameters) == ["x"]


def test_a_function_is_pickled_once_and_comes_back(half: CythonFunction) -> None:
    functions = Functions()
    pickled = functions.pickle(half)
    assert functions.pickle(half) is pickled
    assert len(pickled.body) < 200_000
    again = pickles.loads(pickled.body, travelled(pickled.buffers))
    assert again(3) == 1
    assert again.build == half.build


def test_its_traceback_has_the_cell_s_lines(half: CythonFunction) -> None:
    import traceback

    with pytest.raises(ZeroDivisionError) as caught:
        half(1)
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.filename, last.lineno) == (half.build.filename, 3)
    assert last.line == "return x // (x - 1)"


def test_a_function_among_the_names_of_a_cell_is_loaded_once_by_each_worker(half: CythonFunction) -> None:
    captured = capture({"f": TaskFunction(half), "g": half}, {})
    assert captured.shared
    assert not captured.per_task
    loaded = pickles.loads(captured.shared, captured.buffers)
    assert {type(value) for value in loaded.values()} == {CythonFunction}
    assert loaded["f"](3) == 1
