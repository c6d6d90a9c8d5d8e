"""Options of the magics: what is wrong is named at once."""

import argparse
import re

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.notebook.magic_options import parse
from concurrent_nb.notebook.magics import ConcurrentMagics
from concurrent_nb.wire.messages import Needs


def task(line: str) -> argparse.Namespace:
    return parse(ConcurrentMagics.concurrent_task, line)


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("cores=4", Needs(4)),
        ("cores=all", Needs(0)),
        ("cores=1", Needs()),
        ("cores=4096", Needs(4096)),
        ("threads", Needs(kind="thread")),
    ],
)
def test_needs(text: str, needs: Needs) -> None:
    assert task(f"--needs {text}").needs == needs


@pytest.mark.parametrize(
    "text", ["cores=0", "cores=-1", "cores=4097", "cores=x", "cores", "cores=", "4", "host", "thread", "threads=2"]
)
def test_invalid_needs_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"cores=all or threads, not {text!r}")):
        task(f"--needs {text}")


@pytest.mark.parametrize(("text", "batch"), [("1", 1), ("1000", 1000), ("auto", "auto")])
def test_batch(text: str, batch: object) -> None:
    assert task(f"--batch {text}").batch == batch


def test_values_are_read_as_in_a_shell_but_nothing_is_expanded() -> None:
    line = (
        """--for "x in ['a', \\"b\\"]" --until 'result["k"] > {1: 2}[1]' --out=found --timeout 1.5 --name "my $job" """
    )
    options = task(line)
    assert options.for_text == "x in ['a', \"b\"]"
    assert options.until_text == 'result["k"] > {1: 2}[1]'
    assert (options.out, options.timeout_s, options.name) == ("found", 1.5, "my $job")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--wait", "unknown option --wait"),
        ("--help", "unknown option --help: the options are explained by the magic's name followed by ?"),
        ("--no-blok", "unknown option --no-blok: did you mean --no-block?"),
        ("--time 3", "unknown option --time: did you mean --timeout?"),
        ("--untill=3", "unknown option --untill: did you mean --until?"),
        ("--for", "--for: expected one argument"),
        ("--for --until x", "--for: expected one argument"),
        ("--for ''", "--for: needs a value"),
        ("--for n in range(3)", "`in range(3)` is not expected here: a value with spaces needs quotes"),
        ("3", "`3` is not expected here"),
        ("--for 'n in", "--for 'n in: no closing quotation"),
        ("--timeout 0", "--timeout: needs a number of seconds above 0, not '0'"),
        ("--timeout -3", "--timeout: needs a number of seconds above 0, not '-3'"),
        ("--timeout nan", "--timeout: needs"),
        ("--timeout inf", "--timeout: needs"),
        ("--timeout 1h", "--timeout: needs"),
        ("--batch 0", "--batch: needs a whole number of at least 1, or auto, not '0'"),
        ("--batch -5", "--batch: needs a whole number of at least 1, or auto, not '-5'"),
        ("--batch x", "--batch: needs a whole number of at least 1, or auto, not 'x'"),
        ("--batch 2.5", "--batch: needs a whole number of at least 1, or auto, not '2.5'"),
        ("--retries -1", "--retries: needs a whole number of at least 0, not '-1'"),
        ("--retries 1.5", "--retries: needs"),
        ('--for "n in a" --for "m in b"', "--for may be given once"),
        ("--out a --timeout 1 --out=b", "--out may be given once"),
        ("--local --local", "--local may be given once"),
        ("--out 3x", "--out: needs the name of a variable, not '3x'"),
        ("--out for", "--out: needs the name of a variable, not 'for'"),
        ("--out a.b", "--out: needs"),
        (
            "--strategy fair",
            "--strategy: needs one of pull_round_robin, push_best, stealing, locality, not 'fair'",
        ),
        ("--on-error ignore", "--on-error: invalid choice: 'ignore'"),
    ],
)
def test_what_is_wrong_is_named(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        task(line)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("workers", ["0", "-1", "abc", "1e9", "1000000000", "1.5", "''"])
def test_a_number_of_workers_is_at_least_one(workers: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(ConcurrentMagics.concurrent, f"start --workers {workers}")
    assert str(raised.value).startswith("--workers: needs a whole number from 1 to 1024, not ")


def test_the_help_names_all_options() -> None:
    text = ConcurrentMagics.concurrent_task.__doc__ or ""
    for name in ("for", "until", "out", "no-block", "local", "timeout", "retries", "on-error", "name"):
        assert f"--{name}" in text


def test_the_size_of_a_picture() -> None:
    assert task("--size 1536x1024").size == (1536, 1024)
    assert task("--size 1X2").size == (1, 2)


@pytest.mark.parametrize("text", ["1536", "0x5", "5x0", "x", "-1x5", "1.5x2", "70000x1", "1x2x3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--size"):
        task(f"--size={text}")


def test_views_are_known_by_name() -> None:
    assert task("--view table").view == "table"
    with pytest.raises(ConfigurationError, match="--view"):
        task("--view pie")
