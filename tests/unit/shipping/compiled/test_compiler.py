"""What the C of a cell may not have read: files that other machines do not have."""

import pytest

from concurrent_nb.shipping.compiled.compiler import files_read


@pytest.mark.parametrize(
    "c",
    [
        '#include "/etc/passwd"',
        "#include </etc/passwd>",
        '  #  include "/etc/passwd"',
        '%:include "/etc/passwd"',
        '??=include "/etc/passwd"',
        '#/**/include "/etc/passwd"',
        '/* */ # /* x\n */ include /*\n*/ "/etc/passwd"',
        '#inc\\\nlude "/etc/passwd"',
        "#in??/\nclude </etc/passwd>",
        '#define M "/etc/passwd"\n#include M',
        "#include_next </etc/passwd>",
        '#import "../x"',
        '#embed "/etc/passwd"',
        "#include <sys/../../etc/x>",
        "char c = '\"';\n#include M",
        '"//"\n#include M',
        'const char* s = "/*";\n#include M\n',
        'R"x(/*)x"\n#include M\n',
        'asm(".incbin \\"/etc/passwd\\"");',
        '__asm__ volatile (".inc" "bin \\"x\\"");',
        '__asm(".include \\"x\\"");',
        'asm("\\x2eincbin x");',
        'asm("\\056incbin x");',
    ],
)
def test_files_of_this_machine_are_refused(c: str) -> None:
    assert "not allowed" in files_read(f"int before;\n{c}\nint after;\n")


@pytest.mark.parametrize(
    "c",
    [
        "#include <math.h>",
        '#include "numpy/arrayobject.h"',
        "#include <sys/time.h> // for gettimeofday",
        '// #include "/etc/passwd"',
        '/*\n#include "/etc/passwd"\n*/',
        'const char* s = "#include M";',
        'const char* s = ".incbin";',
        'asm("rdtsc" : "=a"(low), "=d"(high));',
        '__asm__ __volatile__ ("nop\\n\\tnop");',
        "#define include 5",
        "#if defined(include)\n#endif",
        "int includes = 1;",
    ],
)
def test_what_every_machine_has_is_not(c: str) -> None:
    assert files_read(f"int before;\n{c}\nint after;\n") == ""
