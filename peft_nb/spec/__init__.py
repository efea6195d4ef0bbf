"""What a run is asked to do: its validated description, the written forms of it, criteria and recipes."""

from __future__ import annotations

from peft_nb.spec.runspec import (
    ALIASES,
    METHODS,
    OTHER_METHODS,
    Layout,
    RunSpec,
    Schedule,
    explain,
    register_method,
    suggest,
)

__all__ = [
    "ALIASES",
    "METHODS",
    "OTHER_METHODS",
    "Layout",
    "RunSpec",
    "Schedule",
    "explain",
    "register_method",
    "suggest",
]
