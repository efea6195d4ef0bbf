"""What a run is asked to do: its validated description, the written forms of it, criteria and recipes."""

from __future__ import annotations

from peft_nb.spec.fields import explain, suggest
from peft_nb.spec.names import METHODS, register_name
from peft_nb.spec.runspec import ALIASES, RunSpec

__all__ = [
    "ALIASES",
    "METHODS",
    "RunSpec",
    "explain",
    "register_name",
    "suggest",
]
