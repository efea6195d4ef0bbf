"""Prints the lowest versions that pyproject.toml allows, as constraints for pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements() -> list[str]:
    """What the package, its extras and its tests ask for."""
    return [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]


def lowest() -> list[str]:
    """The same at the lowest version allowed; whoever writes another kind of bound is stopped here."""
    return [
        "{}=={}".format(*re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)(?:,.*)?", one).groups())
        for one in requirements()
    ]


if __name__ == "__main__":
    print(*lowest(), sep="\n")
