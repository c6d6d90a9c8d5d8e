"""Build cells, here and on the machines that they are sent to. `compiler` does the work, in a process.

make: a recipe -> Build, in the notebook: found in the cache, or translated and compiled
load: a Build -> the module, on any machine: its binary if that fits, else compiled from its C, or from its source
"""

import base64
import contextlib
import importlib.machinery
import importlib.util
import json
import linecache
import os
import re
import signal
import subprocess
import sys
import threading
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from concurrent_nb.errors import BuildFailed, CellError, CompileError
from concurrent_nb.shipping.compiled.cache import Cache, Tick
from concurrent_nb.shipping.compiled.platforms import Tag, local_cpu_level, local_tag, version_of
from concurrent_nb.shipping.compiled.recipe import Recipe, names_of

#: how often `tick` is called while a compiler runs, in seconds
TICK_S: Final = 0.05
#: lines of a compiler's errors that are shown
LOG_LINES: Final = 4
_PROGRAM: Final = Path(__file__).with_name("compiler.py")
#: flags of the user's environment are not used: they would be in the binary, but not in its name
_IGNORED_VARIABLES: Final = ("CFLAGS", "CPPFLAGS", "CXXFLAGS", "LDFLAGS", "LDSHARED", "CPP", "AR", "ARFLAGS")
_PATH: Final = re.compile(r"(?:/[^\s:'\"]*/)([^\s:/'\"]+)")

_WAIT_POLICY: Final = "OMP_WAIT_POLICY"

_loading: Final = threading.RLock()


@dataclass(frozen=True)
class Build:
    """A compiled cell, and everything that is needed to compile it again."""

    recipe: Recipe
    functions: tuple[str, ...]
    numpy: bool  #: uses numpy's C interface
    c: bytes  #: compressed
    tag: Tag  #: machines that the binary fits
    binary: bytes  #: compressed
    header: str  #: line of the magic, for tracebacks

    @property
    def filename(self) -> str:
        """Return the cell's name in tracebacks."""
        return f"{self.recipe.module}.pyx"


@dataclass(frozen=True)
class _Translated:
    """A cell translated by Cython."""

    functions: tuple[str, ...]
    numpy: bool
    c: bytes
    html: str | None


def no_tick() -> None:
    """Do nothing: the default tick."""


def cython_version() -> str:
    """Return the version of Cython. Raises BuildFailed if it is not installed."""
    version = version_of("Cython")
    if version is None:
        raise BuildFailed("Cython is not installed here: pip install 'concurrent-nb[cython]'")
    return version


def make(
    recipe: Recipe, header: str, cache: Cache, *, annotate: bool = False, tick: Tick = no_tick
) -> tuple[Build, str | None]:
    """Translate and compile a cell, or find it in the cache; return it, and with `annotate` Cython's annotated page.

    Raises CompileError for a cell that is not Cython, CellError if it defines nothing that can be called, BuildFailed
    if it cannot be compiled here, and whatever `tick` raises. No process or file is left then.
    """
    translated = _read_translated(cache, recipe, annotate)
    if translated is None:
        with cache.building(recipe.module, tick) as folder:
            # Another process may have done it meanwhile.
            translated = _read_translated(cache, recipe, annotate) or _translate(cache, recipe, folder, annotate, tick)
    tag = local_tag(translated.numpy)
    name = _binary_name(recipe, tag)
    path = cache.binary(name)
    if path is None:
        with cache.building(recipe.module, tick) as folder:
            path = cache.binary(name)
            if path is None:
                path = cache.write_binary(name, _compile(recipe, translated.c, translated.numpy, folder, tick))
    binary = zlib.compress(path.read_bytes())
    return Build(recipe, translated.functions, translated.numpy, translated.c, tag, binary, header), translated.html


def load(build: Build, cache: Cache | None = None, tick: Tick = no_tick) -> types.ModuleType:
    """Return the module of a cell; each process loads it once.

    Raises BuildFailed if neither binary nor C nor source can be used on this machine, and whatever the cell's own code
    raises.
    """
    recipe = build.recipe
    with _loading:
        remember_lines(build)
        module = sys.modules.get(recipe.module)
        if module is None:
            with _waiting_threads_sleep() if recipe.openmp else contextlib.nullcontext():
                module = _load(build, cache or Cache(), tick)
            sys.modules[recipe.module] = module
            try:
                assert module.__spec__ is not None and module.__spec__.loader is not None
                module.__spec__.loader.exec_module(module)
            except BaseException:
                del sys.modules[recipe.module]
                raise
        return module


