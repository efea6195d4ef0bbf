"""What a run is asked to do: its validated description, the written forms of it, criteria and recipes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from peft_nb.spec.field_info import suggest
from peft_nb.spec.names import METHODS, register_name

if TYPE_CHECKING:
    from peft_nb.spec.fields import explain
    from peft_nb.spec.runspec import ALIASES, RunSpec

__all__ = [
    "ALIASES",
    "METHODS",
    "RunSpec",
    "explain",
    "register_name",
    "suggest",
]

_LATE = {"ALIASES": "runspec", "RunSpec": "runspec", "explain": "fields"}


def __getattr__(name: str) -> object:
    """Import what needs pydantic when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module 'peft_nb.spec' has no attribute {name!r}")
    found: object = getattr(import_module(f"peft_nb.spec.{_LATE[name]}"), name)
    globals()[name] = found
    return found
