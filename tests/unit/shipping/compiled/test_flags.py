"""Which compiler flags a cell may ask for, and why not others."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.shipping.compiled.flags import check_flags, cpu_level, parse_flags


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-O3 -ffast-math -funroll-loops",
        "-march=x86-64-v3 -mtune=generic",
        "-DN=3 -DNAME -D_X=a.b-c+d -UN",
        "-Wall -Wno-unused-function -w",
        "-std=c11 -lm -lpthread",
    ],
)
def test_flags_on_the_list_are_taken(text: str) -> None:
    assert parse_flags(text) == tuple(text.split())


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("-fplugin=/tmp/x.so", "run another program"),
        ("-fplugin-arg-x-y=1", "run another program"),
        ("-B/tmp", "run another program"),
        ("-wrapper", "run another program"),
        ("-fuse-ld=/tmp/ld", "run another program"),
        ("-specs=/tmp/specs", "run another program"),
        ("--specs=/tmp/specs", "run another program"),
        ("@/tmp/flags", "more flags from a file"),
        ("-Wl,-rpath,/tmp", "to another program unseen"),
        ("-Wa,--x", "to another program unseen"),
        ("-Wp,-MD,/tmp/x", "to another program unseen"),
        ("-Xlinker", "to another program unseen"),
        ("-Xclang", "to another program unseen"),
        ("-o", "write files elsewhere"),
        ("-o/tmp/x", "write files elsewhere"),
        ("-MF/tmp/x", "write files elsewhere"),
        ("-save-temps=obj", "write files elsewhere"),
        ("-fdump-tree-all", "write files elsewhere"),
        ("-dumpdir", "write files elsewhere"),
        ("-fprofile-use=/tmp/x", "reads and writes files"),
        ("-I/usr/include/x", "read files that other machines do not have"),
        ("-include", "read files that other machines do not have"),
        ("-isystem/x", "read files that other machines do not have"),
        ("--sysroot=/x", "read files that other machines do not have"),
        ("-L/tmp", "read files that other machines do not have"),
        ("-lcurl", "every machine has those"),
        ("-march=native", "name a level instead"),
        ("-mtune=native", "travels to other machines"),
        ("-fopenmp", "write --openmp instead"),
        ("-xnone", "language of a cell is known"),
        ("/tmp/x.c", "not one of those that are allowed"),
        ("-fno-such-thing", "not one of those that are allowed"),
        ("-DX=$(ls)", "not one of those that are allowed"),
        ('-DX="a b"', "not one of those that are allowed"),
        ("-march=x86-64-v9", "not one of those that are allowed"),
    ],
)
def test_what_could_run_programs_or_touch_files_is_refused_by_name(flag: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_flags(["-O2", flag])
    assert flag in str(caught.value)
    assert reason in str(caught.value)


def test_an_open_quote_is_no_flag() -> None:
    with pytest.raises(ConfigurationError, match="no closing quotation"):
        parse_flags("-O2 '-DX")


def test_the_level_of_processor_that_flags_ask_for() -> None:
    assert cpu_level(()) == 0
    assert cpu_level(("-O3", "-march=x86-64-v2", "-mfma")) == 3
