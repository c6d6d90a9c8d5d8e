"""The program that runs Cython or the C compiler: a process of its own, because both take time and may be stopped.

    python -I compiler.py REQUEST PARENT

PARENT is the process that started this one, which exits with it. REQUEST is a JSON file; the answer is written beside
it as `answer.json`, or not at all after an unexpected error, which standard error then contains. Started by `build`;
imports nothing of this package, so that it starts fast.
"""

import base64
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import zlib
from importlib import import_module
from pathlib import Path
from typing import Any

#: packages whose .pxd files come with Cython or numpy, so that every machine has them
CIMPORTS = ("cpython", "cython", "libc", "libcpp", "numpy", "openmp", "posix")
#: directives that read or write files, insert C, or are for Cython's own tests
REFUSED = ("callspec", "control_flow", "formal_grammar", "np_pythran", "set_initial_path", "test_")
_OUTSIDE = re.compile(r"^(/|[A-Za-z]:|\.\.?/|.*/\.\./)")
#: comments of C, and string literals, which may contain what looks like comments; those of C++ may be raw
_COMMENTS = re.compile(
    r'R"(?P<raw>[^()\\\s]{0,16})\(.*?\)(?P=raw)"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|//[^\n]*|/\*.*?\*/',
    re.DOTALL,
)
_DIRECTIVE = re.compile(r"^[ \t\f\v]*(?:\#|%:)[ \t]*(?:include|include_next|import|embed)\b(?P<what>.*)$", re.MULTILINE)
_NAMED = re.compile(r'\s*(?:<(?P<angle>[^>\n]*)>|"(?P<quoted>[^"\n]*)")')
#: inline assembler
_ASSEMBLER = re.compile(r'\b(?:__)?asm(?:__)?\b[\w\s]*\((?P<text>(?:\s*"(?:\\.|[^"\\\n])*")*)')
#: an expression of far more terms than Cython can handle: it would parse them for long, and then crash
_ENDLESS = re.compile(r"(?:[\w.]++\s*+[-+*/%&|^]++\s*+){2000}")
TOO_DEEP = "this expression is too long, or nested too deeply, for Cython: cut it into several statements"
#: how often this process checks whether its parent exists, in seconds
WATCH_S = 0.3


def translate(request: dict[str, Any]) -> dict[str, Any]:
    """Translate a cell to C.

    The answer has `errors`, a list of [line, column, message], or the results.
    """
    if endless := _ENDLESS.search(request["pyx"]):
        return {"errors": [[request["pyx"].count("\n", 0, endless.start()) + 1, 0, TOO_DEEP]]}
    Errors: Any = import_module("Cython.Compiler.Errors")
    errors: list[list[Any]] = []
    report = Errors.report_error

    def note(error: Any, use_stack: bool = True) -> None:
        held = Errors.threadlocal.cython_errors_stack
        if not (held and use_stack) and not error.reported:
            position = error.position
            errors.append([*(position[1:3] if position else (0, 0)), str(error.message_only).strip()])
        report(error, use_stack)

    # Before other modules of Cython import it.
    Errors.report_error = note
    Main: Any = import_module("Cython.Compiler.Main")
    Options: Any = import_module("Cython.Compiler.Options")
    for table in (Options.directive_types, Options.directive_scopes):
        for name in [name for name in table if name.startswith(REFUSED)]:
            del table[name]

    module = request["module"]
    found: dict[str, Any] = {"numpy": False, "functions": [], "c_only": []}

    class Context(Main.Context):  # type: ignore[misc]
        """Reads no files but the cell and what comes with Cython and numpy."""

        def find_include_file(self, filename: str, pos: Any = None, source_file_path: Any = None) -> None:
            message = f"include is not allowed, because other machines have no {filename}: put its text into the cell"
            raise Errors.CompileError(pos, message)

        def find_pxd_file(self, qualified_name: str, pos: Any = None, *rest: Any, **more: Any) -> Any:
            package = qualified_name.partition(".")[0]
            if qualified_name == module:
                return None
            if package not in CIMPORTS:
                message = f"cimport {qualified_name} is not allowed: there are {', '.join(CIMPORTS)}"
                raise Errors.CompileError(pos, message)
            found["numpy"] = found["numpy"] or package == "numpy"
            return super().find_pxd_file(qualified_name, pos, *rest, **more)

        def parse(self, source_desc: Any, scope: Any, pxd: Any, full_module_name: Any) -> Any:
            tree = super().parse(source_desc, scope, pxd, full_module_name)
            if not pxd and full_module_name == module:
                collect_functions(tree.body, found)
            return tree

    def collect_functions(node: Any, found: dict[str, Any]) -> None:
        kind = type(node).__name__
        if kind == "StatListNode":
            for part in node.stats:
                collect_functions(part, found)
        elif kind == "DefNode":
            found["functions"].append([str(node.name), node.pos[1]])
        elif kind == "CFuncDefNode":
            name = node.declarator
            while not hasattr(name, "name"):
                name = name.base
            found["functions" if node.overridable else "c_only"].append([str(name.name), node.pos[1]])
        elif kind == "CDefExternNode":
            header = str(node.include_file or "")
            if _OUTSIDE.match(header.strip("<>")):
                raise Errors.CompileError(node.pos, _not_allowed(header))
            if refused := files_read(str(node.verbatim_include or "")):
                raise Errors.CompileError(node.pos, refused)

    options = Main.CompilationOptions(
        Options.default_options,
        language_level="3",
        cplus=request["cplus"],
        annotate=request["annotate"],
        errors_to_stderr=False,
    )
    source = f"{module}.pyx"
    Path(source).write_text(request["pyx"], encoding="utf-8")
    context = Context.from_options(options)
    result = None
    try:
        result = Main.compile_single(source, options, module, context=context)
    except Errors.CompileError as error:
        if error.position is not None:
            note(error)
    made = result.c_file if result is not None and not errors else None
    if made is None:
        errors = [[line, column, TOO_DEEP if _is_too_deep(text) else text] for line, column, text in errors]
        return {"errors": errors or [[0, 0, "Cython has translated nothing, and reports no error"]]}
    # C names may be any text, so the generated C is checked, too.
    if refused := files_read(Path(made).read_text(encoding="utf-8")):
        return {"errors": [[0, 0, refused]]}
    page = Path(source).with_suffix(".html")
    return {
        "functions": found["functions"],
        "c_only": found["c_only"],
        "numpy": found["numpy"],
        "c": base64.b64encode(zlib.compress(Path(made).read_bytes())).decode(),
        "html": _embeddable(page.read_text(encoding="utf-8")) if request["annotate"] else None,
    }