def load_and_check(build: Build, cache: Cache) -> Build:
    """Load the module of a new build; return the build with the binary that could be loaded.

    It differs from that of the build if the cached one could not be loaded, although its checksum was right.
    """
    path = Path(str(load(build, cache).__file__))
    with contextlib.suppress(FileNotFoundError):  # it may have been evicted from the cache
        data = path.read_bytes()
        if data != zlib.decompress(build.binary):
            return replace(build, binary=zlib.compress(data))
    return build


def remember_lines(build: Build) -> None:
    """Register the cell's lines for tracebacks."""
    text = f"{build.header}\n{build.recipe.source}"
    lines = [f"{line}\n" for line in text.split("\n")]
    linecache.cache[build.filename] = (len(text), None, lines, build.filename)


# ------------------------------------------------------------------------------------------------- loading


def _load(build: Build, cache: Cache, tick: Tick) -> types.ModuleType:
    recipe = build.recipe
    local = local_tag(build.numpy)
    if recipe.cpu_level > local_cpu_level():
        raise BuildFailed(
            f"the cell was compiled for processors of level x86-64-v{recipe.cpu_level}, and this one ({local}) has"
            f" level {local_cpu_level()}: compile it with flags for that, or without"
        )
    name = _binary_name(recipe, local)
    reasons: list[str] = []

    def cached() -> Path | None:
        return cache.binary(name)

    def shipped() -> Path | None:
        if not build.tag.fits(local):
            reasons.append(f"the binary is for {build.tag}")
            return None
        return cache.write_binary(name, zlib.decompress(build.binary))

    def from_c() -> Path | None:
        return _rebuild(cache, name, recipe, lambda folder: (build.c, build.numpy), tick)

    def from_source() -> Path | None:
        def translate_again(folder: Path) -> tuple[bytes, bool]:
            translated = _translate(cache, recipe, folder, False, tick)
            return translated.c, translated.numpy

        cython_version()
        return _rebuild(cache, name, recipe, translate_again, tick)

    for step in (cached, shipped, from_c, from_source):
        try:
            path = step()
            if path is not None:
                return _open(recipe.module, path)
        except BuildFailed as error:
            reasons.append(str(error))
        except ImportError as error:
            # Of another ABI, or damaged before its checksum was computed, or it needs a library that is missing here.
            cache.discard(name)
            reasons.append(_one_line(str(error)))
    raise BuildFailed(
        f"compiled code cannot be used on this machine ({local}): {'; '.join(dict.fromkeys(reasons))}. Install a C"
        " compiler there, or send the task to slaves like the machine where it was compiled"
    )


@contextlib.contextmanager
def _waiting_threads_sleep() -> Iterator[None]:
    """Make OpenMP's idle threads sleep, unless the user has set how they wait.

    Otherwise they occupy the cores for some milliseconds, while other processes of this machine have to send the
    result. The OpenMP runtime reads the variable when it is loaded, and never again.
    """
    if _WAIT_POLICY in os.environ:
        yield
        return
    os.environ[_WAIT_POLICY] = "passive"
    try:
        yield
    finally:
        del os.environ[_WAIT_POLICY]


def _rebuild(
    cache: Cache, name: str, recipe: Recipe, code: Callable[[Path], tuple[bytes, bool]], tick: Tick
) -> Path | None:
    with cache.building(recipe.module, tick) as folder:
        # Another worker of this machine may have built it meanwhile.
        path = cache.binary(name)
        if path is not None:
            return path
        c, numpy = code(folder)
        return cache.write_binary(name, _compile(recipe, c, numpy, folder, tick))


def _open(module: str, path: Path) -> types.ModuleType:
    """Load a binary, without running its code. Raises ImportError."""
    loader = importlib.machinery.ExtensionFileLoader(module, str(path))
    spec = importlib.util.spec_from_loader(module, loader, origin=str(path))
    assert spec is not None
    return importlib.util.module_from_spec(spec)


# ---------------------------------------------------------------------------------------- the steps of a build


def _binary_name(recipe: Recipe, tag: Tag) -> str:
    return f"{recipe.module}-{tag.digest()}.so"


