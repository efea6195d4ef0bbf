"""What other packages add, found by their entry points."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points


def load(group: str) -> Iterator[tuple[str, object]]:
    """Load what installed packages offer under a group of entry points.

    Parameters
    ----------
    group : str
        Such as ``peft_nb.exporters``.

    Yields
    ------
    tuple of str and object
        The name of an entry point and what it refers to.
    """
    for point in entry_points(group=group):
        yield point.name, point.load()
