import decimal
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from deap import base, creator

from concurrent_nb.shipping.environment.settings import RECURSION_MOST, Setting, SettingsSnapshot, all_settings


@pytest.fixture
def settings() -> Iterator[dict[str, Setting]]:
    """The settings, which are put back after the test."""
    found = {setting.name: setting for setting in all_settings()}
    before = {name: setting.read() for name, setting in found.items()}
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with warnings.catch_warnings(), decimal.localcontext(), np.errstate(), np.printoptions():
        yield found
        for name, setting in found.items():
            setting.apply(before[name])
    root.handlers[:], root.level = handlers, level


def _log() -> None:
    logging.getLogger("unit.setting").setLevel(logging.ERROR)


def _format() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)


def _filter() -> None:
    handler = Coloured(sys.stdout)
    handler.addFilter(logging.Filter("app"))
    logging.getLogger().addHandler(handler)


class Coloured(logging.StreamHandler[Any]):
    """A user's handler."""


def test_tasks_filter_their_records_as_the_notebook_does(
    settings: dict[str, Setting], capsys: pytest.CaptureFixture[str]
) -> None:
    setting = settings["logging"]
    logging.getLogger().handlers[:] = []
    _filter()
    value = setting.read()
    logging.getLogger().handlers[:] = []
    setting.apply(value)
    logging.getLogger("app.part").warning("said")
    logging.getLogger("other").warning("hidden")
    assert capsys.readouterr().out == "said\n"


def _name_level() -> None:
    logging.addLevelName(25, "NOTICE")


def _create() -> None:
    creator.create("SettingFitness", base.Fitness, weights=(1.0,))
    creator.create("SettingIndividual", list, fitness=creator.SettingFitness)


CHANGES: dict[str, list[Callable[[], object]]] = {
    "recursion limit": [lambda: sys.setrecursionlimit(1234)],
    "warnings filters": [
        lambda: warnings.simplefilter("ignore"),
        lambda: warnings.filterwarnings("error", "careful.*", UserWarning),
        lambda: warnings.simplefilter("ignore", pd.errors.PerformanceWarning),
    ],
    "logging": [_log, _format, _filter, lambda: logging.disable(logging.INFO), _name_level],
    "arguments": [lambda: sys.argv.append("--fast")],
    "decimal context": [
        lambda: setattr(decimal.getcontext(), "prec", 7),
        lambda: decimal.getcontext().traps.__setitem__(decimal.Inexact, True),
    ],
    "numpy.seterr": [lambda: np.seterr(over="raise")],
    "numpy.set_printoptions": [
        lambda: np.set_printoptions(precision=3),
        lambda: np.set_printoptions(formatter={"float": str}),
    ],
    "pandas options": [
        lambda: pd.set_option("display.precision", 2),
        lambda: pd.set_option("display.float_format", str),
    ],
    "deap.creator classes": [_create, lambda: creator.create("SettingFitness", base.Fitness, weights=(-1.0,))],
}


def test_each_setting_is_tried(settings: dict[str, Setting]) -> None:
    assert set(settings) == set(CHANGES)


@pytest.mark.parametrize(
    ("name", "change"), [(name, change) for name, changes in CHANGES.items() for change in changes]
)
def test_a_change_is_seen_read_and_applied(
    settings: dict[str, Setting], name: str, change: Callable[[], object]
) -> None:
    setting = settings[name]
    setting.apply(None)
    saved = SettingsSnapshot([setting])
    assert saved.is_unchanged()
    assert saved.is_unchanged()
    assert saved.split() == ([setting], [])
    plain = setting.read()
    change()
    assert not saved.is_unchanged()
    assert saved.split() == ([], [setting])
    value: Any = setting.read()
    assert value is not None
    assert value != plain
    setting.apply(None)
    assert setting.read() == plain
    setting.apply(value)
    assert setting.read() == value


def test_a_filter_for_warnings_of_a_module_that_is_not_imported_works_once_it_is(settings: dict[str, Setting]) -> None:
    class Careful(UserWarning):
        """A warning of a library."""

    Careful.__module__, Careful.__qualname__ = "library_of_warnings", "Careful"
    settings["warnings filters"].apply([("error", None, ("library_of_warnings", "Careful"), None, 0)])
    with pytest.raises(Careful):
        warnings.warn("now", Careful, stacklevel=1)
    with warnings.catch_warnings(record=True):
        warnings.warn("others are not errors", UserWarning, stacklevel=1)


@pytest.mark.parametrize(
    ("limit", "there"), [(5_000, 5_000), (RECURSION_MOST, RECURSION_MOST), (10**9, RECURSION_MOST)]
)
def test_a_recursion_limit_follows_as_far_as_memory_takes_it(
    settings: dict[str, Setting], limit: int, there: int
) -> None:
    settings["recursion limit"].apply(limit)
    assert sys.getrecursionlimit() == there


def test_classes_of_deap_are_those_of_the_notebook(
    settings: dict[str, Setting], caplog: pytest.LogCaptureFixture
) -> None:
    setting = settings["deap.creator classes"]
    _create()
    kinds = creator.SettingFitness, creator.SettingIndividual
    value = setting.read()
    assert list(value) == ["SettingFitness", "SettingIndividual"]
    setting.apply(None)
    assert not hasattr(creator, "SettingIndividual")
    setting.apply(value)
    assert (creator.SettingFitness, creator.SettingIndividual) == kinds
    creator.create("SettingOdd", list, generator=(n for n in range(3)))
    assert list(setting.read()) == ["SettingFitness", "SettingIndividual"]
    assert "tasks do not have deap.creator.SettingOdd: " in caplog.text
