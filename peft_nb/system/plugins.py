"""What other installed packages add: entry points of the groups ``peft_nb.tasks``, ``peft_nb.methods`` and the like."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any


def load(group: str, kind: type = object) -> Iterator[tuple[str, Any]]:
    """Import what other packages add to a registry.

    One that cannot be imported is left out and told in one line of the log, which Python shows as a warning.

    Parameters
    ----------
    group : str
        The group of entry points, such as ``peft_nb.methods``.
    kind : type, default object
        What the registry holds.

    Yields
    ------
    tuple of str and object
        The entry point's name, and what it points to.
    """
    for package, entry in _installed().get(group, ()):
        try:
            found = entry.load()
            if not isinstance(found, kind):
                raise TypeError(f"{entry.value} is a {type(found).__name__}, not a {kind.__name__}")
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            logging.getLogger(__name__).warning("%s of %s is left out: %s", entry.name, package, why[:300])
        else:
            yield entry.name, found


@cache
def _installed() -> dict[str, list[tuple[str, EntryPoint]]]:
    """Find by group all entry points for this package, each with its package; of two of one name the first counts."""
    found: dict[str, list[tuple[str, EntryPoint]]] = {}
    seen = set()
    for distribution in distributions():
        if _extends(distribution) and (name := distribution.name) not in seen:
            seen.add(name)
            for entry in distribution.entry_points:
                found.setdefault(entry.group, []).append((f"{name} {distribution.version}", entry))
    return found


def _extends(distribution: Distribution) -> bool:
    # Almost none does, and to look at the text takes a tenth of the time that it takes to read all entry points.
    try:
        return "[peft_nb." in (distribution.read_text("entry_points.txt") or "")
    except (OSError, ValueError):
        return False