def files_read(c: str) -> str:
    """Return why C code is refused that makes the preprocessor or the assembler read files of this machine; else ""."""
    c = c.replace("??/", "\\").replace("??=", "#")
    c = re.sub(r"\\[ \t]*\r?\n", "", c)
    c = _COMMENTS.sub(lambda found: " " if found[0].startswith("/") else found[0], c)
    for directive in _DIRECTIVE.finditer(c):
        named = _NAMED.match(directive["what"])
        if named is None:
            return f"include{directive['what'][:100]} is not allowed: write the header's name, in quotes or angles"
        name = named["angle"] if named["angle"] is not None else named["quoted"]
        if _OUTSIDE.match(name.strip()):
            return _not_allowed(name)
    for statement in _ASSEMBLER.finditer(c):
        text = re.sub(r'"\s*"', "", statement["text"])
        if re.search(r"\.\s*(?:incbin|include)|\\[x0-7]", text):
            return "an assembler that reads files, or whose text is escaped, is not allowed"
    return ""


def _not_allowed(header: str) -> str:
    return f"{header} is not allowed, because other machines do not have it"


def _is_too_deep(text: str) -> bool:
    return text.startswith("Compiler crash") and "RecursionError" in text


def _embeddable(page: str) -> str:
    """Return the parts of a page that can be embedded in another one: style and body, without the link to a file."""
    styles = re.findall(r"<style.*?</style>", page, re.DOTALL)
    body = re.search(r"<body[^>]*>(.*)</body>", page, re.DOTALL)
    kept = re.sub(r"<p>Raw output:.*?</p>", "", body[1] if body is not None else page, flags=re.DOTALL)
    return f'{"".join(styles)}<div class="cython">{kept}</div>'


def compile_c(request: dict[str, Any]) -> dict[str, Any]:
    """Compile C. The answer has `binary`, the path, or `failure` and its `kind`."""
    try:
        import_module("setuptools")  # provides distutils, which Python lacks since 3.12
        ccompiler: Any = import_module("distutils.ccompiler")
        errors: Any = import_module("distutils.errors")
        settings: Any = import_module("distutils.sysconfig")
    except ImportError as error:
        return {"kind": "setuptools", "failure": str(error)}
    compiler = ccompiler.new_compiler()
    settings.customize_compiler(compiler)
    for name in ("compiler", "compiler_so", "compiler_cxx", "compiler_so_cxx", "linker_so", "linker_so_cxx"):
        if words := getattr(compiler, name, None):
            # Binaries are sent to other machines, whatever flags this Python was built with.
            setattr(compiler, name, [word for word in words if word not in ("-march=native", "-mtune=native", "-g")])
    program = (compiler.compiler_cxx if request["cplus"] else compiler.compiler_so)[0]
    if shutil.which(program) is None:
        return {"kind": "missing", "failure": program}
    source = Path(f"{request['module']}.{'cpp' if request['cplus'] else 'c'}")
    source.write_bytes(zlib.decompress(base64.b64decode(request["c"])))
    includes = []
    if request["numpy"]:
        import numpy  # here, because it is optional

        includes.append(numpy.get_include())
    flags = ["-g0", "-O2", "-w", *(flag for flag in request["flags"] if not flag.startswith("-l"))]
    openmp = ["-fopenmp"] if request["openmp"] else []
    macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")] if request["numpy"] else []
    language = "c++" if request["cplus"] else "c"
    binary = str(Path("built.so").absolute())
    try:
        objects = compiler.compile(
            [str(source)], macros=macros, include_dirs=[*includes, _python_headers()], extra_preargs=[*flags, *openmp]
        )
        libraries = [flag for flag in request["flags"] if flag.startswith("-l")]
        compiler.link_shared_object(objects, binary, extra_postargs=[*openmp, *libraries], target_lang=language)
    except (errors.CCompilerError, errors.DistutilsError) as error:
        return {"kind": "failed", "failure": str(error)}
    return {"binary": binary}


def _python_headers() -> str:
    import sysconfig  # here, because only the C compiler needs it

    return sysconfig.get_path("include")


def _exit_with_parent(parent: int) -> None:
    """Exit, with all child processes, when the parent has ended."""
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os.killpg(0, signal.SIGKILL)


def main(request_path: str, parent: int) -> None:
    """Handle the request, in its folder, for the process `parent`."""
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    folder = Path(request_path).parent
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    sys.path[:] = request["sys_path"]
    os.chdir(folder)
    answer = translate(request) if request["step"] == "translate" else compile_c(request)
    Path("answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(os.path.abspath(sys.argv[1]), int(sys.argv[2]))
