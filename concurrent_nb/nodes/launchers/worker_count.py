"""How many workers a slave has that was given a number of cores."""

import json


def with_workers(configuration: str, cores: int) -> str:
    """Return the configuration of a slave with a worker for each core, unless it has a number of workers."""
    sections = json.loads(configuration or "{}")
    section = sections.setdefault("SlaveNode", {})
    section["workers"] = section.get("workers") or cores  # 0 is the default
    return json.dumps(sections)
