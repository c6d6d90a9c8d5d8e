"""Options of a launcher as users type them beside `--on`: `--partition short` is `--Slurm.partition=short`. Pure.

They are taken out of the words before the command's or the magic's own options are read.
"""

from collections.abc import Sequence
from typing import Any

from concurrent_nb.components.config import ListItem, read_value
from concurrent_nb.errors import ConfigurationError
from concurrent_nb.nodes.launchers.catalogue import choose_launcher


def take_short_options(words: Sequence[str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the items that short options of the launcher of `--on` set, by section, and the other words.

    Without `--on` nothing is taken. Raises ConfigurationError if there is no such launcher, or a value is missing.

    >>> take_short_options(["--on", "ssh:a", "--tunnel", "never", "--workers", "2"])
    ({'Ssh': {'tunnel': 'never'}}, ['--on', 'ssh:a', '--workers', '2'])
    """
    on = _value_of_on(words)
    if on is None:
        return {}, list(words)
    chosen = choose_launcher(on)
    traits = chosen.component.class_traits(config=True)
    found: dict[str, Any] = {}
    others: list[str] = []
    left = iter(words)
    for word in left:
        option, has_value, value = word.partition("=")
        item = option[2:].replace("-", "_")
        if not option.startswith("--") or item not in traits:
            others.append(word)
            if option == "--on" and not has_value:
                others.append(next(left))
            continue
        if not has_value:
            after = next(left, None)
            if after is None:
                raise ConfigurationError(f"{option} needs a value: {traits[item].help}")
            value = after
        read = read_value(value)
        is_list = isinstance(traits[item], ListItem) and isinstance(read, str)
        found[item] = [each.strip() for each in read.split(",")] if is_list else read
    return ({chosen.section: found} if found else {}), others


def _value_of_on(words: Sequence[str]) -> str | None:
    for at, word in enumerate(words):
        if word.startswith("--on="):
            return word.removeprefix("--on=")
        if word == "--on" and at + 1 < len(words):
            return words[at + 1]
    return None
