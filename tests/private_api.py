"""Looks up what the package says that it leans on of the private APIs of others."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any


def find(name: str) -> Any:
    """Resolve a dotted name: modules as far as they go, then attributes."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:depth]))
        except ModuleNotFoundError:
            continue
        for part in parts[depth:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module in {name}")


def as_found(api: dict[str, str | None]) -> dict[str, str | None]:
    """The same table as the installed packages have it; what is not there stands for itself."""
    found: dict[str, str | None] = {}
    for name, told in api.items():
        try:
            one = find(name)
        except AttributeError:
            found[name] = "(not there)"
        else:
            found[name] = ", ".join(inspect.signature(one).parameters) if told is not None else None
    return found