def _read_translated(cache: Cache, recipe: Recipe, annotate: bool) -> _Translated | None:
    cached = cache.read(f"{recipe.module}.generated")
    if cached is None:
        return None
    answer = json.loads(cached)
    if annotate and answer["html"] is None:
        return None
    return _translated(answer)


def _translated(answer: dict[str, Any]) -> _Translated:
    return _Translated(tuple(answer["functions"]), answer["numpy"], base64.b64decode(answer["c"]), answer["html"])


def _translate(cache: Cache, recipe: Recipe, folder: Path, annotate: bool, tick: Tick) -> _Translated:
    request = {
        "step": "translate",
        "module": recipe.module,
        "pyx": recipe.pyx,
        "cplus": recipe.cplus,
        "annotate": annotate,
    }
    answer = _run(request, folder, tick)
    if answer.get("errors"):
        raise _compile_error(answer["errors"])
    answer["functions"] = names_of(answer["functions"])
    if not answer["functions"]:
        raise CellError(_nothing_to_call([name for name, _ in answer["c_only"]]))
    cache.write(f"{recipe.module}.generated", json.dumps(answer).encode())
    return _translated(answer)


def _compile_error(errors: Sequence[Sequence[Any]]) -> CompileError:
    problems = [(int(line), int(column), str(message)) for line, column, message in errors]
    line, _, message = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return CompileError(f"{f'line {line}: ' if line else ''}{message}{more}", problems)


def _nothing_to_call(c_only: Sequence[str]) -> str:
    if c_only:
        return f"only compiled code can call {', '.join(c_only)}: write cpdef or def in place of cdef"
    return "the cell defines no function: tasks are made of its def and cpdef"


def _compile(recipe: Recipe, c: bytes, numpy: bool, folder: Path, tick: Tick) -> bytes:
    request = {
        "step": "compile",
        "module": recipe.module,
        "c": base64.b64encode(c).decode(),
        "cplus": recipe.cplus,
        "numpy": numpy,
        "flags": recipe.flags,
        "openmp": recipe.openmp,
    }
    answer = _run(request, folder, tick)
    if "binary" in answer:
        return Path(answer["binary"]).read_bytes()
    kind, failure = answer["kind"], answer["failure"]
    if kind == "missing":
        language = "C++" if recipe.cplus else "C"
        raise BuildFailed(
            f"there is no {language} compiler here, {failure} is not found: install one (Debian and Ubuntu: apt-get"
            f" install {'g++' if recipe.cplus else 'gcc libc6-dev'}; macOS: xcode-select --install), or name one in CC"
        )
    if kind == "setuptools":
        raise BuildFailed(f"setuptools is not installed here ({failure}): pip install setuptools")
    raise BuildFailed(f"the C compiler does not take the cell: {_compiler_errors(folder / 'log', failure)}")


def _compiler_errors(log: Path, otherwise: str) -> str:
    """Return the first errors of a compiler or linker."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    found = [line for line in lines if re.search(r"\berror\b|undefined reference|cannot find|Traceback|Error:", line)]
    return _one_line("; ".join(found[:LOG_LINES]) or otherwise)


def _one_line(text: str) -> str:
    """Return a text as one line, without the folders of this machine, which do not help the user."""
    return _PATH.sub(r"\1", " ".join(text.split()))[:1000]


def _run(request: dict[str, Any], folder: Path, tick: Tick) -> dict[str, Any]:
    """Run the compiler program on a request; return its answer.

    Raises BuildFailed if it has written no answer, and whatever `tick` raises. The process has ended in any case."""
    current_folder = os.getcwd() if os.path.isdir(os.curdir) else ""
    # Modules in the notebook's folder are not on other machines.
    paths = [path for path in sys.path if os.path.isabs(path) and path != current_folder]
    file, answer = folder / "request.json", folder / "answer.json"
    file.write_text(json.dumps({**request, "sys_path": paths}), encoding="utf-8")
    answer.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in _IGNORED_VARIABLES}
    environment["TMPDIR"] = str(folder)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM), str(file), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TICK_S)
                break
            tick()
    finally:
        if process.returncode is None:
            # With all its children: the C compiler is several processes.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not answer.exists():
        raise BuildFailed(f"the compiler ended with exit code {process.returncode}: {_last_line(folder / 'log')}")
    result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return result


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it wrote no message"
