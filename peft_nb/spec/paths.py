"""Files and folders that a spec names: found from wherever it is read, and shown to others by name alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FIELDS = ("model", "data", "eval_data", "class_data", "regression", "init_adapter")
MARKS = {"model": "config.json", "init_adapter": "adapter_config.json"}  # by which a folder of that kind is known


def absolute(fields: Mapping[str, Any], stands_for: Callable[[str, str], object]) -> dict[str, Any]:
    """Name files and folders by absolute paths, so that a run outlives a change of folder.

    Parameters
    ----------
    fields : mapping
        Fields of a spec; relative paths are relative to the working directory.
    stands_for : callable
        Says of a field and the name in it whether it stands for something else than a file, such as a variable.

    Returns
    -------
    dict
        The same, with the paths of what exists made absolute.
    """
    found = {
        field: os.path.abspath(path)
        for field in FIELDS
        if (name := fields.get(field)) and not stands_for(field, name)
        if os.path.exists(path := os.path.expanduser(name))
    }
    return {**fields, **found}


def beside(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Find what a file of settings names: in the working directory, and what is not there beside that file.

    Parameters
    ----------
    fields : mapping
        Fields as the file has them, not yet checked.
    folder : Path
        Where the file is.

    Returns
    -------
    dict
        The same, with the path of what is beside the file. A word without an ending is a model there, and never rows,
        which it may name as a variable.
    """

    def there(field: str, name: Any) -> bool:
        if field not in FIELDS or not isinstance(name, str) or not name or os.path.exists(os.path.expanduser(name)):
            return False
        file = folder / name
        return (file / MARKS[field]).is_file() if field in MARKS and file.is_dir() else file.is_file()

    return {field: str(folder / name) if there(field, name) else name for field, name in fields.items()}


def local(name: str) -> str:
    """The last part of an absolute path or of one that leaves its folder, and anything else as it is."""
    elsewhere = re.match(r"[/\\~]|[A-Za-z]:[/\\]|file:|\.\.?[/\\]", name)
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if elsewhere else name


def named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with the last part of every path of this machine, as they are shown to others."""
    shown: dict[str, Any] = {field: local(name) for field in FIELDS if (name := fields.get(field))}
    if told := fields.get("method_options"):
        shown["method_options"] = {name: local(one) if isinstance(one, str) else one for name, one in told.items()}
    return {**fields, **shown}
