"""Read `concurrent_nb_config.py` and `concurrent_nb_config.json` from Jupyter's configuration folders.

Every node reads them at its start, so one configuration holds everywhere:

    c.MasterNode.strategy = "PushBest"
    c.SlaveNode.workers = 8

Folders nearer to the user take precedence, and a .json over a .py of the same folder. The command line or the arguments
of `Cluster` take precedence over all files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from traitlets.config import Config
from traitlets.config.loader import JSONFileConfigLoader, PyFileConfigLoader

from concurrent_nb.errors import ConfigurationError

NAME: Final = "concurrent_nb_config"
_LOADERS: Final = ((".py", PyFileConfigLoader), (".json", JSONFileConfigLoader))


def load(overrides: Mapping[str, Mapping[str, Any]], folders: list[Path] | None = None) -> Config:
    """Return the configuration of the files, with `overrides` on top.

    Args:
        overrides: {"MasterNode": {"strategy": "PushBest"}, ...}.
        folders: to search, the most important first; None for Jupyter's own.

    Raises ConfigurationError, which names the file, for one that cannot be read.
    """
    config = Config()
    for folder in reversed(_folders() if folders is None else folders):
        for suffix, loader in _LOADERS:
            path = folder / (NAME + suffix)
            if path.is_file():
                config.merge(_read(loader, path))
    config.merge(Config({name: Config(dict(items)) for name, items in overrides.items()}))
    return config


def _read(loader: Any, path: Path) -> Config:
    try:
        read = loader(path.name, path=str(path.parent)).load_config()
    except Exception as error:  # the file is user code, which may raise anything
        raise ConfigurationError(
            f"configuration file {path} cannot be read: {type(error).__name__}: {error}"
        ) from error
    assert isinstance(read, Config)
    return read


def _folders() -> list[Path]:
    from jupyter_core.paths import jupyter_config_path

    try:
        return [Path(folder) for folder in jupyter_config_path()]
    except RuntimeError:  # a user unknown to the system, and no HOME: there are no files
        return []
