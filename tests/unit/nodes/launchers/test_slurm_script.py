"""The batch script of a slave: options, own templates, and what is refused."""

import pytest

from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.slurm_script import TEMPLATE, batch_script, directives, file_pattern, limit_s


def test_options_without_a_value_are_left_out() -> None:
    assert directives({"partition": "short", "account": "", "cpus-per-task": 4, "mem": "", "nodes": 0}, ()) == [
        "#SBATCH --partition=short",
        "#SBATCH --cpus-per-task=4",
    ]


def test_a_value_with_spaces_is_quoted() -> None:
    assert directives({"output": "/home/my folder/1.log"}, ()) == ["#SBATCH --output='/home/my folder/1.log'"]


def test_extra_options_may_have_sbatch_before_them() -> None:
    assert directives({}, ["--gres=gpu:1", "#SBATCH --constraint=skylake", "-N 1"]) == [
        "#SBATCH --gres=gpu:1",
        "#SBATCH --constraint=skylake",
        "#SBATCH -N 1",
    ]


@pytest.mark.parametrize("extra", ["gres=gpu:1", "", "--gres=gpu:1\nrm -r /", "rm -r /"])
def test_an_extra_line_that_is_no_option_is_refused(extra: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Slurm\.directives"):
        directives({}, [extra])


def test_a_value_of_several_lines_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--account is"):
        directives({"account": "a\n#SBATCH --uid=0"}, ())


def test_the_slave_replaces_the_shell_after_the_prologue() -> None:
    script = batch_script(
        TEMPLATE, ["#SBATCH --partition=short"], ["module load python"], ["/opt/my python", "-m", "x"]
    )
    assert script.splitlines() == [
        "#!/bin/bash",
        "#SBATCH --partition=short",
        "module load python",
        "exec '/opt/my python' -m x",
    ]


def test_a_template_keeps_its_own_lines() -> None:
    template = "#!/bin/sh -l\n#SBATCH --exclusive\n@DIRECTIVES@\nulimit -n 4096\n  @COMMAND@"
    assert batch_script(template, ["#SBATCH --time=5"], ["never shown"], ["python"]).splitlines() == [
        "#!/bin/sh -l",
        "#SBATCH --exclusive",
        "#SBATCH --time=5",
        "ulimit -n 4096",
        "exec python",
    ]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("#!/bin/bash\n@COMMAND@\n", "has no line @DIRECTIVES@"),
        ("#!/bin/bash\n@DIRECTIVES@\nsrun @COMMAND@\n", "has no line @COMMAND@"),
        ("@DIRECTIVES@\n@COMMAND@\n", "must begin with #!"),
        ("", "has no line"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        batch_script(template, [], [], ["python"])


def test_a_percent_sign_in_a_path_is_none_of_slurm_s_patterns() -> None:
    assert file_pattern("/home/100%j/1.log") == "/home/100%%j/1.log"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("0:45", 45),
        ("1:02:03", 3723),
        ("1-0", 86400),
        ("2-03:04", 2 * 86400 + 3 * 3600 + 4 * 60),
        ("1-00:00:01", 86401),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_times_are_read_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert limit_s(text) == seconds
