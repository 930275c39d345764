"""Prints, as JSON, what the release workflow builds natively: `make matrix`.

{"include": [{"system": "linux-x86_64", "runner": "ubuntu-22.04", "make": "portable", ...}]}
"""

import json

from ..engine.systems import SYSTEMS, System, executable_name


def matrix() -> dict:
    """Return the workflow's matrix: the systems for which there is a runner."""
    return {"include": [job(system) for system in SYSTEMS.values() if system.runner]}


def job(system: System) -> dict[str, str]:
    """Return the values that the workflow needs for one system."""
    portable = system.name.startswith("linux")  # the others have no glibc that could be too new
    return {
        "system": system.name,
        "runner": system.runner,
        "make": "portable" if portable else "build",
        "file": executable_name("run", system.name),
    }


if __name__ == "__main__":
    print(json.dumps(matrix()))
