"""The names that a task, a method or a layout goes by in a spec, registered by the rooms that hold them."""

from __future__ import annotations

NAMES: dict[str, dict[str, str]] = {"task": {}, "method": {}, "format": {}}
"""By field: the names that are listed, each with its one-line help, in the order of their registration."""

UNLISTED: dict[str, set[str]] = {field: set() for field in NAMES}
"""By field: names that are known but named in no list."""

METHODS = NAMES["method"]


def register_name(field: str, name: str, help: str = "", *, listed: bool = True) -> None:
    """Make a name known to specs; once any is known for a field, all others are refused.

    Parameters
    ----------
    field : {"task", "method", "format"}
        The field that takes it.
    name : str
        What the user writes, such as ``lora``: letters, digits, hyphens and underscores.
    help : str, default ""
        One line saying what it is.
    listed : bool, default True
        Whether completion, forms and help name it.
    """
    if listed:
        NAMES[field][name] = help
    else:
        UNLISTED[field].add(name)
